"""The inner loops of the matching, compiled by numba.

Belongs here: the work on a block of scores before the next block overwrites it. Each function does
the same as its namesake in `plain.py`, the reference in the tests. One pass over a block that is still
in the cache costs about a twentieth of the product that computed it.

Compiled code is cached beside this file, or in the user's cache folder if this folder is read-only, so
that a run loads it instead of compiling it.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from emid_assets.matching.plain import SUM_LANES
from emid_assets.matching.row_state import RowState

_F = TypeVar("_F", bound=Callable[..., Any])

CHUNK = 256
"""Columns between two updates of the row's maximum: their exponentials are summed in float32."""

LANES = 64
"""Columns compared with the threshold at once."""

SEED_STEPS = 12
"""Bisection steps in the search for a first threshold."""

# Scores are finite (the caller checks), and only empty slots hold -inf, which are compared and never
# added: so fast-math may reorder sums, but must not assume that there are no infinities.
_FAST_MATH = {"reassoc", "contract", "nsz", "arcp", "nnan"}


def compiled(function: _F, fast_math: set[str] = _FAST_MATH) -> _F:
    """The function compiled by numba, from the cache where there is one."""
    made: Any
    try:
        made = numba.njit(function, fastmath=fast_math, nogil=True, cache=True)
    except RuntimeError:
        # No cache folder is writable: compile in each process.
        made = numba.njit(function, fastmath=fast_math, nogil=True)
    return cast(_F, made)


def _compiled_in_order(function: _F) -> _F:
    return compiled(function, {"contract"})


def absorb(scores: NDArray[np.float32], first_column: int, state: RowState) -> None:
    """Fold a block of scores into the state of its rows, in place; see `plain.absorb`."""
    _absorb(scores, first_column, state.maximum, state.sum_exp, state.ids, state.scores)


def exact_scores(
    X: NDArray[np.float32], rows: NDArray[np.intp], Y: NDArray[np.float32], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(p,) float64 inner products X[rows[i]] · Y[columns[i]]; see `plain.exact_scores`."""
    result = np.empty(len(rows))
    _exact_scores(X, rows, Y, columns, result)
    return result


def sort_rows(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
    """Sort each row in place by (score descending, id ascending); see `plain.sort_rows`."""
    _sort_rows(scores, ids)


def _compare(typing_context: Any, row: Any, start: Any, threshold: Any) -> Any:
    """Bit j of the result: is row[start + j] above the threshold? One comparison for LANES columns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(ir.FloatType(), LANES)
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        values = builder.load(pointer, align=4)
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, arguments[2], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        every = builder.shuffle_vector(one, undefined, zeros)
        return builder.bitcast(builder.fcmp_ordered(">", values, every), ir.IntType(LANES))

    return types.uint64(row, types.intp, types.float32), generate


_above: Any = intrinsic(_compare)


def _count_zeros(typing_context: Any, mask: Any) -> Any:
    """Number of the lowest bit set in a mask that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), generate


_lowest_bit: Any = intrinsic(_count_zeros)


@compiled
def _exp(x: np.float32) -> np.float32:
    """exp(x) for x ≤ 0 to 1.2e-7 relative: the Cephes expf polynomial, which the compiler vectorises."""
    x = max(x, np.float32(-87.0))
    n = np.int32(x * np.float32(1.44269504088896341) - np.float32(0.5))
    f = x - np.float32(n) * np.float32(0.693359375) - np.float32(n) * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    p = p * f * f + f + np.float32(1.0)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def _insert(
    scores: NDArray[np.float32], ids: NDArray[np.int64], filled: int, score: np.float32, column: int
) -> None:
    """Insert a column into a sorted row of slots, after those of equal score."""
    # Unsigned, so that numba omits the check for negative indices in the innermost loop.
    slot = np.uint64(min(filled, scores.shape[0] - 1))
    one = np.uint64(1)
    while slot > np.uint64(0) and scores[slot - one] < score:
        scores[slot] = scores[slot - one]
        ids[slot] = ids[slot - one]
        slot -= one
    scores[slot] = score
    ids[slot] = column


@compiled
def _seed_threshold(row: NDArray[np.float32], groups: NDArray[np.float32], width: int) -> np.float32:
    """A threshold that at least `width` columns of a new row exceed, found in vectorised passes.

    The columns are split into more groups than there are slots; bisection finds a value that the maxima
    of at least `width` groups exceed, and not many more.
    """
    count = groups.shape[0]
    groups[:] = row[:count]
    for start in range(count, row.shape[0] - count + 1, count):
        for j in range(count):
            groups[j] = row[start + j] if row[start + j] > groups[j] else groups[j]
    low = np.nextafter(np.min(groups), np.float32(-np.inf))
    high = np.max(groups)
    for _ in range(SEED_STEPS):
        middle = np.float32(0.5) * (low + high)
        above = 0
        for j in range(count):
            above += groups[j] > middle
        if above >= width:
            low = middle
        else:
            high = middle
    return low  # type: ignore[no-any-return]


@compiled
def _absorb(
    scores: NDArray[np.float32],
    first_column: int,
    maximum: NDArray[np.float64],
    sum_exp: NDArray[np.float64],
    ids: NDArray[np.int64],
    kept: NDArray[np.float32],
) -> None:
    rows, columns = scores.shape
    width = kept.shape[1]
    groups = np.empty(max(CHUNK, 4 * width), np.float32)
    for i in range(rows):
        row = scores[i]
        row_kept = kept[i]
        row_ids = ids[i]
        top = np.float32(maximum[i])
        total = sum_exp[i]
        filled = width
        while filled > 0 and row_ids[filled - 1] < 0:
            filled -= 1
        threshold = row_kept[width - 1]
        if filled == 0 and columns >= 2 * groups.shape[0]:
            threshold = _seed_threshold(row, groups, width)
        for start in range(0, columns, CHUNK):
            stop = min(start + CHUNK, columns)
            lane = start
            while lane < stop:
                if lane + LANES <= stop:
                    mask = _above(row, lane, threshold)
                else:
                    mask = np.uint64(0)
                    for j in range(lane, stop):
                        if row[j] > threshold:
                            mask |= np.uint64(1) << np.uint64(j - lane)
                while mask != np.uint64(0):
                    column = lane + _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    if row[column] > threshold:
                        _insert(row_kept, row_ids, filled, row[column], first_column + column)
                        filled = min(filled + 1, width)
                        if filled == width:
                            threshold = max(threshold, row_kept[width - 1])
                lane += LANES
            # Before a row has its first column, a seeded threshold may have skipped a whole chunk.
            if filled == 0:
                for j in range(start, stop):
                    if row[j] > top:
                        total *= math.exp(np.float64(top) - np.float64(row[j]))
                        top = row[j]
            elif row_kept[0] > top:
                total *= math.exp(np.float64(top) - np.float64(row_kept[0]))
                top = row_kept[0]
            chunk = row[start:stop]
            part = np.float32(0.0)
            for j in range(stop - start):
                part += _exp(chunk[j] - top)
            total += np.float64(part)
        maximum[i] = np.float64(top)
        sum_exp[i] = total


# The order of the sum is fixed: only multiplication and addition may be contracted, which is exact here.
@_compiled_in_order
def _exact_scores(
    X: NDArray[np.float32],
    rows: NDArray[np.intp],
    Y: NDArray[np.float32],
    columns: NDArray[np.intp],
    result: NDArray[np.float64],
) -> None:
    lanes = np.empty(SUM_LANES)
    whole = X.shape[1] // SUM_LANES * SUM_LANES
    for i in range(rows.shape[0]):
        x = X[rows[i]]
        y = Y[columns[i]]
        lanes[:] = 0.0
        for start in range(0, whole, SUM_LANES):
            for lane in range(SUM_LANES):
                lanes[lane] += np.float64(x[start + lane]) * np.float64(y[start + lane])
        for lane in range(X.shape[1] - whole):
            lanes[lane] += np.float64(x[whole + lane]) * np.float64(y[whole + lane])
        half = SUM_LANES // 2
        while half > 0:
            for lane in range(half):
                lanes[lane] += lanes[lane + half]
            half //= 2
        result[i] = lanes[0]


@compiled
def _sort_rows(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
    # Insertion sort: the rows are almost sorted.
    for i in range(scores.shape[0]):
        row = scores[i]
        row_ids = ids[i]
        for j in range(1, row.shape[0]):
            score = row[j]
            column = row_ids[j]
            slot = j
            while slot > 0 and (
                row[slot - 1] < score or (row[slot - 1] == score and row_ids[slot - 1] > column)
            ):
                row[slot] = row[slot - 1]
                row_ids[slot] = row_ids[slot - 1]
                slot -= 1
            row[slot] = score
            row_ids[slot] = column
