"""A local Ray cluster and PostgreSQL server on this machine: `make cluster-up`, `make cluster-down`.

For trying the profile `ray` and for its tests: a head and worker nodes that share this machine's processors,
with a token and a password created at the first start. Everything listens on 127.0.0.1 only. To start a real
cluster, use `cluster.yaml` or `kuberay.yaml` beside this file.

    up     starts the cluster, and writes FOLDER/environment, to be sourced in a shell
    node   starts one more worker node
    down   stops everything; the records in PostgreSQL are kept for the next start
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAIT_S = 120
OBJECT_STORE_BYTES = 200_000_000
NOBODY = 65534
HEAD_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable that makes a node use 127.0.0.1 as its address, and listen on nothing else."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["up", "node", "down"])
    parser.add_argument("--folder", type=Path, default=Path(".emid/cluster"))
    parser.add_argument("--workers", type=int, default=1, help="worker nodes in addition to the head")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs that each node advertises")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that each node advertises")
    parser.add_argument("--head-cpus", type=int, help="CPUs that the head advertises (default: --cpus)")
    given = parser.parse_args()
    folder = given.folder.resolve()
    resources = [f"--num-cpus={given.cpus}", f"--num-gpus={given.gpus}"]
    if given.command == "down":
        down(folder)
    elif given.command == "node":
        start_worker(state_of(folder), resources)
    else:
        head = given.cpus if given.head_cpus is None else given.head_cpus
        up(folder, given.workers, resources, [f"--num-cpus={head}", f"--num-gpus={given.gpus}"])


def up(folder: Path, workers: int, resources: list[str], of_the_head: list[str]) -> None:
    if (folder / "environment").exists():
        sys.exit(f"a cluster is up, or was not taken down: see {folder}, or `make cluster-down`")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    for name in ("password", "token"):
        if not (folder / name).exists():
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(secrets.token_hex(32))
    ports = {name: free_port() for name in ("postgres", "ray", "dashboard", "client")}
    environment = {
        "EMID_PROFILE": "ray",
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(ports["postgres"]),
        "DAGSTER_PG_DB": "emid",
        "DAGSTER_PG_USER": "emid",
        "DAGSTER_PG_PASSWORD": (folder / "password").read_text(),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        HEAD_ALONE: "0",
    }
    # Sockets need a short path. Ray makes its own folder accessible to everyone, but not its parent.
    state = {"folder": str(folder), "ports": ports, "ray": tempfile.mkdtemp(prefix="emid-ray-")}
    (folder / "state.json").touch(mode=0o600)
    (folder / "state.json").write_text(json.dumps(state | {"environment": environment}))
    try:
        start_postgres(folder, environment)
        start_head(state_of(folder), of_the_head)
        for _ in range(workers):
            start_worker(state_of(folder), resources)
    except BaseException:
        down(folder)
        raise
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    (folder / "environment").touch(mode=0o600)
    (folder / "environment").write_text("\n".join(lines) + "\n")
    print(
        f"PostgreSQL on port {ports['postgres']}, Ray's jobs on {environment['RAY_API_SERVER_ADDRESS']}, "
        f"{1 + workers} nodes.\nNext:\n  . {shlex.quote(str(folder / 'environment'))}\n"
        "  emid build --profile ray --media …"
    )


def state_of(folder: Path) -> dict:
    try:
        return json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        sys.exit(f"no cluster was started in {folder}: `make cluster-up`")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# PostgreSQL


def as_other(command: list[str]) -> list[str]:
    """Run the command as nobody if this process is root, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", *command]


def postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql (`make services` does)")
    return found[-1]


def start_postgres(folder: Path, environment: dict[str, str]) -> None:
    binaries, data = postgres_binaries(), folder / "postgres"
    if not data.exists():
        data.mkdir(mode=0o700)
        password = folder / "password.postgres"
        password.touch(mode=0o600)
        password.write_text(environment["DAGSTER_PG_PASSWORD"])
        if os.geteuid() == 0:
            for path in (data, password):
                os.chown(path, NOBODY, NOBODY)
        made = subprocess.run(
            as_other([str(binaries / "initdb"), "-D", str(data), "-U", "emid", "-E", "UTF8",
                      "-A", "scram-sha-256", "--pwfile", str(password)]),
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip
        password.unlink()
        if made.returncode:
            shutil.rmtree(data)
            sys.exit(f"initdb in {data}: {made.stderr.strip()}")
    port = environment["DAGSTER_PG_PORT"]
    with (folder / "postgres.log").open("ab") as log:
        server = subprocess.Popen(
            as_other([str(binaries / "postgres"), "-D", str(data), "-p", port, "-c", "max_connections=300",
                      "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]),
            cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
    end = time.monotonic() + WAIT_S
    while subprocess.run(ready).returncode:
        if server.poll() is not None or time.monotonic() > end:
            sys.exit(f"PostgreSQL did not start: see {folder / 'postgres.log'}")
        time.sleep(0.1)
    subprocess.run(
        [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", port, "-U", "emid", "emid"],
        env=os.environ | {"PGPASSWORD": environment["DAGSTER_PG_PASSWORD"]},
        capture_output=True,  # fails from the second start on, because the database exists
    )


def stop_postgres(folder: Path) -> None:
    pid_file = folder / "postgres" / "postmaster.pid"
    if pid_file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)  # ends connections too
        end = time.monotonic() + WAIT_S
        while pid_file.exists() and time.monotonic() < end:
            time.sleep(0.1)


# Ray


def start_head(state: dict, resources: list[str]) -> None:
    ports = state["ports"]
    start_node(
        state, "head", [sys.executable, "-m", "ray.scripts.scripts"],
        ["--head", f"--port={ports['ray']}", "--dashboard-host=127.0.0.1", "--include-dashboard=true",
         f"--dashboard-port={ports['dashboard']}", f"--ray-client-server-port={ports['client']}",
         f"--temp-dir={state['ray']}/head", *resources],
    )  # fmt: skip


def start_worker(state: dict, resources: list[str]) -> None:
    # `ray start` refuses a second node on 127.0.0.1, so this script runs it with a patch.
    start_node(
        state, "worker", [sys.executable, __file__, "ray-on-loopback"],
        [f"--address=127.0.0.1:{state['ports']['ray']}", *resources],
    )  # fmt: skip


def start_node(state: dict, name: str, command: list[str], options: list[str]) -> None:
    folder = Path(state["folder"])
    environment = os.environ | state["environment"]
    environment |= {"RAY_JOB_START_TIMEOUT_SECONDS": "86400", "TMPDIR": state["ray"]}
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        started = subprocess.run(
            [*command, "start", "--node-ip-address=127.0.0.1", "--disable-usage-stats",
             f"--object-store-memory={OBJECT_STORE_BYTES}", "--dashboard-agent-listen-port=0", *options],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=WAIT_S,
        )  # fmt: skip
    if started.returncode:
        sys.exit(f"a Ray node did not start: see {log}")


def ray_on_loopback(arguments: list[str]) -> None:
    """`ray` for one more node on 127.0.0.1."""
    os.environ.pop(HEAD_ALONE, None)  # with it, `ray start` refuses to join a cluster
    from ray._private import services
    from ray.scripts.scripts import main as ray

    services.get_node_ip_address = lambda *_: "127.0.0.1"
    os.environ[HEAD_ALONE] = "0"
    sys.argv = ["ray", *arguments]
    ray()


# The end


def down(folder: Path) -> None:
    state = state_of(folder)
    for pid in processes_of(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stop_postgres(folder)
    shutil.rmtree(state["ray"], ignore_errors=True)
    for name in ("environment", "state.json"):
        (folder / name).unlink(missing_ok=True)


def processes_of(state: dict) -> set[int]:
    """Every process of this cluster's nodes, runs included: they inherit `start_node`'s environment.

    Some of Ray's processes overwrite their environment with their title; they are found as descendants.
    """
    ours = f"RAY_API_SERVER_ADDRESS={state['environment']['RAY_API_SERVER_ADDRESS']}".encode()
    marked = b"RAY_JOB_START_TIMEOUT_SECONDS=86400"
    found, children = set(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
            variables = (entry / "environ").read_bytes().split(b"\0")
            if ours in variables and marked in variables:
                found.add(int(entry.name))
    below = list(found)
    while below:
        below += children.get(below.pop(), [])
        found.update(below)
    return found - {os.getpid()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["ray-on-loopback"]:
        ray_on_loopback(sys.argv[2:])
    else:
        main()
