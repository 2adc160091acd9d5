"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `retrieval`.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.retrieval import Floats, Ids, ScoreRows, top_k
from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.fusion import Rescaling, rescale


def random_scores(seed: int, n_items: int) -> ScoreRows:
    """Scores drawn anew for each query; the same for equal seed and query."""

    def score_rows(rows: Ids) -> Floats:
        return np.stack([np.random.default_rng([seed, int(row)]).random(n_items) for row in rows])

    return score_rows


def formula_scores(
    X: Floats,
    Y: Floats,
    music_va: NDArray[np.float64],
    image_va: NDArray[np.float64],
    *,
    alpha: float,
    candidates: int,
    rescaling: Rescaling = "candidate_minmax",
    kernel: str = "cosine",
    sigma: float = 0.5,
) -> ScoreRows:
    """T = α S̃ + (1 - α) E among a clip's K candidates; the other images follow by S, below all of them.

    With the clips' true VA this is what made the pairs (the `oracle`); with predicted VA it is the
    `structured` baseline, which an unseen clip without ratings can have too.

    Args:
        X: (N, d) music embeddings as the encoder gives them.
        Y: (M, d) images.
        music_va: (N, 2) aligned VA.
        image_va: (M, 2) aligned VA.
        alpha: weight of the semantic term.
        candidates: K, the images of largest S that T ranks.
        rescaling: S̃.
        kernel: of E.
        sigma: width of the gaussian kernel.
    """

    def score_rows(rows: Ids) -> Floats:
        scores = np.asarray(X[rows] @ Y.T, dtype=np.float32)
        wide = scores.astype(np.float64)
        highest = wide.max(axis=1, keepdims=True)
        log_sum_exp = (highest + np.log(np.exp(wide - highest).sum(axis=1, keepdims=True)))[:, 0]
        # Below every T, which is at least 0, and in the order of S.
        result = wide - highest - 1.0
        chosen = top_k(scores, min(candidates, scores.shape[1]))
        S = rescale(np.take_along_axis(scores, chosen, axis=1), log_sum_exp, rescaling)
        E = emotional_similarity(music_va[rows][:, None], image_va[chosen], kernel=kernel, sigma=sigma)  # type: ignore[arg-type]
        T = alpha * S + (1.0 - alpha) * E
        np.put_along_axis(result, chosen, T, axis=1)
        return np.asarray(result)

    return score_rows
