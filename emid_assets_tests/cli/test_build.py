"""What `emid build` says, apart from what it builds."""

from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner

from emid_assets.cli import build as command
from emid_assets.cli.main import main


def stopped(*_: Any) -> NoReturn:
    raise KeyboardInterrupt("stopped in align sad")


@pytest.mark.parametrize(
    ("options", "again"),
    [([], "run the same command again to resume"), (["--all"], "the same command with --all starts over")],
)
def test_a_stopped_build_says_what_the_next_one_does(
    monkeypatch: pytest.MonkeyPatch, options: list[str], again: str
) -> None:
    monkeypatch.setattr(command, "_build", stopped)
    for replaced in ("raise_on_signals", "ignore_signals"):
        monkeypatch.setattr(command, replaced, lambda: None)
    monkeypatch.setattr(command, "was_told_to_stop", lambda: True)
    done = CliRunner().invoke(main, ["build", *options])
    assert done.exit_code == command.STOPPED
    assert f"stopped in align sad: finished work is kept; {again}" in done.output


def test_the_command_that_is_told_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/emid", "build"])
    assert command.this_program() == [".venv/bin/emid"]
    monkeypatch.setattr("sys.argv", ["/somewhere/emid_assets/__main__.py", "build"])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    assert command.this_program() == ["/usr/bin/python3", "-m", "emid_assets"]


def test_a_dry_run_needs_no_lake_and_makes_none(
    sample_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for replaced in ("raise_on_signals", "ignore_signals"):
        monkeypatch.setattr(command, replaced, lambda: None)
    options = ["--media", str(sample_media), "--lake", str(tmp_path / "lake")]
    done = CliRunner().invoke(main, ["build", "--dry-run", *options])
    assert done.exit_code == 0, done.output
    assert "missing: never built" in done.output
    assert list(tmp_path.iterdir()) == []
