"""The runs of a stage on a cluster: handed to the instance's run launcher, and waited for.

Belongs here: creating the runs, how many are under way at once, and what becomes of a run whose
process is gone. Where a run is placed, and on which device, is the launcher's affair and Ray's.
"""

import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy.exc import DBAPIError

from emid_assets.runs.dagster_internals import (
    ModuleCodePointer,
    RepositoryPythonOrigin,
    SerializableErrorInfo,
    WorkerStatus,
)
from emid_assets.runs.dead_runs import EXECUTING
from emid_assets.runs.failures import first_error
from emid_assets.runs.processes import is_gone, name_of_this_process

BUILD_TAG = "emid/build"
"""Run tag with the name of the build process that waits for the run (see `emid_assets.runs.processes`)."""

CODE_LOCATION = "emid_assets.definitions"
POLL_S = 0.5
LOOK_AFTER_S = 5.0
PATIENCE_S = 90.0
"""How long PostgreSQL or Ray may be away before a build gives up."""

NO_AGENT = "No available agent to submit job"
"""What Ray answers while its head is still starting up, or short of processor time."""

ATTEMPTS = 2
"""A run whose process is gone is launched once more, as `run_retries` does it for runs of the web UI."""

Ended = tuple[str | None, SerializableErrorInfo | None]


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or does not take a run; the message says what to do."""


def launched_runs(
    instance: DagsterInstance,
    job: dg.JobDefinition,
    keys: Sequence[str | None],
    run_config: Mapping[str, Any],
    say: Callable[[str], None],
    at_most: int | None = None,
) -> Iterator[Ended]:
    """Launch a run for each partition, and yield (partition, its error or None) as they end.

    Runs that are still under way when the caller stops are terminated.

    Args:
        instance: has the run launcher, and says how many runs may be under way at once.
        job: the stage.
        keys: its partitions; None for a stage without.
        run_config: of every run.
        say: takes a line for whoever watches.
        at_most: so many runs at once, where the instance would allow more.

    Raises:
        ClusterError: Ray or PostgreSQL has been away for `PATIENCE_S`, or a run was not taken.
    """
    runs = _Runs(instance, job, run_config, say)
    waiting = deque((key, 1) for key in keys)
    at_once = min(runs.at_once, at_most or runs.at_once)
    try:
        while waiting or runs.under_way:
            while waiting and len(runs.under_way) < at_once and runs.launch(*waiting[0]):
                waiting.popleft()
            time.sleep(POLL_S)
            for key, attempt, error in runs.ended():
                if error is None or error.cls_name != _Gone or attempt == ATTEMPTS:
                    yield key, error
                else:
                    say(f"{job.name} {key or ''}: {error.message} It is launched once more.")
                    waiting.appendleft((key, attempt + 1))
    finally:
        runs.terminate()


def end_left_runs(instance: DagsterInstance) -> None:
    """End what a killed build has left running on the cluster: the next build launches it anew."""
    for run in instance.get_runs(RunsFilter(statuses=[*EXECUTING, DagsterRunStatus.NOT_STARTED])):
        if BUILD_TAG in run.tags and is_gone(run.tags[BUILD_TAG]):
            with suppress(OSError, RuntimeError):  # of a cluster that is gone too
                instance.run_launcher.terminate(run.run_id)
            instance.report_run_failed(run, "The build that waited for this run was killed.")


_Gone = "ProcessIsGone"


class _Runs:
    """The runs of a stage that are under way: run id → (partition, attempt)."""

    def __init__(
        self,
        instance: DagsterInstance,
        job: dg.JobDefinition,
        run_config: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.under_way: dict[str, tuple[str | None, int]] = {}
        queue = instance.get_concurrency_config().run_queue_config
        limit = queue.max_concurrent_runs if queue else 1
        self.at_once = limit if limit > 0 else sys.maxsize
        self._instance, self._job, self._run_config, self._say = instance, job, run_config, say
        # As the code server of the web UI names it: this interpreter and this module, on every node.
        self._origin = RepositoryPythonOrigin(
            sys.executable,
            ModuleCodePointer(CODE_LOCATION, "definitions", str(Path.cwd())),
            entry_point=[sys.executable, "-m", "dagster"],
        ).get_job_origin(job.name)
        self._next_launch = 0.0
        self._next_look: dict[str, float] = {}
        self._unknown_since: dict[str, float] = {}
        self._ended: list[tuple[str | None, int, SerializableErrorInfo | None]] = []
        self._patient_until = time.monotonic() + PATIENCE_S
        self._away_since: dict[str, float] = {}

    def launch(self, key: str | None, attempt: int) -> bool:
        """Hand a run to the launcher; False where a server does not answer just now."""
        # Those of the job say what the run asks Ray for: creating a run adds none of them by itself.
        tags = {**self._job.run_tags, BUILD_TAG: name_of_this_process(), "dagster/max_retries": "0"}
        if key is not None:
            tags |= self._job.get_tags_for_partition_key(key, selected_asset_keys=None)
        if time.monotonic() < self._next_launch:
            return False
        try:
            run = self._instance.create_run_for_job(
                self._job, run_config=self._run_config, tags=tags, job_code_origin=self._origin
            )
            self._instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
        except Exception as error:  # what a foreign server answers may be anything
            of_what = " ".join(filter(None, (self._job.name, key)))
            if is_away(error) or NO_AGENT in str(error):
                # Each attempt leaves a failed run in the records: few of them.
                self._next_launch = time.monotonic() + PATIENCE_S / 4
                self._be_patient("the launcher", error)
                return False
            raise ClusterError(
                f"the run of {of_what} could not be launched: check that Ray and PostgreSQL are running and "
                "that the token is theirs, then run the same command again: finished work is kept "
                f"({_line(error)})"
            ) from error
        self.under_way[run.run_id] = (key, attempt)
        self._next_look[run.run_id] = time.monotonic() + LOOK_AFTER_S
        self._away_since.pop("the launcher", None)
        return True

    def ended(self) -> list[tuple[str | None, int, SerializableErrorInfo | None]]:
        """Partition, attempt and error of the runs that have ended since the last call."""
        try:
            of_ours = list(self.under_way)
            for run in self._instance.get_runs(RunsFilter(run_ids=of_ours)) if of_ours else ():
                error = self._error_of(run) if run.is_finished else self._look_after(run)
                if run.is_finished or error is not None:
                    self._ended.append((*self.under_way.pop(run.run_id), error))
            self._away_since.pop("PostgreSQL", None)
        except Exception as problem:
            if not is_away(problem):
                raise
            self._be_patient("PostgreSQL", problem)
        found, self._ended = self._ended, []
        return found

    def _be_patient(self, who: str, problem: Exception) -> None:
        """Take it that a server does not answer, for `PATIENCE_S` in one go: each has a clock of its own."""
        if who not in self._away_since:
            self._say(f"{self._job.name}: no answer ({_line(problem)}); asking again for {PATIENCE_S:.0f} s")
        since = self._away_since.setdefault(who, time.monotonic())
        if time.monotonic() - since > PATIENCE_S:
            raise ClusterError(
                f"no answer for {PATIENCE_S:.0f} s: {_line(problem)}. Check that Ray and PostgreSQL are "
                "running, then run the same command again: finished work is kept"
            ) from problem

    def _error_of(self, run: dg.DagsterRun) -> SerializableErrorInfo | None:
        if run.status == DagsterRunStatus.SUCCESS:
            return None
        if run.status == DagsterRunStatus.CANCELED:
            return SerializableErrorInfo("the run was stopped by hand", [], None)
        of_type = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
        events = [record.dagster_event for record in self._instance.all_logs(run.run_id, of_type=of_type)]
        if any(event is not None and event.is_step_failure for event in events):
            return first_error(event for event in events if event is not None)
        # Dagster's own monitoring, beside a web UI, may have seen the process's end first.
        said = " ".join(event.message or "" for event in events if event is not None)
        return SerializableErrorInfo(said or "the run's process is gone.", [], _Gone)

    def _look_after(self, run: dg.DagsterRun) -> SerializableErrorInfo | None:
        """What Ray says of a run that is not finished: an error where its process is gone."""
        if time.monotonic() < self._next_look[run.run_id]:
            return None
        self._next_look[run.run_id] = time.monotonic() + LOOK_AFTER_S
        try:
            health = self._instance.run_launcher.check_run_worker_health(run)
        except Exception as problem:
            if not is_away(problem):
                raise
            self._be_patient("Ray", problem)
            return None
        self._away_since.pop("Ray", None)
        if health.status == WorkerStatus.RUNNING:
            self._unknown_since.pop(run.run_id, None)
            self._say_who_waits(run)
            return None
        if health.status == WorkerStatus.UNKNOWN:  # such as to a Ray that was started anew
            since = self._unknown_since.setdefault(run.run_id, time.monotonic())
            if time.monotonic() - since < PATIENCE_S:
                return None
        latest = self._instance.get_run_by_id(run.run_id)
        if latest is None or latest.is_finished:  # meanwhile; the next look tells how
            return None
        message = f"the run's process is gone ({' '.join((health.msg or '').split())[:300]})."
        self._instance.report_run_failed(run, message)
        self._instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return SerializableErrorInfo(message, [], _Gone)

    def _say_who_waits(self, run: dg.DagsterRun) -> None:
        if run.status == DagsterRunStatus.STARTED:
            self._patient_until = float("inf")
        elif time.monotonic() > self._patient_until:
            self._say(f"{self._job.name}: no node has had room for a run so far: see `ray status`")
            self._patient_until = float("inf")

    def terminate(self) -> None:
        with suppress(Exception):  # the build ends in any case, and says why
            runs = self._instance.get_runs(RunsFilter(run_ids=list(self.under_way))) if self.under_way else ()
            for run in runs:
                with suppress(Exception):
                    self._instance.run_launcher.terminate(run.run_id)
            waiting = [run for run in runs if run.status != DagsterRunStatus.STARTED]
            if waiting:
                _forget_waiting(self._instance.run_launcher, [run.run_id for run in waiting])
            for run in waiting:  # no process of theirs will say so
                self._instance.report_run_canceled(run, "The build was stopped before this run began.")


_FORGET = """
import ray, sys
ray.init(namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE", log_to_driver=False)
for job in sys.argv[1:]:
    try:
        ray.kill(ray.get_actor("_ray_internal_job_actor_" + job))
    except ValueError:
        pass
"""
"""Ends jobs that no node has had room for: Ray would keep them, and start a node for them, until one has."""


def _forget_waiting(launcher: Any, run_ids: Sequence[str]) -> None:
    """Have the cluster do it, by a job that asks for nothing: only Ray's jobs can be reached from here."""
    from dagster_ray.core.run_launcher import get_job_submission_id_from_run_id

    jobs = [get_job_submission_id_from_run_id(run_id) for run_id in run_ids]
    launcher.client.submit_job(
        entrypoint=shlex.join([sys.executable, "-c", _FORGET, *jobs]), entrypoint_num_cpus=0
    )


@contextmanager
def records_at_hand() -> Iterator[None]:
    """Dagster's records are asked for in the block.

    Raises:
        ClusterError: they are in a PostgreSQL that does not answer, or lets nobody in.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_postgres(error):
            raise
        where = f"{os.environ.get('DAGSTER_PG_HOST')}:{os.environ.get('DAGSTER_PG_PORT')}"
        cause = error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
        raise ClusterError(
            f"no records from PostgreSQL at {where}: check that it is running and that DAGSTER_PG_* in the "
            "environment belong to it (after `make cluster-up`, source .emid/cluster/environment again; to "
            f"work without a cluster, unset EMID_PROFILE), then run the command again ({_line(cause)})"
        ) from error


def _is_of_postgres(error: Exception) -> bool:
    by_driver = isinstance(error, DBAPIError) and type(error.orig).__module__.startswith("psycopg2")
    return by_driver or type(error).__name__ == "DagsterPostgresException"


def is_away(error: Exception) -> bool:
    """Whether an error says that a server does not answer, be it PostgreSQL or Ray."""
    return isinstance(error, DBAPIError | OSError) or type(error).__name__ == "DagsterPostgresException"


def _line(error: BaseException) -> str:
    text = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())[:300]
    return text.rstrip(".")
