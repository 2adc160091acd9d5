"""The section on predicted emotion: it stands where something was predicted, and says what and how well."""

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.report.page import BuildFacts, render_page
from emid_assets.report.predicted import predicted_clips, predicted_section
from emid_assets.store.schemas import IMAGE_EMOTION_HEAD, MUSIC_EMOTION_HEAD
from emid_assets_tests.report.conftest import frame
from emid_assets_tests.report.reading import read

HEAD = {
    "weights_file": "w", "weights_sha256": "0", "learnt_from": "f", "images": 588, "groups": 161,
    "grouped_by": "series", "features": "bundled + text", "with_words": 431,
    "valence_r": 0.614, "arousal_r": 0.627, "valence_r2": 0.37, "arousal_r2": 0.39,
    "valence_rmse": 0.16, "arousal_rmse": 0.1,
    "calibration": [
        {"axis": axis, "nominal": nominal, "observed": nominal + 0.02}
        for axis in ("valence", "arousal")
        for nominal in (0.5, 0.9)
    ],
}  # fmt: skip

MUSIC_HEAD = {
    "weights_file": "w", "weights_sha256": "1", "learnt_from": "g", "clips": 137, "groups": 31,
    "grouped_by": "source", "valence_r": 0.581, "arousal_r": 0.874, "valence_r2": 0.33, "arousal_r2": 0.76,
    "valence_rmse": 0.59, "arousal_rmse": 0.73, "rule_valence_r": 0.543, "rule_arousal_r": 0.848,
    "calibration": [
        {"axis": axis, "nominal": nominal, "observed": nominal - 0.03}
        for axis in ("valence", "arousal")
        for nominal in (0.5, 0.9)
    ],
}  # fmt: skip


@pytest.fixture
def half_predicted(make_tables: Callable[..., LakeTables]) -> LakeTables:
    tables = make_tables()
    mine = pl.int_range(pl.len()) % 2 == 0
    marked = [
        pl.when(mine).then(pl.lit("predicted")).otherwise(name).alias(name)
        for name in ("label_source", "va_source")
    ]
    spread = [pl.when(mine).then(0.25).alias(name) for name in ("valence_sd", "arousal_sd")]
    return replace(
        tables,
        music_clips=tables.music_clips.with_columns(*marked, *spread),
        images=tables.images.with_columns(*marked, *spread),
        image_emotion_head=frame("image_emotion_head", [HEAD]),
        music_emotion_head=frame("music_emotion_head", [MUSIC_HEAD]),
    )


def test_without_a_prediction_there_is_no_warning_and_the_section_tells_measured_from_derived(
    make_tables: Callable[..., LakeTables], build_facts: BuildFacts
) -> None:
    tables = make_tables()
    rated = pl.int_range(pl.len()) % 2 == 0
    clips = tables.music_clips.with_columns(
        va_source=pl.when(rated).then(pl.lit("ratings")).otherwise(pl.lit("category_mean"))
    )
    images = tables.images.with_columns(va_source=pl.lit("tag"))
    tables = replace(tables, music_clips=clips, images=images)
    html = render_page(tables, build_facts)
    section = html[html.index('<section aria-labelledby="predicted">') :].split("</section>")[0]
    assert "Predicted emotion" not in html
    assert "two networks hear" not in section
    assert predicted_clips(clips) == frozenset()
    measured = clips.filter(rated)["clip_id"]
    assert f"Of the clips, {clips.height - len(measured)} are derived, {len(measured)} are measured." in html
    found = predicted_section(
        clips, images, tables.fused_pairs, IMAGE_EMOTION_HEAD.empty(), MUSIC_EMOTION_HEAD.empty()
    )
    assert {(row["kind"], row["meaning"]): row["n"] for row in found["sources"]} == {  # type: ignore[attr-defined]
        ("music", "measured: the clip's own ratings"): len(measured),
        ("music", "derived: the mean of the clip's category"): clips.height - len(measured),
        ("images", "derived: the place of the image's tag"): images.height,
    }
    by_hand = tables.fused_pairs.filter(pl.col("clip_id").is_in(measured.implode()))
    [row] = [row for row in found["pairs"] if row["clip"] == "measured"]  # type: ignore[attr-defined]
    assert (row["image"], row["n"]) == ("derived", by_hand.height)
    assert row["E"] == pytest.approx(by_hand["emotional_similarity"].mean())


def test_outputs_of_another_model_are_predictions_by_its_name(
    make_tables: Callable[..., LakeTables], build_facts: BuildFacts
) -> None:
    tables = make_tables()
    clips = tables.music_clips.with_columns(va_source=pl.lit("model:<Music2Emo>"))
    html = render_page(replace(tables, music_clips=clips), build_facts)
    read(html)
    assert "predicted by &lt;Music2Emo&gt;" in html
    assert "two networks hear" not in html
    assert (
        f"Valence and arousal of {clips.height} of {clips.height} clips were predicted by a program" in html
    )
    assert predicted_clips(clips) == frozenset(clips["clip_id"])


def test_counts_pairs_and_the_head_stand_on_the_page(
    half_predicted: LakeTables, build_facts: BuildFacts
) -> None:
    html = render_page(half_predicted, build_facts)
    read(html)  # every element is closed
    clips, images = half_predicted.music_clips, half_predicted.images
    assert f"{len(predicted_clips(clips))} of {clips.height} clips" in html
    assert "were predicted by a program" in html
    section = html[html.index('<section aria-labelledby="predicted">') :].split("</section>")[0]
    assert "Few rated images" not in section
    for text in (
        "bundled + text",
        "431 of 588 rated images have words",
        "588 rated images",
        "161 groups",
        "0.614",
        "0.627",
        "0.370",
        "52 %",
        "92 %",
        "0.25",
        "137 rated clips",
        "31 groups",
        "0.581",
        "0.543",
        "47 %",
        "87 %",
    ):
        assert text in section, text
    found = predicted_section(
        clips, images, half_predicted.fused_pairs, IMAGE_EMOTION_HEAD.empty(), MUSIC_EMOTION_HEAD.empty()
    )
    pairs = {(row["clip"], row["image"]): row["n"] for row in found["pairs"]}  # type: ignore[attr-defined]
    assert sum(pairs.values()) == half_predicted.fused_pairs.height
    ids = predicted_clips(clips)
    by_hand = sum(
        clip in ids and image in set(images["image_id"].gather_every(2))
        for clip, image in half_predicted.fused_pairs.select("clip_id", "image_id").rows()
    )
    assert pairs["predicted", "predicted"] == by_hand


def test_a_head_on_few_images_is_doubted_on_the_page(
    half_predicted: LakeTables, build_facts: BuildFacts
) -> None:
    few = replace(half_predicted, image_emotion_head=frame("image_emotion_head", [HEAD | {"images": 52}]))
    html = render_page(few, build_facts)
    assert "Few rated images:" in html
    assert "the head learns from 52 rated images" in html


def test_a_label_derived_from_ratings_is_not_called_a_prediction(
    half_predicted: LakeTables, build_facts: BuildFacts
) -> None:
    rated = replace(half_predicted, images=half_predicted.images.with_columns(va_source=pl.lit("measured")))
    html = render_page(rated, build_facts)
    clips, images = (rated.music_clips, rated.images)
    half = {name: (frame.height + 1) // 2 for name, frame in (("clips", clips), ("images", images))}
    assert f"of {half['clips']} of {clips.height} clips were predicted by a program, not measured" in html
    assert f" and {half['images']} of {images.height} images is an emotion near" in html
    found = predicted_section(
        clips, images, rated.fused_pairs, IMAGE_EMOTION_HEAD.empty(), MUSIC_EMOTION_HEAD.empty()
    )
    assert {row["image"] for row in found["pairs"]} == {"measured"}  # type: ignore[attr-defined]
    labels = {
        (row["label"], row["va_source"]): row["n"] for row in found["sources"] if row["kind"] == "images"
    }  # type: ignore[attr-defined]
    assert labels == {
        ("given", "measured"): images.height - half["images"],
        ("derived from V and A", "measured"): half["images"],
    }


def test_a_label_found_for_measured_values_counts_as_predicted(half_predicted: LakeTables) -> None:
    measured = half_predicted.music_clips.with_columns(va_source=pl.lit("ratings"))
    assert len(predicted_clips(measured)) == (measured.height + 1) // 2
