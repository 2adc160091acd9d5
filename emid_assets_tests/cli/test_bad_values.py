"""A setting with a value that it cannot have: one line that names it, and one exit code for all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from emid_assets.cli.main import main

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "build": [], "ui": [], "status": [], "query": ["music", "clip.wav"], "sweep": [], "tune": ["bmf"],
    "study": ["serve"],
}  # fmt: skip


def run(command: str, *options: str) -> tuple[int, str]:
    arguments = [command, *COMMANDS.get(command, []), "--media", ".", "--lake", "lake", *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "clip.wav").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--alpha", "7"], "alpha = '7': must be auto or 0.0 to 1.0"),
        (["--images-per-clip", "abc"], "images_per_clip = 'abc': must be a whole number, 1 to 1000"),
        (["--device", "gpu"], "device = 'gpu': must be auto, cpu, mps, cuda or cuda:N"),
        (["--encoder", "other"], "'other' is not one of 'bundled', 'imagebind'"),
        (["--media", ""], "media = '': must be a folder"),
        (["--media", "nowhere"], "media = 'nowhere': there is no such folder"),
        (["--lake", "back\\slash"], "has a backslash, which DuckDB takes for a /; rename it"),
        (["--lake", "what?"], "has a question mark, at which DuckDB cuts a path"),
        (["--lake", "."], "this is in the media folder"),
        (["--lake", "music/lake"], "choose a folder outside its music/ and images/"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_value_is_named_and_ends_every_command_with_the_same_code(
    command: str, options: list[str], line: str
) -> None:
    code, output = run(command, *options)
    assert code == 2
    assert line in output


@pytest.mark.parametrize("command", ["build", "ui"])
@pytest.mark.parametrize(("lake", "why"), [("/proc/lake", "No such file"), ("clip.wav", "Not a directory")])
def test_a_lake_that_cannot_be_created_is_named_with_what_to_do(command: str, lake: str, why: str) -> None:
    code, output = run(command, "--lake", lake)
    assert code == 2
    assert output.startswith("Error: lake = '")
    assert f"/{Path(lake).name}': cannot be created or written to ({why}" in output
    assert output.endswith("choose a folder that you may write to\n")


def test_a_bad_value_of_another_option_ends_with_this_code_too() -> None:
    for arguments in (
        ["imagebind", "verify", ".", "--device", "gpu"],
        ["import", "emid", "--parquet", "nothing-*"],
        ["study", "power", "--trials", "80"],
        ["study", "serve", "--media", ".", "--token", "short"],
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2, done.output
        assert done.output.count("\n") == 1


def test_records_that_are_no_database_are_named(tmp_path: Path) -> None:
    history = tmp_path / "lake" / "dagster" / "history"
    history.mkdir(parents=True)
    (history / "runs.db").write_bytes(b"no database" * 500)
    done = subprocess.run(  # a process of its own: the command sets variables of the environment
        [sys.executable, "-m", "emid_assets", "status", "--lake", "lake"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"Error: Dagster's records in {history.parent} cannot be opened: file is not a database\n"
    )
