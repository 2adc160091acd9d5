"""An interrupt at any moment of a build: it stops at once, says so, and no run is left or called failed."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from emid_assets.build.runs_here import runs_here
from emid_assets.cli.build import build
from emid_assets.runs.instance import SHIPPED_INSTANCE
from emid_assets.runs.signals import raise_on_signals
from emid_assets_tests.failures.tiny import Pipeline, make_media, plan_places_only, processes, settle

ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED}
STOPPED_WITHIN_S = 60
"""Far more than it takes: the rest of the build takes longer where nothing stops it."""


def command(pipeline: Pipeline, output: Path, begun: Any) -> None:
    """`emid build` in this process, of the partitions that have media; it never returns."""
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    settle(pipeline)
    plan_places_only()
    raise_on_signals()
    begun.send(True)
    arguments = [word for name, value in pipeline.options.items() for word in (f"--{name}", str(value))]
    build.main([word.replace("_", "-") if word.startswith("--") else word for word in arguments])


def build_interrupted(folder: Path, after_s: float, number: signal.Signals) -> str:
    """What is wrong after a build that gets a signal `after_s` seconds after it began; empty if nothing."""
    pipeline, output = Pipeline(make_media(folder / "media"), folder / "lake"), folder / "output"
    receive, send = processes.Pipe(duplex=False)
    child = processes.Process(target=command, args=(pipeline, output, send))
    child.start()
    receive.recv()
    child.join(after_s)
    if child.exitcode is None:
        os.kill(child.pid, number)
    child.join(STOPPED_WITHIN_S)
    if child.exitcode is None:
        child.kill()
        return "it did not stop"
    said = output.read_text()
    with pipeline.instance() as instance:
        runs = [(run.job_name, run.status) for run in instance.get_runs()]
    left = [f"{job} is {status.value}" for job, status in runs if status not in ENDED]
    left += [] if (health := pipeline.health()).is_healthy else [health.verdict]
    status, word = (0, "Done in") if "Done in" in said else (130, "stopped")
    if child.exitcode != status or word not in said or left:
        return f"exit status {child.exitcode}, {left}: {said[-2000:]}"
    return ""


def seconds_of_a_build(folder: Path) -> float:
    start = time.monotonic()
    assert build_interrupted(folder, 600, signal.SIGINT) == ""
    return time.monotonic() - start


def interrupted_at_random(folder: Path, tries: int) -> dict[str, str]:
    """Signal and second → what was wrong."""
    chosen = random.Random(tries)
    longest = seconds_of_a_build(folder / "whole")
    wrong = {}
    for place in range(tries):
        after_s = longest * (place + chosen.random()) / tries
        number = chosen.choice([signal.SIGINT, signal.SIGTERM])
        if problem := build_interrupted(folder / str(place), after_s, number):
            wrong[f"{number.name} after {after_s:.2f} of {longest:.2f} s"] = problem
    return wrong


def run_that_interrupts_itself(home: Path, phase: str, to: Any) -> None:
    def interrupt_in(place: str) -> None:
        if place == phase:
            os.kill(os.getpid(), signal.SIGTERM)

    class Model(dg.ConfigurableResource["Model"]):
        def setup_for_execution(self, context: dg.InitResourceContext) -> None:
            interrupt_in("resource")

    @dg.asset(pool="gpu")
    def pairs(model: Model) -> None:
        interrupt_in("step")

    create = dg.DagsterInstance.create_run_for_job

    def created(*arguments: Any, **named: Any) -> dg.DagsterRun:
        run = create(*arguments, **named)
        interrupt_in("created")
        return run

    job = dg.Definitions(
        assets=[pairs], jobs=[dg.define_asset_job("align")], resources={"model": Model()}
    ).resolve_job_def("align")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        interrupt_in("pool")

    with dg.DagsterInstance.from_config(str(home)) as instance:
        holder = instance.create_run_for_job(job)
        if phase == "pool":
            records = instance.event_log_storage
            records.initialize_concurrency_limit_to_default("gpu")
            assert records.claim_concurrency_slot("gpu", holder.run_id, "pairs").is_claimed
        dg.DagsterInstance.create_run_for_job = created  # type: ignore[method-assign]
        raise_on_signals()
        try:
            for _ in runs_here(instance, job, [None, None], {}, interrupt_in, say):
                interrupt_in("between")
        except KeyboardInterrupt as stop:
            runs = [run for run in instance.get_runs() if run.run_id != holder.run_id]
            failures = [
                record
                for run in runs
                for record in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
            ]
            held = f"pairs waits for the pool gpu, which is held by pairs of run {holder.run_id[:8]}"
            assert said == ([held] if phase == "pool" else [])
            places = instance.event_log_storage.get_concurrency_info("gpu").pending_steps
            waiting = [place.run_id for place in places if place.run_id != holder.run_id]
            to.send((type(stop).__name__, str(stop), [run.status for run in runs], failures, waiting))


CANCELED = ("BuildStoppedError", "stopped in align", [DagsterRunStatus.CANCELED], [], [])


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        *((phase, CANCELED) for phase in ("created", "resource", "pool", "step")),
        ("between", ("KeyboardInterrupt", "", [DagsterRunStatus.SUCCESS], [], [])),
    ],
)
def test_an_interrupt_ends_a_run_in_each_of_its_phases_and_none_has_failed(
    tmp_path: Path, phase: str, expected: tuple[str, str, list[DagsterRunStatus], list[Any], list[Any]]
) -> None:
    shutil.copy(SHIPPED_INSTANCE, tmp_path / "dagster.yaml")
    receive, send = processes.Pipe(duplex=False)
    child = processes.Process(target=run_that_interrupts_itself, args=(tmp_path, phase, send))
    child.start()
    send.close()
    assert receive.recv() == expected
    child.join()


def test_a_slot_that_a_run_holds_beyond_its_end_is_freed(tmp_path: Path) -> None:
    shutil.copy(SHIPPED_INSTANCE, tmp_path / "dagster.yaml")

    @dg.asset(pool="gpu")
    def pairs() -> None: ...

    job = dg.Definitions(assets=[pairs], jobs=[dg.define_asset_job("align")]).resolve_job_def("align")
    said: list[str] = []
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
        ended = instance.create_run_for_job(job)
        assert instance.event_log_storage.claim_concurrency_slot("gpu", ended.run_id, "pairs").is_claimed
        instance.report_run_canceled(ended)
        assert list(runs_here(instance, job, [None], {}, said.append, said.append)) == [(None, None)]
        assert instance.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
    assert said == [""]


@pytest.mark.slow
def test_a_build_stops_wherever_it_is_interrupted(tmp_path: Path) -> None:
    assert interrupted_at_random(tmp_path, 2) == {}


@pytest.mark.heavy
def test_a_build_stops_at_each_of_eighty_moments(tmp_path: Path) -> None:
    assert interrupted_at_random(tmp_path, 80) == {}
