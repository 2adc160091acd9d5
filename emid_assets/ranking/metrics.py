"""Ranking images for clips, and the @k metrics of a ranking.

Belongs here: ranking by the one rule of order (`matching.order`) and metrics that depend only on which items
are relevant. Emotion metrics are in `emotion_metrics`; scores come from `evaluation.baselines` and
`adapters.networks`. Numpy only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.order import top_k

Floats = NDArray[np.floating]
Ids = NDArray[np.int64]

ScoreRows = Callable[[Ids], Floats]
"""Query rows (n,) → scores (n, M) float, larger is better; -inf excludes an item."""

TILE_ROWS = 256
"""Queries whose scores are in memory together, at most."""

TILE_SCORES = 1 << 24
"""Scores that are in memory together, at most: 64 MB in float32, and a few times that while being ranked."""


def inner_product_scores(queries: Floats, items: Floats) -> ScoreRows:
    """Scores by inner product: queries (N, e) and items (M, e)."""

    def score_rows(rows: Ids) -> Floats:
        return queries[rows] @ items.T

    return score_rows


def metrics_like_librecommender(hits: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """MAP and NDCG as LibRecommender (1.x) defines them, for comparison with its figures.

    `libreco_map` divides by the hits among the k places, not by R; `libreco_ndcg` takes the ideal
    from those hits. Both are higher than trec_eval's on the same ranking, since a query is not
    penalised for items that it did not retrieve.

    Args:
        hits: (n, k) bool, best place first.
    """
    k = hits.shape[1]
    places = np.arange(1, k + 1, dtype=np.float64)
    found = hits.astype(np.float64)
    total = found.sum(axis=1)
    discounts = 1.0 / np.log2(places + 1.0)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[total.astype(np.int64)]
    precisions = (found * np.cumsum(found, axis=1) / places).sum(axis=1)
    any_hit = total > 0
    return {
        "libreco_map": np.where(any_hit, precisions / np.maximum(total, 1.0), 0.0),
        "libreco_ndcg": np.where(
            any_hit, (found * discounts).sum(axis=1) / np.where(any_hit, ideal, 1.0), 0.0
        ),
    }


def tiles(rows: Ids, n_items: int) -> Iterator[Ids]:
    """Split `rows` into parts whose scores of all items fit in memory together."""
    at_once = max(1, min(TILE_ROWS, TILE_SCORES // max(1, n_items)))
    for start in range(0, len(rows), at_once):
        yield rows[start : start + at_once]


def rank(score_rows: ScoreRows, rows: Ids, k: int, n_items: int, excluded: "Relevance | None" = None) -> Ids:
    """Top k of the items of each query in `rows`: (n, k) int64, without the pairs in `excluded`."""
    ranked = [np.empty((0, k), dtype=np.int64)]
    for tile in tiles(rows, n_items):
        scores = score_rows(tile)
        if excluded is not None:
            scores = excluded.masked(tile, scores)
        ranked.append(top_k(scores, k))
    return np.concatenate(ranked)


@dataclass(frozen=True)
class Relevance:
    """Which items are relevant to which query: pairs as sorted keys `query · n_items + item`."""

    keys: Ids
    n_items: int

    @classmethod
    def of_pairs(cls, queries: Ids, items: Ids, n_items: int) -> "Relevance":
        """From pairs (P,) of query rows and item indices; repeated pairs count once."""
        return cls(np.unique(queries.astype(np.int64) * n_items + items.astype(np.int64)), n_items)

    def queries(self) -> Ids:
        """Queries with a relevant item, ascending."""
        return np.unique(self.keys // self.n_items)

    def of_query(self, row: int) -> Ids:
        """Relevant items of one query, ascending."""
        low, high = np.searchsorted(self.keys, [row * self.n_items, (row + 1) * self.n_items])
        return self.keys[low:high] - row * self.n_items

    def counts(self, rows: Ids) -> Ids:
        """R: number of relevant items of each query."""
        starts = np.searchsorted(self.keys, rows * self.n_items)
        return (np.searchsorted(self.keys, (rows + 1) * self.n_items) - starts).astype(np.int64)

    def hits(self, rows: Ids, ranked: Ids) -> NDArray[np.bool_]:
        """(n, k) bool: whether the item in each place is relevant; -1 never is."""
        wanted = rows[:, None] * self.n_items + ranked
        if not len(self.keys):
            return np.zeros(ranked.shape, dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.asarray((self.keys[places] == wanted) & (ranked >= 0))

    def masked(self, rows: Ids, scores: Floats) -> Floats:
        """A copy of `scores` (n, M) with these pairs at -inf."""
        scores = scores.copy()
        for position, row in enumerate(rows):
            scores[position, self.of_query(int(row))] = -np.inf
        return scores


def metrics_at_k(hits: NDArray[np.bool_], relevant: Ids) -> dict[str, NDArray[np.float64]]:
    """Metrics of each query at k, the width of `hits`; every value is in [0, 1].

    Args:
        hits: (n, k) bool, best place first.
        relevant: (n,) R, the number of relevant items of each query, at least 1.

    Returns:
        One (n,) float64 array each. `precision` hits / k, `recall` hits / R, `map` the sum of the
        precisions at the hits divided by R, `ndcg` with binary gains and the ideal of min(R, k)
        hits, `mrr` 1 / place of the first hit, `hit_rate` 1 if there is any hit.
        These are trec_eval's P, recall, map_cut, ndcg_cut, recip_rank (of k places) and success.

    Raises:
        ValueError: a query has no relevant item, so recall, MAP and NDCG are undefined.
    """
    n, k = hits.shape
    if n and int(relevant.min()) < 1:
        raise ValueError(
            f"query {int(np.argmin(relevant))} has no relevant item: exclude it from the evaluation"
        )
    places = np.arange(1, k + 1, dtype=np.float64)
    found = hits.astype(np.float64)
    total = found.sum(axis=1)
    discounts = 1.0 / np.log2(places + 1.0)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant, k)]
    return {
        "precision": total / k,
        "recall": total / relevant,
        "map": (found * np.cumsum(found, axis=1) / places).sum(axis=1) / relevant,
        "ndcg": (found * discounts).sum(axis=1) / ideal,
        "mrr": (found / places).max(axis=1, initial=0.0),
        "hit_rate": found.max(axis=1, initial=0.0),
    }


def ceilings_at_k(relevant: Ids, k: int) -> dict[str, NDArray[np.float64]]:
    """The highest possible value of each metric of `metrics_at_k` for queries with R relevant items."""
    hits = np.arange(k)[None, :] < relevant[:, None]
    return metrics_at_k(hits, relevant)


def coverage(ranked: Ids, n_items: int) -> float:
    """Share of the items that occur in any ranking; at most min(1, n · k / n_items)."""
    return len(np.unique(ranked[ranked >= 0])) / n_items


def auc(scores: Floats, relevant: list[Ids]) -> NDArray[np.float64]:
    """Per row of `scores` (n, M): probability that a relevant item outscores another; ties count half.

    Items at -inf are excluded. NaN if a row has no relevant item or no other item left.
    """
    areas = np.full(len(relevant), np.nan)
    for position, items in enumerate(relevant):
        row = scores[position]
        positives = row[items]
        excluded = int(np.count_nonzero(row == -np.inf))
        others = len(row) - excluded - int(np.count_nonzero(positives > -np.inf))
        if not len(positives) or not others:
            continue
        # Counted: a query has few relevant items, and sorting all others for them takes many times longer.
        of_positives = positives[positives > -np.inf]
        twice_below = 0
        for score in of_positives:
            below = np.count_nonzero(row < score) - excluded - np.count_nonzero(of_positives < score)
            equal = np.count_nonzero(row == score) - np.count_nonzero(of_positives == score)
            twice_below += 2 * int(below) + int(equal)
        areas[position] = float(twice_below / len(positives)) / (2.0 * others)
    return areas


@dataclass(frozen=True)
class Evaluation:
    """A ranking of queries that have relevant items, with its metrics.

    Attributes:
        rows: (n,) the queries.
        ranked: (n, k) their items, -1 in empty places.
        values: (n,) of each query, by names such as `ndcg_at_10`; `auc` too if it was computed.
        metrics: their means, and `coverage_at_10`.
    """

    rows: Ids
    ranked: Ids
    values: dict[str, NDArray[np.float64]]
    metrics: dict[str, float]


def rerank(
    score_rows: ScoreRows,
    pair_scores: Callable[[Ids, Ids], Floats],
    rows: Ids,
    retrieved: int,
    k: int,
    n_items: int,
    excluded: Relevance | None = None,
) -> Ids:
    """Top k items of each query by `pair_scores`, among those that `score_rows` retrieves.

    Args:
        score_rows: the retrieving system.
        pair_scores: queries (n,) and their items (n, retrieved) → scores (n, retrieved).
        rows: (n,) query rows.
        retrieved: number of items that the first system passes on.
        k: places in the result.
        n_items: number of all items.
        excluded: pairs that must not be ranked.

    Returns:
        (n, k) int64, -1 if a query has fewer items. Equal scores keep the first system's order.
    """
    ranked = [np.empty((0, k), dtype=np.int64)]
    for tile in tiles(rows, n_items):
        first = rank(score_rows, tile, retrieved, n_items, excluded)
        scores = np.where(first >= 0, pair_scores(tile, np.maximum(first, 0)), -np.inf)
        places = top_k(scores, k)
        chosen = np.take_along_axis(first, np.maximum(places, 0), axis=1)
        ranked.append(np.where(places >= 0, chosen, -1))
    return np.concatenate(ranked)


def evaluate_ranked(rows: Ids, ranked: Ids, relevance: Relevance) -> Evaluation:
    """Evaluate rankings (n, k) of queries (n,) that all have a relevant item."""
    k = ranked.shape[1]
    of_k = metrics_at_k(relevance.hits(rows, ranked), relevance.counts(rows))
    values = {f"{name}_at_{k}": value for name, value in of_k.items()}
    metrics = {name: float(value.mean()) for name, value in values.items()}
    metrics[f"coverage_at_{k}"] = coverage(ranked, relevance.n_items)
    return Evaluation(rows, ranked, values, metrics)


def evaluate_ranking(
    score_rows: ScoreRows,
    rows: Ids,
    relevance: Relevance,
    k: int = 10,
    excluded: Relevance | None = None,
    with_auc: bool = True,
) -> Evaluation:
    """Rank the items for each query in `rows` that has a relevant one, and average the metrics.

    Args:
        score_rows: the system.
        rows: (n,) query rows.
        relevance: the relevant items.
        k: places evaluated.
        excluded: pairs that must not be ranked, such as those a network was trained on.
        with_auc: whether to compute AUC, which needs every score sorted.

    Raises:
        ValueError: no query in `rows` has a relevant item.
    """
    rows = rows[relevance.counts(rows) > 0]
    if not len(rows):
        raise ValueError("none of the queries has a relevant item: there is nothing to evaluate")
    ranked, areas = [], []
    for tile in tiles(rows, relevance.n_items):
        scores = score_rows(tile)
        if excluded is not None:
            scores = excluded.masked(tile, scores)
        ranked.append(top_k(scores, k))
        if with_auc:
            areas.append(auc(scores, [relevance.of_query(int(row)) for row in tile]))
    evaluation = evaluate_ranked(rows, np.concatenate(ranked), relevance)
    if with_auc:
        measured = evaluation.values["auc"] = np.concatenate(areas)
        area = float(np.nanmean(measured)) if not np.isnan(measured).all() else float("nan")
        evaluation.metrics["auc"] = area
    return evaluation
