"""The command line `emid`: a thin front on the code that the Dagster assets run."""

import logging
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from emid_assets.cli.imagebind import imagebind
from emid_assets.cli.import_emid import import_group
from emid_assets.cli.options import settings_from, settings_options
from emid_assets.cli.query import query_command, sweep_command
from emid_assets.cli.status import status_command
from emid_assets.cli.study import study
from emid_assets.cli.tune import tune_command
from emid_assets.runs.instance import environment_of, prepare_instance, what_ray_lacks
from emid_assets.runs.processes import daemons_of
from emid_assets.runs.signals import raise_on_signals
from emid_assets.settings import Settings, load_operations
from emid_assets.store.lake import Lake, LakeError

PACKAGE = Path(__file__).parents[1]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOPPED = 130
"""Exit status of a build that was told to stop, as a shell has it for Ctrl-C."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="emid-assets")
def main() -> None:
    """Build an emotionally aligned music-image dataset from your own media."""
    # For this process and all that it starts: nobody else may write to what is built.
    os.umask(os.umask(0o022) | 0o022)
    # Dagster prints each attempt to reach PostgreSQL; what came of them is told in one line.
    logging.getLogger().addFilter(lambda record: "Retrying failed database" not in str(record.msg))


def _instance_of(settings: Settings, profile: str | None) -> Path:
    """Dagster's folder for these settings, with an error of one line where the lake cannot be."""
    if profile is not None:
        os.environ["EMID_PROFILE"] = profile  # for this process and all that it starts
    try:
        Lake(settings.lake_folder)
        home = prepare_instance(settings)
    except LakeError as error:
        raise click.ClickException(f"lake = {str(settings.lake_folder)!r}: {error}") from None
    except OSError as error:
        raise click.ClickException(
            f"lake = {str(settings.lake_folder)!r}: cannot be made or written to ({error.strerror})"
        ) from None
    if load_operations().profile == "ray" and (lack := what_ray_lacks(home)):
        raise click.ClickException(lack)
    return home


profile_option = click.option(
    "--profile",
    type=click.Choice(["local", "ray"]),
    help="Where runs are executed: here, or on a Ray cluster (docs/cluster.md). [EMID_PROFILE]",
)


@main.command()
@profile_option
@settings_options
def build(profile: str | None, **options: Any) -> None:
    """Build the whole graph, stage by stage: media, embeddings, pairs, adapter, report."""
    settings = settings_from(options)
    home = _instance_of(settings, profile)
    os.environ.update(environment_of(settings, home))
    from emid_assets.build.stage_by_stage import BuildFailedError, BuildStoppedError, run_build

    raise_on_signals()
    start = time.monotonic()
    try:
        summary = run_build({name: value for name, value in options.items() if value is not None})
    except BuildFailedError as error:
        raise click.ClickException(str(error)) from None
    except (BuildStoppedError, KeyboardInterrupt) as stop:
        click.echo(
            f"\n{str(stop) or 'stopped'}: what is done is kept; the same command goes on from there", err=True
        )
        sys.exit(STOPPED)
    click.echo(f"\nDone in {time.monotonic() - start:.0f} s.")
    for name, value in summary.items():
        click.echo(f"  {name:<14} {value}")
    ui_command = [
        sys.argv[0],
        "ui",
        "--media",
        str(settings.media_folder),
        "--lake",
        str(settings.lake_folder),
    ]
    click.echo(f"  {'web UI':<14} {shlex.join(ui_command)}")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)
@profile_option
@settings_options
def ui(host: str, port: int, profile: str | None, **options: Any) -> None:
    """Start Dagster's web UI and daemon on a build's instance."""
    settings = settings_from(options)
    home = _instance_of(settings, profile)
    if running := daemons_of(home):
        raise click.ClickException(
            f"a daemon (process {running[0]}) already serves the instance in {home}: two would launch runs "
            f"twice. Use the web UI that it belongs to, or stop it: kill {running[0]}"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
    os.environ.update(environment_of(settings, home))
    from dagster import DagsterInstance

    from emid_assets.build.ray_runs import ClusterError, records_at_hand
    from emid_assets.runs.dead_runs import end_dead_runs

    try:
        with records_at_hand(), DagsterInstance.get() as instance:
            end_dead_runs(instance)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    workspace = next(
        path for path in (PACKAGE.parent / "workspace.yaml", PACKAGE / "workspace.yaml") if path.exists()
    )
    if host not in LOOPBACK:
        click.echo(
            f"Warning: whoever reaches {host}:{port} can start and delete runs, without a password; "
            "docs/operations.md shows nginx before it",
            err=True,
        )
    click.echo(f"Media {settings.media_folder}\nLake  {settings.lake_folder}\nUI    http://{host}:{port}")
    # `dagster dev` asks for another command, which would add a package, at each start.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    command = [
        sys.executable,
        *quiet,
        "-m",
        "dagster",
        "dev",
        "-w",
        str(workspace),
        "-h",
        host,
        "-p",
        str(port),
    ]
    os.execve(command[0], command, os.environ)


for command in (imagebind, import_group, query_command, status_command, sweep_command, tune_command, study):
    main.add_command(command)


def entry_point() -> NoReturn:
    """`emid` as it is installed."""
    code: str | int | None = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    # Without the interpreter's own clearing up: beside torch, DuckDB 2.0 prints pages of "leaked" then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
