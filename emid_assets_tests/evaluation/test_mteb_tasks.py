"""The public benchmark's tasks on data small enough for a brute force."""

import tracemalloc

import numpy as np
import pytest
import pytrec_eval

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.evaluation.mteb_tasks import (
    average_precision,
    other_emotion_pairs,
    pair_classification_task,
    public_tasks,
    retrieval_task,
)

RNG = np.random.default_rng(0)
MUSIC, IMAGES = RNG.normal(size=(30, 8)), RNG.normal(size=(200, 8))
PAIR_CLIPS = np.repeat(np.arange(30), 3)
PAIR_IMAGES = np.concatenate([RNG.choice(200, 3, replace=False) for _ in range(30)])
TAGS = [("awe", "fear", "anger", "sadness")[i % 4] for i in range(200)]


@pytest.mark.parametrize("way", ["audio to image", "image to audio"])
def test_retrieval_is_trec_evals_on_the_ranking_by_cosine(way: str) -> None:
    queries, corpus, rows, items = (
        (MUSIC, IMAGES, PAIR_CLIPS, PAIR_IMAGES)
        if way == "audio to image"
        else (IMAGES, MUSIC, PAIR_IMAGES, PAIR_CLIPS)
    )
    run, qrel = {}, {}
    for row in np.unique(rows):
        cosine = corpus @ queries[row] / np.linalg.norm(corpus, axis=1) / np.linalg.norm(queries[row])
        run[str(row)] = {str(item): float(value) for item, value in enumerate(cosine)}
        qrel[str(row)] = {str(item): 1 for item in items[rows == row]}
    measured = pytrec_eval.RelevanceEvaluator(qrel, {"ndcg_cut.10", "recall.1,5,10,100"}).evaluate(run)
    ours = retrieval_task(queries, corpus, rows, items)
    for name, theirs in {
        "ndcg_at_10": "ndcg_cut_10",
        "recall_at_5": "recall_5",
        "recall_at_100": "recall_100",
    }.items():
        assert ours[name] == pytest.approx(np.mean([query[theirs] for query in measured.values()]))


def test_average_precision_is_the_sum_over_thresholds_with_ties_as_one() -> None:
    scores = np.array([0.9, 0.7, 0.7, 0.7, 0.2])
    labels = np.array([True, False, True, False, True])
    # Thresholds .9, .7, .2: precision 1, 2/4, 3/5 at recall 1/3, 2/3, 1.
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    shuffled = [3, 1, 4, 0, 2]
    assert average_precision(scores[shuffled], labels[shuffled]) == average_precision(scores, labels)


def test_false_pairs_have_a_tag_that_none_of_the_clips_images_has() -> None:
    clips, images = other_emotion_pairs(PAIR_CLIPS, PAIR_IMAGES, TAGS, seed=0)
    assert len(clips) > 60
    for clip, image in zip(clips, images, strict=True):
        assert TAGS[image] not in {TAGS[own] for own in PAIR_IMAGES[clip == PAIR_CLIPS]}
    again = other_emotion_pairs(PAIR_CLIPS, PAIR_IMAGES, TAGS, seed=0)
    np.testing.assert_array_equal(again[1], images)


def test_false_pairs_are_drawn_evenly_in_little_memory() -> None:
    # EMID's test split: 1,610 clips of three pairs, and 10,000 images.
    rng = np.random.default_rng(1)
    clips = np.repeat(np.arange(1610), 3)
    images = rng.integers(0, 10_000, len(clips))
    tags = [IMAGE_EMOTION_KEYS[tag] for tag in rng.integers(0, 8, 10_000)]
    tracemalloc.start()
    found_clips, _ = other_emotion_pairs(clips, images, tags, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # an array of pairs × images takes 193 MB
    assert len(found_clips) == len(clips)
    # One clip that may have half of the images: each is drawn about equally often.
    few = ["awe", "fear", "fear", "awe", "sadness", "awe"]
    _, drawn = other_emotion_pairs(np.zeros(60_000, np.int64), np.zeros(60_000, np.int64), few, seed=0)
    counts = np.bincount(drawn, minlength=6)
    assert (counts[[0, 3, 5]] == 0).all()
    assert np.abs(counts[[1, 2, 4]] - 20_000).max() < 5 * 20_000**0.5
    none, _ = other_emotion_pairs(np.array([0, 0, 1]), np.array([0, 1, 0]), ["awe", "fear"], seed=0)
    assert none.tolist() == [1]


def test_the_main_score_of_pair_classification_is_the_best_similarity() -> None:
    result = pair_classification_task(MUSIC, IMAGES, PAIR_CLIPS, PAIR_IMAGES, TAGS, seed=0)
    assert result["max_ap"] == max(value for name, value in result.items() if name != "max_ap")
    perfect = pair_classification_task(np.eye(4), np.eye(4), np.arange(4), np.arange(4), TAGS[:4], seed=0)
    assert perfect["max_ap"] == 1.0


def test_the_tasks_carry_the_benchmarks_names() -> None:
    tasks = public_tasks(MUSIC, IMAGES, PAIR_CLIPS, PAIR_IMAGES, TAGS, seed=0)
    assert set(tasks) == {"EMIDA2IRetrieval", "EMIDI2ARetrieval", "EMIDPairClassification"}
