"""Tables in the terminal: fitted to its width there, and whole where output goes to a file or a pipe."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 100_000
"""Columns of a console that is no terminal: more than any table needs."""


def console(*, stderr: bool = False) -> Console:
    """A console that cuts and wraps nothing where it is no terminal."""
    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        made.width = WIDE
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A table of plain text: floats with four digits, everything else as `str` writes it, `Text` as it is."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))
