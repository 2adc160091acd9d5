"""The embedding stage: media items in, a frame of embeddings out.

Belongs here: which items need encoding, batches, items that fail, out-of-memory errors, progress,
and the journal of an unfinished run. Reading media is the encoder's preparation (`preparation.py`
runs it); this module knows neither the store nor Dagster.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.encoders.interface import Encoder, EncoderOutOfMemoryError, Float32Array, MediaItem, Prepared
from emid_assets.encoders.journal import Journal
from emid_assets.encoders.preparation import prepare_all
from emid_assets.encoders.recordings import ItemReader, by_recording, shared_recordings
from emid_assets.media.identity import is_passing
from emid_assets.media.kinds import MediaKind
from emid_assets.store.schemas import IMAGE_EMBEDDINGS, MUSIC_EMBEDDINGS, REJECTED_MEDIA

_LOG = logging.getLogger(__name__)


EncodedBatch = tuple[list[str], Float32Array]
"""Content hashes and the rows that the encoder returned for them."""

Encode = Callable[[Sequence[MediaItem], dict[str, str]], Iterator[EncodedBatch]]
"""Takes items and a dictionary; the dictionary receives, by content hash, why an item has no row."""

IN_PROCESS_BELOW = 32
"""Fewer items than this are prepared in the run's own process: starting workers would take longer."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run, in contents that need encoding; failed ones count as done."""

    done: int
    total: int
    per_second: float
    seconds_left: float

    def __str__(self) -> str:
        return f"{self.done}/{self.total}, {self.per_second:.1f} per second, {self.seconds_left:.0f} s left"


@dataclass(frozen=True)
class Earlier:
    """Results of earlier runs.

    Attributes:
        frame: rows by `content_hash`, with `embedding` and `scale`: the stored version, or those of several;
            or None.
        fingerprint: of the encoder that made them.
        journal: folder that keeps encoded rows until the caller has stored the result; a run that
            finds rows there resumes from them. The next run that finds its rows in `frame` empties it.
            None disables the journal.
    """

    frame: pl.DataFrame | None = None
    fingerprint: str | None = None
    journal: Path | None = None


NOTHING_EARLIER = Earlier()


@dataclass(frozen=True)
class Embedded:
    """The outcome for all items.

    Attributes:
        frame: a row for each item that has an embedding, in the items' order; columns of
            `MUSIC_EMBEDDINGS` or `IMAGE_EMBEDDINGS`.
        rejected: a row for each item that has none, with its reason; columns of `REJECTED_MEDIA`.
        encoded: contents encoded in this run (equal contents once).
        reused: items whose row already existed, in an earlier version or in the journal.
    """

    frame: pl.DataFrame
    rejected: pl.DataFrame
    encoded: int
    reused: int

    @property
    def changed(self) -> int:
        """Items that were rejected because their files had changed or could not be read: see `is_passing`."""
        return sum(map(is_passing, self.rejected["reason"]))


def embed(
    items: Sequence[MediaItem],
    encoder: Encoder,
    kind: MediaKind,
    earlier: Earlier = NOTHING_EARLIER,
    *,
    batch_size: int = 32,
    workers: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
    encode: Encode | None = None,
) -> Embedded:
    """Embed items, encoding only contents that have no row yet.

    An earlier row is kept, bit for bit, if an item has its content hash and an encoder with the same
    fingerprint made it. A file that no longer has the item's hash is rejected, and nothing is stored for it.

    Args:
        items: what to embed.
        encoder: see `encoders.interface`.
        kind: what the items are.
        earlier: results of earlier runs.
        batch_size: items per encoder call; halved for the rest of the run when memory runs out.
        workers: processes that prepare ahead of the encoder; with 0, and for small jobs, items are
            prepared in this process.
        on_progress: called after each batch and at the end.
        encode: encodes the items that have no row yet, in any order. None runs `encode_items` in this
            process; `ray_actors.on_actors` returns one that sends them to the actors of a Ray cluster.

    Raises:
        EncoderOutOfMemoryError: a single item does not fit; the message names it.
        WorkerDiedError, PreparationCrashError: see `preparation.py`.
    """
    contents: dict[str, MediaItem] = {}
    for item in items:
        contents.setdefault(item.content_hash, item)
    table = _Table(list(contents), encoder.dimension)
    previous = earlier.frame
    if previous is not None and previous.height and earlier.fingerprint == encoder.fingerprint:
        embeddings, scales = previous["embedding"].to_numpy(), previous["scale"].to_numpy()
        table.fill(previous["content_hash"].to_list(), embeddings, scales)
    log = Journal(earlier.journal, encoder.fingerprint, kind) if earlier.journal is not None else None
    if log is not None:
        needed = frozenset(content_hash for content_hash in contents if not table.has(content_hash))
        table.fill(*log.read(encoder.dimension, needed))
    reused = sum(table.has(item.content_hash) for item in items)

    todo = [item for content_hash, item in contents.items() if not table.has(content_hash)]
    if kind == "music" and shared_recordings(todo):
        todo = by_recording(todo)
    if encode is None:
        encode = partial(encode_items, encoder, kind, batch_size=batch_size, workers=workers)
    reasons: dict[str, str] = {}
    encoded, start = 0, time.monotonic()

    def report(done: int) -> None:
        if on_progress is not None and done:
            rate = done / max(time.monotonic() - start, 1e-9)
            on_progress(Progress(done, len(todo), rate, (len(todo) - done) / rate))

    for hashes, raw in encode(todo, reasons):
        encoded += len(hashes)
        embeddings, scales, usable = unit_rows(raw)
        for index in np.flatnonzero(~usable):
            reasons[hashes[index]] = "the encoder's embedding is zero or not finite"
        good = [hashes[index] for index in np.flatnonzero(usable)]
        table.fill(good, embeddings[usable], scales[usable])
        if log is not None:
            log.add(good, embeddings[usable], scales[usable])
        report(encoded + len(reasons))
    if log is not None:
        log.write()
    report(encoded + len(reasons))

    kept = [item for item in items if table.has(item.content_hash)]
    rejected = [item for item in items if not table.has(item.content_hash)]
    return Embedded(
        frame=table.frame(kept, kind),
        rejected=pl.DataFrame(
            [
                (kind, item.item_id, item.file or str(item.path), reasons[item.content_hash])
                for item in rejected
            ],
            schema=REJECTED_MEDIA.empty().schema,
            orient="row",
        ),
        encoded=encoded,
        reused=reused,
    )


def encode_items(
    encoder: Encoder,
    kind: MediaKind,
    items: Sequence[MediaItem],
    reasons: dict[str, str],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[EncodedBatch]:
    """Prepare and encode items in this process, with workers that prepare ahead.

    Args:
        encoder: as in `embed`.
        kind: as in `embed`.
        items: one for each content, clips of one file side by side so that the file is decoded once.
        reasons: receives, by content hash, why an item has no row.
        batch_size: as in `embed`.
        workers: as in `embed`.

    Yields:
        content hashes and the encoder's rows, batch by batch.
    """
    prepare = encoder.prepare_music if kind == "music" else encoder.prepare_image
    encode = encoder.encode_music if kind == "music" else encoder.encode_images
    shared = shared_recordings(items) if kind == "music" else frozenset()
    reader = ItemReader(prepare, encoder.music_input if shared else None, shared)
    processes = workers if len(items) >= IN_PROCESS_BELOW else 0
    prepared = prepare_all(reader, items, processes, ahead=batch_size + 2 * processes)
    yield from _encode_batches(prepared, encode, batch_size, reasons)


def unit_rows(raw: Float32Array) -> tuple[Float32Array, Float32Array, NDArray[np.bool_]]:
    """Split rows into direction and length.

    Args:
        raw: (n, d) as an encoder returns them.

    Returns:
        unit rows (n, d), their norms (n,), and whether a row is usable (n,): a row that is zero or
        has a non-finite number is not.
    """
    norms = np.linalg.norm(raw.astype(np.float64), axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    units = raw / np.where(usable, norms, 1.0)[:, None]
    return units.astype(np.float32), norms.astype(np.float32), usable


def _encode_batches(
    prepared: Iterator[tuple[MediaItem, Prepared | str]],
    encode: Callable[[Sequence[Prepared]], Float32Array],
    batch_size: int,
    reasons: dict[str, str],
) -> Iterator[EncodedBatch]:
    """Yield content hashes and raw rows, batch by batch; write why an item failed into `reasons`.

    The first batches are small, so that the device does not wait for the first full one.
    """
    waiting: list[tuple[MediaItem, Prepared]] = []
    ended, size = False, 1
    while not ended or waiting:
        while len(waiting) < size and not ended:
            item, result = next(prepared, (None, ""))
            if item is None:
                ended = True
            elif isinstance(result, str):
                reasons[item.content_hash] = result
            else:
                waiting.append((item, result))
        batch = waiting[:size]
        if not batch:
            return
        try:
            rows = encode([array for _, array in batch])
        except EncoderOutOfMemoryError as error:
            if len(batch) == 1:
                item = batch[0][0]
                raise EncoderOutOfMemoryError(
                    f"not even one item fits into the encoder's memory: {item.item_id} ({item.path}): {error}"
                ) from error
            size = batch_size = len(batch) // 2
            _LOG.warning("out of memory (%s): continuing with batches of %d", error, batch_size)
            continue
        del waiting[: len(batch)]
        size = min(2 * size, batch_size)
        yield [item.content_hash for item, _ in batch], rows


class _Table:
    """Embedding and scale of each content, filled from several sources; the first value is kept."""

    def __init__(self, hashes: list[str], dimension: int) -> None:
        self._row = {content_hash: row for row, content_hash in enumerate(hashes)}
        self._embeddings = np.zeros((len(hashes), dimension), dtype=np.float32)
        self._scales = np.zeros(len(hashes), dtype=np.float32)
        self._filled = np.zeros(len(hashes), dtype=bool)

    def has(self, content_hash: str) -> bool:
        return bool(self._filled[self._row[content_hash]])

    def fill(self, hashes: list[str], embeddings: Float32Array, scales: Float32Array) -> None:
        for content_hash, embedding, scale in zip(hashes, embeddings, scales, strict=True):
            row = self._row.get(content_hash)
            if row is not None and not self._filled[row]:
                self._embeddings[row], self._scales[row], self._filled[row] = embedding, scale, True

    def frame(self, items: list[MediaItem], kind: MediaKind) -> pl.DataFrame:
        rows = [self._row[item.content_hash] for item in items]
        schema = MUSIC_EMBEDDINGS if kind == "music" else IMAGE_EMBEDDINGS
        dimension = self._embeddings.shape[1]
        values = (
            [item.item_id for item in items],
            [item.content_hash for item in items],
            self._embeddings[rows],
            self._scales[rows],
        )
        columns = schema.empty(dimension).schema
        return pl.DataFrame(dict(zip(columns, values, strict=True)), schema=columns)
