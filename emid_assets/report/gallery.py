"""Small copies of media that are embedded in a page (thumbnails, short players), and their credits.

Belongs here: reading a clip or an image of the gallery and encoding it as a `data:` URI, once for each
content. Which clips are shown is `tables.gallery_clips`, how they look is the page's template.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile
from PIL import Image

from emid_assets.media.audio import read_audio, resample
from emid_assets.media.folder import path_within
from emid_assets.media.hearing import sounding
from emid_assets.media.identity import unchanged
from emid_assets.media.image import read_rgb
from emid_assets.media.licences import spdx_of
from emid_assets.media.limits import MediaError
from emid_assets.store.files import make_folder, sha256_of, write_in_place

_MP3, _JPEG = "audio/mpeg", "image/jpeg"
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


_FORM = "1"
"""Of the copies: another one makes the kept ones useless."""


class Copies:
    """Copies of a media folder's files for pages, kept by content: a new page encodes only what is new.

    Args:
        media: the media folder.
        folder: where they are kept; nowhere if None.
    """

    def __init__(self, media: Path, folder: Path | None = None) -> None:
        self.media, self.folder = media, folder
        self._used: set[str] = set()
        self._hashes: dict[str, str] = {}

    def player(self, file: str, start_s: float, duration_s: float) -> Copy:
        """As the function `player`."""
        make = partial(player, self.media, file, start_s, duration_s)
        return self._kept(file, f"{start_s} {duration_s} {PLAYER_SECONDS}", _MP3, make)

    def thumbnail(self, file: str) -> Copy:
        """As the function `thumbnail`."""
        return self._kept(file, f"{THUMBNAIL_SIDE}", _JPEG, partial(thumbnail, self.media, file))

    def collect_garbage(self) -> None:
        """Delete the kept copies that were not asked for since this was made."""
        if self.folder is not None and self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in self._used:
                    path.unlink()

    def _kept(self, file: str, how: str, kind: str, make: Callable[[], Copy]) -> Copy:
        path = self.media / file
        if self.folder is None or not path.is_file():
            return make()
        if file not in self._hashes:
            self._hashes[file] = sha256_of(path)
        key = hashlib.sha256(f"{_FORM} {self._hashes[file]} {how} {kind}".encode()).hexdigest()
        kept = self.folder / f"{key[:40]}.{kind.rpartition('/')[2]}"
        if kept.is_file():
            copy = Copy(_data_uri(kind, kept.read_bytes()))
        else:
            try:
                with unchanged(path, self._hashes[file]):
                    copy = make()
            except MediaError as error:
                return Copy("", f"{file}: {error.reason}")
            if copy.uri:
                make_folder(self.folder)
                write_in_place(kept, copy.content)
        self._used.add(kept.name)
        return copy


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
    return Copy(_data_uri(_MP3, target.getvalue()))


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
    return Copy(_data_uri(_JPEG, _jpeg(square, 72)))


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
    return Copy(_data_uri(_JPEG, _jpeg(image, 80)))


def attributions(frame: pl.DataFrame, id_column: str, shown: Collection[str]) -> list[dict[str, Any]]:
    """Credits of the rows of MUSIC_CLIPS or IMAGES that are shown: author, licence and their files."""
    return (
        frame.filter(pl.col(id_column).is_in(sorted(shown)))
        .with_columns(pl.col("licence").map_elements(spdx_of, return_dtype=pl.String))
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
