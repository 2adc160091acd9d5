"""Hashes and decodes the files of an inventory, but only those that have changed.

Belongs here: adding facts about the contents to the items that have not been rejected yet; facts of unchanged
files come from the last inventory. `audio` and `image` read the individual file.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emid_assets.media.audio import AudioFacts, probe_audio
from emid_assets.media.identity import CANNOT_BE_READ, stamp_of
from emid_assets.media.image import probe_image
from emid_assets.media.limits import MediaError, MediaLimits, MissingExtraError
from emid_assets.store.files import sha256_of
from emid_assets.store.schemas import MEDIA_INVENTORY

CHANGING = "changed while the inventory read it: the next build reads it again"

_FACTS = {
    "content_hash": pl.String,
    "clip_s": pl.Float64,
    "sample_rate": pl.Int32,
    "channels": pl.Int32,
    "width": pl.Int32,
    "height": pl.Int32,
    "note": pl.String,
    "content_problem": pl.String,
}


_NO_FACTS = (None,) * (len(_FACTS) - 1)
"""Everything but the problem."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file to examine, as it was found, and its windows that are items: (window, start_s, duration_s)."""

    kind: str
    file: str
    size_bytes: int
    modified_ns: int
    windows: tuple[tuple[str, float, float | None], ...]


def with_facts(
    items: pl.DataFrame,
    root: Path,
    previous: pl.DataFrame | None,
    limits: MediaLimits,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> pl.DataFrame:
    """Add facts about the contents: from `previous` if the file has not changed, otherwise from the file."""
    identity = ["kind", "file", "size_bytes", "modified_ns", "window"]
    known = _known_facts(previous, identity)
    wanted = (
        items.filter(pl.col("reason").is_null())
        .select(*identity, "start_s", "duration_s")
        .unique(identity, maintain_order=True)
    )
    unknown = wanted.join(known, on=identity, how="anti", maintain_order="left")
    files = [
        _File(kind, file, size, modified, tuple(zip(windows, starts, durations, strict=True)))
        for kind, file, size, modified, windows, starts, durations in unknown.group_by(
            identity[:-1], maintain_order=True
        )
        .agg("window", "start_s", "duration_s")
        .iter_rows()
    ]
    examined = pl.DataFrame(
        [row for rows in _examine_all(files, root, limits, workers, on_progress) for row in rows],
        schema={"kind": pl.String, "file": pl.String, "window": pl.String, **_FACTS},
        orient="row",
    )
    examined = unknown.select(identity).join(examined, on=["kind", "file", "window"], how="left")
    facts = pl.concat([known, examined.select(known.columns)])
    items = items.join(facts, on=identity, how="left", maintain_order="left")
    return items.with_columns(reason=pl.coalesce("reason", "content_problem"))


def _known_facts(previous: pl.DataFrame | None, identity: list[str]) -> pl.DataFrame:
    if previous is None:
        previous = MEDIA_INVENTORY.empty()
    decoded = pl.col("sample_rate").is_not_null() | pl.col("width").is_not_null()
    return (
        previous.filter(pl.col("content_hash").is_not_null())
        .with_columns(
            window=pl.col("content_hash").str.slice(64),
            clip_s=pl.col("duration_s"),
            content_problem=pl.when(~decoded).then("reason"),
        )
        .select(*identity, *_FACTS)
        .unique(identity, keep="first", maintain_order=True)
    )


def _examine_all(
    files: list[_File],
    root: Path,
    limits: MediaLimits,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[list[tuple[object, ...]]]:
    def examine(file: _File) -> list[tuple[object, ...]]:
        path = root / file.file
        rows = list(_examine(file, path, limits))
        if stamp_of(path) in (None, (file.size_bytes, file.modified_ns)):
            return rows
        # Without a hash, the next inventory examines the file again, even if it then is as it was found.
        return [(*row[:3], *_NO_FACTS, CHANGING) for row in rows]

    def counted(results: Iterable[list[tuple[object, ...]]]) -> Iterator[list[tuple[object, ...]]]:
        for done, rows in enumerate(results, start=1):
            if on_progress is not None:
                on_progress(done, len(files))
            yield rows

    if workers == 0:
        yield from counted(map(examine, files))
        return
    # Threads, not processes: the decoders and the hash release the GIL.
    with ThreadPoolExecutor(workers, thread_name_prefix="inventory") as pool:
        yield from counted(pool.map(examine, files))


def _examine(file: _File, path: Path, limits: MediaLimits) -> Iterator[tuple[object, ...]]:
    """Rows of (kind, file, window, the facts); the hash is null only if the file cannot be read yet."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        problem = f"{CANNOT_BE_READ}: {error.strerror or error}"
        for window, _, _ in file.windows:
            yield file.kind, file.file, window, *_NO_FACTS, problem
        return
    for window, start_s, duration_s in file.windows:
        identity = (file.kind, file.file, window, digest + window)
        try:
            if file.kind == "music":
                audio = probe_audio(path, start_s, duration_s, limits)
                facts = audio.duration_s, audio.sample_rate, audio.channels, None, None, _note(audio)
                yield *identity, *facts, None
            else:
                image = probe_image(path, limits)
                yield *identity, None, None, None, image.width, image.height, None, None
        except MissingExtraError as error:  # without a hash, the file is examined again next time
            yield file.kind, file.file, window, *_NO_FACTS, error.reason
        except MediaError as error:
            yield *identity, *_NO_FACTS[1:], error.reason


def _note(audio: AudioFacts) -> str | None:
    """What is special about a clip that can be used; None if nothing is."""
    silent = audio.silent_channels
    if not silent:
        return None
    return f"{silent} of its {audio.channels} channels {'is' if silent == 1 else 'are'} silent and left out"
