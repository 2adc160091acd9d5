"""The grid of alpha, m and K against the matching's own pairs."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters import AdapterError
from emid_assets.evaluation.sweep import (
    Candidates,
    Grid,
    independent_labels,
    same_picks,
    selected_point,
    sweep,
)
from emid_assets.matching.frames import fused_pairs_frame, similarity_frame, va_distance_frame
from emid_assets.matching.top_k_softmax import MatchingError
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.schemas import ALPHA_SWEEP
from emid_assets_tests.small_lake import FORMULA


@pytest.fixture(scope="module")
def frames(lake: LakeTables) -> tuple[pl.DataFrame, pl.DataFrame]:
    similarity = similarity_frame(lake.music_embeddings, lake.image_embeddings, 20)
    return similarity, va_distance_frame(similarity, lake.music_va, lake.image_va, FORMULA)


@pytest.mark.parametrize("rescaling", ["candidate_minmax", "raw", "candidate_softmax"])
@pytest.mark.parametrize(("alpha", "m", "k"), [(0.0, 1, 20), (0.6, 3, 20), (0.3, 3, 7), (1.0, 5, 4)])
def test_each_point_makes_the_pairs_that_the_matching_makes(
    lake: LakeTables, frames: tuple[pl.DataFrame, pl.DataFrame], rescaling: str, alpha: float, m: int, k: int
) -> None:
    candidates = Candidates.of_frames(*frames)
    picks = candidates.pairs(alpha, m, k, rescaling)
    similarity = similarity_frame(lake.music_embeddings, lake.image_embeddings, k)
    distances = va_distance_frame(similarity, lake.music_va, lake.image_va, FORMULA)
    expected = fused_pairs_frame(
        similarity, distances, replace(FORMULA, alpha=alpha, images_per_clip=m, rescaling=rescaling)
    )
    for clip, row in zip(candidates.clip_ids, picks, strict=True):
        ours = [candidates.image_ids[image] for image in row if image >= 0]
        assert ours == expected.filter(clip_id=clip).sort("rank")["image_id"].to_list()


def test_overlaps_count_pairs_whatever_their_rank() -> None:
    assert same_picks(np.array([[1, 2, 3], [4, -1, -1]]), np.array([[3, 2, 9], [5, -1, -1]])) == 0.5


def test_the_ends_of_alpha_agree_with_themselves_and_every_point_stands_once(
    lake: LakeTables, frames: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    candidates = Candidates.of_frames(*frames)
    clips = pl.DataFrame({"clip_id": candidates.clip_ids}).join(lake.music_clips, on="clip_id", how="left")
    clips = clips.join(lake.music_va, on="clip_id", how="left")
    images = pl.DataFrame({"image_id": candidates.image_ids}).join(lake.images, on="image_id", how="left")
    images = images.join(lake.image_va, on="image_id", how="left")
    grid = sweep(
        candidates, clips["emotion"].to_list(), clips.select("valence", "arousal").to_numpy(),
        images["tag"].to_list(), images.select("valence", "arousal").to_numpy(),
        Grid(alphas=(0.0, 0.5, 1.0), images_per_clip=(1, 3), candidate_counts=(5, 20)),
    )  # fmt: skip
    assert len(grid) == 3 * 2 * 2 * 2
    assert not grid.select("rescaling", "alpha", "images_per_clip", "candidates").is_duplicated().any()
    assert grid.filter(alpha=0.0)["same_as_emotional"].to_list() == [1.0] * 8
    assert grid.filter(alpha=1.0)["same_as_semantic"].to_list() == [1.0] * 8
    assert grid.filter(alpha=0.5, rescaling="raw")["same_as_semantic"].max() < 1.0


def test_more_candidates_than_were_kept_is_an_error_that_says_what_to_do(
    frames: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    for count, message in (
        (21, "K = 21 asks for more candidates than the 20 that were kept"),
        (0, "K = 0: at least one candidate"),
    ):
        with pytest.raises(AdapterError, match=message):
            sweep(
                Candidates.of_frames(*frames), [], np.zeros((0, 2)), [], np.zeros((0, 2)),
                Grid(alphas=(0.5,), images_per_clip=(3,), candidate_counts=(count,)),
            )  # fmt: skip


def test_a_candidate_without_e_is_named(frames: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    similarity, distances = frames
    with pytest.raises(MatchingError, match="has no row in va_distances"):
        Candidates.of_frames(similarity, distances.slice(1))


def test_the_selected_point_fits_the_labels_best_and_of_equals_uses_most_images() -> None:
    points = pl.DataFrame(
        [
            ("raw", 0.0, 3, 10, 1.0, 0.1, 0.50, 0.2, 1.0),
            ("raw", 0.4, 3, 10, 0.8, 0.2, 0.55, 0.3, 1.0),
            ("raw", 0.6, 3, 10, 0.7, 0.3, 0.55, 0.4, 1.0),
            ("raw", 1.0, 3, 10, 0.1, 1.0, 0.20, 0.9, 1.0),
        ],
        schema=ALPHA_SWEEP.empty().schema, orient="row",
    )  # fmt: skip
    best = selected_point(points)
    assert best is not None
    assert best["alpha"] == 0.6
    assert selected_point(points.with_columns(independent_labels=0.99)) is None


def test_a_label_that_derives_from_the_position_or_the_reverse_is_not_independent() -> None:
    clips = pl.DataFrame(
        {
            "label_source": ["table", "table", "predicted", "table"],
            "va_source": ["ratings", "category_mean", "predicted", "predicted"],
        }
    )
    images = pl.DataFrame(
        {"label_source": ["folder"] * 4, "va_source": ["measured", "measured", "tag", "tag"]}
    )
    assert independent_labels(clips, images) == 0.5
    assert independent_labels(clips[:1], images[:2]) == 1.0
