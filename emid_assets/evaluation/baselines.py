"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `ranking.metrics`.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Formula, fuse_terms, rescale
from emid_assets.ranking.metrics import Floats, Ids, ScoreRows, top_k


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
    """T = α S̃ + (1 - α) E among a clip's K candidates; the other images follow by S, below all of them.

    With the clips' true VA this is what made the pairs (the `oracle`); with predicted VA it is the
    `structured` baseline, which is also available for an unseen clip without ratings.

    Args:
        X: (N, d) music embeddings as the encoder gives them.
        Y: (M, d) images.
        music_va: (N, 2) aligned VA.
        image_va: (M, 2) aligned VA.
        formula: its K are the images of largest S that T ranks.
    """

    def score_rows(rows: Ids) -> Floats:
        chosen, S, below = formula_candidates(X, Y, rows, formula)
        E = formula.emotional(music_va[rows][:, None], image_va[chosen])
        T = fuse_terms(S, E, formula.alpha)
        np.put_along_axis(below, chosen, T, axis=1)
        return below

    return score_rows


def formula_candidates(
    X: Floats, Y: Floats, rows: Ids, formula: Formula
) -> tuple[Ids, NDArray[np.float64], NDArray[np.float64]]:
    """The K candidates of each row (n, K), their S̃, and scores (n, M) below 0 in the order of S."""
    scores = np.asarray(X[rows] @ Y.T, dtype=np.float32)
    wide = scores.astype(np.float64)
    highest = wide.max(axis=1, keepdims=True)
    log_sum_exp = (highest + np.log(np.exp(wide - highest).sum(axis=1, keepdims=True)))[:, 0]
    chosen = top_k(scores, min(formula.candidates, scores.shape[1]))
    S = rescale(np.take_along_axis(scores, chosen, axis=1), log_sum_exp, formula.rescaling)
    return chosen, S, wide - highest - 1.0
