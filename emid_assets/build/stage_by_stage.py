"""`emid build`: builds the whole graph, stage by stage, on the instance that the web UI shows."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from dagster import DagsterInstance
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import DatabaseError

from emid_assets.build.plan import Plan, as_table
from emid_assets.build.ray_runs import ClusterError, Ended, end_left_runs, launched_runs, records_at_hand
from emid_assets.build.runs_here import runs_here
from emid_assets.captions.interface import CaptionerUnavailableError
from emid_assets.captions.load import load_captioner
from emid_assets.definitions import build_definitions
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.encoders.load import encoder_from
from emid_assets.matching.product import ProductUnavailableError, find_product
from emid_assets.media.with_predictions import with_predictions
from emid_assets.orchestration.io_manager import stored_partition
from emid_assets.orchestration.run_facts import asset_facts, run_facts
from emid_assets.orchestration.stages import stages
from emid_assets.runs.build_progress import BuildProgress
from emid_assets.runs.dead_runs import end_dead_runs
from emid_assets.runs.failures import message_of
from emid_assets.runs.instance import home_of, instance_to_read
from emid_assets.runs.progress_lines import ProgressLines
from emid_assets.settings import Settings, load_operations, load_settings
from emid_assets.store.files import held_alone
from emid_assets.store.lake import WHOLE_TABLE, Lake, LakeError
from emid_assets.store.layout import (
    BUILD_LOCK,
    RELEASE_FOLDER,
    REPORT_PAGE,
    STUDY_FOLDER,
    STUDY_PAGE,
    STUDY_PAGE_FOLDER,
)
from emid_assets.store.schemas import PIPELINE_HEALTH, REJECTED_MEDIA, SIMILARITY_SHARDS

ENCODING = {"music_embeddings", "image_embeddings", "expansion_windows"}
MATCHING = {"similarity_matrix", "similarity_shards"}
"""Assets that load the encoder, and those that use the matching's product."""

FEEDING_AT_ONCE = 2
"""Concurrent runs that feed actors: one uses them all while the next starts. More would only hold memory."""


class BuildFailedError(RuntimeError):
    """Some partitions of a stage failed; the later stages were not run."""


def run_build(options: Mapping[str, Any], everything: bool = False) -> dict[str, str]:
    """Run every stage for the partitions that are not current, and return where the results are.

    Args:
        options: Settings by name; they go into each run's configuration, so the web UI shows them.
        everything: Whether to build what is current too.

    Returns:
        What was built and where it is, by name; only `current` if there was nothing to do.

    Raises:
        BuildFailedError: names each failed partition of the stage, and its first error.
        BuildStoppedError: names the interrupted stage and partition.
    """
    settings = load_settings(options)
    with _records(settings):
        console = Console(stderr=True)
        lines = ProgressLines(functools.partial(console.print, soft_wrap=True, markup=False, highlight=False))
        with contextlib.nullcontext() if console.is_terminal else lines:
            lines.begin("preparing")
            began = time.time()
            current = _run_in_order(settings, options, everything, console, lines)
        return {"current": f"{current} partitions; nothing to do"} if current else _summary(settings, began)


def planned_build(options: Mapping[str, Any], everything: bool = False) -> pl.DataFrame:
    """What `run_build` would run now, see `plan.as_table`: the partitions that are not current, and why.

    Writes nothing; the lake may be read-only, or not exist.

    Raises:
        BuildFailedError: Dagster's records or the lake cannot be read.
    """
    settings = load_settings(options)
    with _records(settings), instance_to_read(home_of(settings)) as instance:
        plan = _plan(settings, build_definitions(**options), instance, everything)
        return as_table(plan.with_dependents(), plan.assets)


@contextlib.contextmanager
def _records(settings: Settings) -> Iterator[None]:
    """Report what fails outside of an asset: Dagster's own records, the lake, a full disk."""
    try:
        with records_at_hand():
            yield
    except ClusterError as error:
        raise BuildFailedError(str(error)) from error
    except (DatabaseError, OSError, LakeError) as error:
        why = " ".join(str(error.orig if isinstance(error, DatabaseError) else error).split())
        raise BuildFailedError(
            f"{why} (Dagster's records are in {home_of(settings)}): check that the disk has space and is "
            "writable, then run the same command again: finished work is kept"
        ) from error


def _plan(
    settings: Settings, definitions: dg.Definitions, instance: DagsterInstance, everything: bool
) -> Plan:
    # What another process is running counts by what is stored.
    runs = [run for run in run_facts(instance, definitions, settings.lake_folder) if run.state != "running"]
    facts = asset_facts(definitions, settings)
    return Plan(Lake(settings.lake_folder), facts, runs, settings.fresh_days, everything)


def _remove_other_partitions(plan: Plan, say: Callable[[str], None]) -> None:
    """Remove the partitions of another graph, whose rows would stand twice in their tables."""
    wanted: dict[str, Sequence[str]] = {SIMILARITY_SHARDS.name: ()}
    wanted |= {asset.name: asset.partitions for asset in plan.assets}
    embedded = ("music_embeddings", "image_embeddings")
    rejected = [f"{table}-{partition}" for table in embedded for partition in wanted[table]]
    wanted[REJECTED_MEDIA.name] = [WHOLE_TABLE, *rejected]
    removed = {table: plan.lake.remove_others(table, partitions) for table, partitions in wanted.items()}
    if count := sum(map(len, removed.values())):
        plan.lake.rebuild_catalogue()
        tables = ", ".join(table for table, partitions in removed.items() if partitions)
        say(
            f"removed {count} partitions of a graph of other settings (tables {tables}); a later inventory "
            "deletes their files"
        )


def _check_models(settings: Settings, may_run: Set[str]) -> None:
    """Fail before the first run if an encoder, a product or a captioner that it may need is not available.

    Args:
        settings: name them.
        may_run: the assets that the build may run. Without those that encode, torch need not be loaded.
    """
    try:
        if may_run & ENCODING:
            encoder_from(settings)
        product = settings.matching_product
        if may_run & MATCHING and product != "auto" and product != "device":
            find_product(product, encoder_from(settings).dimension)
        if settings.caption_model and "images" in may_run:
            load_captioner(settings.caption_model, settings.device)
    except (EncoderUnavailableError, CaptionerUnavailableError, ProductUnavailableError) as error:
        raise BuildFailedError(str(error)) from error


def _run_in_order(
    settings: Settings, options: Mapping[str, Any], everything: bool, console: Console, lines: ProgressLines
) -> int:
    """Run the stages, each until it is current; if there is nothing to run, returns how many are."""
    given = {name: getattr(settings, name) for name in options}
    progress = Progress(
        TextColumn("{task.fields[stage]:<14}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    definitions = build_definitions(**options)
    on_ray = load_operations().profile == "ray"
    run_config: dict[str, Any] = {"resources": {"settings": {"config": given}}}
    if not on_ray:  # a job uses its own logger only if the run's configuration names it
        run_config["loggers"] = {"console": {}}
    # A second build with other settings would mix with this one.
    folder = settings.lake_folder
    other = BuildFailedError(
        f"another build into {folder} is running: wait until it ends, or build into another --lake"
    )
    alone = held_alone(folder / BUILD_LOCK, other)
    with alone, DagsterInstance.get() as instance, progress:
        BuildProgress("", 0, 0, time.time()).write(folder)
        end_dead_runs(instance)  # a killed build's pool slot would block this one
        if on_ray:
            _require_ray(instance)
            end_left_runs(instance)
        plan = _plan(settings, definitions, instance, everything)
        _remove_other_partitions(plan, functools.partial(console.print, soft_wrap=True, markup=False))
        planned = plan.with_dependents()
        if not planned:
            return sum(len(asset.partitions) for asset in plan.assets)
        _check_models(settings, {asset for asset, _ in planned})
        run = _Runner(settings, definitions, instance, run_config, on_ray, console, progress, lines)
        for stage in stages(settings):
            # The health judges what the others left, whether its inputs have changed or not.
            of_health = [{WHOLE_TABLE: [PIPELINE_HEALTH.name]}]
            with Lake(folder).one_rebuild():
                for wave in of_health if stage == "health" else plan.waves(stage):
                    run.wave(stage, wave)
            if stage == "inventory":
                _require_media(Lake(settings.lake_folder), settings.media_folder)
    return 0


@dataclass
class _Runner:
    """Runs waves of a stage and shows them."""

    settings: Settings
    definitions: dg.Definitions
    instance: DagsterInstance
    run_config: Mapping[str, Any]
    on_ray: bool
    console: Console
    progress: Progress
    lines: ProgressLines

    def wave(self, stage: str, assets_of: Mapping[str, list[str]]) -> None:
        """Run assets of a stage: partition, with the lake's name → assets.

        Raises:
            BuildFailedError: names each failed partition, and its first error.
        """
        job = self.definitions.resolve_job_def(stage)
        groups: dict[tuple[str, ...], list[str | None]] = {}
        for key in partitions_of(job):
            names = tuple(assets_of.get(stored_partition(key) if key else WHOLE_TABLE, ()))
            if names:
                groups.setdefault(names, []).append(key)
        total = sum(map(len, groups.values()))
        bar = self.progress.add_task("", total=total, stage=stage)
        self.lines.begin(stage, total)
        start = time.monotonic()
        done = BuildProgress(stage, 0, total, time.time())
        done.write(self.settings.lake_folder)
        failures: dict[str, list[str]] = {}  # message -> partitions
        for names, keys in groups.items():
            selected = frozenset(map(dg.AssetKey, names))
            part = (
                job
                if selected == job.asset_layer.executable_asset_keys
                else job.get_subset(asset_selection=selected)
            )
            for key, failure in self._runs(part, keys, bar):
                self.progress.advance(bar)
                self.lines.advance()
                done = replace(done, done=done.done + 1)
                done.write(self.settings.lake_folder)
                if failure is not None:
                    failures.setdefault(message_of(failure), []).append(key or "all")
        self.progress.update(bar, description="failed" if failures else "")
        if not self.console.is_terminal:
            built = total - sum(map(len, failures.values()))
            self.lines.end(f"{stage}: {built}/{total} in {time.monotonic() - start:.0f} s")
        if failures:
            raise BuildFailedError(
                "\n".join(f"{stage} [{', '.join(failed)}]: {message}" for message, failed in failures.items())
            )

    def _runs(self, job: dg.JobDefinition, keys: Sequence[str | None], bar: TaskID) -> Iterator[Ended]:
        say = functools.partial(self.console.print, soft_wrap=True, markup=False)
        if self.on_ray:
            fed = self.settings.embedding_actors and job.name in ("embed_music", "embed_images")
            at_most = FEEDING_AT_ONCE if fed else None
            return launched_runs(self.instance, job, keys, self.run_config, say, at_most)

        def show(partition: str) -> None:
            self.progress.update(bar, description=partition)
            self.lines.at(partition)

        logged = job.with_logger_defs({"console": _terminal_logger(self.progress, self.lines)})
        return runs_here(self.instance, logged, keys, self.run_config, show, say)


def _summary(settings: Settings, began: float) -> dict[str, str]:
    """What was built since `began` and where it is, one line each."""
    lake = Lake(settings.lake_folder)
    tables = ("music_embeddings", "image_embeddings", "expansion_windows")
    embedded = [
        version
        for table in tables
        for version in lake.versions(table)
        if version.path.stat().st_mtime >= began
    ]
    encoded, kept = (
        sum(int(str(version.metadata[name])) for version in embedded) for name in ("encoded", "reused")
    )
    pairs = lake.read("fused_pairs", columns=["clip_id"])
    rejected = lake.read("rejected_media", columns=["reason"])
    page = settings.lake_folder / STUDY_FOLDER / STUDY_PAGE_FOLDER / STUDY_PAGE
    return {
        "encoded": f"{encoded} clips, windows and images; {kept} more in the same partitions were kept"
        if embedded
        else "nothing: no embedding had to be made again",
        "expanded": f"{sum(version.rows for version in lake.versions('expanded_clips'))} clips "
        "(table expanded_clips)",
        "pairs": f"{pairs.height} of {pairs['clip_id'].n_unique()} clips (table fused_pairs)",
        "rejected": f"{rejected.height} media (table rejected_media)",
        "store": f"{lake.catalogue_path}  (duckdb -readonly, or duckdb.connect)",
        "release": str(settings.lake_folder / RELEASE_FOLDER),
        "report": str(settings.lake_folder / REPORT_PAGE),
        **({"study": f"{page}  (for participants)"} if page.exists() else {}),
    }


def _require_ray(instance: DagsterInstance) -> None:
    launcher = type(instance.run_launcher).__name__
    if launcher != "RayRunLauncher":
        raise BuildFailedError(
            f"the profile ray needs a dagster.yaml with dagster-ray's RayRunLauncher, but the one in "
            f"{os.environ.get('DAGSTER_HOME')} has {launcher}: copy deploy/ray/dagster.yaml there, or unset "
            "DAGSTER_HOME"
        )


def partitions_of(job: dg.JobDefinition) -> Sequence[str | None]:
    """The partitions of a stage; a single None if it has none."""
    return job.partitions_def.get_partition_keys() if job.partitions_def else [None]


def _require_media(lake: Lake, media: Path) -> None:
    """Stop before anything is encoded if there is nothing to pair."""
    inventory = with_predictions(lake.read("media_inventory"), lake.read("predicted_emotion"))
    for kind, folder in (("music", "music"), ("image", "images")):
        found = inventory.filter(pl.col("kind") == kind)
        if found.filter(pl.col("reason").is_null()).is_empty():
            reasons = found["reason"].value_counts(sort=True).head(3).rows()
            why = "; ".join(f"{reason} ({count})" for reason, count in reasons) or "there are no files"
            raise BuildFailedError(f"nothing usable in {media / folder}: {why}")


def _terminal_logger(progress: Progress, lines: ProgressLines) -> dg.LoggerDefinition:
    """A Dagster logger that prints warnings at once, and shows other messages at the bar or in `lines`."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            meta = getattr(record, "dagster_meta", {})
            if meta.get("dagster_event"):
                return
            message = meta.get("orig_message", record.getMessage())
            if record.levelno == logging.WARNING:
                progress.console.print(message, soft_wrap=True, markup=False)
            elif record.levelno == logging.INFO:
                progress.update(progress.task_ids[-1], description=message)
                lines.tell(message)

    @dg.logger
    def terminal_logger(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("emid", logging.INFO)
        logger.addHandler(Handler())
        return logger

    return terminal_logger
