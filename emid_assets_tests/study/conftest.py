"""A small study of made-up media, whose pictures tell by their colour what picked them."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.store.layout import DESIGNS_FOLDER, STUDY_FOLDER, STUDY_PAGE_FOLDER
from emid_assets.store.schemas import IMAGES, MUSIC_CLIPS, TableSchema
from emid_assets.study.design import Design, draw_design
from emid_assets.study.page import write_page
from emid_assets_tests.study.served import Server

EMOTIONS = ("calm", "joyful", "sad", "scary")
COLOURS = {"semantic": (0, 160, 0), "fused": (250, 0, 0), "adapter": (0, 0, 200)}
SECONDS = 0.3
TRIALS = 8


def rows(schema: TableSchema, **values: Any) -> pl.DataFrame:
    """Rows of a table with these values, and null in every other column."""
    given = pl.DataFrame(values)
    empty = schema.empty().schema
    return schema.check(
        given.with_columns(
            pl.lit(None, dtype=dtype).alias(name) for name, dtype in empty.items() if name not in values
        ).cast({name: empty[name] for name in values})
    )


def music(count: int) -> pl.DataFrame:
    """Clips of four emotions in turn."""
    return rows(
        MUSIC_CLIPS,
        clip_id=[f"clip-{number:03}" for number in range(count)],
        file=[f"music/clip-{number:03}.wav" for number in range(count)],
        content_hash=[f"m{number}" for number in range(count)],
        start_s=[0.0] * count,
        duration_s=[SECONDS] * count,
        emotion=[EMOTIONS[number % len(EMOTIONS)] for number in range(count)],
        author=["A. Composer"] * count,
        licence=["CC0"] * count,
    )


def pictures(names: list[str]) -> pl.DataFrame:
    return rows(
        IMAGES,
        image_id=names,
        file=[f"images/{name}.png" for name in names],
        content_hash=names,
        tag=["awe"] * len(names),
    )


def choices_of(offered: dict[str, dict[str, list[str]]]) -> pl.DataFrame:
    """The columns of the choices that a design reads: clip → system → images, best first."""
    lines = [
        (clip, system, rank, image)
        for clip, systems in offered.items()
        for system, images in systems.items()
        for rank, image in enumerate(images, start=1)
    ]
    return pl.DataFrame(lines, schema=["clip_id", "system", "rank", "image_id"], orient="row")


@dataclass(frozen=True)
class Study:
    """A study as it lies in a lake.

    Attributes:
        lake: the lake's folder.
        folder: the study's folder in it.
        media: the media folder.
        design: the design.
    """

    lake: Path
    folder: Path
    media: Path
    design: Design

    @property
    def page(self) -> Path:
        return self.folder / STUDY_PAGE_FOLDER / "index.html"


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Twenty clips; each system has a picture of its own colour, and what is drawn at random is grey.

    Read it, never write to it: `copy_of` makes one to write to.
    """
    root = tmp_path_factory.mktemp("study")
    media = root / "media"
    for folder in ("music", "images"):
        (media / folder).mkdir(parents=True)
    clips = music(20)
    for number, file in enumerate(clips["file"]):
        times = np.arange(int(24_000 * SECONDS)) / 24_000
        soundfile.write(media / file, 0.3 * np.sin(2 * np.pi * (220 + 20 * number) * times), 24_000)
    greys = [f"grey-{number}" for number in range(9)]
    images = pictures(sorted([*COLOURS, *greys]))
    for name in images["image_id"]:
        grey = 40 + 10 * int(name.removeprefix("grey-")) if name in greys else 0
        Image.new("RGB", (48, 32), COLOURS.get(name, (grey, grey, grey))).save(media / f"images/{name}.png")
    offered = {clip: {name: [name, *greys[:2]] for name in COLOURS} for clip in clips["clip_id"]}
    design = draw_design(
        choices_of(offered), clips, images, {}, seed=1, clips=14, trials=TRIALS,
        facts={"alpha": 0.6, "network": "bmf"},
    )  # fmt: skip
    folder = root / "lake" / STUDY_FOLDER
    (folder / DESIGNS_FOLDER).mkdir(parents=True)
    (folder / DESIGNS_FOLDER / f"{design.hash}.json").write_text(design.to_json(), encoding="utf-8")
    write_page(
        design, clips, images, media, folder / STUDY_PAGE_FOLDER,
        seconds=10.0, embed_bytes=10**7, contact="The researchers <who@example.org>",
    )  # fmt: skip
    return Study(root / "lake", folder, media, design)


def copy_of(study: Study, root: Path) -> Study:
    """The same study in another folder, to write to."""
    shutil.copytree(study.lake, root / "lake")
    return Study(root / "lake", root / "lake" / STUDY_FOLDER, study.media, study.design)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server for a study; none outlives the test."""
    started: list[Server] = []

    def serve(study: Study, *options: str) -> Server:
        started.append(Server(study, options))
        return started[-1].start()

    yield serve
    for server in started:
        server.kill()


def participant(number: int) -> str:
    """An id as a page draws it, the same for the same number."""
    return np.random.default_rng([number, 32]).bytes(16).hex()


def sent(design: Design, participant_id: str, trial_id: str, /, **changed: Any) -> dict[str, Any]:
    """What a page sends for a trial where the first image was chosen."""
    screen = design.screen_of(participant_id, design.by_id[trial_id])
    assert screen is not None
    options = [option.option_id for option in screen]
    return {
        "design": design.hash,
        "participant": participant_id,
        "trial": trial_id,
        "options": options,
        "chosen": options[0],
        "response_ms": 4200,
        "language": "en",
        "answered_at": "2026-11-23T10:00:00.123Z",
        **changed,
    }


def trials_of(design: Design, participant_id: str) -> list[str]:
    """The trials and attention checks that a participant answers."""
    checks = [trial.trial_id for trial in design.of_kind("check")]
    return [trial_id for trial_id, _ in design.forms[design.form_of(participant_id)]] + checks
