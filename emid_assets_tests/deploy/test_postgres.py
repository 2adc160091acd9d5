"""The profile with PostgreSQL: a real run recorded by a real server that the test starts."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from emid_assets.definitions import build_definitions
from emid_assets.runs.instance import SHIPPED_INSTANCE
from emid_assets_tests.web import DEADLINE_S

PROFILE = Path(__file__).parents[2] / "deploy" / "postgres" / "dagster.yaml"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "not in any log"


def without_root(command: list[str]) -> list[str]:
    """The command as nobody where the tests run as root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *command]


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """The port of a fresh server on the loopback, with a user `emid` and a database `emid`."""
    if not BINARIES or not shutil.which("setpriv"):
        assert not os.environ.get("CI"), "no PostgreSQL: `make services` installs it"
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    pytest.importorskip("dagster_postgres", reason="needs pip install 'emid-assets[postgres]'")
    binaries = BINARIES[-1]
    # Not below pytest's own folder, which only its owner may enter; and sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="emid-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                os.chown(path, 65534, 65534)
        data = str(folder / "data")
        subprocess.run(
            without_root([str(binaries / "initdb"), "-D", data, "-U", "emid", "--no-sync", "-E", "UTF8",
                          "-A", "scram-sha-256", "--pwfile", str(folder / "password")]),
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen(
            without_root([str(binaries / "postgres"), "-D", data, "-p", str(port), "-F", *options]),
            cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
        )  # fmt: skip
        try:
            end = time.monotonic() + DEADLINE_S
            ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready, check=False).returncode:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            subprocess.run(
                [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "emid", "emid"],
                check=True, env=os.environ | {"PGPASSWORD": PASSWORD},
            )  # fmt: skip
            yield port
        finally:
            server.terminate()
            server.wait(60)


def test_the_profile_differs_from_the_shipped_instance_in_nothing_but_its_storage() -> None:
    profile = yaml.safe_load(PROFILE.read_text())
    assert profile.pop("storage")
    shipped = yaml.safe_load(SHIPPED_INSTANCE.read_text())
    del shipped["run_storage"], shipped["event_log_storage"]
    assert profile == shipped


def test_a_run_is_recorded_in_postgresql_and_read_back_by_the_next_instance(
    postgres: int, tmp_path: Path, sample_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    for name, value in {"USER": "emid", "PASSWORD": PASSWORD, "HOST": "127.0.0.1", "DB": "emid"}.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    monkeypatch.setenv("DAGSTER_PG_PORT", str(postgres))
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PROFILE, home / "dagster.yaml")
    definitions = build_definitions(lake=str(tmp_path / "lake"), media=str(sample_media), workers=0)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert PASSWORD not in instance.info_str()
        result = definitions.resolve_job_def("inventory").execute_in_process(instance=instance)
        assert result.success
        rebuild = definitions.resolve_job_def("rebuild").execute_in_process(instance=instance)
        assert rebuild.success
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
        event = instance.get_latest_materialization_event(dg.AssetKey("media_inventory"))
        assert event is not None
        assert event.run_id == result.run_id
        assert len(instance.get_backfills()) == 1
    with (
        psycopg2.connect(
            host="127.0.0.1", port=postgres, user="emid", password=PASSWORD, dbname="emid"
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT status FROM runs WHERE run_id = %s", (result.run_id,))
        assert cursor.fetchall() == [("SUCCESS",)]
    assert not list(home.rglob("*.db"))
