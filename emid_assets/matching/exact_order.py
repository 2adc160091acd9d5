"""What is certain of a row: its best columns with their scores, and its log-sum-exp, whatever computed them.

Products differ between libraries, tiles and thread counts in the last bits, so float32 scores
closer than their rounding error have no reliable order, and no sum of them has reliable last bits. Belongs
here: scoring the columns that are kept again in float64, in one order of summation, and ordering them by
(score descending, id ascending); and summing those rows again in float64 whose log-sum-exp is too close to
the middle between two steps to be rounded. So ids, scores and log-sum-exps have the same bits, whatever
computed the product, and in whatever parts.
"""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.order import best_first
from emid_assets.matching.row_state import (
    LOG_SUM_EXP_STEP,
    NO_COLUMN,
    RowState,
    log_sum_exp,
    unrounded_log_sum_exp,
)

SPARE_SLOTS = 16
"""Slots kept beyond K, so that a column that rounding pushed below the K-th is still available."""

_COLUMN_GROUP = 2048
"""Columns that fit in the cache while pairs are scored again."""

_ROW_BLOCK = 2048
"""Rows whose slots are held in float64 at once."""

_FLOAT32_SUMS = 4e-7
"""Error of a log-sum-exp by exponentials and sums in float32: six times their standard deviation."""


class Errors(NamedTuple):
    """How far the scores of a state may be off.

    Attributes:
        largest: (n,) largest error of a score of the row. If infinite, every slot is scored again, and
            columns outside the slots are not searched.
        typical: (n,) several times the standard deviation of a score's error; None if it is so large that
            the row's sum cannot be made certain.
    """

    largest: NDArray[np.float64]
    typical: NDArray[np.float64] | None


def settle(
    state: RowState,
    X: NDArray[np.float32],
    parts: Iterable[tuple[int, NDArray[np.float32]]],
    k: int,
    columns: int,
    errors: Errors,
    column_ids: NDArray[np.int64] | None,
    inner: ModuleType,
) -> RowState:
    """Cut `state` to its K best columns, scored and ordered as a float64 brute force does.

    Args:
        state: K + SPARE_SLOTS slots or more, with column positions as ids.
        X: (n, d) float32, the rows.
        parts: (first position, (c, d) float32) over all columns; read once, and only if needed.
        k: K.
        columns: M, the number of all columns.
        errors: of the scores in `state`.
        column_ids: (M,) int64 id of each column position, which breaks ties; None: the position.
        inner: `plain` or `compiled`.

    Returns:
        State of width min(K, M) with ids from `column_ids`; its maximum is the best score in float64.
    """
    k, width = min(k, columns), min(state.width, columns)
    lines, slots, crowded, floor = _doubtful(state, k, width, columns, errors.largest)
    positions = state.ids[lines, slots]
    exact = np.empty(len(lines))
    rescan = _Rescan(X, crowded, floor, k, column_ids, inner) if crowded.size else None
    unsure = np.empty(0, np.intp) if errors.typical is None else _unsure(state, errors.typical)
    sums = _Sums(X, unsure, state.maximum[unsure]) if unsure.size else None
    if lines.size or rescan or sums:
        # Sort by group of columns, and by row within a group, so that both sides are read almost in order.
        group = positions // _COLUMN_GROUP
        by_group = np.argsort(
            group.astype(np.uint16) if columns < _COLUMN_GROUP << 16 else group, kind="stable"
        )
        ascending = group[by_group]
        for first, part in parts:
            last = first + len(part) - 1
            near = by_group[
                slice(*np.searchsorted(ascending, [first // _COLUMN_GROUP, last // _COLUMN_GROUP + 1]))
            ]
            here = near[(positions[near] >= first) & (positions[near] <= last)]
            exact[here] = inner.exact_scores(X, lines[here], part, positions[here] - first)
            if rescan:
                rescan.absorb(first, part)
            if sums:
                sums.absorb(part)
    sum_exp = state.sum_exp
    if np.isinf(errors.largest).any():
        # The best columns weigh most in the denominator: replace their approximate terms by exact ones.
        sum_exp = sum_exp.copy()
        rough = state.scores[lines, slots].astype(np.float64)
        top = state.maximum[lines]
        np.add.at(sum_exp, lines, np.exp(exact - top) - np.exp(rough - top))
    ids = np.empty((state.rows, k), dtype=np.int64)
    scores = np.empty((state.rows, k), dtype=np.float32)
    maximum = np.empty(state.rows)
    for start in range(0, state.rows, _ROW_BLOCK):
        rows = slice(start, start + _ROW_BLOCK)
        pairs = slice(*np.searchsorted(lines, [start, start + _ROW_BLOCK]))
        wide = state.scores[rows, :width].astype(np.float64)
        wide[lines[pairs] - start, slots[pairs]] = exact[pairs]
        wide_ids = _ids_of(state.ids[rows, :width], column_ids)
        inner.sort_rows(wide, wide_ids)
        ids[rows], scores[rows], maximum[rows] = wide_ids[:, :k], wide[:, :k], wide[:, 0]
    if rescan:
        ids[crowded], scores[crowded], maximum[crowded] = rescan.ids, rescan.scores, rescan.scores[:, 0]
    if sums:
        sum_exp = sum_exp.copy()
        sum_exp[unsure] = sums.total
    settled = log_sum_exp(RowState(state.maximum, sum_exp, ids, scores))
    return RowState(maximum, np.exp(settled - maximum), ids, scores)


def _doubtful(
    state: RowState, k: int, width: int, columns: int, bound: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Slots to score again: the first K, and others whose neighbour is too close to call.

    Also rows whose last slot is too close to the K-th.

    A dropped column may be among the K best of such a row, so each of these rows is returned with the
    lowest score that such a column can have.
    """
    lines, slots, crowded, floors = [], [], [], []
    for start in range(0, state.rows, _ROW_BLOCK):
        scores = state.scores[start : start + _ROW_BLOCK, :width].astype(np.float64)
        gap = 2.0 * bound[start : start + _ROW_BLOCK]
        near = np.zeros((len(scores), width + 1), dtype=bool)
        np.less_equal(scores[:, :-1] - scores[:, 1:], gap[:, None], out=near[:, 1:width])
        doubtful = near[:, 1:] | near[:, :-1]
        doubtful[:, :k] = True
        floor = scores[:, k - 1] - gap
        if width < columns:
            full = np.flatnonzero(np.isfinite(gap) & (scores[:, -1] >= floor))
            doubtful[full] = False
            crowded.append(full + start)
            floors.append(floor[full])
        line, slot = np.nonzero(doubtful)
        lines.append(line + start)
        slots.append(slot)
    return (
        _joined(lines, np.intp),
        _joined(slots, np.intp),
        _joined(crowded, np.intp),
        _joined(floors, np.float64),
    )


def _joined(parts: list[NDArray], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def _ids_of(positions: NDArray[np.int64], column_ids: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if column_ids is None:
        return positions.copy()
    return np.where(positions == NO_COLUMN, NO_COLUMN, column_ids[positions])


def _unsure(state: RowState, error: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows whose log-sum-exp may be rounded to either of two steps.

    The error of a log-sum-exp is the mean of the scores' errors by their probabilities p, so that its
    standard deviation is that of a score times √Σp², where p is that of all columns of one score together:
    equal columns have equal errors. Beyond the slots, no p is larger than the last one's; if the last two
    slots are equal, the columns beyond may all be equal to them. The exponentials and their sums in float32
    add about 1e-7.
    """
    value = unrounded_log_sum_exp(state)
    unsure = []
    for start in range(0, state.rows, _ROW_BLOCK):
        rows = slice(start, start + _ROW_BLOCK)
        p = np.exp(state.scores[rows].astype(np.float64) - value[rows, None])
        rest = np.clip(1.0 - p.sum(axis=1), 0.0, 1.0)
        first = np.ones(p.shape, dtype=bool)  # of the slots of one score
        first[:, 1:] = state.scores[rows][:, 1:] != state.scores[rows][:, :-1]
        together = np.add.reduceat(p.ravel(), np.flatnonzero(first))
        last = together[np.cumsum(first.sum(axis=1)) - 1]
        squares = np.bincount(np.nonzero(first)[0], together**2, minlength=len(p))
        beyond = np.where(first[:, -1], rest * p[:, -1], (last + rest) ** 2 - last**2)
        spread = np.sqrt(squares + beyond)
        steps = value[rows] / LOG_SUM_EXP_STEP
        from_the_middle = np.abs(steps - np.floor(steps) - 0.5) * LOG_SUM_EXP_STEP
        unsure.append(start + np.flatnonzero(from_the_middle <= error[rows] * spread + _FLOAT32_SUMS))
    return _joined(unsure, np.intp)


class _Sums:
    """The sums of exponentials of a few rows over all columns, in float64."""

    def __init__(self, X: NDArray[np.float32], rows: NDArray[np.intp], maximum: NDArray[np.float64]) -> None:
        self._X, self._rows, self._maximum = X, rows, maximum[:, None]
        self.total = np.zeros(len(rows))

    def absorb(self, part: NDArray[np.float32]) -> None:
        for lines, columns in _blocks(len(self._rows), len(part), 256, 128):
            wide = self._X[self._rows[lines]].astype(np.float64)
            scores = wide @ part[columns].astype(np.float64).T
            self.total[lines] += np.exp(scores - self._maximum[lines]).sum(axis=1)


class _Rescan:
    """The K best columns of the few rows with more near-ties at the K-th place than spare slots."""

    def __init__(
        self,
        X: NDArray[np.float32],
        rows: NDArray[np.intp],
        floor: NDArray[np.float64],
        k: int,
        column_ids: NDArray[np.int64] | None,
        inner: ModuleType,
    ) -> None:
        self._X, self._rows, self._floor = X, rows, floor
        self._column_ids, self._inner = column_ids, inner
        self.ids = np.full((len(rows), k), NO_COLUMN, dtype=np.int64)
        self.scores = np.full((len(rows), k), -np.inf)

    def absorb(self, first: int, part: NDArray[np.float32]) -> None:
        for lines, columns in _blocks(len(self._rows), len(part), 256, 128):
            X, Y = self._X[self._rows[lines]], part[columns]
            scores = X @ Y.T
            hit_lines, hits = np.nonzero(scores >= self._floor[lines, None])
            if hit_lines.size == 0:
                continue
            k = self.ids.shape[1]
            exact = np.full((len(X), k + len(Y)), -np.inf)
            exact[:, :k] = self.scores[lines]
            exact[hit_lines, k + hits] = self._inner.exact_scores(X, hit_lines, Y, hits)
            positions = np.arange(first + columns.start, first + columns.start + len(Y), dtype=np.int64)
            ids = np.empty(exact.shape, dtype=np.int64)
            ids[:, :k] = self.ids[lines]
            ids[:, k:] = _ids_of(positions, self._column_ids)
            best = best_first(exact, ids)[:, :k]
            self.scores[lines] = np.take_along_axis(exact, best, axis=1)
            self.ids[lines] = np.take_along_axis(ids, best, axis=1)


def _blocks(rows: int, columns: int, row_step: int, column_step: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, rows, row_step):
        for j in range(0, columns, column_step):
            yield slice(i, min(i + row_step, rows)), slice(j, min(j + column_step, columns))
