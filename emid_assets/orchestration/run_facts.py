"""Facts about the graph and its runs, read from Dagster as the plain data that `health.verdict` judges."""

from collections.abc import Mapping
from typing import Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from emid_assets.health.verdict import AssetFacts, Health, RunFacts, examine
from emid_assets.orchestration.io_manager import stored_partition
from emid_assets.runs.dead_runs import EXECUTING, UNDER_WAY, process_is_gone
from emid_assets.runs.failures import failure_line, first_error
from emid_assets.settings import Settings
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import PIPELINE_HEALTH

RUNS_READ = 1000
FAILURES_READ = 50


def current_health(
    definitions: dg.Definitions,
    instance: DagsterInstance,
    settings: Settings,
    now: float,
    running: str | None = None,
) -> Health:
    """The health of a lake and its instance.

    Args:
        definitions: the graph, built with these settings.
        instance: holds the runs.
        settings: name the lake.
        now: seconds since 1970.
        running: id of the run that calls this; it is left out.
    """
    assets = asset_facts(definitions)
    runs = run_facts(instance, definitions, running)
    return examine(Lake(settings.lake_folder), assets, runs, now, settings.fresh_days)


def asset_facts(definitions: dg.Definitions) -> list[AssetFacts]:
    """The assets in topological order; without `pipeline_health`, which does not judge itself."""
    graph = definitions.resolve_asset_graph()
    facts = []
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if key.path[-1] == PIPELINE_HEALTH.name:
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
    """The most recent runs, newest first. A run that a user stopped says nothing and is left out."""
    graph = definitions.resolve_asset_graph()
    assets_of_job = {  # resolving the selections is much faster than resolving the jobs
        job.name: frozenset(key.path[-1] for key in job.selection.resolve(graph))
        for job in definitions.jobs or ()
        if hasattr(job, "selection")
    }
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
    """Asset → why it failed; `""` → why the run failed, if no asset has a reason."""
    of_type = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    events = [record.dagster_event for record in instance.all_logs(run_id, of_type=of_type)]
    errors: dict[str, str] = {}
    for event in events:
        if event is not None and event.is_step_failure:
            errors[event.step_key or ""] = failure_line(first_error([event]))
        elif event is not None and not errors:
            errors[""] = " ".join((event.message or "the run failed").split())
    return errors
