"""The media of a release: whole files linked or copied, windows of longer files cut into separate files.

Belongs here: files, their names and their sums. What the tables say of them is `emid_format`'s.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import soundfile

from emid_assets.media.audio import Samples, read_audio
from emid_assets.media.decoder_messages import unheard
from emid_assets.media.folder import path_within
from emid_assets.media.identity import file_hash_of, stamp_of
from emid_assets.media.limits import MediaError
from emid_assets.store.files import sha256_of

WINDOW_MARK = "#t="
"""Part of the content hash of a clip that is a window of its file."""

SPAN_S = 600.0
"""Seconds of a recording that are decoded at once, to cut all windows in them."""

_DEEP = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")


class ReleaseError(RuntimeError):
    """A release cannot be written; the message names the file and what to do."""


@dataclass(frozen=True)
class FoundMedia:
    """A media folder, and how its inventory found the files: path below it → size, modification time in ns.

    A file that is still as it was found has the inventory's hash and is not read; any other is hashed again.
    """

    folder: Path
    stamps: Mapping[str, tuple[int, int]]

    @classmethod
    def of_inventory(cls, folder: Path, inventory: pl.DataFrame) -> "FoundMedia":
        """From MEDIA_INVENTORY."""
        usable = inventory.filter(pl.col("reason").is_null())
        rows = usable.select("file", "size_bytes", "modified_ns").unique("file").iter_rows()
        return cls(folder, {file: (size, modified) for file, size, modified in rows})


@dataclass(frozen=True)
class Placed:
    """A file of the release: its path below it, its sha256 and size."""

    file: str
    sha256: str
    size_bytes: int


def place_images(images: pl.DataFrame, media: FoundMedia, target: Path) -> dict[str, Placed]:
    """Image id → its file in the release, at the path that it has in the media folder.

    Raises:
        ReleaseError: a file is gone, or is no longer what the manifest says.
    """
    return {
        row["image_id"]: _place_whole(row["file"], row["content_hash"], media, target)
        for row in images.select("image_id", "file", "content_hash").iter_rows(named=True)
    }


def place_clips(clips: pl.DataFrame, media: FoundMedia, target: Path) -> dict[str, Placed]:
    """Clip id → its file in the release.

    A clip that is a whole file stays at its path; windows become FLAC beside it, with where they
    start and how long they are in their names (`song@12.5+5.0.flac`).

    Raises:
        ReleaseError: a file is gone, or is no longer what the manifest says.
    """
    is_window = pl.col("content_hash").str.contains(WINDOW_MARK, literal=True)
    columns = ["clip_id", "file", "content_hash", "start_s", "duration_s"]
    rows = clips.select(columns)
    placed = {
        row["clip_id"]: _place_whole(row["file"], row["content_hash"], media, target)
        for row in rows.filter(~is_window).iter_rows(named=True)
    }
    taken = {one.file for one in placed.values()}
    for (file,), windows in rows.filter(is_window).group_by("file", maintain_order=True):
        _check_unchanged(str(file), windows["content_hash"][0], media)
        for row, samples, rate, subtype in _cut(media.folder / str(file), windows.sort("start_s", "clip_id")):
            name = _window_name(str(file), row, taken)
            taken.add(name)
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, _as_integers(samples, subtype).T, rate, format="FLAC", subtype=subtype)
            placed[row["clip_id"]] = Placed(name, sha256_of(path), path.stat().st_size)
    return placed


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link to a file if the file system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another file system, or one without hard links
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)


def _place_whole(file: str, content_hash: str, media: FoundMedia, target: Path) -> Placed:
    digest = _check_unchanged(file, content_hash, media)
    path = target / file
    if not path.exists():  # two clips may share a file, for example if a table lists one of them
        link_or_copy(media.folder / file, path)
    return Placed(file, digest, path.stat().st_size)


def _check_unchanged(file: str, content_hash: str, media: FoundMedia) -> str:
    """The sha256 of a file; raises if it is not the one of the content hash."""
    path = media.folder / file
    try:
        within = path_within(media.folder, file)
        is_as_found = file in media.stamps and stamp_of(within) == media.stamps[file]
        digest = (file_hash_of(content_hash) if is_as_found else None) or sha256_of(within)
    except MediaError as error:
        raise ReleaseError(f"{path} {error.reason}: put the file itself there") from None
    except OSError as error:
        raise ReleaseError(
            f"{path} cannot be read ({error.strerror}): restore it, or run the whole build again"
        ) from None
    if not content_hash.startswith(digest):
        raise ReleaseError(f"{path} has changed since the inventory was taken: build again from the start")
    return digest


def _as_integers(samples: Samples, subtype: str) -> npt.NDArray[np.int32]:
    """Samples rounded to those of the subtype; libsndfile would scale floats by 32767, but reads by 32768."""
    bits = int(subtype.removeprefix("PCM_"))
    full = 2.0 ** (bits - 1)
    rounded = np.rint(samples.astype(np.float64) * full).clip(-full, full - 1)
    return rounded.astype(np.int32) << (32 - bits)


def _window_name(file: str, row: Mapping[str, Any], taken: set[str]) -> str:
    stem = PurePosixPath(file).with_suffix("")
    name = f"{stem}@{row['start_s']}+{row['duration_s']:.3f}"
    while f"{name}.flac" in taken:
        name += "_"
    return f"{name}.flac"


def _cut(path: Path, windows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], Samples, int, str]]:
    """Each window with its samples, rate and subtype; what lies close together is decoded once."""
    subtype = "PCM_16"
    with unheard(), contextlib.suppress(soundfile.LibsndfileError):  # m4a, which PyAV reads
        subtype = "PCM_24" if soundfile.info(path).subtype in _DEEP else subtype
    waiting: list[dict[str, Any]] = []
    for row in [*windows.iter_rows(named=True), None]:
        if waiting and (row is None or row["start_s"] + row["duration_s"] > waiting[0]["start_s"] + SPAN_S):
            start = waiting[0]["start_s"]
            end = max(one["start_s"] + one["duration_s"] for one in waiting)
            samples, rate = read_audio(path, start, end - start)
            first = round(start * rate)
            for one in waiting:
                begin = round(one["start_s"] * rate) - first
                stop = round((one["start_s"] + one["duration_s"]) * rate) - first
                yield one, samples[:, begin:stop], rate, subtype
            waiting = []
        if row is not None:
            waiting.append(row)
