"""The page in a real Chromium, opened from a file: it shows, it sounds, it filters, and asks for nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.report.page import BuildFacts, GalleryLimits, render_page
from emid_assets_tests.report.conftest import M, clips_of

CLIPS = 8

DECODE = """async (player) => {
  const bytes = Uint8Array.from(atob(player.src.split(",")[1]), (letter) => letter.charCodeAt(0));
  const sound = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(bytes.buffer);
  const loudest = sound.getChannelData(0).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return [sound.duration, loudest];
}"""


@pytest.fixture(scope="module")
def report(
    make_tables: Callable[..., LakeTables], build_facts: BuildFacts, sample_media: Path, tmp_path_factory: Any
) -> str:
    """A written page, one of whose clips has a name that tries to run; its file URL."""
    clips = clips_of(sample_media)
    evil = "<img src=x onerror=window.pwned=1>"
    named = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(evil)).otherwise("clip_id").alias("clip_id")
    tables = make_tables(music_clips=clips.with_columns(named))
    file = tmp_path_factory.mktemp("a folder") / "report #1 & more.html"
    html = render_page(tables, build_facts, GalleryLimits(clips_per_emotion=2, clips=CLIPS))
    file.write_text(html, encoding="utf-8", newline="\n")
    return file.as_uri()


@pytest.fixture(scope="module")
def seen(browser: Any, report: str) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The opened page, what went wrong on it, and every address that it asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report)
    yield page, wrong, asked
    page.close()


def test_it_opens_from_a_file_without_errors_and_asks_for_nothing_else(seen: Any, report: str) -> None:
    page, wrong, asked = seen
    assert page.title() == "EMID evaluation report"
    assert wrong == []
    assert [address for address in asked if not address.startswith("data:")] == [report]
    assert page.evaluate("window.pwned") is None


def test_every_player_decodes_to_sound_of_the_clips_length(seen: Any) -> None:
    page, _, _ = seen
    players = page.query_selector_all("audio")
    assert len(players) == CLIPS
    for player in players:
        page.wait_for_function("(player) => player.readyState >= 1", arg=player)
        assert player.evaluate("(player) => player.duration") == pytest.approx(8.0, abs=0.1)
    duration, loudest = players[0].evaluate(DECODE)
    assert duration == pytest.approx(8.0, abs=0.1)
    assert loudest > 0.01


def test_playing_one_clip_stops_the_other(seen: Any) -> None:
    page, _, _ = seen
    first, second = page.query_selector_all("audio")[:2]
    for player in (first, second):
        player.evaluate("async (player) => { player.muted = true; await player.play(); }")
    page.wait_for_function("([first, second]) => first.paused && second.currentTime > 0", arg=[first, second])
    second.evaluate("(player) => player.pause()")


def test_every_image_has_pixels_and_a_visible_size(seen: Any) -> None:
    page, _, _ = seen
    sizes = page.eval_on_selector_all(
        "img", "all => all.map(i => [i.naturalWidth, i.naturalHeight, i.clientWidth])"
    )
    assert len(sizes) == CLIPS * M
    assert all(min(size) > 50 for size in sizes)


def test_the_filter_shows_one_emotion_and_all_again(seen: Any) -> None:
    page, _, _ = seen
    cards = page.locator("article.clip")
    shown = lambda: [card.get_attribute("data-emotion") for card in cards.all() if card.is_visible()]  # noqa: E731
    everything = shown()
    assert len(everything) == CLIPS
    wanted = everything[-1]
    page.click(f"[data-filter={wanted}]")
    assert set(shown()) == {wanted}
    assert page.get_attribute(f"[data-filter={wanted}]", "aria-current") == "true"
    number = everything.count(wanted)
    assert page.inner_text("#filter-said") == f"{number} clip" + "s" * (number > 1)
    page.click("[data-filter='']")
    assert shown() == everything


@pytest.mark.parametrize("width", [360, 820])
def test_nothing_sticks_out_on_a_phone_or_a_tablet(browser: Any, report: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_dark_light_and_paper_have_colours_of_their_own(browser: Any, report: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report)
    colours = "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    dark = page.evaluate(colours)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(colours)
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(colours) == ["rgb(255, 255, 255)", light[1]]
    assert not page.is_visible("nav.contents")
    page.close()


def test_without_scripts_the_filter_jumps_and_everything_stays_visible(browser: Any, report: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(report)
    link = page.locator("[data-filter]").last
    link.click()
    card = page.locator(f"#emotion-{link.get_attribute('data-filter')}")
    box = card.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 800
    assert all(card.is_visible() for card in page.locator("article.clip").all())
    context.close()
