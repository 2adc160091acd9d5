"""The command `emid ui`: Dagster's web UI and daemon on the instance of a build."""

import os
import socket
import sys
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
from emid_assets.runs.processes import daemons_of

PACKAGE = Path(__file__).parents[1]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(cls=SettingsCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)
@profile_option
@settings_options
def ui(host: str, port: int, **options: Any) -> None:
    """Start Dagster's web UI and daemon on a build's instance."""
    settings = settings_from(options)
    home = prepared_instance(settings)
    if running := daemons_of(home):
        raise click.ClickException(
            f"a daemon (process {running[0]}) already serves the instance in {home}: a second one would "
            f"launch each run twice. Use the web UI of that daemon, or stop it: kill {running[0]}"
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
            f"Warning: anyone who can reach {host}:{port} can start and delete runs without a password; "
            "docs/security.md shows how to put nginx in front",
            err=True,
        )
    click.echo(f"Media {settings.media_folder}\nLake  {settings.lake_folder}\nUI    http://{host}:{port}")
    # `dagster dev` recommends another command at each start, which would need one more package.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    address = ["-w", str(workspace), "-h", host, "-p", str(port)]
    command = [sys.executable, *quiet, "-m", "dagster", "dev", *address]
    os.execve(command[0], command, os.environ)
