"""The encoding of one partition spread over actors of a Ray cluster, by Ray Data.

Belongs here: handing items to actors that hold the encoder, and taking back what they encoded. What an
actor does with its items is `embed.encode_items`, as without Ray. Ray Data keeps only so many blocks
under way as the actors and its object store have room for, starts lost actors anew, and gives their
items to others.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from emid_assets.encoders.base import Encoder, MediaItem
from emid_assets.encoders.embed import Encode, EncodedBatch, Kind, encode_items

if TYPE_CHECKING:
    from ray.data import Dataset

BATCHES_AT_ONCE = 4
"""Batches of the encoder that an actor takes in one piece: its workers prepare ahead within it."""

IN_FLIGHT = 2
"""Pieces that wait at an actor, the one in work included."""


class ActorsError(RuntimeError):
    """The actors cannot do the work; the message says why and what to change."""


def on_actors(
    load: Callable[[], Encoder],
    fingerprint: str,
    kind: Kind,
    *,
    actors: int,
    gpus: float,
    batch_size: int,
    workers: int,
) -> Encode:
    """What `embed` takes as `encode` to spread the work over actors.

    Args:
        load: gives the encoder; called once in each actor.
        fingerprint: of the encoder in this process, which the actors' must have too.
        kind: as in `embed`.
        actors: how many; each has the encoder in memory.
        gpus: that each actor asks Ray for.
        batch_size: as in `embed`.
        workers: processes that prepare media, for each actor.
    """

    def encode(items: Sequence[MediaItem], reasons: dict[str, str]) -> Iterator[EncodedBatch]:
        if not items:
            return
        with _Ray():
            from ray.data import ActorPoolStrategy, from_arrow
            from ray.data.exceptions import UserCodeException

            at_once = BATCHES_AT_ONCE * batch_size
            pieces = [_table(items[start : start + at_once]) for start in range(0, len(items), at_once)]
            most = min(actors, len(pieces))
            encoded: Dataset = from_arrow(pieces).map_batches(
                _Actor,
                fn_constructor_args=(load, fingerprint, kind, batch_size, workers),
                batch_size=at_once,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=IN_FLIGHT
                ),
                num_cpus=1,
                num_gpus=gpus,
            )
            try:
                for rows in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield _encoded(rows, reasons)
            except UserCodeException as error:
                raise ActorsError(_reason(error)) from error

    return encode


class _Actor:
    """Holds an encoder, and encodes the pieces that come."""

    def __init__(
        self, load: Callable[[], Encoder], fingerprint: str, kind: Kind, batch_size: int, workers: int
    ) -> None:
        self._encoder = load()
        if self._encoder.fingerprint != fingerprint:
            raise ActorsError(
                f"the actors' encoder is {self._encoder.fingerprint}, the run's is {fingerprint}: set device "
                "and precision to the same on all nodes, such as --precision bf16, instead of auto"
            )
        self._kind, self._batch_size, self._workers = kind, batch_size, workers

    def __call__(self, piece: pa.Table) -> pa.Table:
        reasons: dict[str, str] = {}
        hashes: list[str] = []
        rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        batches = encode_items(
            self._encoder, self._kind, _items(piece), reasons,
            batch_size=self._batch_size, workers=self._workers,
        )  # fmt: skip
        for encoded, raw in batches:
            hashes += encoded
            rows.append(raw)
        empty = np.empty((0, self._encoder.dimension), np.float32)
        return pa.table(
            {
                "content_hash": [*hashes, *reasons],
                "row": [row.tobytes() for row in np.concatenate([empty, *rows])] + [None] * len(reasons),
                "reason": [None] * len(hashes) + list(reasons.values()),
            },
            schema=pa.schema({"content_hash": pa.string(), "row": pa.binary(), "reason": pa.string()}),
        )


def _encoded(rows: pa.Table, reasons: dict[str, str]) -> EncodedBatch:
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


def _reason(error: BaseException) -> str:
    """The last cause, in one line: Ray wraps what an actor raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


class _Ray:
    """Ray while the block runs: the cluster that this run is a job of, or else one of this machine's own."""

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
            ray.init(include_dashboard=None, log_to_driver=False, logging_level="ERROR")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            import ray

            ray.shutdown()
