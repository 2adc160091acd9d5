"""A small pipeline to break: six media files, an encoder that costs nothing, and runs in forked processes.

Children are forked from a server that has imported everything, so that a run costs what its work costs.
What a child is told to do is a function of this module.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from emid_assets.build import stage_by_stage
from emid_assets.build.stage_by_stage import BuildFailedError, run_build
from emid_assets.definitions import build_definitions
from emid_assets.encoders import load
from emid_assets.encoders.interface import EncoderOutOfMemoryError, MediaItem
from emid_assets.health.verdict import AssetFacts, Health
from emid_assets.orchestration.run_facts import current_health
from emid_assets.runs.dead_runs import end_dead_runs
from emid_assets.runs.failures import failure_line, first_error
from emid_assets.runs.instance import environment_of, prepare_instance
from emid_assets.runs.processes import name_of_this_process
from emid_assets.runs.run_tags import PROCESS_TAG
from emid_assets.settings import SAMPLE_MEDIA, Settings
from emid_assets.store import lake as lake_module
from emid_assets.store.lake import WHOLE_TABLE, Lake

MUSIC = {"sad": 2, "calm": 1}
IMAGES = {"awe": 2, "fear": 2}
PLACES: list[tuple[str, str | None]] = [
    ("inventory", None),
    *(("embed_music", emotion) for emotion in MUSIC),
    *(("embed_images", tag) for tag in IMAGES),
    *(("align", emotion) for emotion in MUSIC),
    ("release", None),
    ("train_adapter", "bmf"),
    ("study", None),
    ("evaluate", None),
    ("health", None),
]
"""Runs that build all that the media are in: the other emotions have none."""

DIMENSION = 16

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["emid_assets_tests.failures.preload"])


def make_media(folder: Path) -> Path:
    """A media folder with a few files of the sample, labelled by sub-folder."""
    for kind, labels in (("music", MUSIC), ("images", IMAGES)):
        files = iter(sorted((SAMPLE_MEDIA / kind).iterdir(), key=lambda path: path.stat().st_size))
        for label, count in labels.items():
            (folder / kind / label).mkdir(parents=True)
            for _ in range(count):
                file = next(files)
                shutil.copyfile(file, folder / kind / label / file.name)
    return folder


def prepare_hash(item: MediaItem) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers out of the file's bytes."""
    digest = hashlib.sha512(item.path.read_bytes()).digest()
    return (np.frombuffer(digest[: 4 * DIMENSION], np.uint32) / np.float32(2**31) - 1).astype(np.float32)


class HashEncoder:
    """An encoder whose vectors are the files' hashes; `room_for` items fit into its memory."""

    name = "bundled"
    licence = "none"
    dimension = DIMENSION
    fingerprint = "hash-1"

    def __init__(self, room_for: int = 1000) -> None:
        self.room_for = room_for

    prepare_music = prepare_image = staticmethod(prepare_hash)

    def encode_music(self, batch: Sequence[Any]) -> Any:
        if len(batch) > self.room_for:
            raise EncoderOutOfMemoryError(f"CUDA out of memory: room for {self.room_for}")
        return np.stack(batch) * np.float32(20)

    encode_images = encode_music


def use_hash_encoder(room_for: int = 1000) -> None:
    """From now on, this process embeds with a `HashEncoder`."""
    load.load_encoder = lambda *_, **__: HashEncoder(room_for)  # type: ignore[assignment]
    load._loaded.cache_clear()


@dataclass(frozen=True)
class Pipeline:
    """A media folder and its lake."""

    media: Path
    root: Path

    @property
    def options(self) -> dict[str, Any]:
        return {
            "media": str(self.media), "lake": str(self.root),
            "epochs": 1, "adapter_dimension": 4, "workers": 0, "matching_threads": 1,
        }  # fmt: skip

    @property
    def settings(self) -> Settings:
        return Settings(**self.options)

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    def copy(self, folder: Path) -> "Pipeline":
        """The same pipeline, built as far as this one, to be broken."""
        shutil.copytree(self.media, folder / "media")
        shutil.copytree(
            self.root, folder / "lake", ignore=shutil.ignore_patterns("lake.duckdb*", ".catalogues")
        )
        copied = Pipeline(folder / "media", folder / "lake")
        copied.lake.rebuild_catalogue()
        return copied

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(prepare_instance(self.settings)))

    def health(self) -> Health:
        with self.instance() as instance:
            definitions = build_definitions(**self.options)
            return current_health(definitions, instance, self.settings, time.time())

    def rows(self) -> dict[str, int]:
        """Rows of every table."""
        tables = sorted(path.name for path in (self.root / "tables").iterdir())
        return {table: self.lake.read(table).height for table in tables if table != "pipeline_health"}

    def unfinished(self) -> list[Path]:
        return list((self.root / "tables").rglob("*.unfinished*"))

    # What children do

    def run(self, stage: str, partition: str | None = None, before: Callable[[], None] | None = None) -> str:
        """One run in a child: `""`, or its error in one line, or the signal that killed it as -9."""
        return in_a_child(run_in_this_process, self, [(stage, partition)], before)

    def run_places(self, places: Sequence[tuple[str, str | None]] = PLACES) -> str:
        """Every run that the media need, in one child; `""`, or the first error in one line."""
        return in_a_child(run_in_this_process, self, places, None)

    def build(self, before: Callable[[], None] | None = None) -> str:
        """`emid build` in a child, of the partitions that have media; as `run`."""
        return in_a_child(_build, self, before)


def in_a_child(target: Callable[..., None], *arguments: Any, within_s: float | None = None) -> str:
    """What a function says in a process of its own: it gets the arguments, and a connection to say it by.

    A process that says nothing for `within_s` seconds is killed.
    """
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=target, args=(*arguments, send))
    process.start()
    send.close()
    try:
        if not receive.poll(within_s):
            process.kill()
        said = str(receive.recv())
    except EOFError:
        said = "the child said nothing"
    process.join()
    assert process.exitcode is not None
    return str(process.exitcode) if process.exitcode < 0 else said


@dataclass(frozen=True)
class WithSettings(Pipeline):
    """A pipeline with other settings than the small ones."""

    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, **self.given}


def settle(pipeline: Pipeline) -> None:
    os.environ.update(environment_of(pipeline.settings, prepare_instance(pipeline.settings)))
    use_hash_encoder()


def run_in_this_process(
    pipeline: Pipeline,
    places: Sequence[tuple[str, str | None]],
    before: Callable[[], None] | None,
    to: Any,
) -> None:
    settle(pipeline)
    if before is not None:
        before()
    definitions = build_definitions(**pipeline.options)
    with dg.DagsterInstance.get() as instance:
        end_dead_runs(instance)  # as a build does at its start, and a sensor every minute
        for stage, partition in places:
            result = definitions.resolve_job_def(stage).execute_in_process(
                instance=instance, partition_key=partition, raise_on_error=False,
                tags={PROCESS_TAG: name_of_this_process()},
            )  # fmt: skip
            if not result.success:
                to.send(failure_line(first_error(result.all_events)))
                return
    to.send("")


def _build(pipeline: Pipeline, before: Callable[[], None] | None, to: Any) -> None:
    settle(pipeline)
    plan_places_only()
    if before is not None:
        before()
    tell_how_it_ends(pipeline, to)


def plan_places_only() -> None:
    """From now on, this process builds only the partitions that have media."""
    planned = stage_by_stage.asset_facts
    named = {key or WHOLE_TABLE for _, key in PLACES}

    def of_places(*arguments: Any) -> list[AssetFacts]:
        return [
            # An emotion's shard is called sad-00, and with a shard of the images 0--sad-00.
            replace(asset, partitions=tuple(one for one in asset.partitions if named & {*one.split("-")}))
            for asset in planned(*arguments)
        ]

    stage_by_stage.asset_facts = of_places


def tell_how_it_ends(pipeline: Pipeline, to: Any) -> None:
    """Build, and send the error's message, or nothing of it."""
    try:
        run_build(pipeline.options)
    except BuildFailedError as error:
        to.send(str(error))
    else:
        to.send("")


@dataclass(frozen=True)
class DieStoring:
    """Be killed when a version of `table` is written in full and not yet in its place."""

    table: str

    def __call__(self) -> None:
        put_in_place = lake_module.put_in_place

        def dying(unfinished: Path, path: Path) -> None:
            if path.suffix == ".duckdb" and path.parent.parent.name == self.table:
                os.kill(os.getpid(), signal.SIGKILL)
            put_in_place(unfinished, path)

        lake_module.put_in_place = dying


@dataclass(frozen=True)
class DieComputing:
    """Be killed inside the asset `table`, before its frame is given to the store."""

    table: str

    def __call__(self) -> None:
        write = Lake.write

        def dying(self_: Lake, table: str, *arguments: Any, **named: Any) -> Any:
            if table == self.table:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self_, table, *arguments, **named)

        Lake.write = dying  # type: ignore[method-assign]


@dataclass(frozen=True)
class RoomFor:
    """An encoder into whose memory `items` fit."""

    items: int

    def __call__(self) -> None:
        use_hash_encoder(self.items)


@dataclass(frozen=True)
class ClockAt:
    """A clock that is `seconds` off, for everything that asks Python."""

    seconds: float

    def __call__(self) -> None:
        now = time.time
        now_ns = time.time_ns
        time.time = lambda: now() + self.seconds
        time.time_ns = lambda: now_ns() + int(self.seconds * 1e9)
