"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `retrieval`.
"""

import numpy as np
from numpy.typing import NDArray

from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.fusion import Rescaling, rescale
from emid_assets.ranking.metrics import Floats, Ids, ScoreRows, top_k


def random_scores(seed: int, n_items: int) -> ScoreRows:
    """Scores drawn anew for each query; the same for equal seed and query."""

    def score_rows(rows: Ids) -> Floats:
        return np.stack([np.random.default_rng([seed, int(row)]).random(n_items) for row in rows])

    return score_rows


def expected_formula_scores(
    X: Floats,
    Y: Floats,
    music_va: NDArray[np.float64],
    image_va: NDArray[np.float64],
    errors: NDArray[np.float64],
    *,
    alpha: float,
    candidates: int,
    images_per_clip: int,
    draws: int = 48,
    seed: int = 0,
    rescaling: Rescaling = "candidate_minmax",
    kernel: str = "cosine",
    sigma: float = 0.5,
) -> ScoreRows:
    """How often an image would be among a clip's m pairs, over what the clip's VA may be.

    The `structured` formula takes the VA read from the embedding at its word; this one adds drawn
    errors of reading to it and counts. It is no inner product. It is what the distilled network is
    taught, on the clips it is asked about, so the ceiling of that teaching.

    Args:
        X: (N, d) music embeddings as the encoder gives them.
        Y: (M, d) images.
        music_va: (N, 2) VA as read.
        image_va: (M, 2) aligned VA.
        errors: (n, 2) errors of reading, to draw from.
        alpha: weight of the semantic term.
        candidates: K.
        images_per_clip: m.
        draws: errors added to each clip's VA.
        seed: of the draws.
        rescaling: S̃.
        kernel: of E.
        sigma: width of the gaussian kernel.
    """
    added = errors[np.random.default_rng(seed).integers(len(errors), size=draws)]

    def score_rows(rows: Ids) -> Floats:
        chosen, S, below = _candidates(X, Y, rows, candidates, rescaling)
        counts = np.zeros(chosen.shape)
        for error in added:
            u = (music_va[rows] + error)[:, None]
            E = emotional_similarity(u, image_va[chosen], kernel=kernel, sigma=sigma)  # type: ignore[arg-type]
            best = top_k(alpha * S + (1.0 - alpha) * E, images_per_clip)
            np.put_along_axis(counts, best, np.take_along_axis(counts, best, axis=1) + 1.0, axis=1)
        # Equal counts go by S.
        np.put_along_axis(below, chosen, counts + 0.5 * S / max(1e-300, float(S.max())), axis=1)
        return below

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
        chosen, S, below = _candidates(X, Y, rows, candidates, rescaling)
        E = emotional_similarity(music_va[rows][:, None], image_va[chosen], kernel=kernel, sigma=sigma)  # type: ignore[arg-type]
        T = alpha * S + (1.0 - alpha) * E
        np.put_along_axis(below, chosen, T, axis=1)
        return below

    return score_rows


def _candidates(
    X: Floats, Y: Floats, rows: Ids, candidates: int, rescaling: Rescaling
) -> tuple[Ids, NDArray[np.float64], NDArray[np.float64]]:
    """The K candidates of each row (n, K), their S̃, and scores (n, M) below 0 in the order of S."""
    scores = np.asarray(X[rows] @ Y.T, dtype=np.float32)
    wide = scores.astype(np.float64)
    highest = wide.max(axis=1, keepdims=True)
    log_sum_exp = (highest + np.log(np.exp(wide - highest).sum(axis=1, keepdims=True)))[:, 0]
    chosen = top_k(scores, min(candidates, scores.shape[1]))
    S = rescale(np.take_along_axis(scores, chosen, axis=1), log_sum_exp, rescaling)
    return chosen, S, wide - highest - 1.0
