"""`emid build`: builds the whole graph, stage by stage, on the instance that the web UI shows."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from dagster import DagsterInstance
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import OperationalError

from emid_assets.build.ray_runs import ClusterError, Ended, end_left_runs, launched_runs, records_at_hand
from emid_assets.captions.interface import CaptionerUnavailableError
from emid_assets.captions.load import load_captioner
from emid_assets.definitions import build_definitions
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.encoders.load import encoder_from
from emid_assets.matching.product import ProductUnavailableError, find_product
from emid_assets.media.with_predictions import with_predictions
from emid_assets.orchestration.stages import stages
from emid_assets.runs.dagster_internals import SerializableErrorInfo
from emid_assets.runs.dead_runs import PROCESS_TAG, end_dead_runs
from emid_assets.runs.failures import first_error, message_of
from emid_assets.runs.processes import name_of_this_process
from emid_assets.runs.progress_lines import ProgressLines
from emid_assets.settings import Settings, load_operations, load_settings
from emid_assets.store.files import held_alone
from emid_assets.store.lake import Lake, LakeError
from emid_assets.store.layout import (
    BUILD_LOCK,
    RELEASE_FOLDER,
    REPORT_PAGE,
    STUDY_FOLDER,
    STUDY_PAGE,
    STUDY_PAGE_FOLDER,
)

FEEDING_AT_ONCE = 2
"""Concurrent runs that feed actors: one uses them all while the next starts. More would only hold memory."""


class BuildStoppedError(RuntimeError):
    """The build was stopped (Ctrl-C or a signal); finished work is kept."""


class BuildFailedError(RuntimeError):
    """Some partitions of a stage failed; the later stages were not run."""


def run_build(options: Mapping[str, Any]) -> dict[str, str]:
    """Run every stage for every partition, and return where the results are.

    Args:
        options: Settings by name; they go into each run's configuration, so the web UI shows them.

    Raises:
        BuildFailedError: names each failed partition of the stage, and its first error.
        BuildStoppedError: names the interrupted stage and partition.
    """
    try:
        with records_at_hand():
            return _run_stages(options)
    except ClusterError as error:
        raise BuildFailedError(str(error)) from error
    except (OperationalError, OSError, LakeError) as error:
        # Not raised inside an asset, but by Dagster's own records or the summary; a full disk ends here.
        why = " ".join(str(error.orig if isinstance(error, OperationalError) else error).split())
        home = os.environ.get("DAGSTER_HOME", "")
        raise BuildFailedError(
            f"{why} (Dagster's records are in {home}): check that the disk has space and is writable, "
            "then run the same command again: finished work is kept"
        ) from error


def _run_stages(options: Mapping[str, Any]) -> dict[str, str]:
    settings = load_settings(options)
    console = Console(stderr=True)
    lines = ProgressLines(functools.partial(console.print, soft_wrap=True, markup=False, highlight=False))
    with contextlib.nullcontext() if console.is_terminal else lines:
        lines.begin("preparing")
        _check_models(settings)
        _run_in_order(settings, options, console, lines)
    return _summary(settings)


def _check_models(settings: Settings) -> None:
    """Fail before the first run if an encoder, a product or a captioner is not available."""
    try:
        encoder = encoder_from(settings)
        product = settings.matching_product
        if product != "auto" and product != "device":
            find_product(product, encoder.dimension)
        if settings.caption_model:
            load_captioner(settings.caption_model, settings.device)
    except (EncoderUnavailableError, CaptionerUnavailableError, ProductUnavailableError) as error:
        raise BuildFailedError(str(error)) from error


def _run_in_order(
    settings: Settings, options: Mapping[str, Any], console: Console, lines: ProgressLines
) -> None:
    given = {name: getattr(settings, name) for name in options}
    progress = Progress(
        TextColumn("{task.fields[stage]:<14}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    definitions = build_definitions(**options)
    loggers = {"console": _terminal_logger(progress, lines)}
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
        end_dead_runs(instance)  # a killed build's pool slot would block this one
        if on_ray:
            _require_ray(instance)
            end_left_runs(instance)
        for stage in stages(settings.image_shards):
            job = definitions.resolve_job_def(stage)
            keys = partitions_of(job)
            bar = progress.add_task("", total=len(keys), stage=stage)
            lines.begin(stage, len(keys))
            start = time.monotonic()
            failures: dict[str, list[str]] = {}  # message -> partitions
            runs: Iterator[Ended]
            if on_ray:
                say = functools.partial(console.print, soft_wrap=True, markup=False)
                fed = settings.embedding_actors and stage in ("embed_music", "embed_images")
                at_most = FEEDING_AT_ONCE if fed else None
                runs = launched_runs(instance, job, keys, run_config, say, at_most)
            else:

                def show(partition: str, bar: TaskID = bar) -> None:
                    progress.update(bar, description=partition)
                    lines.at(partition)

                here = job.with_logger_defs(loggers)
                runs = _runs_here(instance, here, keys, run_config, show, Lake(folder))
            for key, failure in runs:
                progress.advance(bar)
                lines.advance()
                if failure is not None:
                    failures.setdefault(message_of(failure), []).append(key or "all")
            progress.update(bar, description="failed" if failures else "")
            if not console.is_terminal:
                done = len(keys) - sum(map(len, failures.values()))
                seconds = time.monotonic() - start
                lines.end(f"{stage}: {done}/{len(keys)} in {seconds:.0f} s")
            if failures:
                raise BuildFailedError(
                    "\n".join(
                        f"{stage} [{', '.join(failed)}]: {message}" for message, failed in failures.items()
                    )
                )
            if stage == "inventory":
                _require_media(Lake(settings.lake_folder), settings.media_folder)


def _summary(settings: Settings) -> dict[str, str]:
    """What was built and where it is, one line each."""
    lake = Lake(settings.lake_folder)
    tables = ("music_embeddings", "image_embeddings", "expansion_windows")
    embedded = [version for table in tables for version in lake.versions(table)]
    encoded, kept = (
        sum(int(str(version.metadata[name])) for version in embedded) for name in ("encoded", "reused")
    )
    pairs = lake.read("fused_pairs", columns=["clip_id"])
    rejected = lake.read("rejected_media", columns=["reason"])
    page = settings.lake_folder / STUDY_FOLDER / STUDY_PAGE_FOLDER / STUDY_PAGE
    return {
        "encoded": f"{encoded} clips, windows and images, {kept} kept",
        "expanded": f"{sum(version.rows for version in lake.versions('expanded_clips'))} clips "
        "(table expanded_clips)",
        "pairs": f"{pairs.height} of {pairs['clip_id'].n_unique()} clips (table fused_pairs)",
        "rejected": f"{rejected.height} media (table rejected_media)",
        "store": f"{lake.catalogue_path}  (duckdb -readonly, or duckdb.connect)",
        "release": str(settings.lake_folder / RELEASE_FOLDER),
        "report": str(settings.lake_folder / REPORT_PAGE),
        **({"study": f"{page}  (for participants)"} if page.exists() else {}),
    }


def _runs_here(
    instance: DagsterInstance,
    job: dg.JobDefinition,
    keys: Sequence[str | None],
    run_config: Mapping[str, Any],
    show: Callable[[str], None],
    lake: Lake,
) -> Iterator[Ended]:
    """Run each partition in this process, one after another, and yield (partition, its error or None)."""
    with lake.one_rebuild():
        for key in keys:
            show(key or "")
            result = job.execute_in_process(
                instance=instance,
                partition_key=key,
                run_config=run_config,
                tags={PROCESS_TAG: name_of_this_process()},
                raise_on_error=False,
            )
            failure = None if result.success else first_error(result.all_events)
            if failure is not None and _is_interrupt(failure):
                raise BuildStoppedError(f"stopped in {job.name} {key or ''}".rstrip())
            yield key, failure


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


def _is_interrupt(error: SerializableErrorInfo) -> bool:
    """Whether a signal stopped the run; DuckDB has its own message for an interrupted query."""
    return error.cls_name == "DagsterExecutionInterruptedError" or "Query interrupted" in error.message


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
