"""The command `emid build`: every stage of the graph, in order."""

import os
import shlex
import sys
import time
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
from emid_assets.runs.signals import raise_on_signals

STOPPED = 130
"""Exit status of a build that was told to stop, as a shell has it for Ctrl-C."""


@click.command(cls=SettingsCommand)
@profile_option
@click.option("--all", "everything", is_flag=True, help="Build what is current too.")
@click.option("--dry-run", is_flag=True, help="Print what would be built, and why, and build nothing.")
@settings_options
def build(profile: str | None, everything: bool, dry_run: bool, **options: Any) -> None:
    """Build what is not current: media, embeddings, pairs, adapters, report.

    A partition is current if neither its inputs nor its settings nor its code have changed since it was
    built. A stopped build keeps all finished work: run the same command again to resume.
    """
    settings = settings_from(options)
    home = prepared_instance(settings, profile)
    os.environ.update(environment_of(settings, home))
    from emid_assets.build.stage_by_stage import (
        BuildFailedError,
        BuildStoppedError,
        planned_build,
        run_build,
    )

    raise_on_signals()
    start = time.monotonic()
    given = {name: value for name, value in options.items() if value is not None}
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
    except (BuildStoppedError, KeyboardInterrupt) as stop:
        click.echo(
            f"\n{str(stop) or 'stopped'}: finished work is kept; run the same command again to resume",
            err=True,
        )
        sys.exit(STOPPED)
    if "current" in summary:
        click.echo(f"Everything is current: {summary['current']}.")
        return
    click.echo(f"\nDone in {time.monotonic() - start:.0f} s.")
    for name, value in summary.items():
        click.echo(f"  {name:<14} {value}")
    folders = ["--media", str(settings.media_folder), "--lake", str(settings.lake_folder)]
    click.echo(f"  {'web UI':<14} {shlex.join([sys.argv[0], 'ui', *folders])}")
