"""Rankings that no network learns: chance, the frozen space, the formula with predicted and true VA.

Belongs here: functions that give a `ScoreRows` of `retrieval`, and the ridge that predicts VA.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.retrieval import Floats, Ids, ScoreRows, top_k
from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.fusion import Rescaling, rescale

RIDGE_PENALTIES = tuple(10.0**power for power in range(-3, 4))


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


def ridge(
    X: Floats, targets: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares with a penalty on the weights: targets ≈ (X - mean) W + b.

    Args:
        X: (n, d).
        targets: (n, t).
        penalty: of |W|², in units of one row.

    Returns:
        W (d, t) and the intercept (t,), so that X W + intercept predicts.
    """
    centre, level = X.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    Xc = X.astype(np.float64) - centre
    if len(X) <= X.shape[1]:
        W = Xc.T @ np.linalg.solve(Xc @ Xc.T + penalty * np.eye(len(X)), targets - level)
    else:
        W = np.linalg.solve(Xc.T @ Xc + penalty * np.eye(X.shape[1]), Xc.T @ (targets - level))
    return W, level - centre @ W


def predict_va(
    X: Floats, va: NDArray[np.float64], train: Sequence[bool], validation: Sequence[bool]
) -> NDArray[np.float64]:
    """VA of every clip from its embedding, by a ridge on the training clips.

    Args:
        X: (N, d) unit embeddings.
        va: (N, 2) aligned VA; only rows in the two parts are read.
        train: (N,) rows to learn from.
        validation: (N,) rows that choose the penalty; where there are none it is 1.

    Returns:
        (N, 2) predictions, those of the training rows too.
    """
    learn, choose = np.asarray(train, dtype=bool), np.asarray(validation, dtype=bool)
    best: tuple[float, NDArray[np.float64]] | None = None
    for penalty in RIDGE_PENALTIES if choose.any() else (1.0,):
        W, intercept = ridge(X[learn], va[learn], penalty)
        predicted = X @ W + intercept
        error = float(((predicted[choose] - va[choose]) ** 2).sum())
        if best is None or error < best[0]:
            best = error, predicted
    assert best is not None
    return best[1]
