"""The commands `emid imagebind fetch | check | verify`: a thin front on the encoder's own functions."""

import json
from pathlib import Path

import click

from emid_assets.encoders.imagebind import checkpoint as files
from emid_assets.encoders.interface import EncoderUnavailableError

MEGABYTE = 1_000_000


@click.group()
def imagebind() -> None:
    """Download, check or verify ImageBind's checkpoint."""


@imagebind.command()
@click.option("--to", type=click.Path(path_type=Path), help="File to write. [default: torch hub's folder]")
@click.option(
    "--url", default=files.URL, show_default=True, help="A mirror; the file's sha256 is checked anyway."
)
@click.option("--accept-licence", is_flag=True, help="You have read the licence and accept it.")
def fetch(to: Path | None, url: str, accept_licence: bool) -> None:
    """Download the checkpoint (4.8 GB); resumes an earlier download."""
    click.echo(files.LICENCE_TEXT)
    if not accept_licence:
        raise click.ClickException("nothing was downloaded: add --accept-licence if you accept these terms")
    from emid_assets.cli.terminal import progress

    target = to or files.hub_folder() / files.NAME
    try:
        with progress("fetch", f"MB of {files.NAME}", files.SIZE // MEGABYTE) as on_progress:
            files.fetch(
                target,
                url=url,
                on_bytes=lambda there, size: on_progress(there // MEGABYTE, size // MEGABYTE),
            )
    except files.FetchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{target}: complete, sha256 {files.SHA256}")


@imagebind.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check(path: Path | None) -> None:
    """Check that PATH is ImageBind's official checkpoint; else say what differs.

    Without PATH it checks the file that a build would load.
    """
    from emid_assets.encoders.imagebind import model

    try:
        path = files.find_checkpoint(path)
    except EncoderUnavailableError as error:
        raise click.ClickException(str(error)) from None
    problems = files.file_problems(path)
    if problems:
        # Another file may still hold the right tensors, such as a checkpoint that was saved again.
        try:
            differences = model.differences(model.map_checkpoint(path))
            problems += differences or ["its vision and audio tensors have the right names, shapes and types"]
        except EncoderUnavailableError as error:
            problems.append(str(error))
        raise click.ClickException("\n  ".join([f"{path} is not the official checkpoint:", *problems]))
    click.echo(f"{path}: ImageBind's official checkpoint, complete")


@imagebind.command()
@click.argument("assets", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Its file. [default: the one that a build loads]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16", "auto"])
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(assets: Path, checkpoint: Path | None, device: str, precision: str, as_json: bool) -> None:
    """Reproduce the vision × audio matrix of the official README.

    ASSETS is the folder with the official example files.
    """
    from emid_assets.cli.options import BadValueError
    from emid_assets.encoders.imagebind import encoder
    from emid_assets.settings import SettingsError, load_settings

    try:
        load_settings({"device": device}, environment={})
    except SettingsError as error:
        raise BadValueError(str(error)) from None
    try:
        loaded = encoder.load_imagebind(device, precision=precision, checkpoint=checkpoint)  # type: ignore[arg-type]
        matrix = encoder.verify(loaded, assets)
    except EncoderUnavailableError as error:
        raise click.ClickException(str(error)) from None
    off = 0.0
    for row, expected in zip(matrix.tolist(), encoder.VERIFY_MATRIX, strict=True):
        if not as_json:
            click.echo("  ".join(f"{a:.4f} ({b:.4f})" for a, b in zip(row, expected, strict=True)))
        off = max(off, *(abs(a - b) for a, b in zip(row, expected, strict=True)))
    allowed = encoder.VERIFY_TOLERANCE[loaded.precision]
    if as_json:
        found = {"matrix": matrix.tolist(), "published": [list(row) for row in encoder.VERIFY_MATRIX]}
        click.echo(json.dumps(found | {"largest_difference": off, "allowed": allowed}))
    if off > allowed:
        raise click.ClickException(f"off by up to {off:.4f}, more than the {allowed} of {loaded.precision}")
    if not as_json:
        click.echo(f"as published (in brackets), within {off:.4f}")
