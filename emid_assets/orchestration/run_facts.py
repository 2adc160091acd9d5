"""Facts about the graph and its runs, read from Dagster as the plain data that `health.verdict` judges."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from emid_assets.health.verdict import AssetFacts, Health, RunFacts, examine
from emid_assets.orchestration.declared import DECLARED
from emid_assets.orchestration.io_manager import stored_partition
from emid_assets.orchestration.old_runs import all_runs
from emid_assets.orchestration.stages import STAGE
from emid_assets.runs.dead_runs import EXECUTING, UNDER_WAY, process_is_gone
from emid_assets.runs.failures import failure_line, first_error
from emid_assets.runs.run_tags import LAKE_TAG, name_of_lake
from emid_assets.settings import Settings
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import PIPELINE_HEALTH


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
    # The asset that the verdict is written to does not judge itself.
    assets = [asset for asset in asset_facts(definitions, settings) if asset.name != PIPELINE_HEALTH.name]
    runs = run_facts(instance, definitions, settings.lake_folder, running)
    return examine(Lake(settings.lake_folder), assets, runs, now, settings.fresh_days)


def asset_facts(definitions: dg.Definitions, settings: Settings) -> list[AssetFacts]:
    """The assets in topological order, each with the recipe that its partitions would have now."""
    graph = definitions.resolve_asset_graph()
    facts = []
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        declared = DECLARED[key.path[-1]]
        facts.append(
            AssetFacts(
                key.path[-1],
                _stored_partitions(node.partitions_def),
                {parent.path[-1]: _partitions_read(graph, key, parent) for parent in node.parent_keys},
                functools.partial(declared.recipe, settings),
                declared.outside.name if declared.outside else "",
                node.tags[STAGE],
                declared.writes,
            )
        )
    return facts


def _stored_partitions(partitions: dg.PartitionsDefinition[str] | None) -> tuple[str, ...]:
    return tuple(map(stored_partition, partitions.get_partition_keys())) if partitions else (WHOLE_TABLE,)


def _partitions_read(graph: Any, key: dg.AssetKey, parent: dg.AssetKey) -> dict[str, tuple[str, ...]]:
    """Partition of an asset → the partitions of a parent that it reads, with the lake's names."""
    own, others = graph.get(key).partitions_def, graph.get(parent).partitions_def
    every = _stored_partitions(others)
    if own is None or others is None:
        return dict.fromkeys(_stored_partitions(own), every)
    mapping = graph.get_partition_mapping(key, parent)
    if isinstance(mapping, dg.AllPartitionMapping):
        return dict.fromkeys(_stored_partitions(own), every)
    if isinstance(mapping, dg.IdentityPartitionMapping):
        return {partition: (partition,) for partition in _stored_partitions(own)}
    read = {}
    for partition in own.get_partition_keys():
        subset = own.subset_with_partition_keys([partition])
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, own, others)
        read[stored_partition(partition)] = tuple(
            map(stored_partition, found.partitions_subset.get_partition_keys())
        )
    return read


def run_facts(
    instance: DagsterInstance, definitions: dg.Definitions, lake: Path, running: str | None = None
) -> list[RunFacts]:
    """The newest runs of each partition, newest first: every run under way, and the last one that ended.

    A run that a user stopped says nothing and is left out, and so is a run that builds another lake.

    Args:
        instance: holds the runs.
        definitions: the graph.
        lake: the lake's folder.
        running: id of the run that calls this; it is left out.
    """
    graph = definitions.resolve_asset_graph()
    assets_of_job = {  # resolving the selections is much faster than resolving the jobs
        job.name: frozenset(key.path[-1] for key in job.selection.resolve(graph))
        for job in definitions.jobs or ()
        if hasattr(job, "selection")
    }
    sought = {
        (key.path[-1], partition)
        for key in graph.toposorted_asset_keys
        for partition in _stored_partitions(graph.get(key).partitions_def)
    }
    own = name_of_lake(lake)
    facts: list[RunFacts] = []
    for record in all_runs(instance):
        if not sought:
            break
        run = record.dagster_run
        is_other = run.run_id == running or run.tags.get(LAKE_TAG, own) != own
        if is_other or run.status == DagsterRunStatus.CANCELED:
            continue
        selected = run.asset_selection or ()
        assets = frozenset(key.path[-1] for key in selected) or assets_of_job.get(run.job_name, frozenset())
        for partition in _partitions_of(run.tags):
            newest = sought & {(asset, partition) for asset in assets}
            if not newest:
                continue
            found = _facts_of_run(instance, record, assets, partition)
            facts.append(found)
            if found.state != "running":
                sought -= newest
    return facts


def _facts_of_run(
    instance: DagsterInstance, record: dg.RunRecord, assets: frozenset[str], partition: str
) -> RunFacts:
    run = record.dagster_run
    state: Literal["running", "succeeded", "failed"] = "succeeded"
    errors: dict[str, str] = {}
    if run.status in UNDER_WAY:
        state = "running"
        if run.status in EXECUTING and process_is_gone(instance, run):
            state, errors = "failed", {"": "the run's process is gone"}
    elif run.status == DagsterRunStatus.FAILURE:
        state, errors = "failed", _errors(instance, run.run_id)

    def came_before(run_id: str) -> bool | None:
        other = instance.get_run_record_by_id(run_id) if run_id else None
        return None if other is None else other.storage_id > record.storage_id

    started = record.start_time or record.create_timestamp.timestamp()
    return RunFacts(run.run_id, assets, partition, state, started, errors, came_before)


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
