"""Encodes one partition on the actors of a Ray cluster, with Ray Data.

Belongs here: sending items to actors that hold the encoder, and collecting the rows. An actor runs
`embed.encode_items`, as a run without Ray does. Ray Data keeps only as many blocks in flight as the actors
and its object store have room for, restarts lost actors, and gives their items to others.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from emid_assets.encoders.embed import Encode, EncodedBatch, encode_items
from emid_assets.encoders.interface import Encoder, MediaItem
from emid_assets.media.kinds import MediaKind

if TYPE_CHECKING:
    from ray.data import Dataset

BATCHES_AT_ONCE = 4
"""Encoder batches per block that an actor takes: its workers prepare ahead within the block."""

CPUS = 0.9
"""CPUs that an actor requests: the runs that feed actors need the rest, a hundredth each."""

IN_FLIGHT = 2
"""Blocks queued at an actor, including the one it works on."""


class ActorsError(RuntimeError):
    """The actors cannot encode; the message says why and what to change."""


def on_actors(
    load: Callable[[], Encoder],
    fingerprint: str,
    kind: MediaKind,
    *,
    actors: int,
    gpus: float,
    batch_size: int,
    workers: int,
) -> Encode:
    """Return the `encode` argument of `embed` that spreads the work over actors.

    Args:
        load: returns the encoder; called once in each actor.
        fingerprint: of the encoder in this process; the actors' encoder must have the same.
        kind: as in `embed`.
        actors: number of actors; each holds the encoder in memory.
        gpus: GPUs that each actor requests from Ray.
        batch_size: as in `embed`.
        workers: processes per actor that prepare media.
    """

    def encode(items: Sequence[MediaItem], reasons: dict[str, str]) -> Iterator[EncodedBatch]:
        if not items:
            return
        with _Ray():
            from ray.data import ActorPoolStrategy, from_blocks
            from ray.exceptions import RayError

            at_once = BATCHES_AT_ONCE * batch_size
            pieces = [_table(items[start : start + at_once]) for start in range(0, len(items), at_once)]
            most = min(actors, len(pieces))
            # `from_arrow` would request a whole CPU, and the actors may already hold all of them.
            encoded: Dataset = from_blocks(pieces).map_batches(
                _Actor,
                fn_constructor_args=(load, fingerprint, kind, batch_size, workers),
                batch_size=at_once,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=IN_FLIGHT
                ),
                num_cpus=CPUS,
                num_gpus=gpus,
            )
            logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: Ray Data has just configured it
            try:
                for rows in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield _encoded(rows, reasons)
            except RayError as error:
                raise ActorsError(f"Ray stopped the actors: {str(error).strip()[:300]}") from error

    return encode


class _Actor:
    """Holds an encoder and encodes the blocks that it receives."""

    def __init__(
        self, load: Callable[[], Encoder], fingerprint: str, kind: MediaKind, batch_size: int, workers: int
    ) -> None:
        self._encoder, self._fingerprint = load(), fingerprint
        self._kind, self._batch_size, self._workers = kind, batch_size, workers

    def __call__(self, piece: pa.Table) -> pa.Table:
        try:
            return self._encode(_items(piece))
        except Exception as error:  # Ray would bury it in pages of traceback
            return pa.table([[None], [None], [f"{type(error).__name__}: {error}"]], schema=_ENCODED)

    def _encode(self, items: Sequence[MediaItem]) -> pa.Table:
        if self._encoder.fingerprint != self._fingerprint:
            raise ActorsError(
                f"the actors' encoder is {self._encoder.fingerprint}, the run's is {self._fingerprint}: set "
                "device and precision to the same on all nodes, such as --precision bf16, instead of auto"
            )
        reasons: dict[str, str] = {}
        hashes: list[str] = []
        rows: list[bytes] = []
        batches = encode_items(
            self._encoder, self._kind, items, reasons, batch_size=self._batch_size, workers=self._workers
        )
        for encoded, raw in batches:
            hashes += encoded
            rows += [row.tobytes() for row in raw]
        columns = [
            [*hashes, *reasons],
            rows + [None] * len(reasons),
            [None] * len(hashes) + list(reasons.values()),
        ]
        return pa.table(columns, schema=_ENCODED)


def _encoded(rows: pa.Table, reasons: dict[str, str]) -> EncodedBatch:
    """The rows that an actor has sent; raises the error that stopped it."""
    stopped = rows.filter(rows["content_hash"].is_null())["reason"].to_pylist()
    if stopped:
        raise ActorsError(stopped[0])
    failed = rows.filter(rows["row"].is_null())
    reasons.update(zip(failed["content_hash"].to_pylist(), failed["reason"].to_pylist(), strict=True))
    good = rows.filter(rows["row"].is_valid())
    raw = [np.frombuffer(row, np.float32) for row in good["row"].to_pylist()]
    return good["content_hash"].to_pylist(), np.stack(raw) if raw else np.empty((0, 1), np.float32)


def _table(items: Sequence[MediaItem]) -> pa.Table:
    columns = {field.name: [getattr(item, field.name) for item in items] for field in fields(MediaItem)}
    return pa.table(columns | {"path": [str(path) for path in columns["path"]]}, schema=_ITEMS)


def _items(table: pa.Table) -> list[MediaItem]:
    return [MediaItem(**row | {"path": Path(row["path"])}) for row in table.to_pylist()]


_ENCODED = pa.schema({"content_hash": pa.string(), "row": pa.binary(), "reason": pa.string()})
_ITEMS = pa.schema(
    {
        "item_id": pa.string(),
        "path": pa.string(),
        "content_hash": pa.string(),
        "start_s": pa.float64(),
        "duration_s": pa.float64(),
        "file": pa.string(),
    }
)


class _Ray:
    """Ray while the block runs: the cluster that this run is a job of, or a local one on this machine."""

    def __enter__(self) -> None:
        if "RAY_ADDRESS" not in os.environ:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # stays on the loopback
        try:
            import ray
        except ImportError:
            raise ActorsError(
                "embedding_actors needs Ray, which is not installed: pip install 'emid-assets[ray]'"
            ) from None
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            ray.init(include_dashboard=None, log_to_driver=False, logging_level=logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            import ray

            ray.shutdown()
