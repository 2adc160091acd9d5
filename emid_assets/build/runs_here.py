"""The runs of a stage in this process, one after another, which an interrupt stops at once.

Belongs here: executing the runs, canceling the one under way when the build is told to stop, and waiting for
a place in a pool. `ray_runs` does the same on a cluster.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus

from emid_assets.build.ray_runs import Ended
from emid_assets.runs.dead_runs import UNDER_WAY, end_dead_runs
from emid_assets.runs.failures import first_error
from emid_assets.runs.processes import name_of_this_process
from emid_assets.runs.run_tags import PROCESS_TAG
from emid_assets.runs.signals import ignore_signals, was_told_to_stop

POLL_S = 0.5
"""How often a waiting run asks whether a pool has room."""


class BuildStoppedError(KeyboardInterrupt):
    """The build was stopped (Ctrl-C or a signal); finished work is kept."""


def runs_here(
    instance: DagsterInstance,
    job: dg.JobDefinition,
    keys: Sequence[str | None],
    run_config: Mapping[str, Any],
    show: Callable[[str], None],
    say: Callable[[str], None],
) -> Iterator[Ended]:
    """Run each partition, and yield (partition, its error or None).

    Args:
        instance: keeps the records.
        job: the stage.
        keys: its partitions; None for a stage without partitions.
        run_config: the configuration of every run.
        show: shows the partition under way.
        say: prints a line for the user.

    Raises:
        BuildStoppedError: names the interrupted stage and partition.
    """
    with _stoppable(instance, say):
        for key in keys:
            show(key or "")
            run_id = str(uuid.uuid4())
            failure = None
            try:
                result = job.execute_in_process(
                    instance=instance,
                    partition_key=key,
                    run_config=run_config,
                    tags={PROCESS_TAG: name_of_this_process()},
                    raise_on_error=False,
                    run_id=run_id,
                )
                failure = None if result.success else first_error(result.all_events)
            except BaseException:
                if not was_told_to_stop():
                    raise
            if was_told_to_stop():
                ignore_signals()
                _end_stopped_run(instance, run_id)
                raise BuildStoppedError(f"stopped in {job.name} {key or ''}".rstrip())
            yield key, failure


@contextlib.contextmanager
def _stoppable(instance: DagsterInstance, say: Callable[[str], None]) -> Iterator[None]:
    """Make interrupted runs canceled and not failed, and a run that waits for a pool say so and stoppable.

    Dagster holds back interrupts while it executes a run. It asks for the run's status before it calls an
    interrupted run failed, and calls it canceled if it is being canceled by then. While a run waits for a
    pool, it asks for a slot without a pause and looks at no interrupt.
    """
    records = instance.event_log_storage
    get_run, claim_slot = instance.get_run_by_id, records.claim_concurrency_slot

    def run_being_canceled(run_id: str) -> dg.DagsterRun | None:
        run = get_run(run_id)
        if run is None or run.status not in UNDER_WAY or run.status == DagsterRunStatus.CANCELING:
            return run
        if run.tags.get(PROCESS_TAG) != name_of_this_process() or not was_told_to_stop():
            return run
        instance.report_run_canceling(run, "The build was stopped.")
        return get_run(run_id)

    def slot_when_free(pool: str, run_id: str, step: str, priority: int | None = None) -> Any:
        said = ""
        while not (status := claim_slot(pool, run_id, step, priority)).is_claimed:
            if was_told_to_stop():
                raise KeyboardInterrupt
            end_dead_runs(instance)
            if (holders := _holders(instance, pool)) and holders != said:
                say(f"{step} waits for the pool {pool}, which is held by {holders}")
                said = holders
            time.sleep(POLL_S)
        return status

    instance.get_run_by_id = run_being_canceled  # type: ignore[method-assign]
    records.claim_concurrency_slot = slot_when_free  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del instance.get_run_by_id, records.claim_concurrency_slot


def _holders(instance: DagsterInstance, pool: str) -> str:
    """The runs that hold a pool's slots, in words; what a run that has ended still holds is freed."""
    words = []
    for slot in instance.event_log_storage.get_concurrency_info(pool).claimed_slots:
        run = instance.get_run_by_id(slot.run_id)
        if run is None or run.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(slot.run_id)
            continue
        partition = run.tags.get("dagster/partition")
        words.append(f"{slot.step_key}{f' [{partition}]' if partition else ''} of run {slot.run_id[:8]}")
    return ", ".join(words)


def _end_stopped_run(instance: DagsterInstance, run_id: str) -> None:
    """Cancel a run unless it has ended well: a signal may come before it begins, or while it is prepared."""
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status not in (DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED):
        instance.report_run_canceled(run, "The build was stopped.")
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
