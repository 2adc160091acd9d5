"""What the commands print: tables and progress, for a terminal and for a file or a pipe.

A table fits the terminal's width, and is whole where output is no terminal. Progress is a bar, or a line
every 30 s.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from emid_assets.runs.progress_lines import ProgressLines, rate_text

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


@contextmanager
def progress(work: str, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how far work is; gives a callback that takes (done, total).

    Args:
        work: names the work, such as `import`.
        what: that is counted, such as `rows`.
        total: of them, as far as it is known at the start.
    """
    out = console(stderr=True)
    if out.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=out) as bars:
            bar = bars.add_task(what, total=total)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    with ProgressLines(partial(out.print, soft_wrap=True)) as lines:
        lines.begin(work)
        yield lambda done, total: lines.tell(rate_text(what, done, total, lines.seconds()))
