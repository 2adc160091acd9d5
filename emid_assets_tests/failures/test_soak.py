"""Half an hour of partition runs with random kills: nothing lost, and no memory that grows.

    pytest -m heavy emid_assets_tests/failures/test_soak.py

`SOAK_MINUTES` (30) and `SOAK_RUNS` (200) end it, whichever comes first; `SOAK_SEED` (0) chooses what
runs and what is killed.
"""

import contextlib
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterRunStatus, RunsFilter

from emid_assets.runs.dead_runs import UNDER_WAY
from emid_assets_tests.failures.servers import (
    Servers,
    process_of,
    resident_mb,
    serving,
)
from emid_assets_tests.failures.tiny import IMAGES, MUSIC, Pipeline
from emid_assets_tests.web import free_port, wait_for

pytestmark = pytest.mark.heavy

RUNS = [
    ("inventory", None),
    *(("embed_music", emotion) for emotion in MUSIC),
    *(("embed_images", tag) for tag in IMAGES),
    *(("align", emotion) for emotion in MUSIC),
]
KILLED_SHARE = 0.3
GROWTH = 1.10


def test_partition_runs_under_random_kills_lose_no_row_and_no_memory(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    most = int(os.environ.get("SOAK_RUNS", "200"))
    chance = random.Random(int(os.environ.get("SOAK_SEED", "0")))
    rows = pipeline.rows()
    pairs = pipeline.lake.read("fused_pairs")
    workspace = tmp_path / "workspace.yaml"
    module = {"module_name": "emid_assets_tests.failures.location", "location_name": "emid_assets"}
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}))
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-p", str(port)]
    memory: dict[str, list[float]] = {"webserver": [], "daemon": []}
    launched = 0
    killed: set[str] = set()
    with serving(pipeline, tmp_path / "log", command, port) as servers, pipeline.instance() as instance:
        parts = {"webserver": servers.part("dagster_webserver"), "daemon": servers.part("dagster._daemon")}
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and launched < most:
            job, partition = chance.choice(RUNS)
            run_id = servers.launch(job, partition)
            launched += 1
            if chance.random() < KILLED_SHARE and kill(instance, run_id, chance.uniform(0, 1.5)):
                killed.add(run_id)
            wait_for(lambda: under_way(instance) < 2, "a free place in the queue")
            assert pipeline.rows() == rows
            for name, pid in parts.items():
                memory[name].append(resident_mb(pid))
        wait_for(lambda: under_way(instance) == 0, "the last runs")
        finished = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        failed = [end_of(instance, run.run_id) for run in finished if run.run_id not in killed]
        assert_idle(servers)
    assert pipeline.run_places() == ""
    assert pipeline.rows() == rows
    assert pipeline.lake.read("fused_pairs").equals(pairs)
    assert not pipeline.unfinished()
    assert pipeline.health().is_healthy
    growth = {name: growth_of(values) for name, values in memory.items()}
    with capsys.disabled():
        print(
            f"\n{launched} runs, {len(killed)} killed, {len(failed)} failed by themselves; memory × {growth}"
        )
    assert killed
    assert not failed, "\n\n".join(failed)
    assert max(growth.values()) <= GROWTH, memory


def kill(instance: dg.DagsterInstance, run_id: str, after_s: float) -> bool:
    """Kill a run's process some time after it began; False where it was done before that."""
    pid = wait_for(lambda: process_of(instance, run_id), "the run's process")
    time.sleep(after_s)  # what is waited for is chance itself
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def under_way(instance: dg.DagsterInstance) -> int:
    return instance.get_runs_count(RunsFilter(statuses=UNDER_WAY))


def end_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """What a failed run's events say of its end."""
    of_type = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.STEP_FAILURE}
    return "\n".join(str(record.dagster_event) for record in instance.all_logs(run_id, of_type=of_type))


def assert_idle(servers: Servers) -> None:
    assert servers.process.poll() is None, servers.log.read_text()


def growth_of(values: list[float]) -> float:
    """Memory at the end over memory after the start: medians of the last and of the second quarter."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])
