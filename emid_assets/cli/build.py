"""The command `emid build`: every stage of the graph, in order."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from emid_assets.cli.options import (
    SettingsCommand,
    prepared_instance,
    profile_option,
    settings_from,
    settings_options,
)
from emid_assets.runs.instance import environment_of
from emid_assets.runs.signals import ignore_signals, raise_on_signals, was_told_to_stop

STOPPED = 130
"""Exit status of a build that was told to stop, as a shell has it for Ctrl-C."""


@click.command(cls=SettingsCommand)
@profile_option
@click.option(
    "--all", "everything", is_flag=True, help="Build what is current too. (After a stop, it starts over.)"
)
@click.option("--dry-run", is_flag=True, help="Print what would be built, and why, and build nothing.")
@settings_options
def build(everything: bool, dry_run: bool, **options: Any) -> None:
    """Build what is not current: media, embeddings, pairs, adapters, report.

    A partition is current if neither its inputs nor its settings nor its code have changed since it was
    built. A stopped build keeps all finished work: run the same command again to resume.
    """
    raise_on_signals()
    try:
        _build(everything, dry_run, options)
    except BaseException as stop:
        if not was_told_to_stop():  # an interrupt may come out of a library as any error
            raise
        ignore_signals()
        place = str(stop) if isinstance(stop, KeyboardInterrupt) else ""
        again = (
            "the same command with --all starts over"
            if everything
            else "run the same command again to resume"
        )
        click.echo(f"\n{place or 'stopped'}: finished work is kept; {again}", err=True)
        sys.exit(STOPPED)


def _build(everything: bool, dry_run: bool, options: dict[str, Any]) -> None:
    settings = settings_from(options)
    given = {name: value for name, value in options.items() if value is not None}
    if not dry_run:
        os.environ.update(environment_of(settings, prepared_instance(settings)))
    from emid_assets.build.stage_by_stage import BuildFailedError, planned_build, run_build

    start = time.monotonic()
    try:
        if dry_run:
            planned = planned_build(given, everything)
            from emid_assets.cli.terminal import console, table

            if planned.height:
                console().print(table(planned.columns, planned.rows()))
            else:
                click.echo("Everything is current: nothing to do.")
            return
        summary = run_build(given, everything)
    except BuildFailedError as error:
        raise click.ClickException(str(error)) from None
    if "current" in summary:
        click.echo(f"Everything is current: {summary['current']}.")
        return
    click.echo(f"\nDone in {time.monotonic() - start:.0f} s.")
    for name, value in summary.items():
        click.echo(f"  {name:<14} {value}")
    folders = ["--media", str(settings.media_folder), "--lake", str(settings.lake_folder)]
    click.echo(f"  {'web UI':<14} {shlex.join([*this_program(), 'ui', *folders])}")


def this_program() -> list[str]:
    """How this program was started, for a line that the user can copy."""
    if Path(sys.argv[0]).name == "__main__.py":
        return [sys.executable, "-m", "emid_assets"]
    return [sys.argv[0]]
