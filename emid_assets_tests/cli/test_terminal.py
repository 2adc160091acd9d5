"""Tables and progress of the command line: whole in a pipe, fitted and never cut in a terminal."""

import time

import pytest
from rich.console import Console
from rich.text import Text

from emid_assets.cli.terminal import console, progress, table
from emid_assets.runs import progress_lines

ROWS = [("candidate_softmax", 0.123456, "a reason with [brackets] " * 8), ("raw", 1.0, Text("failed", "red"))]


def test_a_table_in_a_pipe_has_one_whole_line_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console().print(table(("rescaling", "share", "why"), ROWS))
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["rescaling", "share", "why"]
    assert first.split() == ["candidate_softmax", "0.1235", *("a reason with [brackets] " * 8).split()]
    assert second.split() == ["raw", "1", "failed"]


def test_a_table_in_a_narrow_terminal_is_folded_and_not_cut() -> None:
    narrow = Console(width=30, force_terminal=True, color_system=None)
    with narrow.capture() as captured:
        narrow.print(table(("rescaling", "share", "why"), ROWS))
    text = captured.get()
    assert "…" not in text
    assert text.count("[brackets]") + text.count("[bracket") >= 8
    assert max(map(len, text.splitlines())) <= 30


def test_progress_in_a_pipe_is_a_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_lines, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress_lines, "_LOOK_S", 0.001)
    said, deadline = "", time.monotonic() + 30
    with progress("import", "rows", 938) as on_progress:
        while "import: rows: 120 of 938, " not in said and time.monotonic() < deadline:
            on_progress(120, 938)  # each is printed once, and a line written during a read may be lost
            said += capsys.readouterr().err
    assert "import: rows: 120 of 938, " in said
    assert " s left" in said
