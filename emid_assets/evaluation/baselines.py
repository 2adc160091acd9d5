"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `ranking.metrics`.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Formula, fuse, rescale
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.top_k_softmax import top_k_softmax
from emid_assets.ranking.metrics import Floats, Ids, ScoreRows


def random_scores(seed: int, n_items: int) -> ScoreRows:
    """Random scores for each query; equal seed and query give equal scores."""

    def score_rows(rows: Ids) -> Floats:
        return np.stack([np.random.default_rng([seed, int(row)]).random(n_items) for row in rows])

    return score_rows


def formula_scores(
    X: Floats,
    Y: Floats,
    music_va: NDArray[np.float64],
    image_va: NDArray[np.float64],
    formula: Formula,
) -> ScoreRows:
    """The order of T = α S̃ + (1 - α) E among a clip's K candidates; the others follow below, by S.

    A candidate's score is its place in that order, from K for the first down to 1, so that nothing ties and
    a ranking by the scores is the formula's own order. With the clips' true VA this is what made the pairs
    (the `oracle`); with predicted VA it is the `structured` baseline, which is also available for an unseen
    clip without ratings.

    Args:
        X: (N, d) music embeddings as the encoder gives them.
        Y: (M, d) images, in the order of their ids.
        music_va: (N, 2) aligned VA.
        image_va: (M, 2) aligned VA.
        formula: its K are the images of largest S that T ranks.
    """

    def score_rows(rows: Ids) -> Floats:
        chosen, S, below = formula_candidates(X, Y, rows, formula)
        E = formula.emotional(music_va[rows][:, None], image_va[chosen])
        best = fuse(S, E, np.ones(S.shape, dtype=np.bool_), formula.alpha, S.shape[1]).slots
        places = np.arange(S.shape[1], 0, -1.0)[None]
        np.put_along_axis(below, np.take_along_axis(chosen, best, axis=1), places, axis=1)
        return below

    return score_rows


def formula_candidates(
    X: Floats, Y: Floats, rows: Ids, formula: Formula
) -> tuple[Ids, NDArray[np.float64], NDArray[np.float64]]:
    """The K candidates of each row (n, K), best S first, their S̃, and scores (n, M) below 0 by S.

    The candidates and S̃ are those that the matching stores, whatever rows are asked for together.
    """
    x = np.ascontiguousarray(X[rows])
    state = top_k_softmax(x, Y, formula.candidates)
    scores = np.asarray(x @ Y.T, dtype=np.float64)
    return (
        state.ids,
        rescale(state.scores, log_sum_exp(state), formula.rescaling),
        scores - scores.max(axis=1, keepdims=True) - 1.0,
    )
