"""The page when there is little or nothing to show, and the same page from the same inputs."""

import base64
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.report.gallery import PLAYER_SECONDS, player, thumbnail
from emid_assets.report.page import BuildFacts, EncoderFacts, GalleryLimits, render_page
from emid_assets.report.tables import gallery_clips
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import changed, emptied
from emid_assets_tests.report.reading import Page, read

MakeTables = Callable[..., LakeTables]


def test_a_page_of_nothing_says_so_in_every_part(make_tables: MakeTables, build_facts: BuildFacts) -> None:
    empty = emptied(make_tables())
    empty = replace(empty, plane=Plane.fit(empty.music_clips, empty.images, "standardize"))
    build = replace(build_facts, encoder=EncoderFacts("imagebind", "CC-BY-NC-SA 4.0"))
    page = read(render_page(empty, build))
    said = " ".join(page.all("main")[0].text.split())
    for sentence in (
        "There are no pairs to compare.", "No network is trained yet.", "No retrieval figures yet",
        "Nobody has answered the listening study yet",
        "There are no pairs to show.", "None: every media file and every table row could be used.",
        "No media are shown.",
    ):  # fmt: skip
        assert sentence in said
    assert "Nothing is paired yet" in page.all("body")[0].text
    assert page.with_class("warning") == []
    assert len(page.all("svg")) == 4


@pytest.fixture(scope="module")
def small(make_tables: MakeTables, build_facts: BuildFacts) -> Page:
    """A page with no network, little room for media, and images aligned on one tag alone."""
    tables = make_tables(trained_adapter=TABLES["trained_adapter"].empty())
    plane = Plane.fit(tables.music_clips, tables.images.filter(tag="awe"), "standardize")
    limits = GalleryLimits(clips_per_emotion=1, embedded_bytes=200_000)
    return read(render_page(replace(tables, plane=plane), build_facts, limits))


def test_an_alignment_that_fell_back_is_warned_of(small: Page) -> None:
    warnings = [" ".join(element.text.split()) for element in small.with_class("warning")]
    assert any("The valence and arousal of images could not be standardized" in text for text in warnings)


def test_the_limits_on_clips_and_bytes_hold(small: Page) -> None:
    emotions = [card.attributes["data-emotion"] for card in small.with_class("clip")]
    assert len(emotions) == len(set(emotions)) < 12
    copies = sum(len(element.attributes["src"]) for element in [*small.all("audio"), *small.all("img")])
    assert 200_000 < copies < 200_000 + 150_000


def test_a_file_that_is_gone_or_broken_since_stands_as_a_placeholder(
    make_tables: MakeTables, build_facts: BuildFacts, sample_media: Path, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    shutil.copytree(sample_media, media)
    tables = make_tables(trained_adapter=TABLES["trained_adapter"].empty())
    clip_ids = sorted(gallery_clips(tables.music_clips, tables.fused_pairs, 3, 2)["clip_id"])
    (media / "music" / clip_ids[0]).unlink()
    (media / "music" / clip_ids[1]).write_text("no music")
    for image in (media / "images").iterdir():
        image.unlink()

    page = read(render_page(tables, replace(build_facts, media=media), GalleryLimits(clips=2)))

    assert page.all("audio") == page.all("img") == []
    problems = [" ".join(element.text.split()) for element in page.with_class("gone")]
    assert problems[0] == f"Cannot be played: music/{clip_ids[0]} is no longer in the media folder"
    played = [text for text in problems if text.startswith("Cannot be played")]
    assert played[1].startswith(f"Cannot be played: music/{clip_ids[1]}: audio is unreadable")
    shown = [text for text in problems if text.startswith("Cannot be shown: images/")]
    assert len(shown) == 6
    assert all(text.endswith("is no longer in the media folder") for text in shown)


def test_equal_inputs_give_equal_bytes_in_whatever_order_the_rows_come(
    make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    tables = make_tables()
    turned = changed(tables, pl.DataFrame.reverse)
    limits = GalleryLimits(clips=3)
    assert render_page(tables, build_facts, limits) == render_page(turned, build_facts, limits)


def test_a_player_is_short_mono_and_sounds_like_its_clip(tmp_path: Path) -> None:
    rate, seconds = 44_100, 12
    t = np.arange(rate * seconds) / rate
    tone = np.where(t < 3, 0.0, 0.5 * np.sin(2 * np.pi * 440 * t))
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), rate)

    copy = player(tmp_path, "tone.wav", 3.0, 9.0)

    samples, found_rate = soundfile.read(
        io.BytesIO(base64.b64decode(copy.uri.partition(",")[2])), always_2d=True
    )
    assert samples.shape[1] == 1
    assert samples.shape[0] / found_rate == pytest.approx(PLAYER_SECONDS, abs=0.1)
    middle = samples[found_rate : 3 * found_rate, 0]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * found_rate / len(middle) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert len(copy.uri) < 60_000
    assert copy == player(tmp_path, "tone.wav", 3.0, 9.0)


def test_a_thumbnail_is_the_centre_square_and_small(tmp_path: Path) -> None:
    picture = Image.new("RGB", (900, 300), "red")
    picture.paste("blue", (300, 0, 600, 300))
    picture.save(tmp_path / "wide.png")

    copy = thumbnail(tmp_path, "wide.png")

    with Image.open(io.BytesIO(base64.b64decode(copy.uri.partition(",")[2]))) as found:
        assert found.format == "JPEG"
        assert found.size == (256, 256)
        blue = np.asarray(found, dtype=int)[:, 8:-8]
    assert (blue[..., 2] > 200).all()
    assert (blue[..., 0] < 50).all()
