"""The commands `emid study …`: the listening study outside the asset graph."""

import socket
from contextlib import suppress
from typing import Any

import click

from emid_assets.cli_settings import settings_from, settings_options
from emid_assets.cli_study_power import power_command
from emid_assets.signals import hear_signals


@click.group()
def study() -> None:
    """The listening study: how many participants it needs, and taking their answers."""


study.add_command(power_command)


@study.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token",
    help="What a link must hold to send answers. Default: one made for this study, kept in its folder.",
)
@click.option(
    "--rate",
    type=click.IntRange(1),
    default=600,
    show_default=True,
    help="Answers taken from one address in a minute.",
)
@click.option(
    "--participants",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Participants taken in all.",
)
@settings_options
def serve_command(
    host: str, port: int, token: str | None, rate: int, participants: int, **options: Any
) -> None:
    """Hand out the page of a build's study and take the answers, until Ctrl-C."""
    import uvicorn

    from emid_assets.study.answers import PAGE, STORE, STUDY_FOLDER, AnswerStore, DesignFiles
    from emid_assets.study.design import StudyError
    from emid_assets.study.page import PAGE_FILE
    from emid_assets.study.server import study_app, token_of

    settings = settings_from(options)
    folder = settings.lake_folder / STUDY_FOLDER
    try:
        designs = DesignFiles(folder)
        if not designs or not (folder / PAGE / PAGE_FILE).is_file():
            raise StudyError(f"{folder} has no study: run emid build, or materialize listening_study")
        if token is not None and len(token) < 8:
            raise StudyError("--token: at least 8 characters, or whoever tries a few can send answers")
        token = token or token_of(folder)
        app = study_app(folder / PAGE, designs, AnswerStore(folder / STORE, participants), token, rate)
        listener = socket.create_server((host, port), family=_family(host))
    except (StudyError, OSError) as error:
        raise click.ClickException(str(error)) from None
    hear_signals()
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"Link for participants  http://{shown}:{listener.getsockname()[1]}/#token={token}")
    click.echo(f"Answers                {folder / STORE}")
    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo("Plain HTTP: put a proxy with HTTPS before it where others share the network.", err=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=500,
        timeout_keep_alive=30,
    )  # fmt: skip
    # It ends by itself on Ctrl-C, and then raises it again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
