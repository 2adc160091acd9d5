"""Compares what a lake stores about media with the files: their hashes, and their embeddings encoded again.

Belongs here: finding rows that are stored under a wrong hash, such as those of a file that was replaced
between its inventory and its encoding and put back later. Nothing here writes to the lake.
"""

import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.encoders.embed import Progress, embed
from emid_assets.encoders.interface import Encoder, MediaItem
from emid_assets.media.folder import path_within
from emid_assets.media.identity import file_hash_of, stamp_of
from emid_assets.media.kinds import MediaKind
from emid_assets.media.limits import MediaError
from emid_assets.store.files import sha256_of
from emid_assets.store.lake import Lake
from emid_assets.store.layout import JOURNAL_FOLDER, TABLES_FOLDER

LISTED = ("media_inventory", "music_clips", "images", "expansion_windows")
"""Tables whose rows have a file and its content hash."""

EMBEDDED: Mapping[str, tuple[str, MediaKind]] = {
    "music_embeddings": ("music_clips", "music"),
    "image_embeddings": ("images", "image"),
    "expansion_windows": ("expansion_windows", "music"),
}
"""Table of embeddings → the table with the files of its items, and what they are."""

FAR = 0.03
"""Length of the difference from the stored vector, relative to it, beyond which an embedding is of something
else. An encoder gives the same vector again, up to the rounding of other hardware. (A choice.)"""

FINDING = dict.fromkeys(("table", "partition", "file", "problem", "cure"), pl.String())

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileCheck:
    """The files of a lake's tables.

    Attributes:
        findings: FINDING of each file and partition whose hash is not that of the file.
        good: files below the media folder that have the hash of every row.
        files: how many were read.
    """

    findings: pl.DataFrame
    good: frozenset[str]
    files: int


def check_files(lake: Lake, media: Path, workers: int, on_progress: OnProgress) -> FileCheck:
    """Hash every file that the lake's tables list, and compare with what they say.

    Raises:
        LakeError: a table cannot be read.
    """
    listed = [
        lake.read(table, [partition], ["file", "content_hash"])
        .unique(maintain_order=True)
        .with_columns(table=pl.lit(table), partition=pl.lit(partition))
        for table in LISTED
        for partition in lake.partitions(table)
    ]
    rows = [
        (table, partition, file, known)
        for frame in listed
        for file, content_hash, table, partition in frame.iter_rows()
        if (known := file_hash_of(content_hash or "")) is not None
    ]
    files = list(dict.fromkeys(file for _, _, file, _ in rows))
    found: dict[str, str] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (file, digest) in enumerate(
            zip(files, pool.map(lambda file: _hash_or_problem(media, file), files), strict=True), start=1
        ):
            found[file] = digest
            on_progress(done, len(files))
    stamps: dict[str, tuple[int | None, int | None]] = {}
    if lake.partitions("media_inventory"):
        inventory = lake.read("media_inventory", columns=["file", "size_bytes", "modified_ns"])
        stamps = {file: (size, modified) for file, size, modified in inventory.iter_rows()}
    findings = dict.fromkeys(
        (
            table,
            partition,
            file,
            found[file] if " " in found[file] else "its bytes have another hash than the row",
            # The next inventory would not read a file that has the size and time of the last one.
            f"touch {shlex.quote(str(media / file))}, then run emid build"
            if stamps.get(file) == stamp_of(media / file)
            else "run emid build",
        )
        for table, partition, file, known in rows
        if found[file] != known
    )
    wrong = {file for _, _, file, _, _ in findings}
    return FileCheck(
        pl.DataFrame(list(findings), schema=FINDING, orient="row"),
        frozenset(file for file in files if file not in wrong),
        len(files),
    )


def _hash_or_problem(media: Path, file: str) -> str:
    try:
        return sha256_of(path_within(media, file))
    except MediaError as error:
        return f"the file {error.reason}"
    except OSError as error:
        return f"the file cannot be read: {error.strerror or error}"


@dataclass(frozen=True)
class EmbeddingCheck:
    """The embeddings of a lake.

    Attributes:
        findings: FINDING of each embedding that is not that of its file.
        embeddings: how many were encoded again.
        others: how many were not, because another encoder made them.
    """

    findings: pl.DataFrame
    embeddings: int
    others: int


def check_embeddings(
    lake: Lake,
    media: Path,
    encoder: Encoder,
    good: frozenset[str],
    workers: int,
    on_progress: OnProgress,
) -> EmbeddingCheck:
    """Encode every embedded item again whose file is `good`, and compare with the stored vector.

    Raises:
        LakeError: a table cannot be read.
        EncoderOutOfMemoryError, WorkerDiedError, PreparationCrashError: as `embed`.
    """
    versions = [version for table in EMBEDDED for version in lake.versions(table)]
    same = [version for version in versions if version.metadata.get("fingerprint") == encoder.fingerprint]
    stored = [_stored(lake, version.table, version.partition, good) for version in same]
    total, done = sum(rows.height for rows in stored), 0
    findings = []
    for version, rows in zip(same, stored, strict=True):
        kind = EMBEDDED[version.table][1]
        items = [
            MediaItem(content_hash, media / file, content_hash, start_s, duration_s, file)
            for content_hash, file, start_s, duration_s in rows.select(
                "content_hash", "file", "start_s", "duration_s"
            ).iter_rows()
        ]

        def on_batch(progress: Progress, before: int = done) -> None:
            on_progress(before + progress.done, total)

        again = embed(items, encoder, kind, workers=workers, on_progress=on_batch)
        problems = {
            file: f"cannot be encoded: {reason}"
            for file, reason in again.rejected.select("file", "reason").iter_rows()
        }
        both = rows.join(
            again.frame.select("content_hash", pl.col("embedding", "scale").name.suffix("_now")),
            on="content_hash",
        )
        is_far = _distances(both) > FAR
        problems |= dict.fromkeys(
            both.filter(pl.Series(is_far))["file"], "its embedding is that of other content"
        )
        place = f"{version.table}/{version.partition}"
        folders = shlex.join(str(lake.root / part / place) for part in (TABLES_FOLDER, JOURNAL_FOLDER))
        findings += [
            (version.table, version.partition, file, problem, f"rm -r {folders}, then run emid build --all")
            for file, problem in problems.items()
        ]
        done += rows.height
    others = sum(version.rows for version in versions) - sum(version.rows for version in same)
    return EmbeddingCheck(pl.DataFrame(findings, schema=FINDING, orient="row"), total, others)


def _stored(lake: Lake, table: str, partition: str, good: frozenset[str]) -> pl.DataFrame:
    """Content hash, embedding, scale and file of the rows whose file is good, each content once."""
    source, kind = EMBEDDED[table]
    place = ["content_hash", "file", *(["start_s", "duration_s"] if kind == "music" else [])]
    vectors = ["content_hash", "embedding", "scale"]
    if source == table:
        rows = lake.read(table, [partition], [*place, *vectors[1:]])
    else:
        rows = lake.read(table, [partition], vectors).join(
            lake.read(source, columns=place), on="content_hash", maintain_order="left"
        )
    if kind == "image":
        rows = rows.with_columns(start_s=0.0, duration_s=None)
    return rows.filter(pl.col("file").is_in(good)).unique("content_hash", maintain_order=True)


def _distances(both: pl.DataFrame) -> NDArray[np.float64]:
    """How far the vectors (embedding × scale) made now are from the stored ones, relative to their length."""
    if both.is_empty():
        return np.empty(0)
    stored, now = (
        both[f"embedding{end}"].to_numpy().astype(np.float64) * both[f"scale{end}"].to_numpy()[:, None]
        for end in ("", "_now")
    )
    distances: NDArray[np.float64] = np.linalg.norm(now - stored, axis=1) / np.linalg.norm(stored, axis=1)
    return distances
