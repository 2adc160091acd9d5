"""The command line `emid`: names every command, and imports the one that is called.

Belongs here: the list of the commands and what holds for all of them. Each command is a module of its own.
Help must start fast, so nothing here imports one of them, settings, Dagster, torch or polars.
"""

import gc
import importlib
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("build:build", "Build what is not current: media, embeddings, pairs, adapters, report."),
    "ui": ("ui:ui", "Start Dagster's web UI and daemon on a build's instance."),
    "status": ("status:status_command", "Show what is broken, stale or overdue now."),
    "query": ("query:query_command", "Find the images nearest to a music FILE, or the music to an image."),
    "sweep": ("query:sweep_command", "Show what α, m and K do to the pairs of a build."),
    "tune": ("tune:tune_command", "Search the hyperparameters of NETWORK."),
    "study": ("study:study", "Serve the listening study, or plan its size."),
    "imagebind": ("imagebind:imagebind", "Download, check or verify ImageBind's checkpoint."),
    "import": ("import_emid:import_group", "Read a published data set or ratings into a media folder."),
    "lake": ("lake:lake_group", "Back up the lake of a build, and restore it."),
}  # fmt: skip
"""Command → `module:object` below `emid_assets.cli`, and its line in the help."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called; its help needs none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command by its name; None for an unknown one."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"emid_assets.cli.{module}"), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="emid-assets")
def main() -> None:
    """Build an emotionally aligned music-image dataset from your own media."""
    # For this process and all that it starts: nobody else may write to what is built.
    os.umask(os.umask(0o022) | 0o022)
    # Dagster prints each attempt to reach PostgreSQL; what came of them is told in one line.
    logging.getLogger().addFilter(lambda record: "Retrying failed database" not in str(record.msg))


def set_up_process() -> None:
    """What makes this process cheaper; call it before torch is imported."""
    gc.set_threshold(100_000, 20, 20)  # torch and Dagster make a million objects that stay
    # Threads of torch that wait for work spin otherwise: training small networks took three times the CPU,
    # and four times as long on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def entry_point() -> NoReturn:
    """`emid` as it is installed."""
    code: str | int | None = 0
    problem = ""
    set_up_process()
    try:
        main()
    except SystemExit as end:
        code = end.code
    except OSError:
        problem = _why_not_printed("\n")
        if not problem:
            raise
    if problem := problem or _why_not_printed():
        with suppress(OSError):
            click.echo(f"Error: the output cannot be written: {problem}", err=True)
        code = 1
    # Without the interpreter's own clearing up: beside torch, DuckDB 2.0 prints pages of "leaked" then.
    os._exit(code if isinstance(code, int) else 1)


def _why_not_printed(more: str = "") -> str:
    """Why the output takes no more, such as a full disk; empty where everything and `more` is written."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the caller has closed it
            stream.write(more)
            stream.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""
