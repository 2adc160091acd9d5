"""Rows of S = softmax(X Yᵀ) without ever holding N × M: the K best columns and the denominator.

Belongs here: tiling, threads, and the checks of the input. The state of a row is
`row_state.py`, the work on a block of scores `epilogue.py`, the order of near-ties
`exact_order.py`.

Ids are column positions (or what `column_ids` maps them to), and ties break by id ascending:
a caller that wants ties broken by a name sorts the columns by it, or passes each column's rank.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.epilogue import absorb
from emid_assets.matching.exact_order import SPARE_SLOTS, rounding_bound, settle
from emid_assets.matching.row_state import RowState, empty_row_state

FLOAT32_UNIT = 2.0**-24

Columns = NDArray[np.float32] | Iterable[NDArray[np.float32]]
"""Y: one (M, d) array, or something that can be iterated over more than once for its (c, d) tiles."""


class MatchingError(ValueError):
    """Embeddings that cannot be matched: the message says which side and row, and why."""


def top_k_softmax(
    X: NDArray[np.float32],
    Y: Columns,
    k: int,
    *,
    column_ids: NDArray[np.int64] | None = None,
    tile_rows: int = 1024,
    tile_columns: int = 4096,
) -> RowState:
    """The K largest entries of every row of X Yᵀ, and the row's softmax denominator over all columns.

    Exact: ids are those of a float64 brute force ordered by (score descending, id ascending).

    Args:
        X: (N, d) float32 rows (music).
        Y: (M, d) float32 columns (images), or an iterable of (c, d) tiles that can be iterated
            over again (near-ties are looked at a second time): a list, not a generator.
        k: how many columns to keep for each row; all M where K > M.
        column_ids: (M,) int64 distinct id ≥ 0 of each column, by which ties break; None: its position.
        tile_rows: rows of the one block of scores that is held, 4 bytes a score.
        tile_columns: its columns.

    Returns:
        State of width min(K, M).

    Raises:
        MatchingError: no columns, not float32, dimensions that differ, k < 1, or a number that is not
            finite (the message names the row).
    """
    if k < 1:
        raise MatchingError(f"k is {k}: at least one candidate per row is needed")
    if isinstance(Y, Iterator):
        raise MatchingError(
            "the column tiles are a one-way iterator: give a list or an object that opens it anew"
        )
    _check_array(X, "X")
    state = empty_row_state(len(X), k + SPARE_SLOTS)
    buffer = np.empty(tile_rows * tile_columns, dtype=np.float32)
    columns, largest_norm = 0, 0.0
    for first, tile in _tiles(Y, X.shape[1], tile_columns):
        norms = _norms(tile, "Y", first)
        largest_norm = max(largest_norm, float(norms.max(initial=0.0)))
        columns = first + len(tile)
        for start in range(0, len(X), tile_rows):
            rows = slice(start, min(start + tile_rows, len(X)))
            if first == 0:
                _norms(X[rows], "X", start)
            scores = buffer[: (rows.stop - start) * len(tile)].reshape(-1, len(tile))
            np.matmul(X[rows], tile.T, out=scores)
            absorb(scores, first, _rows_of(state, rows))
    if columns == 0:
        raise MatchingError("there are no columns to match against: Y holds no image embeddings")
    if column_ids is not None and len(column_ids) != columns:
        raise MatchingError(f"{len(column_ids)} column ids were given for {columns} columns")
    if np.isposinf(state.maximum).any() or np.isnan(state.sum_exp).any():
        row = int(np.flatnonzero(np.isposinf(state.maximum) | np.isnan(state.sum_exp))[0])
        raise MatchingError(f"the scores of row {row} of X overflow float32: the embeddings are too long")
    if columns < state.width:
        state = RowState(state.maximum, state.sum_exp, state.ids[:, :columns], state.scores[:, :columns])
    bound = rounding_bound(X, largest_norm, FLOAT32_UNIT)
    return settle(state, X, _tiles(Y, X.shape[1], tile_columns), k, columns, bound, column_ids)


def _rows_of(state: RowState, rows: slice) -> RowState:
    return RowState(state.maximum[rows], state.sum_exp[rows], state.ids[rows], state.scores[rows])


def _tiles(Y: Columns, dimension: int, tile_columns: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    first = 0
    for part in [Y] if isinstance(Y, np.ndarray) else Y:
        _check_array(part, "Y")
        if part.shape[1] != dimension:
            raise MatchingError(
                f"Y has {part.shape[1]} numbers a row and X has {dimension}: use one encoder for both"
            )
        for start in range(0, len(part), tile_columns):
            tile = part[start : start + tile_columns]
            yield first + start, tile
        first += len(part)


def _check_array(array: NDArray[np.float32], side: str) -> None:
    if array.ndim != 2 or array.dtype != np.float32:
        raise MatchingError(f"{side} is {array.dtype} of shape {array.shape}: a float32 matrix is needed")


def _norms(rows: NDArray[np.float32], side: str, first: int) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    if not np.isfinite(norms).all():
        row = first + int(np.flatnonzero(~np.isfinite(norms))[0])
        raise MatchingError(f"row {row} of {side} holds a number that is not finite: encode it again")
    return norms
