"""The web UI as a user sees it: a real webserver and daemon, a real browser, a click that ends in success.

With `SCREENSHOTS=1` in the environment, what the browser shows is kept as pictures in docs/ for the README.
"""

import io
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emid_assets.definitions import definitions
from emid_assets_tests.conftest import REPOSITORY, Checkout
from emid_assets_tests.web import WebUI, free_port, wait_for

GRAPH = definitions.resolve_asset_graph()
GROUPS = sorted({str(GRAPH.get(key).group_name) for key in GRAPH.get_all_asset_keys()})
ASSETS = sorted(key.path[-1] for key in GRAPH.get_all_asset_keys())


class Served(WebUI):
    """The web UI of `make ui`, and what it says."""

    def __init__(self, port: int, log: Path) -> None:
        super().__init__(port)
        self.log = log


@pytest.fixture(scope="module")
def ui(demo: Checkout) -> Iterator[Served]:
    port = free_port()
    log = demo.folder / "ui.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            demo.as_run(f"make ui PORT={port}"), shell=True, cwd=demo.folder, env=demo.environment,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    web = Served(port, log)
    try:
        wait_for(lambda: process.poll() is not None or web.is_up(), "the web UI")
        assert process.poll() is None, log.read_text()
        yield web
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 6400, "height": 10000})  # the whole lineage fits
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


def test_the_location_loads_without_error_or_warning(ui: Served) -> None:
    data = ui.ask(
        """{ workspaceOrError { ... on Workspace { locationEntries {
            name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
    )
    entries = data["workspaceOrError"]["locationEntries"]
    assert [(entry["name"], entry["loadStatus"]) for entry in entries] == [("emid_assets", "LOADED")]
    assert entries[0]["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    warnings = [line for line in ui.log.read_text().splitlines() if "Warning" in line]
    assert not warnings


def test_every_asset_is_there_with_group_kinds_owner_and_description(ui: Served) -> None:
    nodes = ui.ask(
        """{ assetNodes { assetKey { path } groupName kinds description
            owners { ... on TeamAssetOwner { team } } } }"""
    )["assetNodes"]
    assert sorted(node["assetKey"]["path"][0] for node in nodes) == ASSETS
    for node in nodes:
        assert node["groupName"] in GROUPS
        assert node["kinds"], node
        assert node["owners"], node
        assert node["description"], node


def test_the_demos_materializations_and_checks_are_there(ui: Served) -> None:
    data = ui.ask(
        """{ assetNodeOrError(assetKey: {path: ["fused_pairs"]}) { ... on AssetNode {
            assetMaterializations(limit: 1) { metadataEntries { label } }
            assetChecksOrError { ... on AssetChecks { checks { name
                executionForLatestMaterialization { status } } } } } } }"""
    )["assetNodeOrError"]
    labels = {entry["label"] for entry in data["assetMaterializations"][0]["metadataEntries"]}
    assert {"pairs", "alpha", "dagster/row_count", "dagster/column_schema"} <= labels
    checks = data["assetChecksOrError"]["checks"]
    expected = {"schema", "m_pairs_each", "images_exist", "no_image_was_missed"}
    assert {check["name"] for check in checks} == expected
    assert {check["executionForLatestMaterialization"]["status"] for check in checks} == {"SUCCEEDED"}


def test_the_lineage_shows_every_asset_in_its_group(ui: Served, page: Any) -> None:
    page.goto(f"{ui.url}/asset-groups")
    page.get_by_text("Global asset lineage").wait_for()
    page.get_by_text("evaluation", exact=True).first.wait_for()
    page.keyboard.press("Alt+e")  # expands all groups
    for name in ASSETS:
        page.get_by_text(name, exact=True).first.wait_for()
    for group in GROUPS:
        assert page.get_by_text(group, exact=True).count() >= 1
    assert page.get_by_text("failed to load").count() == 0


def picture(page: Any, name: str) -> None:
    """Keep what the page shows as docs/NAME.png, in few colours, where SCREENSHOTS is set."""
    if os.environ.get("SCREENSHOTS"):
        shot = Image.open(io.BytesIO(page.screenshot()))
        small = shot.convert("RGB").quantize(96, method=Image.Quantize.MEDIANCUT)
        small.save(REPOSITORY / "docs" / f"{name}.png", optimize=True)


def test_an_asset_shows_its_query_its_table_and_a_few_pairs_as_pictures(ui: Served, page: Any) -> None:
    page.set_viewport_size({"width": 1500, "height": 1470})
    page.goto(f"{ui.url}/assets/fused_pairs")
    page.get_by_text("Latest materialization").wait_for()
    for key in ("catalogue", "query", "preview", "pictures", "compute_seconds"):
        page.get_by_text(key, exact=True).first.wait_for()
    page.locator("img[src^='/logs/pictures/']").first.wait_for()
    kept = "[...document.querySelectorAll('img')].filter(image => image.src.includes('/logs/pictures/'))"
    page.wait_for_function(f"{kept}.every(image => image.complete)")
    widths = page.evaluate(f"{kept}.map(image => image.naturalWidth)")
    assert widths
    assert all(width > 0 for width in widths)
    picture(page, "asset")


def test_numbers_of_an_asset_are_plotted_over_its_partitions(ui: Served, page: Any) -> None:
    page.set_viewport_size({"width": 1500, "height": 1300})
    page.goto(f"{ui.url}/assets/fused_pairs")
    page.get_by_text("Latest materialization").wait_for()
    page.get_by_text("Plots", exact=True).click()
    page.locator("canvas").first.wait_for()
    page.get_by_text("mean_fused_score").first.wait_for()
    picture(page, "plots")


def test_the_checks_of_an_asset_are_listed_with_their_results(ui: Served, page: Any) -> None:
    page.goto(f"{ui.url}/assets/fused_pairs?view=checks")
    for check in ("m_pairs_each", "images_exist", "no_image_was_missed", "schema"):
        page.get_by_text(check, exact=True).first.wait_for()
    assert page.get_by_text("Failed").count() == 0


def test_a_backfill_of_all_music_partitions_succeeds(ui: Served, page: Any) -> None:
    page.set_viewport_size({"width": 1500, "height": 1000})
    page.goto(f"{ui.url}/assets/music_clips?view=partitions")
    page.get_by_text("triumphant", exact=True).first.wait_for()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    query = """{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results {
        id status numPartitions } } } }"""

    def finished() -> Any:
        found = ui.ask(query)["partitionBackfillsOrError"]["results"]
        return found[0] if found and found[0]["status"].startswith("COMPLETED") else None

    backfill = wait_for(finished, "the backfill")
    assert backfill["status"] == "COMPLETED_SUCCESS"
    assert backfill["numPartitions"] == 13
    page.goto(f"{ui.url}/assets/music_clips?view=partitions")
    page.get_by_text("triumphant", exact=True).first.wait_for()
    picture(page, "partitions")


def test_a_click_materializes_one_partition(ui: Served, page: Any) -> None:
    latest = """{ runsOrError(limit: 1) { ... on Runs { results { runId status tags { key value } } } } }"""
    before = ui.ask(latest)["runsOrError"]["results"][0]["runId"]
    page.goto(f"{ui.url}/assets/music_embeddings?view=partitions&partition=sad")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Launch 1 run").click()

    def finished() -> Any:
        run = ui.ask(latest)["runsOrError"]["results"][0]
        return run if run["runId"] != before and run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    run = wait_for(finished, "the run")
    assert run["status"] == "SUCCESS"
    assert {"key": "dagster/partition", "value": "sad"} in run["tags"]
    page.goto(f"{ui.url}/runs/{run['runId']}")
    page.get_by_text("Success").first.wait_for()


def test_nothing_of_it_listens_beyond_this_machine(ui: Served) -> None:
    """Webserver, daemon and code server are one session; what each listens on stands in /proc."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs /proc")
    owners: dict[str, int] = {}  # inode of a socket -> session of a process that has it open
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            inode = str(link.readlink())
            owners[inode] = os.getsid(int(link.parts[2]))
        except OSError:  # ended, or another user's
            continue
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            address, port = local.split(":")
            if state == "0A":
                listening.append((owners.get(f"socket:[{rest[5]}]"), address, int(port, 16)))
    ours = {session for session, _, port in listening if port == int(ui.url.rpartition(":")[2])}
    found = {address for session, address, _ in listening if session in ours}
    assert len(ours) == 1
    assert found <= {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}


def test_another_alpha_leaves_unsynced_what_a_dry_run_would_build(
    demo: Checkout, browser: Any, tmp_path: Path
) -> None:
    alpha = {"EMID_ALPHA": "0.3"}
    port, home = free_port(), {"DAGSTER_HOME": str(demo.demo_lake / "dagster")}
    environment = demo.environment | home | alpha
    planned = subprocess.run(
        demo.as_run(".venv/bin/emid build --dry-run"), shell=True, cwd=demo.folder, env=environment,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    asked_for = {line.split()[0] for line in planned.splitlines() if "setting changed: alpha" in line}
    assert {"fused_pairs", "trained_adapter", "pair_statistics"} <= asked_for
    command = demo.as_run(f".venv/bin/dagster-webserver -m emid_assets.definitions -p {port}")
    with (tmp_path / "ui.log").open("w") as log:
        server = subprocess.Popen(
            shlex.split(command), cwd=demo.folder, env=environment, stdout=log, stderr=log
        )
    try:
        web = WebUI(port)
        wait_for(web.is_up, "the web UI with another alpha")
        assert unsynced(web) == asked_for
        page = browser.new_page()
        page.goto(f"{web.url}/assets/pair_statistics")
        page.get_by_text("Unsynced").first.wait_for()
        page.goto(f"{web.url}/assets/media_inventory")
        page.get_by_text("Latest materialization").wait_for()
        assert page.get_by_text("Unsynced").count() == 0
        page.close()
    finally:
        server.terminate()
        server.wait(90)


def unsynced(web: WebUI) -> set[str]:
    """The assets of which a partition is out of sync, as the web UI asks for them."""
    found = set()
    for node in web.ask("{ assetNodes { assetKey { path } staleStatus partitionKeys } }")["assetNodes"]:
        statuses = [node["staleStatus"]]
        if node["partitionKeys"]:
            (of_partitions,) = web.ask(
                """query($key: [AssetKeyInput!], $keys: [String!]) { assetNodes(assetKeys: $key) {
                    staleStatusByPartition(partitions: $keys) } }""",
                key=[{"path": node["assetKey"]["path"]}],
                keys=node["partitionKeys"],
            )["assetNodes"]
            statuses = of_partitions["staleStatusByPartition"]
        if "STALE" in statuses:
            found.add(node["assetKey"]["path"][0])
    return found
