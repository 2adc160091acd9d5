"""Pictures in the web UI's metadata: which are shown, that they can be read, and that names stay text."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from emid_assets.report.previews import CLIPS, IMAGES, SIDE, images_preview, pairs_preview
from emid_assets.store.schemas import FUSED_PAIRS
from emid_assets.store.schemas import IMAGES as IMAGES_TABLE

HOSTILE = "a|b](javascript:x) <img src=x onerror=alert(1)>.png"


def image_rows(media: Path, names: list[str]) -> pl.DataFrame:
    """Images of the folder with an IMAGES row each."""
    (media / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (200, 100), (number * 20, 80, 160)).save(media / "images" / name)
    rows = {"image_id": names, "file": [f"images/{name}" for name in names], "tag": ["awe"] * len(names)}
    empty = IMAGES_TABLE.empty()
    missing = [pl.lit(None, empty.schema[name]).alias(name) for name in empty.columns if name not in rows]
    return pl.DataFrame(rows).with_columns(missing).select(empty.columns)


def pair(clip: str, image: str, rank: int, score: float) -> dict[str, Any]:
    numbers = dict.fromkeys(("semantic_similarity", "rescaled_similarity", "emotional_similarity"), 0.5)
    return {"clip_id": clip, "image_id": image, "rank": rank, **numbers, "fused_score": score}


def pictures(markdown: str) -> list[Image.Image]:
    found = re.findall(r"!\[[^\]]*\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_the_clips_with_the_best_pairs_are_shown_with_their_images_in_order(tmp_path: Path) -> None:
    images = image_rows(tmp_path, ["a.png", "b.png"])
    pairs = pl.DataFrame(
        [
            pair(f"clip {number}", image, rank, 0.1 * number + 0.01 * (2 - rank))
            for number in range(CLIPS + 1)
            for rank, image in ((1, "b.png"), (2, "a.png"))
        ],
        schema=FUSED_PAIRS.empty().schema,
    )
    markdown = pairs_preview(pairs, images, tmp_path)
    assert [line.split("|")[1].strip() for line in markdown.splitlines()[2:]] == [
        "clip 3",
        "clip 2",
        "clip 1",
    ]
    shown = pictures(markdown)
    assert len(shown) == 2 * CLIPS
    assert {picture.size for picture in shown} == {(SIDE, SIDE)}
    assert "T 0.310" in markdown.splitlines()[2].split("|")[2]
    assert len(markdown) < 60_000


def test_names_of_the_user_stay_text(tmp_path: Path) -> None:
    images = image_rows(tmp_path, [HOSTILE])
    pairs = pl.DataFrame([pair(HOSTILE, HOSTILE, 1, 0.5)], schema=FUSED_PAIRS.empty().schema)
    for markdown in (pairs_preview(pairs, images, tmp_path), images_preview(images, tmp_path)):
        assert "<img" not in markdown
        assert "](javascript" not in markdown
        assert len({line.count("|") for line in markdown.splitlines()}) == 1
        assert len(pictures(markdown)) == 1


def test_an_image_that_is_gone_stands_with_the_reason(tmp_path: Path) -> None:
    images = image_rows(tmp_path, ["a.png"])
    (tmp_path / "images" / "a.png").unlink()
    assert "no longer in the media folder" in images_preview(images, tmp_path)


def test_many_images_are_cut_short_and_none_is_said(tmp_path: Path) -> None:
    images = image_rows(tmp_path, [f"{number}.png" for number in range(IMAGES + 3)])
    assert len(pictures(images_preview(images, tmp_path))) == IMAGES
    assert images_preview(images.clear(), tmp_path) == "no images"
    assert pairs_preview(FUSED_PAIRS.empty(), images, tmp_path) == "no pairs"
