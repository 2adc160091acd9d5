"""Rankings and metrics against a brute force and against trec_eval."""

import tracemalloc

import numpy as np
import pytest
import pytrec_eval

from emid_assets.matching.order import top_k
from emid_assets.ranking.metrics import (
    Relevance,
    auc,
    ceilings_at_k,
    coverage,
    evaluate_ranked,
    evaluate_ranking,
    inner_product_scores,
    metrics_at_k,
    metrics_like_librecommender,
    rank,
    rerank,
)

K = 10


def brute_force_ranking(scores: np.ndarray, k: int) -> list[list[int]]:
    return [
        [
            item
            for item in sorted(range(len(row)), key=lambda item: (-row[item], item))
            if row[item] > -np.inf
        ][:k]
        for row in scores.tolist()
    ]


@pytest.mark.parametrize("n_items", [1, 9, 10, 63, 64, 640, 641, 3000])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_top_k_equals_a_full_sort_by_score_then_index_whatever_the_ties(n_items: int, levels: int) -> None:
    rng = np.random.default_rng(n_items * levels)
    scores = rng.integers(levels, size=(17, n_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    scores[3] = -np.inf
    expected = brute_force_ranking(scores, K)
    for row, items in zip(top_k(scores, K), expected, strict=True):
        assert row.tolist() == items + [-1] * (K - len(items))


def test_top_k_refuses_nan_and_names_the_row() -> None:
    scores = np.zeros((3, 5), dtype=np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        top_k(scores, 2)


def test_top_k_refuses_k_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k(np.zeros((1, 2), dtype=np.float32), 0)


def random_relevance(
    rng: np.random.Generator, n: int, n_items: int, most: int
) -> tuple[Relevance, list[set[int]]]:
    wanted = [set(rng.choice(n_items, rng.integers(1, most + 1), replace=False).tolist()) for _ in range(n)]
    queries = np.repeat(np.arange(n), [len(items) for items in wanted])
    items = np.concatenate([np.asarray(sorted(items)) for items in wanted])
    order = rng.permutation(len(queries))
    return Relevance.of_pairs(queries[order], items[order], n_items), wanted


@pytest.mark.parametrize(("n_items", "most"), [(40, 3), (2000, 25)])
def test_every_metric_is_that_of_trec_eval(n_items: int, most: int) -> None:
    rng = np.random.default_rng(0)
    n = 50
    relevance, wanted = random_relevance(rng, n, n_items, most)
    scores = rng.normal(size=(n, n_items)).astype(np.float32)
    # Half of the relevant items are lifted, so that there are hits to count.
    for row, items in enumerate(wanted):
        for item in items:
            scores[row, item] += 2.5 * rng.integers(2)
    rows = np.arange(n)
    ranked = top_k(scores, K)
    ours = metrics_at_k(relevance.hits(rows, ranked), relevance.counts(rows))

    # trec_eval breaks ties its own way, so it gets the ranking as strictly falling scores.
    run = {
        str(row): {str(item): float(K - place) for place, item in enumerate(items)}
        for row, items in enumerate(ranked.tolist())
    }
    qrel = {str(row): {str(item): 1 for item in items} for row, items in enumerate(wanted)}
    names = {
        "precision": "P_10", "recall": "recall_10", "map": "map_cut_10",
        "ndcg": "ndcg_cut_10", "mrr": "recip_rank", "hit_rate": "success_10",
    }  # fmt: skip
    oracle = pytrec_eval.RelevanceEvaluator(
        qrel, {"P.10", "recall.10", "map_cut.10", "ndcg_cut.10", "recip_rank", "success.10"}
    ).evaluate(run)
    assert 0 < ours["hit_rate"].mean() < 1
    for name, theirs in names.items():
        np.testing.assert_allclose(ours[name], [oracle[str(row)][theirs] for row in range(n)], atol=1e-12)


def test_metrics_refuse_a_query_without_relevant_items() -> None:
    with pytest.raises(ValueError, match="query 1 has no relevant item"):
        metrics_at_k(np.zeros((2, 3), dtype=bool), np.array([1, 0]))


def test_ceilings_are_reached_by_the_perfect_ranking_only() -> None:
    ceilings = ceilings_at_k(np.array([1, 3, 20]), K)
    np.testing.assert_allclose(ceilings["precision"], [0.1, 0.3, 1.0])
    np.testing.assert_allclose(ceilings["recall"], [1.0, 1.0, 0.5])
    np.testing.assert_allclose(ceilings["ndcg"], 1.0)
    np.testing.assert_allclose(ceilings["map"], [1.0, 1.0, 0.5])


def test_auc_is_the_share_of_won_comparisons_with_ties_as_half() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(6, size=(20, 30)).astype(np.float32)
    scores[:, 5] = -np.inf
    relevant = [np.sort(rng.choice(np.delete(np.arange(30), 5), 4, replace=False)) for _ in range(20)]
    for row, items, area in zip(scores, relevant, auc(scores, relevant), strict=True):
        others = [item for item in range(30) if item not in items and item != 5]
        won = [(row[a] > row[b]) + 0.5 * (row[a] == row[b]) for a in items for b in others]
        assert area == pytest.approx(np.mean(won))


def test_coverage_counts_each_item_once_and_no_filling() -> None:
    assert coverage(np.array([[0, 1], [1, -1]]), 4) == 0.5


def test_excluded_pairs_are_never_ranked_and_the_scores_stay_as_they_were() -> None:
    rng = np.random.default_rng(2)
    queries, items = (
        rng.normal(size=(300, 8)).astype(np.float32),
        rng.normal(size=(700, 8)).astype(np.float32),
    )
    excluded, forbidden = random_relevance(rng, 300, 700, 40)
    ranked = rank(inner_product_scores(queries, items), np.arange(300), K, len(items), excluded)
    scores = queries @ items.T
    for row, banned in enumerate(forbidden):
        scores[row, sorted(banned)] = -np.inf
    assert ranked.tolist() == brute_force_ranking(scores, K)


def test_evaluation_averages_over_queries_with_relevant_items_only() -> None:
    scores = np.eye(4, dtype=np.float32)
    relevance = Relevance.of_pairs(np.array([0, 2]), np.array([0, 1]), 4)
    evaluation = evaluate_ranking(lambda rows: scores[rows], np.arange(4), relevance, k=1)
    assert evaluation.rows.tolist() == [0, 2]
    assert evaluation.metrics["hit_rate_at_1"] == 0.5
    assert evaluation.metrics["coverage_at_1"] == 0.5


def test_evaluation_without_any_relevant_item_is_an_error() -> None:
    nothing = Relevance.of_pairs(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 4)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_ranking(lambda rows: np.zeros((len(rows), 4)), np.arange(4), nothing)


def test_librecommenders_metrics_do_not_blame_for_what_was_not_retrieved() -> None:
    hits = np.array([[False, True, False, True], [False, False, False, False]])
    metrics = metrics_like_librecommender(hits)
    assert metrics["libreco_map"].tolist() == [(1 / 2 + 2 / 4) / 2, 0.0]
    dcg = 1 / np.log2(3) + 1 / np.log2(5)
    assert metrics["libreco_ndcg"][0] == pytest.approx(dcg / (1 + 1 / np.log2(3)))
    assert metrics["libreco_ndcg"][1] == 0.0
    strict = metrics_at_k(hits, np.array([3, 3]))
    assert strict["map"][0] < metrics["libreco_map"][0]
    assert strict["ndcg"][0] < metrics["libreco_ndcg"][0]


def test_scores_of_a_million_items_take_a_bounded_memory() -> None:
    items = 1_000_000
    relevance = Relevance.of_pairs(np.arange(40), np.arange(40), items)
    seen: list[int] = []

    def score_rows(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return np.tile(np.linspace(1, 0, items, dtype=np.float32), (len(rows), 1))

    tracemalloc.start()
    evaluation = evaluate_ranking(score_rows, np.arange(40), relevance)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(seen) == 40
    assert peak < 500e6  # 256 queries at once would take 1 GB for their scores alone
    assert evaluation.metrics["hit_rate_at_10"] == 0.25


def test_reranking_orders_what_was_retrieved_and_nothing_else() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(20, 300)), rng.normal(size=(20, 300))
    ranked = rerank(
        lambda rows: first[rows],
        lambda rows, items: np.take_along_axis(second[rows], items, axis=1),
        np.arange(20),
        30,
        10,
        300,
    )
    for row, items in enumerate(ranked):
        retrieved = np.argsort(-first[row])[:30]
        assert items.tolist() == sorted(retrieved, key=lambda item: -second[row, item])[:10]
    evaluation = evaluate_ranked(np.arange(20), ranked, Relevance.of_pairs(np.arange(20), ranked[:, 0], 300))
    assert evaluation.metrics["mrr_at_10"] == 1.0
