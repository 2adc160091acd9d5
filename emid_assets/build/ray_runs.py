"""The runs of a stage on a cluster: submits them to the instance's run launcher and waits for them.

Belongs here: creating the runs, limiting how many run at once, and relaunching a run whose process is
gone. The launcher and Ray decide on the node and the device of a run.
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
"""How long PostgreSQL or Ray may be unreachable before a build gives up."""

NO_AGENT = "No available agent to submit job"
"""Ray's answer while its head node is still starting, or short of CPU time."""

ATTEMPTS = 2
"""A run whose process is gone is launched once more, as `run_retries` does for runs from the web UI."""

Ended = tuple[str | None, SerializableErrorInfo | None]


class ClusterError(RuntimeError):
    """The cluster cannot be reached or rejects a run; the message says what to do."""


def launched_runs(
    instance: DagsterInstance,
    job: dg.JobDefinition,
    keys: Sequence[str | None],
    run_config: Mapping[str, Any],
    say: Callable[[str], None],
    at_most: int | None = None,
) -> Iterator[Ended]:
    """Launch a run for each partition, and yield (partition, its error or None) as they end.

    Terminates the runs that have not ended when the caller stops.

    Args:
        instance: has the run launcher and the limit of concurrent runs.
        job: the stage.
        keys: its partitions; None for a stage without partitions.
        run_config: the configuration of every run.
        say: prints a line for the user.
        at_most: limit of concurrent runs, if lower than the instance's.

    Raises:
        ClusterError: Ray or PostgreSQL has not answered for `PATIENCE_S`, or a run was rejected.
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
    """End the runs that a killed build left on the cluster; the current build launches them again."""
    for run in instance.get_runs(RunsFilter(statuses=EXECUTING)):
        if BUILD_TAG in run.tags and is_gone(run.tags[BUILD_TAG]):
            with suppress(OSError, RuntimeError):  # the cluster may be gone too
                instance.run_launcher.terminate(run.run_id)
            instance.report_run_failed(run, "The build that waited for this run was killed.")


_Gone = "ProcessIsGone"


class _Runs:
    """The launched runs of a stage that have not ended: run id → (partition, attempt)."""

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
        # The same origin as the web UI's code server has: this interpreter and this module, on every node.
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
        """Submit a run to the launcher; False if a server does not answer right now."""
        # The job's tags tell Ray what the run requests; `create_run_for_job` does not add them.
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
        except Exception as error:  # a foreign server may answer anything
            of_what = " ".join(filter(None, (self._job.name, key)))
            if is_away(error) or NO_AGENT in str(error):
                # Each attempt leaves a failed run in the records, so try only a few times.
                self._next_launch = time.monotonic() + PATIENCE_S / 4
                self._be_patient("the launcher", error)
                return False
            raise ClusterError(
                f"the run of {of_what} could not be launched: check that Ray and PostgreSQL are running and "
                "that the token is correct, then run the same command again: finished work is kept "
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
        """Tolerate an unreachable server for up to `PATIENCE_S` without a break, timed for each server."""
        if who not in self._away_since:
            self._say(f"{self._job.name}: no answer ({_line(problem)}); retrying for {PATIENCE_S:.0f} s")
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
            return SerializableErrorInfo("the run was canceled by a user", [], None)
        of_type = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
        events = [record.dagster_event for record in self._instance.all_logs(run.run_id, of_type=of_type)]
        if any(event is not None and event.is_step_failure for event in events):
            return first_error(event for event in events if event is not None)
        # Dagster's own monitoring, if a web UI is running, may have noticed the end of the process first.
        said = " ".join(event.message or "" for event in events if event is not None)
        return SerializableErrorInfo(said or "the run's process is gone.", [], _Gone)

    def _look_after(self, run: dg.DagsterRun) -> SerializableErrorInfo | None:
        """Ask Ray about a run that is not finished; returns an error if its process is gone."""
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
        if health.status == WorkerStatus.UNKNOWN:  # for example after Ray was restarted
            since = self._unknown_since.setdefault(run.run_id, time.monotonic())
            if time.monotonic() - since < PATIENCE_S:
                return None
        latest = self._instance.get_run_by_id(run.run_id)
        if latest is None or latest.is_finished:  # it ended meanwhile: the next call to `ended` handles it
            return None
        message = f"the run's process is gone ({' '.join((health.msg or '').split())[:300]})."
        self._instance.report_run_failed(run, message)
        self._instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return SerializableErrorInfo(message, [], _Gone)

    def _say_who_waits(self, run: dg.DagsterRun) -> None:
        if run.status == DagsterRunStatus.STARTED:
            self._patient_until = float("inf")
        elif time.monotonic() > self._patient_until:
            self._say(f"{self._job.name}: no node has room for a run yet: see `ray status`")
            self._patient_until = float("inf")

    def terminate(self) -> None:
        with suppress(Exception):  # the build ends in any case and reports why
            runs = self._instance.get_runs(RunsFilter(run_ids=list(self.under_way))) if self.under_way else ()
            for run in runs:
                with suppress(Exception):
                    self._instance.run_launcher.terminate(run.run_id)
            waiting = [run for run in runs if run.status != DagsterRunStatus.STARTED]
            if waiting:
                _forget_waiting(self._instance.run_launcher, [run.run_id for run in waiting])
            for run in waiting:  # they have no process that would report it
                self._instance.report_run_canceled(run, "The build was stopped before this run started.")


_FORGET = """
import ray, sys
ray.init(namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE", log_to_driver=False)
for job in sys.argv[1:]:
    try:
        ray.kill(ray.get_actor("_ray_internal_job_actor_" + job))
    except ValueError:
        pass
"""
"""Ends jobs that no node has room for: Ray would keep them, and start nodes for them, until one has room."""


def _forget_waiting(launcher: Any, run_ids: Sequence[str]) -> None:
    """Run `_FORGET` on the cluster, as a job without resources: only jobs can be submitted from here."""
    from dagster_ray.core.run_launcher import get_job_submission_id_from_run_id

    jobs = [get_job_submission_id_from_run_id(run_id) for run_id in run_ids]
    launcher.client.submit_job(
        entrypoint=shlex.join([sys.executable, "-c", _FORGET, *jobs]), entrypoint_num_cpus=0
    )


@contextmanager
def records_at_hand() -> Iterator[None]:
    """Use Dagster's records within the block.

    Raises:
        ClusterError: they are in a PostgreSQL that does not answer, or that refuses the login.
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
    """Whether an error says that PostgreSQL or Ray does not answer."""
    return isinstance(error, DBAPIError | OSError) or type(error).__name__ == "DagsterPostgresException"


def _line(error: BaseException) -> str:
    text = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())[:300]
    return text.rstrip(".")
