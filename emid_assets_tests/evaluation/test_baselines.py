"""Chance, and the formula as a ranking: with the true VA it is what made the pairs."""

from collections.abc import Callable

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.evaluation.baselines import formula_scores, random_scores
from emid_assets.matching.frames import (
    candidate_pairs,
    embedding_matrix,
    fused_pairs_frame,
    similarity_frame,
    va_distance_frame,
)
from emid_assets.matching.fusion import RESCALINGS, Formula
from emid_assets.ranking.metrics import Relevance, evaluate_ranking, rank
from emid_assets.settings import Kernel, Method, Rescaling
from emid_assets_tests.small_lake import embeddings


def test_random_scores_are_the_same_for_the_same_seed_and_query_only() -> None:
    first = random_scores(0, 50)(np.array([3, 4]))
    np.testing.assert_array_equal(first[1:], random_scores(0, 50)(np.array([4])))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1:], random_scores(1, 50)(np.array([4])))


def drawn_media(seed: int, clips: int, images: int) -> dict[str, pl.DataFrame]:
    """Clips and images in no order of their ids; many images look alike, and most feel alike."""
    rng = np.random.default_rng(seed)
    clip_ids = [f"clip {i:02d}" for i in rng.permutation(clips)]
    image_ids = [f"image {i:02d}" for i in rng.permutation(images)]
    looks = rng.normal(size=(images, 16))
    looks = looks[rng.integers(images, size=images)]
    va = rng.integers(-1, 2, (clips + images, 2)) / 2
    plane = {"valence": va[:, 0], "arousal": va[:, 1]}
    return {
        "music": embeddings("clip_id", clip_ids, rng.normal(size=(clips, 16)), 20.0),
        "images": embeddings("image_id", image_ids, looks, 1.0),
        "music_va": pl.DataFrame({"clip_id": clip_ids, **{k: v[:clips] for k, v in plane.items()}}),
        "image_va": pl.DataFrame({"image_id": image_ids, **{k: v[clips:] for k, v in plane.items()}}),
    }


def stored_pairs(media: dict[str, pl.DataFrame], formula: Formula) -> pl.DataFrame:
    similarity = similarity_frame(media["music"], media["images"], formula.candidates)
    va = media["music_va"], media["image_va"]
    pairs = candidate_pairs(similarity, *va, formula, media["music"], media["images"])
    return fused_pairs_frame(similarity, va_distance_frame(pairs, *va, formula), formula)


def oracle(
    media: dict[str, pl.DataFrame], formula: Formula
) -> tuple[list[str], list[str], Callable[[np.ndarray], np.ndarray]]:
    music, images = media["music"].sort("clip_id"), media["images"].sort("image_id")
    va = ["valence", "arousal"]
    scores = formula_scores(
        embedding_matrix(music),
        embedding_matrix(images),
        media["music_va"].sort("clip_id").select(va).to_numpy(),
        media["image_va"].sort("image_id").select(va).to_numpy(),
        formula,
    )
    return music["clip_id"].to_list(), images["image_id"].to_list(), scores


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([0.0, 0.05, 0.5, 0.6, 0.95, 1.0]),
    k=st.integers(1, 45),
    m=st.integers(1, 6),
    kernel=st.sampled_from(["cosine", "gaussian"]),
    rescaling=st.sampled_from(RESCALINGS),
    images=st.sampled_from([7, 40]),
    method=st.sampled_from(["paper", "calibrated"]),
)
def test_the_oracle_ranks_the_stored_pairs_first_in_their_own_order(
    seed: int,
    alpha: float,
    k: int,
    m: int,
    kernel: Kernel,
    rescaling: Rescaling,
    images: int,
    method: Method,
) -> None:
    formula = Formula(alpha, k, m, rescaling, kernel, 0.5, 1.0, method)
    media = drawn_media(seed, 12, images)
    clip_ids, image_ids, scores = oracle(media, formula)
    ranked = rank(scores, np.arange(len(clip_ids)), m, len(image_ids))
    stored = stored_pairs(media, formula)
    for row, clip_id in enumerate(clip_ids):
        expected = stored.filter(clip_id=clip_id).sort("rank")["image_id"].to_list()
        assert [image_ids[item] for item in ranked[row, : len(expected)]] == expected


def test_the_oracle_finds_all_pairs_where_emotion_alone_decides_and_ties() -> None:
    formula = Formula(0.0, 20, 3, "candidate_minmax", "cosine", 0.5)
    media = drawn_media(5, 12, 40)
    clip_ids, image_ids, scores = oracle(media, formula)
    stored = stored_pairs(media, formula)
    relevance = Relevance.of_pairs(
        np.array([clip_ids.index(clip) for clip in stored["clip_id"]]),
        np.array([image_ids.index(image) for image in stored["image_id"]]),
        len(image_ids),
    )
    metrics = evaluate_ranking(scores, np.arange(len(clip_ids)), relevance).metrics
    assert metrics["ndcg_at_10"] == 1.0
    assert metrics["auc"] == 1.0
