"""The tasks on EMID of the public embedding benchmark (mteb), computed here on one's own pairs.

Belongs here: those tasks' own definitions, under their own names, so that figures compare:
`EMIDA2IRetrieval` (queries are clips, the corpus images), `EMIDI2ARetrieval` (the other way; main
score NDCG@10, recall beside it) and `EMIDPairClassification` (a clip's images against images of
another emotion; main score the largest average precision over four similarity functions).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emid_assets.ranking.metrics import Floats, Ids, Relevance, evaluate_ranked, rank

RECALL_PLACES = (1, 5, 10, 100)


def retrieval_task(queries: Floats, corpus: Floats, pair_queries: Ids, pair_items: Ids) -> dict[str, float]:
    """NDCG@10 and recall@k of ranking a corpus by cosine, as the benchmark ranks.

    Args:
        queries: (n, d) embeddings.
        corpus: (m, d) embeddings.
        pair_queries: (P,) row of the query of each pair; queries without a pair are left out.
        pair_items: (P,) row of the corpus.

    Returns:
        `ndcg_at_10` and `recall_at_{1, 5, 10, 100}`, means over the queries.
    """
    relevance = Relevance.of_pairs(pair_queries, pair_items, len(corpus))
    rows = relevance.queries()
    unit_queries, unit_corpus = _unit(queries), _unit(corpus)
    ranked = rank(lambda tile: unit_queries[tile] @ unit_corpus.T, rows, max(RECALL_PLACES), len(corpus))
    result = {"ndcg_at_10": evaluate_ranked(rows, ranked[:, :10], relevance).metrics["ndcg_at_10"]}
    for k in RECALL_PLACES:
        result[f"recall_at_{k}"] = evaluate_ranked(rows, ranked[:, :k], relevance).metrics[f"recall_at_{k}"]
    return result


def other_emotion_pairs(
    pair_clips: Ids, pair_images: Ids, image_tags: Sequence[str], seed: int
) -> tuple[Ids, Ids]:
    """For each pair, its clip with an image whose tag none of the clip's images has.

    Which image of another emotion the benchmark drew is not published: here it is uniform (choice).
    Clips whose images cover all tags are left out.
    """
    tags, tag_of = np.unique(np.asarray(image_tags, dtype=np.str_), return_inverse=True)
    own = np.zeros((int(pair_clips.max()) + 1, len(tags)), dtype=np.bool_)
    own[pair_clips, tag_of[pair_images]] = True
    # Images in the order of their tags: those that a clip may have are whole runs of them.
    by_tag = np.argsort(tag_of, kind="stable")
    of_tag = np.bincount(tag_of, minlength=len(tags))
    allowed = np.cumsum(np.where(own[pair_clips], 0, of_tag), axis=1)
    place = np.floor(np.random.default_rng(seed).random(len(pair_clips)) * allowed[:, -1]).astype(np.int64)
    tag = (allowed <= place[:, None]).sum(axis=1).clip(max=len(tags) - 1)
    before = np.take_along_axis(np.pad(allowed, [(0, 0), (1, 0)]), tag[:, None], axis=1)[:, 0]
    left = allowed[:, -1] > 0
    first_of_tag = np.cumsum(of_tag) - of_tag
    return pair_clips[left], by_tag[(first_of_tag[tag] + place - before)[left]]


def average_precision(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Σ (recall step × precision) down the ranking; equal scores are one step.

    Args:
        scores: (n,) higher is more likely.
        labels: (n,) bool.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, values = labels[order], scores[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(ranked)[last_of_ties]
    precision = hits / (last_of_ties + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def pair_classification_task(
    music: Floats, images: Floats, pair_clips: Ids, pair_images: Ids, image_tags: Sequence[str], seed: int
) -> dict[str, float]:
    """Average precision of telling true pairs from pairs with another emotion.

    Args:
        music: (N, d) embeddings.
        images: (M, d) embeddings.
        pair_clips: (P,) rows of the true pairs.
        pair_images: (P,) the same.
        image_tags: M of Mikels' eight.
        seed: of the false pairs.

    Returns:
        `cosine_ap`, `dot_ap`, `euclidean_ap`, `manhattan_ap` and `max_ap`, the largest of them.
    """
    false_clips, false_images = other_emotion_pairs(pair_clips, pair_images, image_tags, seed)
    x = music[np.concatenate([pair_clips, false_clips])].astype(np.float64)
    y = images[np.concatenate([pair_images, false_images])].astype(np.float64)
    labels = np.arange(len(x)) < len(pair_clips)
    result = {
        "cosine_ap": average_precision((_unit(x) * _unit(y)).sum(axis=1), labels),
        "dot_ap": average_precision((x * y).sum(axis=1), labels),
        "euclidean_ap": average_precision(-np.linalg.norm(x - y, axis=1), labels),
        "manhattan_ap": average_precision(-np.abs(x - y).sum(axis=1), labels),
    }
    return {**result, "max_ap": max(result.values())}


def public_tasks(
    music: Floats, images: Floats, pair_clips: Ids, pair_images: Ids, image_tags: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """All three tasks, by their names; arguments as `pair_classification_task` takes them."""
    return {
        "EMIDA2IRetrieval": retrieval_task(music, images, pair_clips, pair_images),
        "EMIDI2ARetrieval": retrieval_task(images, music, pair_images, pair_clips),
        "EMIDPairClassification": pair_classification_task(
            music, images, pair_clips, pair_images, image_tags, seed
        ),
    }


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0))
