"""The frames that the report shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.report import tables
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import clips_of, frame, images_of, measured, swept


def test_rejections_are_counted_by_kind_and_reason() -> None:
    rejected = frame(
        "rejected_media",
        [{"kind": kind, "item_id": f"{n}", "file": f"{n}", "reason": "is empty"}
         for n, kind in enumerate(("image", "music", "image"))],
    )  # fmt: skip
    assert tables.rejections(rejected).rows() == [
        ("image", "is empty", 2),
        ("music", "is empty", 1),
    ]


def test_the_report_holds_what_was_measured_section_by_section(
    make_tables: Callable[..., LakeTables],
) -> None:
    found = tables.report_rows(make_tables())
    TABLES["evaluation_report"].check(found)
    assert found["section"].unique(maintain_order=True).to_list() == [
        "counts", "pairs_by_emotion", "image_use", "overlap", "retrieval_test", "sweep",
    ]  # fmt: skip
    assert found.select("section", "system", "metric").is_duplicated().sum() == 0


def test_the_plane_holds_every_label_and_every_item_once(sample_media: Path) -> None:
    clips, images = clips_of(sample_media), images_of(sample_media)
    plane = Plane.fit(clips, images, "standardize")

    found = tables.va_plane(clips, images, plane)

    labels = found.filter(role="label")
    assert labels["name"].to_list() == [*"ABCDEFGHIJKLM", *IMAGE_EMOTION_KEYS]
    assert labels.filter(name="H")["items"].item() == 0
    items = found.filter(role="item")
    assert items.group_by("kind").agg(pl.col("items").sum()).sort("kind").rows() == [
        ("image", 27),
        ("music", 22),
    ]
    for row in found.iter_rows(named=True):
        alignment = plane.music if row["kind"] == "music" else plane.image
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
