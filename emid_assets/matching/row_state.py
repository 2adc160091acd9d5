"""The streaming state of a row of S, and the merge of two such states.

Belongs here: what is kept of a row (maximum, sum of exponentials, best columns and their
scores) and joining states of different columns or different rows. Column tiles, column shards,
row shards, processes, machines and GPU tiles all use `merge` and `stack`.
Does not belong here: computing scores (`top_k_softmax.py`) and settling near-ties (`exact_order.py`).

Numpy only, so that any module may import it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.order import best_first

LOG_SUM_EXP_STEP = 2.0**-10
"""A log-sum-exp is rounded to whole multiples of this. The sums of different products, tiles, threads and
shards differ by about a thousandth of it; `exact_order` decides those near the middle between two multiples.
"""

NO_COLUMN = -1
"""Id of an empty slot (fewer columns seen than slots); its score is -inf."""


@dataclass(frozen=True)
class RowState:
    """The state of n rows of `X Yᵀ` after some of the columns.

    Attributes:
        maximum: (n,) float64, the largest score of the row; -inf before the first column.
        sum_exp: (n,) float64, sum over the columns of exp(score - maximum).
        ids: (n, K) int64 columns with the K largest scores, by (score descending, id
            ascending); `NO_COLUMN` in empty slots.
        scores: (n, K) float32, their scores; -inf in empty slots.
    """

    maximum: NDArray[np.float64]
    sum_exp: NDArray[np.float64]
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def rows(self) -> int:
        """N."""
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        """K, the number of slots."""
        return int(self.ids.shape[1])


def empty_row_state(rows: int, width: int) -> RowState:
    """The state before any column: the neutral element of `merge`."""
    return RowState(
        maximum=np.full(rows, -np.inf),
        sum_exp=np.zeros(rows),
        ids=np.full((rows, width), NO_COLUMN, dtype=np.int64),
        scores=np.full((rows, width), -np.inf, dtype=np.float32),
    )


def merge(a: RowState, b: RowState) -> RowState:
    """Join the states of the same rows over two disjoint sets of columns.

    Associative and commutative: bit for bit in maximum, ids and scores, up to rounding in sum_exp
    (the online softmax of Milakov and Gimelshein 2018, arXiv 1805.02867, with a top-K).

    Raises:
        ValueError: the states differ in rows or in width.
    """
    if a.ids.shape != b.ids.shape:
        raise ValueError(
            f"row states of shape {a.ids.shape} and {b.ids.shape} cannot be merged: "
            "both must hold the same rows and the same number of slots"
        )
    maximum = np.maximum(a.maximum, b.maximum)
    reference = np.where(np.isneginf(maximum), 0.0, maximum)
    sum_exp = a.sum_exp * np.exp(a.maximum - reference) + b.sum_exp * np.exp(b.maximum - reference)
    ids = np.concatenate([a.ids, b.ids], axis=1)
    scores = np.concatenate([a.scores, b.scores], axis=1)
    order = best_first(scores, ids)[:, : a.width]
    return RowState(
        maximum=maximum,
        sum_exp=sum_exp,
        ids=np.take_along_axis(ids, order, axis=1),
        scores=np.take_along_axis(scores, order, axis=1),
    )


def stack(states: Sequence[RowState]) -> RowState:
    """Join the states of different rows over the same columns, in the order given.

    Raises:
        ValueError: no state was given, or the states differ in width.
    """
    if not states:
        raise ValueError("no row states to stack: give at least one")
    widths = sorted({state.width for state in states})
    if len(widths) > 1:
        raise ValueError(f"row states of different widths {widths} cannot be stacked")
    return RowState(
        maximum=np.concatenate([state.maximum for state in states]),
        sum_exp=np.concatenate([state.sum_exp for state in states]),
        ids=np.concatenate([state.ids for state in states]),
        scores=np.concatenate([state.scores for state in states]),
    )


def log_sum_exp(state: RowState) -> NDArray[np.float64]:
    """(n,) float64, the log of each row's softmax denominator: S = exp(score - log_sum_exp).

    Rounded to `LOG_SUM_EXP_STEP`, so that S is right to .05 % and has the same bits whatever summed it.
    """
    return in_steps(unrounded_log_sum_exp(state))


def in_steps(log_sum_exp: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-sum-exps as they are stored: whole multiples of `LOG_SUM_EXP_STEP`."""
    return np.rint(log_sum_exp / LOG_SUM_EXP_STEP) * LOG_SUM_EXP_STEP


def unrounded_log_sum_exp(state: RowState) -> NDArray[np.float64]:
    """(n,) float64, the same as it was summed: right to about 1e-7 of the largest score."""
    with np.errstate(divide="ignore"):
        return state.maximum + np.log(state.sum_exp)
