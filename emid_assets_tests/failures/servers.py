"""The real web UI, its daemon and its code server, to launch runs on and to kill parts of."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg

from emid_assets.runs.instance import environment_of, prepare_instance
from emid_assets_tests.conftest import REPOSITORY, clean_environment
from emid_assets_tests.failures.tiny import Pipeline
from emid_assets_tests.web import WebUI, free_port, wait_for

LAUNCH = """mutation($job: String!, $tags: [ExecutionTag!]!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "emid_assets", repositoryName: "__repository__", jobName: $job},
    runConfigData: "{}", executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
       ... on RunConfigValidationInvalid { errors { message } } } }"""


def ui_command(port: int) -> list[str]:
    """`emid ui` as it is installed."""
    return [sys.executable, "-m", "emid_assets", "ui", "--port", str(port)]


def environment(pipeline: Pipeline) -> dict[str, str]:
    home = prepare_instance(pipeline.settings)
    paths = {"PYTHONPATH": str(REPOSITORY)}
    return clean_environment() | environment_of(pipeline.settings, home) | paths


class Servers(WebUI):
    """A running `dagster dev`: a webserver, a daemon and a code server below one process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        super().__init__(port)
        self.process = process
        self.log = log

    def launch(self, job: str, partition: str | None = None) -> str:
        """Launch a run; its id."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        answer = self.ask(LAUNCH, job=job, tags=tags)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def part(self, module: str) -> int:
        """The process of a part: `dagster_webserver` or `dagster._daemon`."""
        for pid in descendants(self.process.pid):
            if module in command_of(pid):
                return pid
        raise AssertionError(f"no process of {module} below {self.process.pid}")


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    below: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                below += [child, *descendants(child)]
    return below


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def resident_mb(pid: int) -> float:
    """Memory of a process that is its own or shared, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def serving(
    pipeline: Pipeline, log: Path, command: Sequence[str] | None = None, port: int | None = None
) -> Iterator[Servers]:
    """The servers while the block runs; by default `emid ui`."""
    port = port or free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command or ui_command(port), env=environment(pipeline), cwd=REPOSITORY,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    servers = Servers(process, port, log)
    try:
        wait_for(lambda: process.poll() is not None or servers.is_up(), "the web UI")
        assert process.poll() is None, log.read_text()
        yield servers
    finally:
        family = descendants(process.pid)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def process_of(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that executes a run; None where it has not begun."""
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = record.dagster_event
        if event is not None and "Executing steps in process" in (event.message or ""):
            return int(str(event.engine_event_data.metadata["pid"].value))
    return None


def status(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value
