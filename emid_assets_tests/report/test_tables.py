"""The report's counts and comparisons, against plain loops over the rows."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.media.va_plane import image_alignment, music_alignment
from emid_assets.report import tables
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import K, M, clips_of, frame, images_of, measured, paired, swept


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
    E = {(c, i): e for c, i, e, *_ in build["va_distances"].iter_rows()}
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
    assert grouped(tables.semantic_pairs(build["similarity_matrix"], m)) == picks_by_loop(build, m, "S")


@pytest.mark.parametrize("m", [1, M, K, K + 5])
def test_emotional_pairs_break_equal_e_by_s_and_then_by_id(build: dict[str, pl.DataFrame], m: int) -> None:
    found = tables.emotional_pairs(build["similarity_matrix"], build["va_distances"], m)
    assert grouped(found) == picks_by_loop(build, m, "E")
    # All images of one tag have one E, so that the order of ties is really asked for.
    by_clip = build["va_distances"].group_by("clip_id").agg(pl.col("emotional_similarity").n_unique())
    assert by_clip["emotional_similarity"].max() < K  # type: ignore[operator]


def test_a_candidate_without_e_is_an_error_that_names_it(build: dict[str, pl.DataFrame]) -> None:
    without = build["va_distances"].slice(1)
    clip_id, image_id = build["va_distances"].select("clip_id", "image_id").row(0)
    with pytest.raises(ValueError, match=f"1 of .*{clip_id}.*{image_id}"):
        tables.emotional_pairs(build["similarity_matrix"], without, M)


def test_pair_counts_are_those_of_a_loop_and_always_13_by_8(build: dict[str, pl.DataFrame]) -> None:
    emotion = dict(build["music_clips"].select("clip_id", "emotion").rows())
    tag = dict(build["images"].select("image_id", "tag").rows())
    expected = Counter(
        (emotion[c], tag[i]) for c, i in build["fused_pairs"].select("clip_id", "image_id").rows()
    )

    found = tables.pair_counts(build["fused_pairs"], build["music_clips"], build["images"])

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
    semantic, emotional = (as_set(picks_by_loop(build, M, by)) for by in "SE")
    E = {(c, i): e for c, i, e, *_ in build["va_distances"].iter_rows()}
    rank = {
        (row["clip_id"], row["image_id"]): row["rank"]
        for row in build["similarity_matrix"].iter_rows(named=True)
    }

    found = tables.overlaps(build["fused_pairs"], build["similarity_matrix"], build["va_distances"])

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
    pairs = tables.semantic_pairs(build["similarity_matrix"], M)
    found = tables.overlaps(pairs, build["similarity_matrix"], build["va_distances"])
    values = {(system, metric): value for _, system, metric, value in found.iter_rows()}
    assert values["semantic", "shared_with_pairs"] == 1.0
    assert values["pairs", "only_emotional"] == values["pairs", "neither"] == 0.0


def test_a_clip_with_fewer_pairs_is_compared_at_its_own_number(build: dict[str, pl.DataFrame]) -> None:
    first = build["fused_pairs"]["clip_id"][0]
    fewer = build["fused_pairs"].filter((pl.col("clip_id") != first) | (pl.col("rank") == 1))
    found = tables.overlaps(fewer, build["similarity_matrix"], build["va_distances"])
    semantic = {clip: ids[: 1 if clip == first else M] for clip, ids in picks_by_loop(build, M, "S").items()}
    shared = sum(image in semantic[clip] for clip, image in fewer.select("clip_id", "image_id").rows())
    assert (
        found.filter(system="semantic", metric="shared_with_pairs")["value"].item() == shared / fewer.height
    )


def test_counts_and_rejections_are_those_of_a_loop(build: dict[str, pl.DataFrame]) -> None:
    found = tables.counts(
        build["music_clips"], build["images"], build["rejected_media"], build["fused_pairs"]
    )
    values = {(system, metric): value for _, system, metric, value in found.iter_rows()}
    for key in MUSIC_EMOTION_KEYS:
        assert values["music_clips", key] == build["music_clips"]["emotion"].to_list().count(key)
    for key in IMAGE_EMOTION_KEYS:
        assert values["images", key] == build["images"]["tag"].to_list().count(key)
    assert values["music_clips", "all"] == values["original_clips", "all"] == 22
    assert (values["images", "all"], values["pairs", "all"], values["rejected", "all"]) == (27, 66, 3)
    assert values["rejected", "is empty"] == 3
    assert tables.rejections(build["rejected_media"]).rows() == [
        ("image", "is empty", 2),
        ("music", "is empty", 1),
    ]


def test_report_rows_hold_every_section_and_keep_the_declared_schema(build: dict[str, pl.DataFrame]) -> None:
    found = tables.report_rows(**build, metrics=measured(bmf=0.5, random=0.1))
    TABLES["evaluation_report"].check(found)
    assert found["section"].unique(maintain_order=True).to_list() == [
        "counts", "pairs_by_emotion", "overlap", "retrieval_test",
    ]  # fmt: skip
    assert found.select("section", "system", "metric").is_duplicated().sum() == 0
    by_emotion = found.filter(section="pairs_by_emotion")
    assert by_emotion.height == 2 * 13 * 8
    for system in ("fused", "semantic"):
        assert by_emotion.filter(system=system)["value"].sum() == build["fused_pairs"].height


def test_nothing_built_gives_zeros_and_no_overlap(build: dict[str, pl.DataFrame]) -> None:
    empty = {name: rows.clear() for name, rows in build.items()}
    found = tables.report_rows(**empty, metrics=TABLES["evaluation_report"].empty())
    assert found["value"].sum() == 0.0
    assert "overlap" not in found["section"].to_list()


def test_the_plane_holds_every_label_and_every_item_once(build: dict[str, pl.DataFrame]) -> None:
    clips, images = build["music_clips"], build["images"]
    music, image = music_alignment(clips, "standardize"), image_alignment(images, "standardize")

    found = tables.va_plane(clips, images, music, image)

    labels = found.filter(role="label")
    assert labels["name"].to_list() == [*"ABCDEFGHIJKLM", *IMAGE_EMOTION_KEYS]
    assert labels.filter(name="H")["items"].item() == 0
    items = found.filter(role="item")
    assert items.group_by("kind").agg(pl.col("items").sum()).sort("kind").rows() == [
        ("image", 27),
        ("music", 22),
    ]
    for row in found.iter_rows(named=True):
        alignment = music if row["kind"] == "music" else image
        x, y = alignment.apply(np.array([row["valence"], row["arousal"]]))
        assert (row["aligned_valence"], row["aligned_arousal"]) == (x, y)


def test_metric_tables_put_networks_first_and_say_which_direction_is_better() -> None:
    metrics = measured(random=0.1, oracle=0.6, bmf=0.4, structured=0.3, semantic=0.2, another=0.5)
    found = tables.metric_table(metrics, "retrieval_test")
    assert found.columns[2:] == ["another", "bmf", "semantic", "structured", "random", "oracle"]
    assert found["metric"].to_list()[:6] == list(tables.RANKING_METRICS)
    assert dict(found.select("metric", "better").rows())["va_distance_at_10"] == "lower"
    assert dict(found.select("metric", "better").rows())["ndcg_at_10"] == "higher"
    assert found.filter(metric="precision_at_10")["bmf"].item() == 0.4


def test_a_metric_given_twice_is_an_error_that_names_it() -> None:
    twice = pl.concat([measured(bmf=0.4), measured(bmf=0.4)])
    with pytest.raises(ValueError, match="retrieval_test: bmf has"):
        tables.metric_table(twice, "retrieval_test")


def clips(rows: list[tuple[str, str, str, bool]]) -> pl.DataFrame:
    letters = dict(zip(MUSIC_EMOTION_KEYS, "ABCDEFGHIJKLM", strict=True))
    return frame(
        "music_clips",
        [{"clip_id": clip_id, "emotion": emotion, "genre": letters[emotion], "source_id": source,
          "is_original_clip": original} for clip_id, emotion, source, original in rows],
    )  # fmt: skip


def pairs_for(rows: pl.DataFrame) -> pl.DataFrame:
    return frame("fused_pairs", [{"clip_id": clip_id, "image_id": "i"} for clip_id in rows["clip_id"]])


def test_the_gallery_takes_turns_between_emotions_and_shows_recordings_before_their_windows() -> None:
    rows: list[tuple[str, str, str, bool]] = []
    for emotion in ("sad", "calm", "scary"):
        for source in range(3):
            rows.append((f"{emotion}-{source}", emotion, f"{emotion}-{source}", True))
            rows += [(f"{emotion}-{source}-{n}", emotion, f"{emotion}-{source}", False) for n in range(4)]
    every = clips(rows)

    found = tables.gallery_clips(every, pairs_for(every), per_emotion=4, limit=11)

    assert found.columns == every.columns
    assert found["emotion"].to_list() == ["calm", "sad", "scary"] * 3 + ["calm", "sad"]
    assert found["is_original_clip"].to_list() == [True] * 9 + [False] * 2
    assert found["clip_id"].is_unique().all()


def test_the_gallery_does_not_depend_on_the_order_of_rows_nor_on_clips_of_other_emotions() -> None:
    sad: list[Any] = [(f"s{n}", "sad", f"s{n}", True) for n in range(20)]
    calm: list[Any] = [(f"c{n}", "calm", f"c{n}", True) for n in range(20)]

    def shown(rows: list[Any]) -> list[str]:
        every = clips(rows)
        found = tables.gallery_clips(every, pairs_for(every), per_emotion=3, limit=100)
        return found.filter(emotion="sad")["clip_id"].to_list()

    assert shown([*sad, *calm]) == shown([*calm[::-1], *sad[::-1]]) == shown(sad)
    assert shown(sad) != ["s0", "s1", "s2"]


def test_the_gallery_shows_no_clip_without_pairs() -> None:
    every = clips([("a", "sad", "a", True), ("b", "sad", "b", True)])
    found = tables.gallery_clips(every, pairs_for(every.filter(clip_id="b")), per_emotion=3, limit=9)
    assert found["clip_id"].to_list() == ["b"]


def test_every_value_of_every_point_of_a_sweep_is_a_row_of_the_table() -> None:
    rows = tables.sweep_rows(swept())
    assert rows.height == 4 * swept().height
    [value] = rows.filter(metric="alpha=0.4/m=3/K=12/label_precision")["value"]
    assert value == 0.9
    assert not rows.select("section", "system", "metric").is_duplicated().any()
