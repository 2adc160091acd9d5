"""The inner loops of the matching in plain numpy.

Belongs here: the work on a block of scores before the next block overwrites it, without a Python loop over
rows. Used for small problems and without numba; the reference for `compiled.py` in the tests.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.order import best_first
from emid_assets.matching.row_state import RowState

SUM_LANES = 64
"""Sums that an exact score is added up in; a power of two."""

_PAIR_BLOCK = 1 << 16
"""Size of the float64 temporary when pairs are scored again (512 kB)."""

_CROWD = 128
"""Hits per row above which a block is searched in smaller chunks, so that the threshold can rise."""

_CHUNK = 256


def absorb(scores: NDArray[np.float32], first_column: int, state: RowState) -> None:
    """Fold a block of scores into the state of its rows, in place. May destroy `scores`.

    Args:
        scores: (n, c) finite float32, columns first_column … first_column + c - 1 of the rows.
        first_column: must be above every id in the state (columns arrive in ascending order), so
            that of equal scores the lower id is kept; the last column's id must be below 2^32 - 1.
        state: the rows' state; its arrays are modified.
    """
    threshold = state.scores[:, -1:]
    groups = 4 * state.width
    if (state.ids[:, 0] < 0).all() and scores.shape[1] >= 2 * groups:
        threshold = np.maximum(threshold, _seed_thresholds(scores, groups, state.width))
    _keep_best(scores, first_column, state, threshold)
    _add_exponentials(scores, state)


def _seed_thresholds(scores: NDArray[np.float32], groups: int, width: int) -> NDArray[np.float32]:
    """(n, 1) thresholds that at least `width` columns of each row exceed.

    The columns are split into more groups than there are slots; at least `width` columns reach the
    width-th largest group maximum.
    """
    whole = scores.shape[1] // groups * groups
    maxima = scores[:, :whole].reshape(len(scores), -1, groups).max(axis=1)
    reached = np.partition(maxima, groups - width, axis=1)[:, groups - width, None]
    return np.nextafter(reached, np.float32(-np.inf))


def _keep_best(
    scores: NDArray[np.float32], first_column: int, state: RowState, threshold: NDArray[np.float32]
) -> None:
    above = scores > threshold
    hits = np.flatnonzero(above)
    if hits.size > _CROWD * len(scores) and scores.shape[1] > _CHUNK:
        for start in range(0, scores.shape[1], _CHUNK):
            floor = np.maximum(threshold, state.scores[:, -1:])
            _keep_best(scores[:, start : start + _CHUNK], first_column + start, state, floor)
        return
    if hits.size == 0:
        return
    hit_rows, hit_columns = np.divmod(hits, scores.shape[1])
    counts = np.bincount(hit_rows, minlength=len(scores))
    rows = np.flatnonzero(counts)
    counts = counts[rows]
    # One line per row with hits: its slots, then its hits, padded with keys that sort last.
    line = np.repeat(np.arange(rows.size), counts)
    slot = np.arange(hits.size) - np.repeat(np.cumsum(counts) - counts, counts) + state.width
    keys = np.full((rows.size, state.width + int(counts.max())), np.iinfo(np.int64).max)
    keys[:, : state.width] = _encode(state.scores[rows], state.ids[rows])
    keys[line, slot] = _encode(scores[hit_rows, hit_columns], hit_columns + first_column)
    keys.sort(axis=1)
    state.scores[rows], state.ids[rows] = _decode(keys[:, : state.width])


def _encode(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """One integer per score and id, which sorts by (score descending, id ascending).

    Sorting one array of integers is many times faster than sorting two arrays together.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return ((~ascending).astype(np.int64) << 32) | (ids & 0xFFFFFFFF)


def _decode(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    ascending = ~(keys >> 32).astype(np.int32)
    bits = ascending ^ ((ascending >> 31) & np.int32(0x7FFFFFFF))
    low = keys & 0xFFFFFFFF
    return bits.view(np.float32), np.where(low == 0xFFFFFFFF, -1, low)


def _add_exponentials(scores: NDArray[np.float32], state: RowState) -> None:
    # The best column is always kept, so the row's maximum is already known.
    maximum = state.scores[:, 0].astype(np.float64)
    np.subtract(scores, state.scores[:, :1], out=scores)
    np.exp(scores, out=scores)
    # Shift by the current maximum in every block: a fixed shift would over- or underflow as it changes.
    state.sum_exp[:] = state.sum_exp * np.exp(state.maximum - maximum) + scores.sum(axis=1)
    state.maximum[:] = maximum


def exact_scores(
    X: NDArray[np.float32], rows: NDArray[np.intp], Y: NDArray[np.float32], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(p,) float64 inner products X[rows[i]] · Y[columns[i]], summed in one order wherever they are computed.

    Term j is added to lane j mod `SUM_LANES`, in ascending order; then the upper half of the lanes is added
    to the lower one, until one is left. A product of two float32 numbers is exact in float64, so these bits
    do not depend on the processor.
    """
    result = np.empty(len(rows))
    d = X.shape[1]
    padded = -(-d // SUM_LANES) * SUM_LANES
    step = max(1, _PAIR_BLOCK // padded)
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        terms = np.zeros((len(rows[pairs]), padded))
        np.multiply(X[rows[pairs]], Y[columns[pairs]], out=terms[:, :d], dtype=np.float64)
        # Not the last axis, along which numpy would sum in pairs.
        lanes = np.add.reduce(terms.reshape(len(terms), -1, SUM_LANES), axis=1)
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        result[pairs] = lanes[:, 0]
    return result


def sort_rows(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
    """Sort each row in place by (score descending, id ascending)."""
    order = best_first(scores, ids)
    scores[:] = np.take_along_axis(scores, order, axis=1)
    ids[:] = np.take_along_axis(ids, order, axis=1)
