"""The front door: every command stands in the help, and starting one imports only what it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from emid_assets.cli.main import COMMANDS, main
from emid_assets.settings import GROUPS, SAMPLE_MEDIA, Settings

ROOT = Path(__file__).parents[2]
DG = Path(sys.executable).with_name("dg")
HEAVY = {"dagster", "torch", "polars", "duckdb", "pyarrow", "numpy", "matplotlib", "numba", "scipy", "rich"}


def imported_by(arguments: list[str], folder: Path, code: int = 0) -> set[str]:
    """The top-level modules of a process that has run `emid ARGUMENTS`, with this exit code."""
    script = (
        "import json, sys\nfrom emid_assets.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_help_imports_no_command(tmp_path: Path) -> None:
    imported = imported_by(["--help"], tmp_path)
    assert not imported & (HEAVY | {"pydantic"})
    assert "click" in imported


@pytest.mark.parametrize("name", ["build", "ui", "status", "query", "sweep", "tune", "study", "import"])
def test_the_help_of_a_command_imports_settings_and_nothing_heavier(name: str, tmp_path: Path) -> None:
    assert not imported_by([name, "--help"], tmp_path) & HEAVY


def test_the_status_imports_dagster_and_no_network(tmp_path: Path) -> None:
    (tmp_path / "lake" / "dagster").mkdir(parents=True)
    imported = imported_by(["status", "--lake", str(tmp_path / "lake")], tmp_path)
    assert "dagster" in imported
    assert not imported & {"torch", "matplotlib", "numba", "scipy", "PIL", "soundfile"}


def test_a_query_imports_torch_and_no_dagster(tmp_path: Path) -> None:
    """Nothing is built there: the encoder is loaded before the lake says so."""
    image = SAMPLE_MEDIA / "images" / "awe_nasa0.jpg"
    imported = imported_by(["query", "image", str(image), "--lake", str(tmp_path / "lake")], tmp_path, code=1)
    assert "torch" in imported
    assert not imported & {"dagster", "matplotlib", "numba", "scipy"}


@pytest.mark.skipif(not DG.exists(), reason="dg is not installed: make install-dev")
def test_dg_lists_the_assets_of_the_graph(tmp_path: Path) -> None:
    listed = subprocess.run(
        [DG, "list", "defs", "--json"],
        cwd=ROOT, env=os.environ | {"EMID_LAKE": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {asset["asset_key"] for asset in json.loads(listed.stdout)["assets"]} >= {"fused_pairs", "images"}
    help_text = subprocess.run([DG, "--help"], capture_output=True, text=True, check=True).stdout
    assert "launch" in help_text


def test_each_line_of_the_help_is_the_first_sentence_of_its_command() -> None:
    context = click.Context(main)
    for name, (_, line) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert " ".join((command.help or "").partition("\n\n")[0].split()) == line


def test_an_unknown_command_is_an_error_of_one_line() -> None:
    done = CliRunner().invoke(main, ["biuld"])
    assert done.exit_code == 2
    assert "No such command 'biuld'" in done.output


def test_the_options_of_a_build_are_grouped_and_complete() -> None:
    text = CliRunner().invoke(main, ["build", "--help"], terminal_width=200).output
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            sections[line[:-1]] = []
        elif line.startswith("  --") and not line.startswith("  --help"):
            sections[list(sections)[-1]].append(line.split()[0].removeprefix("--").replace("-", "_"))
    assert sections.pop("Options") == ["all", "dry_run"]
    options = {*Settings.model_fields, "profile"}
    expected = {group: [name for name in names if name in options] for group, names in GROUPS.items()}
    assert sections == {group: names for group, names in expected.items() if names}


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emid_assets", "--version"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("python -m emid_assets, version ")


PRINTING = {
    "version": ["--version"],
    "help": ["--help"],
    "help of a command": ["study", "serve", "--help"],
    "status": ["status"],
}


@pytest.mark.parametrize("arguments", PRINTING.values(), ids=PRINTING)
def test_output_that_cannot_be_written_is_one_line_and_no_success(
    arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "lake" / "dagster").mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EMID_LAKE": str(tmp_path / "lake")}
    environment["PYTHONUNBUFFERED"] = "" if "--help" in arguments else "1"  # with a buffer or without
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emid_assets", *arguments],
            cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"


def test_a_command_whose_output_is_closed_or_whose_errors_cannot_be_written_ends_as_it_should() -> None:
    command = f"{sys.executable} -m emid_assets"
    for redirected, code in (("--version >&-", 0), ("--version 2>&-", 0), ("no-such-command 2>/dev/full", 1)):
        done = subprocess.run(
            ["sh", "-c", f"{command} {redirected}"], env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (code, ""), redirected
