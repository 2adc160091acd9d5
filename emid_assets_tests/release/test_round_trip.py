"""A release as the media of another build: the same tables, but for paths."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import soundfile
from polars.testing import assert_frame_equal

from emid_assets.definitions import build_definitions
from emid_assets.media.expansion import all_clips
from emid_assets.release.emid_import import import_emid
from emid_assets.release.emid_source import csv_pieces, parquet_pieces, places_beside
from emid_assets.release.item_tables import ItemTables
from emid_assets.store.lake import Lake
from emid_assets_tests.defs.tiny_media import write_clip, write_image

MUSIC: list[dict[str, str]] = [
    {
        "file": "rated.wav", "genre": "sad", "feeling": "33.333333% Sad, depressing, 5.5% Dreamy",
        "emotion": "4.166666666667,5,5,5,5,5,5,5,5,6.123456789,5", "valence_sd": "0.25",
        "arousal_sd": "0.123456789",
        "licence": "CC-BY-4.0", "author": "A, B", "label_source": "test",
    },
    {
        "file": "half rated.wav", "clip_id": "7", "genre": "sad", "emotion": "nan,5,5,5,5,5,5,5,5,6,5",
        "valence": "2.25", "arousal": "7.123456789", "va_source": "model:A, B", "valence_sd": "0.5",
    },
    {
        # A clip may have the id of an image.
        "file": "predicted.wav", "clip_id": "1.png", "genre": "scary", "valence": "4.123456789",
        "arousal": "6.5", "va_source": "Predicted", "valence_sd": "0.84", "arousal_sd": "0.5",
        "licence": "cc-by-4.0", "label_source": "predicted",
    },
    {"file": "tape.wav", "genre": "scary", "start_s": "0", "duration_s": "5"},
    {"file": "tape.wav", "genre": "sad", "start_s": "12.5", "duration_s": "2.5"},
]  # fmt: skip
IMAGES: list[dict[str, str]] = [
    {
        "file": "1.png", "tag": "awe", "text": 'a "lake", at dawn', "valence": "0.123456789",
        "arousal": "0.5", "valence_sd": "0.0123456789", "group": "lakes",
    },
    {
        "file": "2.png", "image_id": "two", "tag": "awe", "text": "a bird", "caption_source": "some model",
        "valence": "0.25", "arousal": "0.75", "va_source": "predicted", "valence_sd": "0.1",
        "arousal_sd": "0.123456789", "label_source": "predicted",
    },
    {"file": "3.png", "tag": "fear"},
]  # fmt: skip
PARTS = {"embed_music": ("sad", "scary"), "embed_images": ("awe", "fear"), "align": ("sad", "scary")}
SETTINGS: dict[str, Any] = {"images_per_clip": 4, "expansion_threshold": -1.0}


def build(lake: Lake, media: Path) -> Lake:
    """Everything up to the release."""
    definitions = build_definitions(lake=str(lake.root), media=str(media), workers=0, **SETTINGS)
    with dg.DagsterInstance.ephemeral() as instance:
        for job, keys in {"inventory": (None,), **PARTS, "release": (None,)}.items():
            for key in keys:
                definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance)
    return lake


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    media = tmp_path_factory.mktemp("media")
    for seed, name in enumerate(("rated", "half rated", "predicted", "sad/unlisted")):
        write_clip(media / "music" / f"{name}.wav", seed)
    noise = np.random.default_rng(9).normal(size=15 * 8000) * np.linspace(0.05, 0.3, 15 * 8000)
    soundfile.write(media / "music" / "tape.wav", noise.clip(-1, 1), 8000, subtype="PCM_16")
    for seed, name in enumerate(("1", "2", "3", "fear/unlisted")):
        write_image(media / "images" / f"{name}.png", seed)
    for kind, rows in (("music", MUSIC), ("images", IMAGES)):
        columns = dict.fromkeys(name for row in rows for name in row)
        pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String)).write_csv(media / f"{kind}.csv")
    return build(Lake(tmp_path_factory.mktemp("first") / "lake"), media)


def imported(release: Path, form: str, folder: Path) -> Path:
    """The media folder of a second build: the release itself, or an import of its rows."""
    if form == "folder":
        return Path(shutil.copytree(release, folder))
    pieces = (
        csv_pieces(release / "EMID_data.csv", release) if form == "csv" else parquet_pieces([str(release)])
    )
    tables = ItemTables.of_folders(places_beside(pieces, release))
    findings = import_emid(pieces, folder, tables=tables).findings
    assert {finding.kind for finding in findings} == {"missing rating", "no ratings"}
    return folder


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, but_for: Sequence[str] = ()) -> None:
    ids = [name for name in ("clip_id", "image_id") if name in expected.columns]
    found, expected = (frame.drop(but_for).sort(ids) for frame in (found, expected))
    assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "csv", "parquet"])
def test_a_build_from_a_release_has_the_same_tables_but_for_paths(
    first: Lake, tmp_path: Path, form: str
) -> None:
    media = imported(first.root / "release", form, tmp_path / "media")
    second = build(Lake(tmp_path / "lake"), media)
    assert second.read("rejected_media").is_empty()
    clips, again = (
        all_clips(lake.read("music_clips"), lake.read("expanded_clips")) for lake in (first, second)
    )
    assert clips.height == 8
    assert dict(clips.group_by("va_source").len().iter_rows()) == {
        "ratings": 1, "model:A, B": 1, "predicted": 1, "category_mean": 5,
    }  # fmt: skip
    assert_same(again, clips, ["file", "start_s", "content_hash"])  # windows are files now
    assert set(again.filter(pl.col("duration_s") == 3.0)["content_hash"]) == set(
        clips.filter(pl.col("duration_s") == 3.0)["content_hash"]
    )
    images = first.read("images")
    assert set(images["va_source"]) == {"measured", "predicted", "tag"}
    assert set(images["caption_source"]) == {"table", "some model", None}
    assert_same(second.read("images"), images, ["file"])
    for table in ("similarity_matrix", "va_distances", "fused_pairs"):
        assert_same(second.read(table), first.read(table))
