"""The page of pairs in a real Chromium: what it shows, and how little of ten thousand clips it holds."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from emid_assets.affect.emotions import MUSIC_EMOTION_KEYS
from emid_assets.media.lake_tables import LakeTables
from emid_assets.report import pairs
from emid_assets.report.gallery import Copies
from emid_assets.report.pairs import render_pairs
from emid_assets.store.schemas import IMAGES, MUSIC_CLIPS, TOP_IMAGES
from emid_assets_tests.report.conftest import clips_of, images_of
from emid_assets_tests.small_lake import UNCHANGED
from emid_assets_tests.study.conftest import rows

MANY = 10_000
COUNT_WHAT_IS_ADDED = """
window.added = 0;
new MutationObserver((changes) => changes.forEach((change) => {
  for (const node of change.addedNodes) window.added += 1 + (node.getElementsByTagName?.("*").length ?? 0);
})).observe(document, {childList: true, subtree: true});
"""
SYSTEMS = ("semantic", "fused", "adapter")


def choices(clips: list[str], images: list[str], seed: int = 0) -> pl.DataFrame:
    """Three images for each clip and system, drawn at random; S, E and T in line with the rank."""
    rng = np.random.default_rng(seed)
    drawn = np.array(images)[rng.random((len(clips) * 3, len(images))).argpartition(3, axis=1)[:, :3]]
    count = len(clips) * 9
    values = rng.random((3, count))
    return pl.DataFrame(
        {
            "clip_id": np.repeat(clips, 9),
            "system": np.tile(np.repeat(SYSTEMS, 3), len(clips)),
            "rank": np.tile([1, 2, 3], len(clips) * 3).astype(np.int32),
            "image_id": drawn.ravel(),
            "semantic_similarity": values[0] / 1000,
            "emotional_similarity": values[1],
            "fused_score": values[2],
        },
        schema=TOP_IMAGES.empty().schema,
    )


@pytest.fixture(scope="module")
def small(sample_media: Path, tmp_path_factory: Any) -> tuple[Path, pl.DataFrame]:
    """The page of the sample, its media inside, and what it shows."""
    clips, images = clips_of(sample_media), images_of(sample_media)
    evil = "<img src=x onerror=window.pwned=1></script>"
    clips = clips.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(evil)).otherwise("clip_id").alias("clip_id")
    )
    shown = choices(clips["clip_id"].to_list(), images["image_id"].to_list())
    tables = LakeTables(UNCHANGED, clips, images, top_images=shown)
    page = render_pairs(tables, "bmf", 0.6, media=Copies(sample_media), beside=Path("/"), embed_bytes=10**7)
    file = tmp_path_factory.mktemp("pairs") / "pairs #1.html"
    file.write_text(page, encoding="utf-8")
    return file, shown


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector(".row")
    return page, wrong


def test_a_clips_row_shows_each_systems_images_with_t_e_and_s(browser: Any, small: Any) -> None:
    file, shown = small
    page, wrong = opened(browser, file)
    row = page.locator(".row").nth(1)
    clip = row.get_attribute("data-clip")
    assert row.locator("section").count() == 3
    for place, system in enumerate(SYSTEMS):
        wanted = shown.filter(clip_id=clip, system=system).sort("rank")
        cards = row.locator("section").nth(place).locator("li")
        assert cards.count() == 3
        for number, pair in enumerate(wanted.iter_rows(named=True)):
            card = cards.nth(number)
            assert card.locator("img").get_attribute("title") == pair["image_id"]
            assert f"T {pair['fused_score']:.3f}"[:-1] in card.inner_text()
            assert f"E {pair['emotional_similarity']:.3f}"[:-1] in card.inner_text()
    assert page.evaluate("window.pwned") is None
    assert wrong == []
    page.close()


def test_an_image_that_systems_share_is_marked(browser: Any, small: Any) -> None:
    file, shown = small
    page, _ = opened(browser, file)
    marked = page.evaluate(
        """() => [...document.querySelectorAll('.row')].flatMap(row =>
            [...row.querySelectorAll('.shared img')].map(image => [row.dataset.clip, image.title]))"""
    )
    counts = shown.group_by("clip_id", "image_id").len()
    seen = page.eval_on_selector_all(".row", "rows => rows.map(row => row.dataset.clip)")
    wanted = counts.filter((pl.col("len") > 1) & pl.col("clip_id").is_in(seen))
    assert len(wanted) > 3
    assert sorted({tuple(pair) for pair in marked}) == sorted(wanted.select("clip_id", "image_id").rows())
    page.close()


def test_embedded_players_play_one_at_a_time(browser: Any, small: Any) -> None:
    file, _ = small
    page, _ = opened(browser, file)
    page.evaluate("document.getElementById('audio').muted = true")
    buttons = page.locator(".row button")
    for number in (1, 2):
        buttons.nth(number).click()
        page.wait_for_function("() => document.getElementById('audio').currentTime > 0")
        assert page.locator("button[aria-pressed=true]").count() == 1
        assert buttons.nth(number).get_attribute("aria-pressed") == "true"
    assert page.inner_text("#playing") == page.locator(".row").nth(2).get_attribute("data-clip")
    page.close()


def test_filters_choose_by_emotion_tag_name_and_difference(
    browser: Any, small: Any, sample_media: Path
) -> None:
    file, shown = small
    page, _ = opened(browser, file)
    clips = clips_of(sample_media)
    emotion, count = clips["emotion"].value_counts(sort=True).row(0)
    page.select_option("#emotion", emotion)
    assert page.inner_text("#found") == f"{count} clip" + "s" * (count > 1)
    assert set(page.locator(".row .chip").all_inner_texts()) == {emotion}
    page.select_option("#emotion", "")
    first = shown.filter(rank=1).pivot("system", index="clip_id", values="image_id")
    page.select_option("#differ", "alpha")
    assert page.inner_text("#found").startswith(
        str(first.filter(pl.col("semantic") != pl.col("fused")).height)
    )
    page.select_option("#differ", "same")
    page.fill("#name", "no such name")
    assert page.inner_text("#found") == "0 clips"
    assert page.locator(".row").count() == 0
    page.fill("#name", "")
    page.select_option("#differ", "")
    page.select_option("#order", "gain")
    gains = shown.filter(rank=1).pivot("system", index="clip_id", values="fused_score")
    best = gains.sort(pl.col("fused").round(4) - pl.col("semantic").round(4), descending=True)["clip_id"][0]
    assert page.locator(".row").first.get_attribute("data-clip") == best
    page.close()


def test_more_clips_than_a_browser_can_draw_are_thinned_out_evenly_and_told(
    sample_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MOST_CLIPS", 5)
    clips, images = clips_of(sample_media), images_of(sample_media)
    picks = choices(clips["clip_id"].to_list(), images["image_id"].to_list())
    tables = LakeTables(UNCHANGED, clips, images, top_images=picks)
    page = render_pairs(tables, "bmf", 0.6, media=Copies(sample_media), beside=Path("/"), embed_bytes=0)
    assert "5 of 22 clips" in page
    shown = [clip for clip in clips["clip_id"].sort() if clip in page]
    assert shown == clips["clip_id"].sort().to_list()[::5]


@pytest.mark.parametrize("width", [360, 820])
def test_nothing_sticks_out_or_overlaps_on_a_phone_or_a_tablet(browser: Any, small: Any, width: int) -> None:
    file, _ = small
    page, _ = opened(browser, file, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.eval_on_selector_all(
        ".row", "rows => rows.map(r => [r.offsetTop, r.offsetTop + r.offsetHeight])"
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(boxes))
    page.close()


@dataclass(frozen=True)
class Large:
    """A page of ten thousand clips over 500 images, media beside it.

    Attributes:
        file: the page.
        times_a_tenth: CPU time of making it, by that of a page of a tenth of the clips.
    """

    file: Path
    times_a_tenth: float


@pytest.fixture(scope="module")
def large(tmp_path_factory: Any) -> Large:
    folder = tmp_path_factory.mktemp("large set")
    media = folder / "my media"
    (media / "images").mkdir(parents=True)
    clips = rows(
        MUSIC_CLIPS,
        clip_id=[f"clip {number:05}" for number in range(MANY)],
        file=[f"music/{number:05}.ogg" for number in range(MANY)],
        emotion=[MUSIC_EMOTION_KEYS[number % 13] for number in range(MANY)],
        start_s=[0.0] * MANY,
        duration_s=[30.0] * MANY,
    )
    names = [f"image {number}%.png" for number in range(500)]
    for name in names:
        Image.new("RGB", (16, 16), (0, 90, 90)).save(media / "images" / name)
    images = rows(IMAGES, image_id=names, file=[f"images/{name}" for name in names], tag=["awe"] * 500)
    (folder / "lake").mkdir()
    file = folder / "lake" / "pairs.html"
    seconds = []
    for few in (clips.head(MANY // 10), clips):
        shown = choices(few["clip_id"].to_list(), names)
        start = time.process_time()
        tables = LakeTables(UNCHANGED, few, images, top_images=shown)
        page = render_pairs(tables, "bmf", 0.6, media=Copies(media), beside=file.parent, embed_bytes=10**7)
        seconds.append(time.process_time() - start)
    file.write_text(page, encoding="utf-8")
    return Large(file, seconds[1] / seconds[0])


def test_the_work_of_making_the_page_grows_with_the_clips_and_not_with_their_square(large: Large) -> None:
    assert large.times_a_tenth < 30


def test_ten_thousand_clips_keep_the_page_and_what_it_holds_at_once_small(browser: Any, large: Large) -> None:
    assert large.file.stat().st_size < 8_000_000
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(COUNT_WHAT_IS_ADDED)
    page.goto(large.file.as_uri())
    page.wait_for_function("() => document.querySelector('.row img')?.naturalWidth > 0")
    nodes = "document.getElementsByTagName('*').length"
    sizes = [page.evaluate(nodes)]
    assert page.locator(".row").first.get_attribute("data-clip") == "clip 00000"
    for part, clip in ((0.5, "clip 05000"), (1.0, "clip 09999")):
        page.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
        page.wait_for_function(
            "(clip) => [...document.querySelectorAll('.row')].some(row => row.dataset.clip === clip)",
            arg=clip,
        )
        page.wait_for_function("() => document.querySelector('.row img')?.naturalWidth > 0")
        sizes.append(page.evaluate(nodes))
    assert max(sizes) < 2000
    before = page.evaluate("window.added")
    assert before > 0
    page.select_option("#emotion", "sad")
    page.wait_for_function("() => document.getElementById('found').textContent.startsWith('769')")
    assert page.evaluate("window.added") - before < 2000
    assert page.evaluate(nodes) < 2000
    page.close()


def test_a_medium_that_is_gone_is_told_in_its_place(browser: Any, large: Large) -> None:
    page = browser.new_page()
    page.goto(large.file.as_uri())
    name = page.locator(".row img").first.get_attribute("title")
    (large.file.parent.parent / "my media" / "images" / name).unlink()
    page.reload()
    page.get_by_text(f"not found: {name}").first.wait_for()
    page.locator(".row button").first.click()
    page.get_by_text("cannot be played here").wait_for()
    page.close()
