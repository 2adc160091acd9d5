"""Small copies of media that are embedded in a page (thumbnails, short players), and their credits.

Belongs here: reading a clip or an image of the gallery and encoding it as a `data:` URI. Which
clips are shown is `tables.gallery_clips`, how they look is the page's template.
"""

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile
from PIL import Image

from emid_assets.media.audio import read_audio, resample
from emid_assets.media.folder import path_within
from emid_assets.media.hearing import sounding
from emid_assets.media.image import read_rgb
from emid_assets.media.limits import MediaError

PLAYER_SECONDS = 8.0
PLAYER_RATE = 24_000
THUMBNAIL_SIDE = 256
"""Pixels; shown at about 160, so that dense screens stay sharp."""
PICTURE_SIDE = 640
"""Pixels of a whole image's long side, for a closer look."""


@dataclass(frozen=True)
class Copy:
    """A medium inside the page.

    Attributes:
        uri: `data:` URI; empty where the file could not be read.
        problem: why it could not be read; empty where it could.
    """

    uri: str
    problem: str = ""

    @property
    def content(self) -> bytes:
        """The medium's bytes."""
        return base64.b64decode(self.uri.partition(",")[2])


def player(
    media: Path, file: str, start_s: float, duration_s: float, seconds: float = PLAYER_SECONDS
) -> Copy:
    """The first seconds of a clip as a mono MP3 of 40 kbit/s (5 kB for each second).

    MP3, not Ogg: every browser plays it, and its bytes are the same each time, where an Ogg
    stream carries a random serial number.

    Args:
        media: the media folder.
        file: path below it.
        start_s: where the clip starts in the file, seconds.
        duration_s: length of the clip, seconds.
        seconds: the most of them that are kept.
    """
    if not (media / file).is_file():
        return Copy("", f"{file} is no longer in the media folder")
    try:
        path = path_within(media, file)
        samples, rate = read_audio(path, start_s, min(duration_s, seconds))
    except MediaError as error:
        return Copy("", f"{file}: {error.reason}")
    mono = resample(sounding(samples).mean(axis=0, keepdims=True), rate, PLAYER_RATE)[0]
    loudest = float(np.abs(mono).max(initial=0.0))
    if loudest > 1.0:
        mono = mono / loudest
    target = io.BytesIO()
    soundfile.write(
        target,
        mono,
        PLAYER_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=0.8,
    )
    return Copy(_data_uri("audio/mpeg", target.getvalue()))


def thumbnail(media: Path, file: str, most: int = THUMBNAIL_SIDE) -> Copy:
    """An image's centre as a square JPEG without metadata: the part that encoders see.

    Args:
        media: the media folder.
        file: path below it.
        most: largest side in pixels.
    """
    if not (media / file).is_file():
        return Copy("", f"{file} is no longer in the media folder")
    try:
        image = read_rgb(path_within(media, file))
    except MediaError as error:
        return Copy("", f"{file}: {error.reason}")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    size = min(side, most)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return Copy(_data_uri("image/jpeg", _jpeg(square, 72)))


def picture(media: Path, file: str) -> Copy:
    """A whole image as a JPEG without metadata, its long side at most 640 pixels.

    Args:
        media: the media folder.
        file: path below it.
    """
    if not (media / file).is_file():
        return Copy("", f"{file} is no longer in the media folder")
    try:
        image = read_rgb(path_within(media, file))
    except MediaError as error:
        return Copy("", f"{file}: {error.reason}")
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)
    return Copy(_data_uri("image/jpeg", _jpeg(image, 80)))


def attributions(frame: pl.DataFrame, id_column: str, shown: Collection[str]) -> list[dict[str, Any]]:
    """Credits of the rows of MUSIC_CLIPS or IMAGES that are shown: author, licence and their files."""
    return (
        frame.filter(pl.col(id_column).is_in(sorted(shown)))
        .group_by("author", "licence")
        .agg(pl.col("file").sort())
        .sort("author", "licence", nulls_last=True)
        .rows(named=True)
    )


def _jpeg(image: Image.Image, quality: int) -> bytes:
    target = io.BytesIO()
    image.save(target, format="JPEG", quality=quality, optimize=True)
    return target.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
