"""The exact order of near-ties: which columns are a row's best, as float64 would have it.

Products differ between libraries, tiles and thread counts in the last bits, so float32 scores
closer than their rounding error have no order. Belongs here: finding those, scoring them again
in float64, and ordering by (score descending, id ascending). After that the ids are the same
whatever computed the product.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.row_state import NO_COLUMN, RowState

SPARE_SLOTS = 16
"""Slots kept beyond K, so that a column pushed below the K-th by rounding is still at hand."""

_PAIR_BLOCK = 1 << 20
"""Numbers in a float64 temporary while pairs are scored again (8 MB)."""


def rounding_bound(X: NDArray[np.float32], largest_column_norm: float, unit: float) -> NDArray[np.float64]:
    """(n,) float64: how far a row's computed scores can be from the true inner products.

    The classical bound d·u·‖x‖·‖y‖ for an inner product of length d with unit roundoff u in any
    order of summation (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    norms *= (X.shape[1] + 2) * unit * largest_column_norm
    return norms


def settle(
    state: RowState,
    X: NDArray[np.float32],
    tiles: Iterable[tuple[int, NDArray[np.float32]]],
    k: int,
    columns: int,
    bound: NDArray[np.float64],
    column_ids: NDArray[np.int64] | None,
) -> RowState:
    """Cut `state` to its K best columns, ordered as a float64 brute force orders them.

    Args:
        state: wide state (K + SPARE_SLOTS slots, or one for every column) with column positions as ids.
        X: (n, d) float32, the rows.
        tiles: (first position, (c, d) float32) over all columns: read once.
        k: K.
        columns: M, the number of all columns.
        bound: (n,) `rounding_bound`.
        column_ids: (M,) int64 id of each column position, by which ties break; None: the position.
    """
    k = min(k, columns)
    scores = state.scores.astype(np.float64)
    gap = 2.0 * bound[:, None]
    linked = scores[:, :-1] - scores[:, 1:] <= gap
    doubtful = np.zeros(scores.shape, dtype=bool)
    doubtful[:, :-1] |= linked
    doubtful[:, 1:] |= linked
    doubtful &= state.ids != NO_COLUMN
    floor = scores[:, k - 1] - gap[:, 0]
    # The last slot is still within reach of the K-th: columns that were let go may belong to the row.
    crowded = np.flatnonzero(scores[:, -1] >= floor) if state.width < columns else np.empty(0, dtype=np.intp)
    doubtful[crowded] = False
    lines, slots = np.nonzero(doubtful)
    positions = state.ids[lines, slots]
    order = np.argsort(positions, kind="stable")
    lines, slots, positions = lines[order], slots[order], positions[order]
    rescan = _Rescan(X[crowded], floor[crowded], k, column_ids) if crowded.size else None
    if lines.size or rescan:
        for first, tile in tiles:
            here = slice(*np.searchsorted(positions, [first, first + len(tile)]))
            scores[lines[here], slots[here]] = exact_scores(X, lines[here], tile, positions[here] - first)
            if rescan:
                rescan.absorb(first, tile)
    ids = _ids_of(state.ids, column_ids)
    best = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids = np.take_along_axis(ids, best, axis=1)
    scores = np.take_along_axis(scores, best, axis=1)
    if rescan:
        ids[crowded], scores[crowded] = rescan.ids, rescan.scores
    return RowState(state.maximum, state.sum_exp, ids, scores.astype(np.float32))


def exact_scores(
    X: NDArray[np.float32], rows: NDArray[np.intp], Y: NDArray[np.float32], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(p,) float64 inner products X[rows[i]] · Y[columns[i]], the same bits for the same two vectors."""
    result = np.empty(len(rows))
    step = max(1, _PAIR_BLOCK // X.shape[1])
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        terms = X[rows[pairs]].astype(np.float64)
        terms *= Y[columns[pairs]]
        result[pairs] = terms.sum(axis=1)
    return result


def _ids_of(positions: NDArray[np.int64], column_ids: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if column_ids is None:
        return positions
    return np.where(positions == NO_COLUMN, NO_COLUMN, column_ids[positions])


class _Rescan:
    """The K best columns of the few rows with more near-ties at the K-th place than spare slots."""

    def __init__(
        self, X: NDArray[np.float32], floor: NDArray[np.float64], k: int, column_ids: NDArray[np.int64] | None
    ) -> None:
        self._X, self._floor, self._column_ids = X, floor, column_ids
        self.ids = np.full((len(X), k), NO_COLUMN, dtype=np.int64)
        self.scores = np.full((len(X), k), -np.inf)

    def absorb(self, first: int, tile: NDArray[np.float32]) -> None:
        for rows, columns in _blocks(len(self._X), len(tile), 256, 512):
            X, Y = self._X[rows], tile[columns]
            lines, hits = np.nonzero(self._floor[rows, None] <= X @ Y.T)
            if lines.size == 0:
                continue
            exact = np.full((len(X), len(Y)), -np.inf)
            exact[lines, hits] = exact_scores(X, lines, Y, hits)
            positions = np.arange(first + columns.start, first + columns.start + len(Y), dtype=np.int64)
            ids = np.broadcast_to(_ids_of(positions, self._column_ids), exact.shape)
            all_scores = np.concatenate([self.scores[rows], exact], axis=1)
            all_ids = np.concatenate([self.ids[rows], ids], axis=1)
            best = np.lexsort((all_ids, -all_scores), axis=1)[:, : self.ids.shape[1]]
            self.scores[rows] = np.take_along_axis(all_scores, best, axis=1)
            self.ids[rows] = np.take_along_axis(all_ids, best, axis=1)


def _blocks(rows: int, columns: int, row_step: int, column_step: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, rows, row_step):
        for j in range(0, columns, column_step):
            yield slice(i, min(i + row_step, rows)), slice(j, min(j + column_step, columns))
