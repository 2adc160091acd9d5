"""The daemon, the webserver and a run that the web UI launched are killed; a second daemon is refused."""

import os
import signal
import subprocess
from pathlib import Path

import dagster as dg
import filelock
import pytest

from emid_assets.runs.processes import daemons_of, is_alive
from emid_assets_tests.conftest import REPOSITORY
from emid_assets_tests.failures.servers import (
    Servers,
    environment,
    process_of,
    serving,
    status,
    ui_command,
)
from emid_assets_tests.failures.tiny import Pipeline
from emid_assets_tests.web import free_port, wait_for

pytestmark = pytest.mark.server


def test_what_a_killed_server_leaves_is_whole_and_the_next_start_goes_on(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """One test, since each start costs much: two daemons; the daemon, then a run, then the webserver die."""
    rows = pipeline.rows()
    home = pipeline.root / "dagster"
    with serving(pipeline, tmp_path / "first.log") as servers, pipeline.instance() as instance:
        daemon = servers.part("dagster._daemon")
        assert daemons_of(home) == [daemon]
        second = subprocess.run(
            ui_command(free_port()), env=environment(pipeline), cwd=REPOSITORY,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert f"a daemon (process {daemon}) already serves the instance" in second.stderr
        assert "Traceback" not in second.stderr

        os.kill(daemon, signal.SIGKILL)
        waiting = servers.launch("inventory")
        servers.process.wait(60)  # `dagster dev` ends, and does not say so in its exit code
        assert "dagster-daemon process shut down unexpectedly" in servers.log.read_text()
        assert not instance.get_run_by_id(waiting).is_finished  # type: ignore[union-attr]
    assert pipeline.rows() == rows

    with serving(pipeline, tmp_path / "second.log") as servers, pipeline.instance() as instance:
        wait_for(lambda: status(instance, waiting) == "SUCCESS", "the run that waited for a daemon")

        killed = kill_a_run_that_is_about_to_store(pipeline, servers, instance)
        wait_for(lambda: status(instance, killed) == "FAILURE", "the killed run's end")
        retry = wait_for(lambda: retry_of(instance, killed), "the killed run's retry")
        wait_for(lambda: status(instance, retry) == "SUCCESS", "the retry's success")
        assert pipeline.rows() == rows

        os.kill(servers.part("dagster_webserver"), signal.SIGKILL)
        servers.process.wait(60)  # `dagster dev` ends, and does not say so in its exit code
        assert "dagster-webserver process shut down unexpectedly" in servers.log.read_text()
    assert not daemons_of(home)
    assert pipeline.rows() == rows
    assert pipeline.run("inventory") == ""
    assert pipeline.health().is_healthy


def kill_a_run_that_is_about_to_store(
    pipeline: Pipeline, servers: Servers, instance: dg.DagsterInstance
) -> str:
    """Launch a run, hold it where it stores its table, and kill it there; its id."""
    folder = pipeline.root / "tables" / "media_inventory" / "all"
    with filelock.FileLock(folder / ".lock"):
        run_id = servers.launch("inventory")

        pid = wait_for(lambda: process_of(instance, run_id), "the run's process")
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)
    return run_id


def retry_of(instance: dg.DagsterInstance, run_id: str) -> str | None:
    for run in instance.get_runs(limit=5):
        if run.parent_run_id == run_id:
            return run.run_id
    return None
