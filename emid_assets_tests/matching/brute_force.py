"""The oracle: every score in float64, one pair at a time in the same order, then a full sort."""

import numpy as np
from numpy.typing import NDArray


def brute_force_scores(X: NDArray[np.float32], Y: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, M) float64. Equal vectors get equal bits, which a float64 matrix product does not promise."""
    return np.stack([(x.astype(np.float64) * Y.astype(np.float64)).sum(axis=1) for x in X])


def brute_force_top_k(scores: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids by (score descending, id ascending), and the log of each row's softmax denominator."""
    ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    top = scores.max(axis=1)
    return order, top + np.log(np.exp(scores - top[:, None]).sum(axis=1))


def rounded(log_sum_exp: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is stored of a log-sum-exp: whole 1024ths."""
    return np.round(log_sum_exp * 1024) / 1024


def unit_rows(rng: np.random.Generator, rows: int, d: int, scale: float = 1.0) -> NDArray[np.float32]:
    """(rows, d) float32 of the given length, in random directions."""
    vectors = rng.standard_normal((rows, d))
    unit: NDArray[np.float32] = (scale * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit
