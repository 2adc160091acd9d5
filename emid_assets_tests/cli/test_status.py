"""`emid status` on the demo: the table, the JSON, the exit code; and what the health page and asset show."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from emid_assets.definitions import definitions
from emid_assets.store.lake import Lake
from emid_assets_tests.conftest import Checkout
from emid_assets_tests.graph import stage_of_assets


def status(demo: Checkout, arguments: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        demo.as_run(f".venv/bin/emid status {arguments}"),
        shell=True, cwd=demo.folder, env=demo.environment | {"COLUMNS": "150"},
        capture_output=True, text=True,
    )  # fmt: skip


def test_a_built_demo_is_healthy_in_words_and_in_json(demo: Checkout) -> None:
    printed = status(demo)
    assert printed.returncode == 0, printed.stdout + printed.stderr
    assert printed.stdout.splitlines()[0].startswith("healthy")
    assert re.search(r"fused_pairs +13/13 +ok", printed.stdout)
    told = json.loads(status(demo, "--json").stdout)
    assert told["healthy"] is True
    assert told["broken"] == []
    judged = {row["asset"] for row in told["partitions"]}
    assert judged == set(stage_of_assets(definitions)) - {"pipeline_health"}
    assert all(row["seconds"] is not None for row in told["partitions"])


def test_verifying_the_demo_hashes_every_file_and_encodes_every_embedding_again(demo: Checkout) -> None:
    verified = status(demo, "--verify --json")
    assert verified.returncode == 0, verified.stderr
    told = json.loads(verified.stdout)
    lake = Lake(demo.demo_lake)
    tables = ("music_embeddings", "image_embeddings", "expansion_windows")
    assert told["embeddings_encoded"] == sum(lake.read(table).height for table in tables)
    assert told["files_hashed"] == lake.read("media_inventory")["file"].n_unique()
    assert (told["embeddings_of_other_encoders"], told["wrong_rows"]) == (0, [])


def test_a_moved_demo_is_as_current_as_before_and_answers_with_nothing_left_in_its_old_folder(
    demo: Checkout, sample_media: Path, tmp_path: Path
) -> None:
    pairs = "SELECT count(*) FROM fused_pairs"
    rows = Lake(demo.demo_lake).read("fused_pairs").height
    planned = demo.run(".venv/bin/emid build --dry-run")
    moved = Path(shutil.copytree(demo.demo_lake, tmp_path / "moved", symlinks=True))
    away = demo.demo_lake.rename(tmp_path / "away")
    try:
        with duckdb.connect(moved / "lake.duckdb", read_only=True) as connection:
            assert connection.sql(pairs).fetchall() == [(rows,)]
        first = status(demo, f"--lake {moved} --json")
        assert first.returncode == 0, first.stdout + first.stderr
        assert f"This lake was moved or copied from {demo.demo_lake}:" in first.stderr
        assert json.loads(first.stdout)["broken"] == []
        clip = next((sample_media / "music").glob("*.ogg"))
        assert demo.run(f".venv/bin/emid query music '{clip}' --lake {moved} --top 3").count("\n") >= 3
        assert demo.run(f".venv/bin/emid build --lake {moved} --dry-run") == planned
        with duckdb.connect() as connection:
            connection.execute(f"ATTACH '{moved}/lake.duckdb' AS moved (READ_ONLY)")
            connection.execute("USE moved")
            assert connection.sql(pairs).fetchall() == [(rows,)]
        assert not demo.demo_lake.exists()
    finally:
        away.rename(demo.demo_lake)


READ_ONLY = """
import os
ask = os.access
os.access = lambda path, mode: mode != os.W_OK and ask(path, mode)
from emid_assets.cli.main import main
main()
"""


def test_a_lake_that_may_not_be_written_to_is_judged_and_left_as_it_is(
    demo: Checkout, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(demo.demo_lake, tmp_path / "copy", symlinks=True))

    def files() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in copy.rglob("*")}

    before = files()
    told = demo.run(f".venv/bin/python -c '{READ_ONLY}' status --lake {copy} --json")
    assert files() == before
    assert json.loads(told)["healthy"] is True


def test_a_damaged_partition_makes_the_exit_code_1_and_is_named(demo: Checkout) -> None:
    version = Lake(demo.demo_lake).current("va_distances", "sad")
    assert version is not None
    kept = version.path.read_bytes()
    version.path.chmod(0o644)
    try:
        version.path.write_bytes(b"no database")
        printed = status(demo)
        assert printed.returncode == 1
        assert printed.stdout.splitlines()[0].startswith("unhealthy: 1 damaged")
        assert re.search(r"va_distances +sad +damaged", printed.stdout)
        assert "Traceback" not in printed.stderr
    finally:
        version.path.write_bytes(kept)
        version.path.chmod(0o444)


def test_a_lake_that_is_not_built_is_told_in_one_line(demo: Checkout, tmp_path: Path) -> None:
    printed = status(demo, f"--lake {tmp_path}")
    assert printed.returncode == 1
    assert printed.stderr.strip() == f"Error: nothing is built in {tmp_path}: `emid build` builds it"


def test_a_first_build_that_failed_is_told_with_its_reason(demo: Checkout, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    options = f"--media {tmp_path}/media --lake {tmp_path}/lake"
    build = subprocess.run(
        demo.as_run(f".venv/bin/emid build {options}"), shell=True, cwd=demo.folder, env=demo.environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert build.returncode == 1
    told = json.loads(status(demo, f"{options} --json").stdout)
    assert told["healthy"] is False
    assert told["broken"][0]["asset"] == "media_inventory"
    assert "contains neither music/ nor images/" in told["broken"][0]["message"]


def test_the_page_stands_beside_the_report_and_asks_nothing_of_the_network(demo: Checkout) -> None:
    page = (demo.demo_lake / "health.html").read_text(encoding="utf-8")
    assert "What is broken now" in page
    assert "<svg" in page
    assert not re.search(r'(?:src|href)="(?!report\.html|#)', page)
    assert "http" not in page.replace("http-equiv", "")


def test_the_asset_keeps_numbers_to_plot_and_checks_that_name_what_is_wrong(demo: Checkout) -> None:
    with dg.DagsterInstance.from_config(str(demo.demo_lake / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("pipeline_health"))
    assert event is not None
    materialization = event.asset_materialization
    assert materialization is not None
    numbers = {"broken", "stale_or_missing", "rejected", "lake_bytes", "free_bytes", "total_seconds"}
    assert numbers <= set(materialization.metadata)
    assert materialization.metadata["broken"].value == 0
    assert str(materialization.metadata["times"].value).startswith("![")


@pytest.mark.parametrize("name", ["hourly_health", "dead_runs"])
def test_the_schedule_waits_for_a_click_and_the_sensor_does_not(name: str) -> None:
    from emid_assets.definitions import definitions

    repository = definitions.get_repository_def()
    if name == "hourly_health":
        schedule = repository.get_schedule_def(name)
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert schedule.job_name == "health"
    else:
        sensor = repository.get_sensor_def(name)
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_every_asset_has_the_freshness_policy_of_the_setting() -> None:
    from emid_assets.definitions import build_definitions

    graph = build_definitions(fresh_days=4).resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        policy = graph.get(key).freshness_policy
        assert policy is not None, key
        assert policy.fail_window.to_timedelta().days == 4  # type: ignore[attr-defined]
        assert policy.warn_window.to_timedelta().days == 3  # type: ignore[attr-defined]
