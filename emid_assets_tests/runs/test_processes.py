"""Whether a process that was named is gone: real processes, and names from other machines and boots."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emid_assets.runs.processes import daemons_of, is_alive, is_gone, name_of_this_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
TELL_NAME = (
    "from emid_assets.runs.processes import name_of_this_process;"
    "print(name_of_this_process(), flush=True); input()"
)


def test_a_process_is_there_until_it_ends_and_while_it_waits_to_be_reaped_it_is_gone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TELL_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert not is_gone(name)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet reaped
    assert is_gone(name)
    assert not is_alive(process.pid)
    process.communicate()
    assert is_gone(name)


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    host, boot, namespace, pid, started = name_of_this_process().split()
    assert not is_gone(f"{host} {boot} {namespace} {pid} {started}")
    assert is_gone(f"{host} {boot} {namespace} {pid} {int(started) - 1}")


def test_what_ran_before_a_restart_is_gone_and_what_runs_elsewhere_is_not() -> None:
    host, boot, namespace, pid, started = name_of_this_process().split()
    assert is_gone(f"{host} another-boot {namespace} {pid} {started}")
    assert not is_gone(f"another-host {boot} {namespace} {pid} {started}")
    assert not is_gone(f"{host} {boot} pid:[1] {pid} {started}")


def test_a_daemon_is_found_by_its_command_and_its_instance(tmp_path: Path) -> None:
    package = tmp_path / "dagster"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_daemon.py").write_text("print(flush=True); input()")
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster._daemon", "run"],
        cwd=tmp_path, env=os.environ | {"DAGSTER_HOME": "/some/home", "PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    assert daemons_of(Path("/some/home")) == [process.pid]
    assert daemons_of(Path("/some/other")) == []
    process.communicate(b"\n")
    assert daemons_of(Path("/some/home")) == []
