"""Which of several comes first: the one rule of order, used wherever something is ranked.

By score, the larger first; of equal scores, the earlier item. Items stand in the order of what breaks ties:
images by their ids, a clip's candidates by S and then by id. So T's ties go to the larger S, then to the
smaller id. Numpy only; in torch, for training, `Teacher.shares` in `adapters/networks/interface.py` follows
the same rule.
"""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 64


def top_k(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The k best items of each row: (n, M) float → (n, k) int64, best first.

    Equal scores are ordered by item index, ascending. Exact: the k-th largest of the chunks' maxima is a
    lower bound of the k-th largest score, so only entries not below it are sorted. If a row has fewer
    than k items with a score above -inf, the rest of its row is -1.

    Raises:
        ValueError: k is below 1, or a score is NaN.
    """
    if k < 1:
        raise ValueError(f"top_k needs k of at least 1, got {k}")
    n, n_items = scores.shape
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])
        raise ValueError(f"the scores of row {row} contain NaN and cannot be ranked")
    chunks = n_items // _CHUNK
    if chunks < k:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(scores, order, axis=1) > -np.inf
        ranked = np.full((n, k), -1, dtype=np.int64)
        ranked[:, : order.shape[1]] = np.where(kept, order, -1)
        return ranked
    chunk_maxima = scores[:, : chunks * _CHUNK].reshape(n, chunks, _CHUNK).max(axis=2)
    bound = np.partition(chunk_maxima, chunks - k, axis=1)[:, chunks - k]
    rows, items = np.divmod(np.flatnonzero(scores >= bound[:, None]), n_items)
    values = scores[rows, items]
    order = np.lexsort((items, -values, rows))
    starts = np.searchsorted(rows, np.arange(n))
    best = order[starts[:, None] + np.arange(k)]
    return np.where(values[best] > -np.inf, items[best], -1)


def best_first(scores: NDArray[np.floating], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """(n, k) places that sort each row by (score descending, id ascending), for items in no order."""
    return np.lexsort((ids, -scores), axis=1)
