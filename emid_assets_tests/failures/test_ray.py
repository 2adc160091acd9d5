"""The profile `ray`: a build over two nodes, with PostgreSQL, against the same build in one process.

The cluster is what `make cluster-up` starts, with a GPU on each node that Ray believes in.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import filelock
import polars as pl
import pytest
import yaml

from emid_assets.build import ray_runs as launched
from emid_assets.build import stage_by_stage as build
from emid_assets.definitions import build_definitions
from emid_assets.encoders.embed import Earlier, Embedded, embed
from emid_assets.encoders.interface import MediaItem
from emid_assets.encoders.ray_actors import ActorsError, on_actors
from emid_assets.runs.instance import RAY_INSTANCE, SHIPPED_INSTANCE, environment_of, prepare_instance
from emid_assets.runs.processes import is_alive
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake
from emid_assets_tests.conftest import REPOSITORY, clean_environment
from emid_assets_tests.encoders.fake_encoder import FakeEncoder, numbered, write_items
from emid_assets_tests.failures import servers
from emid_assets_tests.failures.servers import command_of, descendants, process_of, serving, status
from emid_assets_tests.failures.tiny import Pipeline, in_a_child, tell_how_it_ends, use_hash_encoder
from emid_assets_tests.web import wait_for

SCRIPT = REPOSITORY / "deploy" / "ray" / "cluster.py"
PATIENCE_S = 600
SHARDS = 2
SHARDED: list[tuple[str, str | None]] = [
    ("inventory", None),
    ("embed_music", "sad"),
    *(("embed_images", tag) for tag in ("awe", "fear")),
    ("expand", "sad"),
    *(("match_shards", f"{shard}|sad") for shard in range(SHARDS)),
    ("align", "sad"),
    ("train_adapter", "bmf"),
]
"""Runs from the media to the adapter's embeddings, where the matching is cut into shards of images."""


class ShardedPipeline(Pipeline):
    """Music partitions against shards of the images, a run each."""

    @property
    def options(self) -> dict[str, Any]:
        return super().options | {"image_shards": SHARDS}


@dataclass(frozen=True)
class Cluster:
    """What `cluster.py up` has started."""

    folder: Path

    @property
    def state(self) -> Any:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.state["environment"])

    def join(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this process, and what it starts, one that talks to the cluster."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def nodes(self) -> dict[str, int]:
        """The nodes' processes by their role: `head` is the one that the others joined."""
        with_head = Path(self.state["ray"]).name.encode()
        raylets = [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if "/raylet/raylet " in command_of(int(entry.name))
            and with_head in (entry / "cmdline").read_bytes()
        ]
        return {"head" if "--head" in command_of(pid) else "worker": pid for pid in raylets}

    def of_the_head(self) -> list[int]:
        """The processes that are the head: its node, the cluster's records and the server of the jobs."""
        servers = ("/gcs_server", "/dashboard/dashboard.py")
        of_this = Path(self.state["ray"]).name
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            words = command_of(int(entry.name)).split(" ")
            if any(of_this in word for word in words) and any(word.endswith(servers) for word in words[:4]):
                found.append(int(entry.name))
        return [self.nodes()["head"], *found]


def script(command: str, folder: Path, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), command, "--folder", str(folder), *options],
        env=clean_environment() | {"PYTHONPATH": str(REPOSITORY)}, cwd=REPOSITORY, timeout=300,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    logs = "\n".join(log.read_text() for log in sorted(folder.glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{logs}"


def needs_ray() -> None:
    missing = [
        name for name in ("ray", "dagster_ray", "dagster_postgres") if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'emid-assets[ray]'")
    if not list(Path("/usr/lib/postgresql").glob("*/bin")):
        assert not os.environ.get("CI"), "no PostgreSQL: `make services` installs it"
        pytest.skip("needs PostgreSQL: apt-get install postgresql")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a worker node with a processor and a GPU each."""
    needs_ray()
    # Not below pytest's own folder, which PostgreSQL's user may not enter.
    with tempfile.TemporaryDirectory(prefix="emid-cluster-") as name:
        folder = Path(name)
        script("up", folder, "--cpus", "1", "--gpus", "1")
        try:
            yield Cluster(folder)
        finally:
            script("down", folder)


def build_on_ray(pipeline: Pipeline, environment: dict[str, str], to: Any) -> None:
    """`emid build --profile ray` in a child, of the partitions that have media."""
    os.environ.update(environment | {"EMID_RUN_GPUS": "1"})
    os.environ.update(environment_of(pipeline.settings, prepare_instance(pipeline.settings)))
    use_hash_encoder()
    launched.CODE_LOCATION = "emid_assets_tests.failures.location"
    build.partitions_of = lambda job: [key for stage, key in SHARDED if stage == job.name]
    tell_how_it_ends(pipeline, to)


def tables_of(pipeline: Pipeline) -> dict[str, pl.DataFrame]:
    tables = sorted(path.name for path in (pipeline.root / "tables").iterdir())
    return {table: pipeline.lake.read(table) for table in tables}


def listening_addresses(pids: set[int]) -> set[str]:
    """The addresses on which processes listen by TCP, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 socket has it, and ::1, as /proc/net writes them."""


def of_the_cluster(cluster: Cluster) -> set[int]:
    """All processes that the cluster's folder or address is known to."""
    marks = (Path(cluster.state["ray"]).name.encode(), cluster.environment["RAY_API_SERVER_ADDRESS"].encode(),
             str(cluster.folder).encode())  # fmt: skip
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if any(mark in told for mark in marks):
                found.add(int(entry.name))
    return found


def test_the_profile_passes_every_setting_on_and_no_secret() -> None:
    profile = yaml.safe_load(RAY_INSTANCE.read_text())
    assert (REPOSITORY / "deploy" / "ray" / "dagster.yaml").resolve() == RAY_INSTANCE.resolve()
    launcher = profile.pop("run_launcher")["config"]["ray"]
    passed = {name for name in launcher["env_vars"] if name.startswith("EMID_")}
    assert passed == {f"EMID_{name.upper()}" for name in Settings.model_fields}
    assert set(launcher["env_vars"]) - passed == {"OMP_NUM_THREADS"}
    assert profile.pop("storage")
    shipped = yaml.safe_load(SHIPPED_INSTANCE.read_text())
    del profile["concurrency"], shipped["concurrency"], profile["run_monitoring"], shipped["run_monitoring"]
    del shipped["run_storage"], shipped["event_log_storage"]
    assert profile == shipped


def test_the_file_of_an_autoscaling_cluster_passes_rays_own_check_and_has_the_secrets_from_a_file() -> None:
    needs_ray()
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = yaml.safe_load((SCRIPT.parent / "cluster.yaml").read_text())
    validate_config(prepare_config(written))
    types = written["available_node_types"]
    assert types[written["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    for commands in (written["head_start_ray_commands"], written["worker_start_ray_commands"]):
        assert ". ~/emid.env" in commands[-1]
        assert "RAY_AUTH_TOKEN" not in commands[-1]


def test_the_kubernetes_cluster_asks_for_tokens_and_gives_every_pod_the_lake_and_the_database() -> None:
    spec = yaml.safe_load((SCRIPT.parent / "kuberay.yaml").read_text())["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "emid-postgres"}}]
        assert container["volumeMounts"] == [{"name": "emid", "mountPath": "/emid"}]
        assert pod["volumes"] == [{"name": "emid", "persistentVolumeClaim": {"claimName": "emid-lake"}}]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert pods[-1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_build_over_two_nodes_gives_every_table_bit_for_bit(
    cluster: Cluster, built: Pipeline, tmp_path: Path
) -> None:
    here, there = (ShardedPipeline(built.media, tmp_path / name) for name in ("here", "there"))
    assert here.run_places(SHARDED) == ""
    assert in_a_child(build_on_ray, there, cluster.environment, within_s=PATIENCE_S) == ""

    ours, theirs = tables_of(here), tables_of(there)
    assert ours.keys() == theirs.keys() >= {"similarity_shards", "fused_pairs", "adapted_embeddings"}
    for table, frame in ours.items():
        assert frame.equals(theirs[table]), table
    assert not list(there.root.rglob("*.db"))  # Dagster's records are in PostgreSQL
    addresses = listening_addresses(of_the_cluster(cluster))
    assert addresses
    assert addresses <= LOOPBACK
    secrets = [cluster.folder / name for name in ("password", "token", "environment", "state.json")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


@pytest.mark.heavy
def test_a_worker_node_and_a_run_are_killed_while_embedding_and_nothing_is_lost_or_twice(
    cluster: Cluster, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (cluster.environment | {"EMID_RUN_GPUS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", "")
    home = prepare_instance(pipeline.settings)
    assert home.name == "dagster-ray"
    for name, value in environment_of(pipeline.settings, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launched, "CODE_LOCATION", "emid_assets_tests.failures.location")
    rows = pipeline.rows()
    job = build_definitions(**pipeline.options).resolve_job_def("embed_images")
    said: list[str] = []
    with dg.DagsterInstance.from_config(str(home)) as instance, ThreadPoolExecutor(1) as pool:
        # The runs of both partitions wait where they store their rows: one on each node, by its GPU.
        with contextlib.ExitStack() as held:
            for tag in ("awe", "fear"):
                folder = pipeline.root / "tables" / "image_embeddings" / tag
                held.enter_context(filelock.FileLock(folder / ".lock"))
            runs = launched.launched_runs(instance, job, ["awe", "fear"], {}, said.append)
            ended = pool.submit(list, runs)
            first = wait_for(lambda: ended.done() or begun(instance), "the process of each run", PATIENCE_S)
            assert not ended.done(), (ended.exception() or ended.result(), said)
            for pid in first:  # which device Ray has given it
                assert b"\0CUDA_VISIBLE_DEVICES=0\0" in Path(f"/proc/{pid}/environ").read_bytes()
            by_node = {node: below(pid) & set(first) for node, pid in cluster.nodes().items()}
            assert all(len(pids) == 1 for pids in by_node.values()), by_node
            (on_head,) = by_node["head"]
            os.kill(on_head, signal.SIGKILL)
            lose(cluster.nodes()["worker"])
        assert dict(ended.result(PATIENCE_S)) == {"awe": None, "fear": None}
        states = [run.status.value for run in instance.get_runs(dg.RunsFilter(job_name="embed_images"))]
    assert len([line for line in said if "process is gone" in line]) == 2
    assert sorted(states[:4]) == ["FAILURE", "FAILURE", "SUCCESS", "SUCCESS"]
    assert pipeline.rows() == rows
    assert not pipeline.unfinished()
    script("node", cluster.folder, "--cpus", "1", "--gpus", "1")
    assert set(cluster.nodes()) == {"head", "worker"}


@pytest.mark.heavy
def test_runs_that_no_node_has_room_for_are_gone_when_the_build_is_stopped(
    cluster: Cluster, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.join(monkeypatch)
    monkeypatch.setenv("EMID_RUN_GPUS", "5")
    monkeypatch.setattr(launched, "CODE_LOCATION", "emid_assets_tests.failures.location")
    job = build_definitions(**pipeline.options).resolve_job_def("embed_images")
    with pipeline.instance() as instance:
        runs = launched._Runs(instance, job, {}, print)
        assert runs.launch("awe", 1)
        assert runs.launch("fear", 1)

        def jobs() -> list[str]:
            listed = instance.run_launcher.client.list_jobs()  # type: ignore[attr-defined]
            ours = [f"dagster-run-{run_id}" for run_id in runs.under_way]
            return [str(job.status.value) for job in listed if job.submission_id in ours]

        wait_for(lambda: jobs() == ["PENDING", "PENDING"], "jobs that wait for a node")
        runs.terminate()
        wait_for(lambda: set(jobs()) <= {"FAILED", "STOPPED"}, "the end of the jobs")
        assert {status(instance, run_id) for run_id in runs.under_way} == {"CANCELED"}


@pytest.mark.slow
def test_a_database_that_is_gone_is_told_in_one_line(pipeline: Pipeline) -> None:
    needs_ray()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        database = {"HOST": "127.0.0.1", "PORT": str(nobody.getsockname()[1]), "DB": "emid", "USER": "emid"}
        environment = clean_environment() | {"PYTHONPATH": str(REPOSITORY), "EMID_PROFILE": "ray"}
        environment |= {f"DAGSTER_PG_{name}": value for name, value in database.items()}
        environment |= {"DAGSTER_PG_PASSWORD": "none", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
        commands = [
            subprocess.Popen(
                [sys.executable, "-m", "emid_assets", command, "--media", str(pipeline.media),
                 "--lake", str(pipeline.root)],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )
            for command in ("build", "status", "ui")
        ]  # fmt: skip
        for command in commands:
            _, said = command.communicate(timeout=300)
            assert command.returncode == 1
            (line,) = said.strip().splitlines()
            assert "no records from PostgreSQL at 127.0.0.1" in line
            assert "unset EMID_PROFILE" in line


def begun(instance: dg.DagsterInstance) -> list[int] | None:
    """The processes of the two runs that are under way, once both have one."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    pids = [pid for run in runs if (pid := process_of(instance, run.run_id)) is not None]
    return pids if len(pids) == 2 else None


def embed_on_actors(folder: Path, address: str, environment: dict[str, str], to: Any) -> None:
    """Embed small items on actors, with and without trouble; what came of it goes to `folder`."""
    os.environ.update(environment | {"RAY_ADDRESS": address})

    def spread(items: list[MediaItem], fingerprint: str = "fake-1") -> Embedded:
        encode = on_actors(
            FakeEncoder, fingerprint, "image", actors=2, gpus=0, batch_size=4, workers=0
        )  # fmt: skip
        return embed(
            items,
            FakeEncoder(),
            "image",
            earlier=Earlier(journal=folder / "journal"),
            batch_size=4,
            encode=encode,
        )

    items = write_items(folder, [*numbered(60), "bad"])
    result = spread(items)
    result.frame.write_parquet(folder / "frame.parquet")
    result.rejected.write_parquet(folder / "rejected.parquet")
    for place, (texts, fingerprint) in enumerate(((["crash"], "fake-1"), (["9 9 9 9"], "other"))):
        try:
            spread(write_items(folder, texts), fingerprint)
        except ActorsError as error:
            (folder / f"error{place}").write_text(str(error))
    to.send("")


def test_actors_give_the_same_rows_as_the_run_itself_and_name_what_stops_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{cluster.state['ports']['ray']}"
    assert in_a_child(embed_on_actors, tmp_path, address, cluster.environment, within_s=PATIENCE_S) == ""
    (tmp_path / "alone").mkdir()
    alone = embed(write_items(tmp_path / "alone", [*numbered(60), "bad"]), FakeEncoder(), "image")
    assert pl.read_parquet(tmp_path / "frame.parquet").equals(alone.frame)
    assert pl.read_parquet(tmp_path / "rejected.parquet").equals(alone.rejected)
    assert "item 0" in (tmp_path / "error0").read_text()
    assert "a bug, not a bad file" in (tmp_path / "error0").read_text()
    assert "the actors' encoder is fake-1, the run's is other" in (tmp_path / "error1").read_text()


def below(pid: int) -> set[int]:
    return set(descendants(pid))


def lose(node: int) -> None:
    """A machine that loses its power: the node and all that it runs are gone at once."""
    for pid in (node, *descendants(node)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.heavy
def test_the_whole_sample_over_two_nodes_gives_every_table_and_file_bit_for_bit(
    cluster: Cluster, sample_media: Path, tmp_path: Path
) -> None:
    """`emid build` as it is installed, with the real encoder, rows and columns of the matching in shards."""
    lakes = []
    on_ray = cluster.environment | {"EMID_RUN_GPUS": "1", "EMID_EMBEDDING_ACTORS": "2"}
    for name, environment in (("here", {}), ("there", on_ray)):
        lakes.append(tmp_path / name)
        subprocess.run(
            [sys.executable, "-m", "emid_assets", "build", "--media", str(sample_media), "--lake",
             str(lakes[-1]), "--epochs", "2", "--workers", "0", "--image-shards", "2",
             "--shards-per-emotion", "2"],
            env=clean_environment() | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | environment,
            cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL, timeout=3600,
        )  # fmt: skip
    here, there = (Lake(lake) for lake in lakes)
    for table in sorted(path.name for path in (here.root / "tables").iterdir()):
        of_the_moment = ["built_at", "seconds", "run_id"] if table == "pipeline_health" else []
        assert here.read(table).drop(of_the_moment).equals(there.read(table).drop(of_the_moment)), table
    for folder in ("release", "study"):
        assert files_of(lakes[0] / folder) == files_of(lakes[1] / folder)
    # The report lists the settings, of which one is not the same.
    setting = "<code>embedding_actors</code></th><td><code>{}</code>"
    ours, theirs = ((lake / "report.html").read_text("utf-8") for lake in lakes)
    assert setting.format(2) in theirs
    assert ours == theirs.replace(setting.format(2), setting.format(0))


def test_without_a_cluster_the_command_says_in_one_line_what_it_needs(
    tmp_path: Path, sample_media: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emid_assets", "build", "--profile", "ray", "--media", str(sample_media),
         "--lake", str(tmp_path / "lake")],
        env=clean_environment() | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "emid-assets[ray]" in line or "RAY_API_SERVER_ADDRESS" in line


@pytest.mark.heavy
def test_what_the_web_ui_launches_is_a_job_of_the_cluster(
    cluster: Cluster, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.join(monkeypatch)
    monkeypatch.setattr(servers, "clean_environment", lambda: dict(os.environ))
    with serving(pipeline, tmp_path / "ui.log") as ui, pipeline.instance() as instance:
        run_id = ui.launch("inventory")
        finished = ("SUCCESS", "FAILURE", "CANCELED")
        with contextlib.suppress(AssertionError):  # what became of it tells more
            wait_for(lambda: status(instance, run_id) in finished, "the run that the web UI launched")
        told = " ".join(str(record.dagster_event) for record in instance.all_logs(run_id))
        assert status(instance, run_id) == "SUCCESS", told
    assert f"dagster-run-{run_id}" in told  # the id of the job


@pytest.mark.heavy
@pytest.mark.parametrize("trouble", ["postgres", "lake", "build"])
def test_a_build_ends_right_or_says_why_and_ends_right_when_started_again(
    cluster: Cluster, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """PostgreSQL restarted, the lake gone for some time, or the build killed, while a run wants to store."""
    cluster.join(monkeypatch)
    rows = pipeline.rows()
    away = pipeline.root.with_name("away")
    with pipeline.instance() as instance, ThreadPoolExecutor(1) as pool:
        lock = filelock.FileLock(pipeline.root / "tables" / "image_embeddings" / "fear" / ".lock")
        with lock:
            ended = pool.submit(in_a_child, build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S)
            run = wait_for(lambda: ended.done() or embedding(instance, "fear"), "the run that wants to store")
            assert not ended.done(), ended.result()
            if trouble == "postgres":
                restart_postgres(cluster)
            elif trouble == "lake":
                pipeline.root.rename(away)
                wait_for(lambda: not is_alive(process_of(instance, run.run_id) or 0), "the run's end")
                if pipeline.root.exists():  # what others have made where the folder was
                    pipeline.root.rename(pipeline.root.with_name("meanwhile"))
                away.rename(pipeline.root)
            else:
                os.kill(int(run.tags[launched.BUILD_TAG].split(" ")[3]), signal.SIGKILL)
        said = ended.result(2 * PATIENCE_S)
    assert "Traceback" not in said
    assert (said == "-9") == (trouble == "build")
    if said:
        assert in_a_child(build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S) == ""
    assert pipeline.rows() == rows
    assert not pipeline.unfinished()
    with pipeline.instance() as instance:
        assert all(run.is_finished for run in instance.get_runs())


def embedding(instance: dg.DagsterInstance, tag: str) -> dg.DagsterRun | None:
    """The run that embeds a partition, once it has a process."""
    started = dg.RunsFilter(
        job_name="embed_images", statuses=[dg.DagsterRunStatus.STARTED], tags={"dagster/partition": tag}
    )
    for run in instance.get_runs(started):
        if process_of(instance, run.run_id):
            return run
    return None


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, as a shared folder is, that `freeze` can hold up."""
    image, where = folder / "disk", folder / "mounted"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(500_000_000)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(where)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"needs {error.filename}")
        if done.returncode:
            pytest.skip(f"needs root and loop devices: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@contextlib.contextmanager
def frozen(where: Path) -> Iterator[None]:
    """Whoever writes to the file system waits meanwhile, as for a file server that does not answer."""
    subprocess.run(["fsfreeze", "--freeze", str(where)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(where)], check=True)


def waits_for_the_disk(pid: int) -> bool:
    """Whether a thread of the process is in a sleep that nothing but its device can end."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                return True
    return False


@pytest.mark.heavy
def test_runs_wait_for_a_shared_folder_that_does_not_answer_for_a_minute(
    cluster: Cluster, built: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.join(monkeypatch)
    with disk(tmp_path) as mounted:
        pipeline = built.copy(mounted)
        rows = pipeline.rows()
        lock = filelock.FileLock(pipeline.root / "tables" / "image_embeddings" / "fear" / ".lock")
        with contextlib.ExitStack() as away, pipeline.instance() as instance, ThreadPoolExecutor(1) as pool:
            with lock:
                ended = pool.submit(
                    in_a_child, build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S
                )
                run = wait_for(lambda: ended.done() or embedding(instance, "fear"), "the run that stores")
                assert not ended.done(), ended.result()
                away.enter_context(frozen(mounted))
            process = process_of(instance, run.run_id)
            assert process is not None
            wait_for(lambda: waits_for_the_disk(process), "the run that waits for the folder")
            since = time.monotonic()
            wait_for(lambda: ended.done() or time.monotonic() - since > 60, "a minute")
            assert not ended.done()
            assert waits_for_the_disk(process)
            away.close()
            assert ended.result(2 * PATIENCE_S) == ""
            of_this_build = dg.RunsFilter(
                job_name="embed_images", tags={launched.BUILD_TAG: run.tags[launched.BUILD_TAG]}
            )
            states = [run.status.value for run in instance.get_runs(of_this_build)]
        assert states == ["SUCCESS", "SUCCESS"]  # no run was given up, none was launched twice
        assert pipeline.rows() == rows
        assert not pipeline.unfinished()


@pytest.mark.heavy
def test_a_build_on_a_slow_shared_folder_ends_right(
    cluster: Cluster, built: Pipeline, tmp_path: Path
) -> None:
    with disk(tmp_path) as mounted:
        pipeline = built.copy(mounted)
        rows = pipeline.rows()
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(in_a_child, build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S)
            while not ended.done():
                with frozen(mounted):
                    time.sleep(2)
                with contextlib.suppress(TimeoutError):
                    ended.result(0.2)
        assert ended.result() == ""
        assert pipeline.rows() == rows
        assert not pipeline.unfinished()


@pytest.mark.heavy
def test_the_head_dies_and_the_build_says_so_and_ends_right_on_a_cluster_that_is_started_anew(
    cluster: Cluster, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pipeline.rows()
    cluster.join(monkeypatch)
    lock = filelock.FileLock(pipeline.root / "tables" / "image_embeddings" / "fear" / ".lock")
    with pipeline.instance() as instance, ThreadPoolExecutor(1) as pool, lock:
        ended = pool.submit(in_a_child, build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S)
        wait_for(lambda: ended.done() or embedding(instance, "fear"), "the run that wants to store")
        assert not ended.done(), ended.result()
        for pid in cluster.of_the_head():
            lose(pid)
        said = ended.result(PATIENCE_S)
    (line,) = said.splitlines()
    assert "Check that Ray and PostgreSQL are running" in line
    script("down", cluster.folder)
    script("up", cluster.folder, "--cpus", "1", "--gpus", "1")
    cluster.join(monkeypatch)
    assert in_a_child(build_on_ray, pipeline, cluster.environment, within_s=PATIENCE_S) == ""
    assert pipeline.rows() == rows
    assert not pipeline.unfinished()
    with pipeline.instance() as instance:
        assert all(run.is_finished for run in instance.get_runs())


def restart_postgres(cluster: Cluster) -> None:
    spec = importlib.util.spec_from_file_location("cluster_of_this_machine", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.stop_postgres(cluster.folder)
    module.start_postgres(cluster.folder, cluster.environment)
