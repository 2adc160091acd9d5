"""What the pairs of a build are made of, against plain loops over the rows."""

import math
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from scipy.stats import skew

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.evaluation.pair_statistics import (
    counts,
    counts_by_emotion,
    image_use,
    overlaps,
    pair_counts,
    pair_statistics,
    semantic_pairs,
)
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import K, M, clips_of, emptied, frame, images_of, paired


@pytest.fixture(scope="module")
def build(sample_media: Path) -> dict[str, pl.DataFrame]:
    clips, images = clips_of(sample_media), images_of(sample_media)
    rejected = frame(
        "rejected_media",
        [{"kind": kind, "item_id": f"{n}", "file": f"{n}", "reason": "is empty"}
         for n, kind in enumerate(("image", "music", "image"))],
    )  # fmt: skip
    return {"music_clips": clips, "images": images, "rejected_media": rejected, **paired(clips, images)}


def picks_by_loop(build: dict[str, pl.DataFrame], m: int, by: str) -> dict[str, list[str]]:
    """The m best candidates of each clip, ordered by E or by the score, ties as METHOD says."""
    E = {(c, i): e for c, i, _, e, *_ in build["va_distances"].iter_rows()}
    of_clip: dict[str, list[tuple[float, float, str]]] = {}
    for row in build["similarity_matrix"].iter_rows(named=True):
        key = (row["clip_id"], row["image_id"])
        first = E[key] if by == "E" else row["score"]
        of_clip.setdefault(row["clip_id"], []).append((-first, -row["score"], row["image_id"]))
    return {clip_id: [image for _, _, image in sorted(rows)[:m]] for clip_id, rows in of_clip.items()}


def grouped(pairs: pl.DataFrame) -> dict[str, list[str]]:
    return {
        clip_id: rows.sort("rank")["image_id"].to_list()
        for (clip_id,), rows in pairs.group_by("clip_id", maintain_order=True)
    }


@pytest.mark.parametrize("m", [1, M, K, K + 5])
def test_semantic_pairs_are_the_m_candidates_with_the_largest_s(
    build: dict[str, pl.DataFrame], m: int
) -> None:
    assert grouped(semantic_pairs(build["similarity_matrix"], m)) == picks_by_loop(build, m, "S")


def test_the_rank_decides_between_scores_that_are_equal_as_they_are_stored() -> None:
    # The matching orders by float64 scores and stores float32: two of one float32 may be of any order by id.
    similarity = pl.DataFrame(
        {"clip_id": ["a"] * 3, "image_id": ["z", "y", "x"], "rank": [1, 2, 3], "score": [2.0, 2.0, 2.0],
         "log_sum_exp": [3.0] * 3},
        schema_overrides={"rank": pl.Int32, "score": pl.Float32},
    )  # fmt: skip
    assert semantic_pairs(similarity, 2)["image_id"].to_list() == ["z", "y"]
    pairs = pl.DataFrame(
        {"clip_id": ["a"], "image_id": ["z"], "rank": [1]}, schema_overrides={"rank": pl.Int32}
    )
    distances = similarity.select("clip_id", "image_id", "score", emotional_similarity=pl.lit(0.5))
    found = overlaps(pairs, similarity, distances)
    assert found.filter(system="pairs", metric="both")["value"].to_list() == [1.0]


def test_a_candidate_without_e_is_an_error_that_names_it(build: dict[str, pl.DataFrame]) -> None:
    without = build["va_distances"].slice(1)
    clip_id, image_id = build["va_distances"].select("clip_id", "image_id").row(0)
    with pytest.raises(ValueError, match=f"{clip_id}.*{image_id}.*has no row in va_distances"):
        overlaps(build["fused_pairs"], build["similarity_matrix"], without)


def test_pair_counts_are_those_of_a_loop_and_always_13_by_8(build: dict[str, pl.DataFrame]) -> None:
    emotion = dict(build["music_clips"].select("clip_id", "emotion").rows())
    tag = dict(build["images"].select("image_id", "tag").rows())
    expected = Counter(
        (emotion[c], tag[i]) for c, i in build["fused_pairs"].select("clip_id", "image_id").rows()
    )

    found = pair_counts(build["fused_pairs"], build["music_clips"], build["images"])

    assert found["emotion"].to_list() == list(MUSIC_EMOTION_KEYS)
    assert found["genre"].to_list() == list("ABCDEFGHIJKLM")
    assert found.columns[2:] == list(IMAGE_EMOTION_KEYS)
    for row in found.iter_rows(named=True):
        for key in IMAGE_EMOTION_KEYS:
            assert row[key] == expected[row["emotion"], key]
    assert found.filter(emotion="erotic").select(IMAGE_EMOTION_KEYS).row(0) == (0,) * 8
    assert found.select(pl.sum_horizontal(IMAGE_EMOTION_KEYS).sum()).item() == build["fused_pairs"].height


def test_overlaps_are_those_of_sets(build: dict[str, pl.DataFrame]) -> None:
    def as_set(of_clip: dict[str, list[str]]) -> set[tuple[str, str]]:
        return {(clip_id, image_id) for clip_id, ids in of_clip.items() for image_id in ids}

    chosen = set(build["fused_pairs"].select("clip_id", "image_id").rows())
    # All images of one tag have one E, so that the order of ties is really asked for.
    by_clip = build["va_distances"].group_by("clip_id").agg(pl.col("emotional_similarity").n_unique())
    assert by_clip["emotional_similarity"].max() < K  # type: ignore[operator]
    semantic, emotional = (as_set(picks_by_loop(build, M, by)) for by in "SE")
    E = {(c, i): e for c, i, _, e, *_ in build["va_distances"].iter_rows()}
    rank = {
        (row["clip_id"], row["image_id"]): row["rank"]
        for row in build["similarity_matrix"].iter_rows(named=True)
    }

    found = overlaps(build["fused_pairs"], build["similarity_matrix"], build["va_distances"])

    values = {(system, metric): value for _, system, metric, value in found.iter_rows()}
    assert set(found["section"]) == {"overlap"}
    assert values["pairs", "both"] == len(chosen & semantic & emotional) / len(chosen)
    assert values["pairs", "only_semantic"] == len((chosen & semantic) - emotional) / len(chosen)
    assert values["pairs", "only_emotional"] == len((chosen & emotional) - semantic) / len(chosen)
    assert values["pairs", "neither"] == len(chosen - semantic - emotional) / len(chosen)
    for name, own, other in (("semantic", semantic, emotional), ("emotional", emotional, semantic)):
        assert values[name, "shared_with_pairs"] == len(own & chosen) / len(chosen)
        assert values[name, "shared_with_each_other"] == len(own & other) / len(own)
    for name, own in (("pairs", chosen), ("semantic", semantic), ("emotional", emotional)):
        assert math.isclose(
            values[name, "mean_emotional_similarity"], math.fsum(E[key] for key in own) / len(own)
        )
        assert math.isclose(values[name, "mean_semantic_rank"], sum(rank[key] for key in own) / len(own))


def test_pairs_of_alpha_one_overlap_fully_with_the_semantic_picks(build: dict[str, pl.DataFrame]) -> None:
    pairs = semantic_pairs(build["similarity_matrix"], M)
    found = overlaps(pairs, build["similarity_matrix"], build["va_distances"])
    values = {(system, metric): value for _, system, metric, value in found.iter_rows()}
    assert values["semantic", "shared_with_pairs"] == 1.0
    assert values["pairs", "only_emotional"] == values["pairs", "neither"] == 0.0


def test_a_clip_with_fewer_pairs_is_compared_at_its_own_number(build: dict[str, pl.DataFrame]) -> None:
    first = build["fused_pairs"]["clip_id"][0]
    fewer = build["fused_pairs"].filter((pl.col("clip_id") != first) | (pl.col("rank") == 1))
    found = overlaps(fewer, build["similarity_matrix"], build["va_distances"])
    semantic = {clip: ids[: 1 if clip == first else M] for clip, ids in picks_by_loop(build, M, "S").items()}
    shared = sum(image in semantic[clip] for clip, image in fewer.select("clip_id", "image_id").rows())
    assert (
        found.filter(system="semantic", metric="shared_with_pairs")["value"].item() == shared / fewer.height
    )


def test_counts_and_rejections_are_those_of_a_loop(build: dict[str, pl.DataFrame]) -> None:
    found = counts(build["music_clips"], build["images"], build["rejected_media"], build["fused_pairs"])
    values = {(system, metric): value for _, system, metric, value in found.iter_rows()}
    for key in MUSIC_EMOTION_KEYS:
        assert values["music_clips", key] == build["music_clips"]["emotion"].to_list().count(key)
    for key in IMAGE_EMOTION_KEYS:
        assert values["images", key] == build["images"]["tag"].to_list().count(key)
    assert values["music_clips", "all"] == values["original_clips", "all"] == 22
    assert (values["images", "all"], values["pairs", "all"], values["rejected", "all"]) == (27, 66, 3)
    assert values["rejected", "is empty"] == 3


def test_the_use_of_the_images_is_that_of_plain_references(build: dict[str, pl.DataFrame]) -> None:
    pairs, images = build["fused_pairs"], build["images"]
    N = [pairs["image_id"].to_list().count(image) for image in images["image_id"]]
    assert 0 in N  # what no pair has counts too
    found = image_use(pairs, images)
    assert found["used"] == sum(n > 0 for n in N)
    assert found["coverage"] == sum(n > 0 for n in N) / len(N)
    assert found["most_used"] == max(N)
    differences = sum(abs(one - other) for one in N for other in N)  # the definition of the Gini coefficient
    assert found["gini"] == pytest.approx(differences / (2 * len(N) * sum(N)), rel=1e-12)
    assert found["skewness"] == pytest.approx(skew(N), rel=1e-12)


def test_images_that_are_all_used_alike_are_no_hubs() -> None:
    images = pl.DataFrame({"image_id": ["a", "b", "c"]})
    assert image_use(images.with_columns(clip_id=pl.lit("x")), images) == {
        "used": 3, "coverage": 1, "most_used": 1, "gini": 0, "skewness": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def lake_of_build(build: dict[str, pl.DataFrame]) -> LakeTables:
    return LakeTables(Plane.fit(build["music_clips"], build["images"], "standardize"), **build)


def test_the_statistics_hold_every_section_and_keep_the_declared_schema(lake_of_build: LakeTables) -> None:
    found = pair_statistics(lake_of_build)
    TABLES["pair_statistics"].check(found)
    assert found["section"].unique(maintain_order=True).to_list() == [
        "counts", "pairs_by_emotion", "image_use", "overlap",
    ]  # fmt: skip
    assert found.select("section", "system", "metric").is_duplicated().sum() == 0
    by_emotion = found.filter(section="pairs_by_emotion")
    assert by_emotion.height == 2 * 13 * 8
    for system in ("fused", "semantic"):
        assert by_emotion.filter(system=system)["value"].sum() == lake_of_build.fused_pairs.height


def test_the_counts_are_read_out_of_the_statistics_as_they_were_counted(lake_of_build: LakeTables) -> None:
    counted = pair_counts(lake_of_build.fused_pairs, lake_of_build.music_clips, lake_of_build.images)
    assert counts_by_emotion(pair_statistics(lake_of_build), "fused").equals(counted)


def test_nothing_built_gives_zeros_and_no_overlap(lake_of_build: LakeTables) -> None:
    found = pair_statistics(emptied(lake_of_build))
    assert found["value"].sum() == 0.0
    assert "overlap" not in found["section"].to_list()
