"""The health page on made-up verdicts: what is broken stands first, and names stay text."""

import re
from pathlib import Path

import polars as pl

from emid_assets.health.recipes import Recipe
from emid_assets.health.verdict import AssetFacts, Health, RunFacts, examine
from emid_assets.report.health_page import builds_of_assets, health_page, time_figures
from emid_assets.store.lake import Lake

NOW = 1_795_000_000.0
HOSTILE = "cannot read <script>alert(1)</script>.mp3"


def health(folder: Path) -> Health:
    lake = Lake(folder / "lake")
    lake.write("rejected_media", "all", pl.DataFrame({"kind": ["music"], "reason": [HOSTILE]}))
    runs = [RunFacts("run-1", frozenset({"music_clips"}), "sad", "failed", NOW, {"music_clips": HOSTILE})]
    music = AssetFacts("music_clips", ("calm", "sad"), {}, lambda *_: Recipe(1))
    return examine(lake, [music], runs, NOW, 30)


def test_what_is_broken_stands_first_with_its_reason(tmp_path: Path) -> None:
    page = health_page(health(tmp_path))
    assert "<title>Pipeline health: unhealthy: 1 failed, 1 missing</title>" in page
    broken, waiting = page.index("What is broken now"), page.index("What waits for a rebuild")
    assert broken < page.index("cannot read &lt;script&gt;") < waiting < page.index(">calm<")


def test_text_of_the_user_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = health_page(health(tmp_path))
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!report[.]html)""", page)
    assert "default-src 'none'" in page


def test_before_the_first_build_there_is_no_figure(tmp_path: Path) -> None:
    found = health(tmp_path)
    assert time_figures(found) == {}
    assert "No build is on record yet" in health_page(found)


def test_times_of_an_assets_partitions_are_added_up_build_by_build() -> None:
    times = pl.DataFrame(
        {
            "asset": ["a", "a", "a", "b"],
            "partition": ["x", "y", "x", "all"],
            "build": [0, 0, -1, 0],
            "at": [""] * 4,
            "seconds": [1.0, 2.0, 4.0, 8.0],
        }
    )
    assert builds_of_assets(times).rows() == [("a", -1, 4.0), ("a", 0, 3.0), ("b", 0, 8.0)]
