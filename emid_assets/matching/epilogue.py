"""What is done with a block of scores before it is overwritten by the next: plain numpy.

Belongs here: folding a block of `X Yᵀ` into row states without a Python loop over rows. It
is the fallback where numba is absent, and the oracle of the compiled epilogue.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.row_state import RowState

CHUNK_COLUMNS = 512
"""Columns searched for candidates at once: bounds the index arrays, and lets the threshold rise."""


def absorb(scores: NDArray[np.float32], first_column: int, state: RowState) -> None:
    """Fold a block of scores into the state of its rows, in place. Destroys `scores`.

    Args:
        scores: (n, c) float32, columns first_column … first_column + c - 1 of the rows.
        first_column: must be above every id in the state (columns come in ascending order), so
            that of equal scores the lower id is kept.
        state: the rows' state; its arrays are written.
    """
    for start in range(0, scores.shape[1], CHUNK_COLUMNS):
        _keep_best(scores[:, start : start + CHUNK_COLUMNS], first_column + start, state)
    _add_exponentials(scores, state)


def _keep_best(scores: NDArray[np.float32], first_column: int, state: RowState) -> None:
    hit_rows, hit_columns = np.nonzero(scores > state.scores[:, -1:])
    if hit_rows.size == 0:
        return
    rows, first_hit, counts = np.unique(hit_rows, return_index=True, return_counts=True)
    # One line per row that was hit: its slots, then its hits, filled up with -inf.
    line = np.repeat(np.arange(rows.size), counts)
    slot = np.arange(hit_rows.size) - np.repeat(first_hit, counts) + state.width
    new_scores = np.full((rows.size, state.width + int(counts.max())), -np.inf, dtype=np.float32)
    new_ids = np.full(new_scores.shape, -1, dtype=np.int64)
    new_scores[:, : state.width] = state.scores[rows]
    new_ids[:, : state.width] = state.ids[rows]
    new_scores[line, slot] = scores[hit_rows, hit_columns]
    new_ids[line, slot] = hit_columns + first_column
    # Ids ascend along a line among equal scores, so a stable sort orders by (score, id).
    order = np.argsort(-new_scores, axis=1, kind="stable")[:, : state.width]
    state.scores[rows] = np.take_along_axis(new_scores, order, axis=1)
    state.ids[rows] = np.take_along_axis(new_ids, order, axis=1)


def _add_exponentials(scores: NDArray[np.float32], state: RowState) -> None:
    maximum = np.maximum(state.maximum, scores.max(axis=1))
    np.subtract(scores, maximum[:, None].astype(np.float32), out=scores)
    np.exp(scores, out=scores)
    # Re-centred at every block: a fixed shift would over- or underflow once the row's maximum moves.
    state.sum_exp[:] = state.sum_exp * np.exp(state.maximum - maximum) + scores.sum(axis=1)
    state.maximum[:] = maximum
