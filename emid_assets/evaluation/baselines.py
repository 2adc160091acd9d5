"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `ranking.metrics`.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Formula, fuse, fuse_terms, rescale
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
    """The order of T = α S̃ + (1 - α) E among a clip's candidates; the others follow below, by S.

    A candidate's score is its place in that order, down to 1 for the last, so that nothing ties and a
    ranking by the scores is the formula's own order. With the method `calibrated` every image is a candidate.
    With the clips' true VA this is what made the pairs (the `oracle`); with predicted VA it is the
    `structured` baseline, which is also available for an unseen clip without ratings.

    Args:
        X: (N, d) music embeddings as the encoder gives them.
        Y: (M, d) images, in the order of their ids.
        music_va: (N, 2) aligned VA, or (N, 4) with standard deviations.
        image_va: (M, 2) or (M, 4), the same.
        formula: its K are the images of largest S that T ranks.
    """
    wide = Y.astype(np.float64).T

    def score_rows(rows: Ids) -> Floats:
        chosen, S, below = formula_candidates(X, Y, rows, formula)
        E = formula.emotional(music_va[rows][:, None], image_va[chosen])
        if formula.of_all_images and formula.alpha < 1.0:
            T = fuse_terms(np.zeros(1), formula.emotional(music_va[rows][:, None], image_va), formula.alpha)
            np.put_along_axis(T, chosen, fuse_terms(S, E, formula.alpha), axis=1)
            return _places(T, chosen, (X[rows].astype(np.float64) @ wide).astype(np.float32))
        best = fuse(S, E, np.ones(S.shape, dtype=np.bool_), formula.alpha, S.shape[1]).slots
        places = np.arange(S.shape[1], 0, -1.0)[None]
        np.put_along_axis(below, np.take_along_axis(chosen, best, axis=1), places, axis=1)
        return below

    return score_rows


def _places(T: NDArray[np.float64], chosen: Ids, scores: Floats) -> NDArray[np.float64]:
    """(n, M) places by T, from M down to 1; of equal T the candidates by S come first, then larger scores."""
    by_s = np.full(T.shape, chosen.shape[1])
    np.put_along_axis(by_s, chosen, np.arange(chosen.shape[1])[None], axis=1)
    order = np.lexsort((-scores, by_s, -T), axis=1)
    places = np.empty(T.shape)
    np.put_along_axis(places, order, np.arange(T.shape[1], 0, -1.0)[None], axis=1)
    return places


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
