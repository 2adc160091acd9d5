"""Fixtures that more than one folder of tests needs."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.runs.instance import SHIPPED_INSTANCE
from emid_assets.settings import SAMPLE_MEDIA
from emid_assets_tests.small_lake import make_lake

REPOSITORY = Path(__file__).resolve().parents[1]
CHROMIUM = "/usr/bin/chromium"
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


MARK_OF_FIXTURE = {
    "demo": "demo",
    "browser": "browser",
    "ui": "server",
    "postgres": "server",
    "front": "server",
    "cluster": "cluster",
}
"""Fixtures that cost much, and the mark of every test that asks for one: `make test` leaves these out."""


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what builds the demo, or starts a browser, a server or a cluster.

    All tests of such a mark run in one process, so that what they share starts once; so do the others
    of a file.
    """
    for item in items:
        for fixture in MARK_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARK_OF_FIXTURE[fixture])
        marks = [mark for mark in dict.fromkeys(MARK_OF_FIXTURE.values()) if item.get_closest_marker(mark)]
        item.add_marker(pytest.mark.xdist_group(marks[0] if marks else item.path.stem))


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance as it is shipped, which is this process's `DAGSTER_HOME`."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(SHIPPED_INSTANCE, tmp_path / "home" / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        yield instance


@pytest.fixture(scope="session")
def sample_media() -> Path:
    """The media folder that ships with the package: read it, never write to it."""
    return SAMPLE_MEDIA


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data that stands beside a checkout and is no part of the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder}, which is not part of the project")
    return folder


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in which the README's commands are run as they stand there."""

    folder: Path

    def run(self, command: str) -> str:
        """Run one command of the README and return what it printed; the install step is taken as done."""
        finished = subprocess.run(
            self.as_run(command), shell=True, cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, f"{command}:\n{finished.stdout}"
        return finished.stdout

    def as_run(self, command: str) -> str:
        """The command on this environment instead of a new one in `.venv`."""
        if command.startswith("make "):
            taken_as_done = f"-o {sys.prefix}/demo-installed -o {sys.prefix}/dev-installed"
            return f"make VENV={sys.prefix} {taken_as_done} {command.removeprefix('make ')}"
        return command.replace(".venv/bin/", f"{sys.prefix}/bin/")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the checkout's own code is what runs, without settings of the caller."""
        return clean_environment() | {"PYTHONPATH": str(self.folder)}

    @property
    def demo_lake(self) -> Path:
        return self.folder / ".emid" / "demo"


def clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EMID_") and name not in ("DAGSTER_HOME", "MAKEFLAGS", "MAKELEVEL")
    }


# For each module anew: while it runs, nothing else in this thread can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    if not Path(CHROMIUM).exists():
        assert not os.environ.get("CI"), f"no {CHROMIUM}: `make browser` installs it"
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


def check_out(folder: Path) -> Checkout:
    """A copy of the project in `folder`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return Checkout(folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `make demo` has been run once."""
    checkout = check_out(tmp_path_factory.mktemp("checkout"))
    checkout.run("make demo")
    return checkout


BUILD_OF_THREE_EMOTIONS = """
from emid_assets.build import stage_by_stage
from emid_assets.cli.main import main

KEYS = {None, "beautiful", "energizing", "triumphant", "awe", "disgust", "fear", "bmf"}
all_of = stage_by_stage.partitions_of
stage_by_stage.partitions_of = lambda job: [key for key in all_of(job) if key in KEYS]
main(["build", "--media", "few", "--lake", ".emid/demo", "--epochs", "2"])
"""
"""`emid build` without the partitions that would be empty, and with one network."""


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the demo is a build of six clips and eleven images of the sample."""
    checkout = check_out(tmp_path_factory.mktemp("small-checkout"))
    few = checkout.folder / "few"
    for kind, labels in (("music", ["D", "G", "M"]), ("images", ["awe", "disgust", "fear"])):
        listed = pl.read_csv(SAMPLE_MEDIA / f"{kind}.csv", infer_schema=False)
        chosen = listed.filter(pl.col("genre" if kind == "music" else "tag").is_in(labels))
        (few / kind).mkdir(parents=True)
        chosen.write_csv(few / f"{kind}.csv")
        for name in chosen["file"]:
            shutil.copy2(SAMPLE_MEDIA / kind / name, few / kind / name)
    checkout.run(f".venv/bin/python -c {shlex.quote(BUILD_OF_THREE_EMOTIONS)}")
    return checkout


@pytest.fixture(scope="session")
def lake() -> LakeTables:
    """A small lake whose pairs can be learnt, as frames."""
    return make_lake()
