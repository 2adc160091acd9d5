"""The health of the pipeline: its asset with checks and page, an hourly schedule, and the end of dead runs.

Belongs here: what Dagster knows (the graph, runs, why they failed), as the plain facts that
`emid_assets.health` judges.
"""

import time
from collections.abc import Mapping
from typing import Literal

import dagster as dg
import polars as pl
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from emid_assets.defs.checks import check_result, schema_result, table_asset
from emid_assets.defs.failures import first_error, one_line
from emid_assets.defs.io_manager import stored_partition
from emid_assets.defs.resources import SHAPING_THE_GRAPH, SettingsResource
from emid_assets.health import AssetFacts, Health, RunFacts, examine
from emid_assets.processes import is_alive, is_gone
from emid_assets.settings import Settings
from emid_assets.store.data_version import frame_digest
from emid_assets.store.duckdb_store import WHOLE_TABLE, Lake

HEALTH_PAGE = "health.html"
PROCESS_TAG = "emid/process"
"""Run tag with the name of the process that executes the run (see `emid_assets.processes`)."""

RUNS_READ = 1000
FAILURES_READ = 50
UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
EXECUTING = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


@table_asset(
    group_name="evaluation",
    kinds={"html", "duckdb"},
    deps=["evaluation_report"],
    checks={},
    warnings={
        "nothing_broken": "No partition is left failed, damaged or overdue.",
        "nothing_stale": "No partition is missing or older than what it was made from.",
        "no_drift": "No partition's norms, valence or arousal moved much between its last two builds.",
    },
)
def pipeline_health(
    context: dg.AssetExecutionContext, settings: SettingsResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What is broken, stale or overdue now: the state of every partition, and the page `health.html`.

    The page stands beside the report in the lake folder. `emid status` says the same in a terminal.
    """
    from emid_assets.report.health_page import health_page, time_figures

    health = current_health(context.instance, settings, time.time(), running=context.run_id)
    page = settings.lake_folder / HEALTH_PAGE
    unfinished = page.with_suffix(".unfinished")
    unfinished.write_text(health_page(health), encoding="utf-8", newline="\n")
    unfinished.replace(page)
    stale = health.states.filter(pl.col("state").is_in(["missing", "stale"]))
    moved = health.drift.filter("is_notable")
    return dg.MaterializeResult(
        value=health.states,
        data_version=dg.DataVersion(frame_digest(health.states)),
        metadata={
            "verdict": health.verdict,
            "page": dg.MetadataValue.path(page),
            "broken": health.broken.height,
            "stale_or_missing": stale.height,
            "rejected": int(health.rejected["items"].sum()),
            "lake_bytes": int(health.disk["bytes"].sum()),
            "free_bytes": health.free_bytes,
            "largest_shift": float(health.drift["shift"].abs().max() or 0.0),  # type: ignore[arg-type]
            "total_seconds": float(health.states["seconds"].sum()),
            **{name: dg.MetadataValue.md(image) for name, image in time_figures(health).items()},
        },
        check_results=[
            schema_result("pipeline_health", health.states),
            _check("nothing_broken", health.broken, health.states.height, dg.AssetCheckSeverity.ERROR),
            _check("nothing_stale", stale, health.states.height, dg.AssetCheckSeverity.WARN),
            check_result(
                "no_drift",
                [
                    f"{row['table']}/{row['partition']}: {row['column']} moved {row['shift']:+.2f} spreads"
                    for row in moved.iter_rows(named=True)
                ],
                health.drift.height,
                dg.AssetCheckSeverity.WARN,
            ),
        ],
    )


def _check(
    name: str, partitions: pl.DataFrame, checked: int, severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    lines = [
        f"{asset}/{partition} {state}: {message}"
        for asset, partition, state, message in partitions.select(
            "asset", "partition", "state", "message"
        ).rows()
    ]
    return check_result(name, lines, checked, severity)


health_schedule = dg.ScheduleDefinition(
    name="hourly_health",
    job_name="health",
    cron_schedule="17 * * * *",
    description="Looks hourly that no partition is left failed, damaged or overdue; off until switched on.",
)


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, so that they hold no place in a queue or pool.",
)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Dagster's own monitoring does not look after runs of another process, such as `emid build`."""
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "every run under way has its process")


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone, and free their places in pools; their ids."""
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=EXECUTING)):
        if not process_is_gone(instance, run):
            continue
        instance.report_run_failed(
            run,
            "The process of this run is gone (killed, or the machine restarted). What it had stored is kept.",
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run.run_id)
    return ended


def process_is_gone(instance: DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run that counts as executing has no process any more. False where that cannot be known."""
    if PROCESS_TAG in run.tags:
        return is_gone(run.tags[PROCESS_TAG])
    # Launched by a code server of this machine: only such a one listens on a socket file.
    if '"socket"' not in run.tags.get("dagster/grpc_info", ""):
        return False
    pids = [
        int(str(entry.value))
        for record in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        if record.dagster_event is not None
        for name, entry in record.dagster_event.engine_event_data.metadata.items()
        if name == "pid"
    ]
    return bool(pids) and not is_alive(pids[-1])


# ---------------------------------------------------------------- facts for the verdict


def current_health(
    instance: DagsterInstance, settings: Settings, now: float, running: str | None = None
) -> Health:
    """The health of a lake and its instance.

    Args:
        instance: has the runs.
        settings: name the lake and shape the graph.
        now: seconds since 1970.
        running: id of the run that asks: it is not itself under way.
    """
    from emid_assets.definitions import build_definitions

    definitions = build_definitions(**{name: getattr(settings, name) for name in SHAPING_THE_GRAPH})
    assets = asset_facts(definitions)
    runs = run_facts(instance, definitions, running)
    return examine(Lake(settings.lake_folder), assets, runs, now, settings.fresh_days)


def asset_facts(definitions: dg.Definitions) -> list[AssetFacts]:
    """The graph in its order, upstream first; `pipeline_health` does not judge itself."""
    graph = definitions.resolve_asset_graph()
    facts = []
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if key == pipeline_health.key:
            continue
        keys = node.partitions_def.get_partition_keys() if node.partitions_def else []
        parents = {
            parent.path[-1]: isinstance(graph.get_partition_mapping(key, parent), dg.IdentityPartitionMapping)
            and graph.get(parent).partitions_def == node.partitions_def
            for parent in node.parent_keys
        }
        partitions = tuple(map(stored_partition, keys)) or (WHOLE_TABLE,)
        facts.append(AssetFacts(key.path[-1], partitions, parents))
    return facts


def run_facts(
    instance: DagsterInstance, definitions: dg.Definitions, running: str | None = None
) -> list[RunFacts]:
    """The newest runs, newest first. A run that was stopped by hand tells nothing and is left out."""
    assets_of_job: dict[str, frozenset[str]] = {}
    for job in definitions.resolve_all_job_defs():
        keys = job.asset_layer.executable_asset_keys
        assets_of_job[job.name] = frozenset(key.path[-1] for key in keys)
    facts: list[RunFacts] = []
    failures = 0
    for record in instance.get_run_records(limit=RUNS_READ):
        run = record.dagster_run
        if run.run_id == running or run.status == DagsterRunStatus.CANCELED:
            continue
        selected = run.asset_selection or ()
        assets = frozenset(key.path[-1] for key in selected) or assets_of_job.get(run.job_name, frozenset())
        started = record.start_time or record.create_timestamp.timestamp()
        state: Literal["running", "succeeded", "failed"] = "succeeded"
        errors: dict[str, str] = {}
        if run.status in UNDER_WAY:
            state = "running"
            if run.status in EXECUTING and process_is_gone(instance, run):
                state, errors = "failed", {"": "the run's process is gone"}
        elif run.status == DagsterRunStatus.FAILURE:
            state = "failed"
            failures += 1
            if failures <= FAILURES_READ:
                errors = _errors(instance, run.run_id)
        for partition in _partitions_of(run.tags):
            facts.append(RunFacts(run.run_id, assets, partition, state, started, errors))
    return facts


def _partitions_of(tags: Mapping[str, str]) -> list[str]:
    key = tags.get("dagster/partition")
    return [stored_partition(key)] if key else [WHOLE_TABLE]


def _errors(instance: DagsterInstance, run_id: str) -> dict[str, str]:
    """Asset → why it failed; `""` → why the run did, where no asset has a reason."""
    of_type = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    events = [record.dagster_event for record in instance.all_logs(run_id, of_type=of_type)]
    errors: dict[str, str] = {}
    for event in events:
        if event is not None and event.is_step_failure:
            errors[event.step_key or ""] = one_line(first_error([event]))
        elif event is not None and not errors:
            errors[""] = " ".join((event.message or "the run failed").split())
    return errors
