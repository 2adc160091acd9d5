"""Tables of the command line: whole in a pipe, fitted and never cut in a terminal."""

import pytest
from rich.console import Console
from rich.text import Text

from emid_assets.cli.terminal import console, table

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
