"""The commands `emid imagebind fetch | check | verify`: a thin front on the encoder's own functions."""

from pathlib import Path

import click

from emid_assets.encoders.imagebind import checkpoint as files
from emid_assets.encoders.interface import EncoderUnavailableError


@click.group()
def imagebind() -> None:
    """ImageBind's checkpoint: download it, check a file, reproduce the official figures."""


@imagebind.command()
@click.option("--to", type=click.Path(path_type=Path), help="File to make. [default: torch hub's folder]")
@click.option(
    "--url", default=files.URL, show_default=True, help="A mirror; the file's sum is checked anyway."
)
@click.option("--accept-licence", is_flag=True, help="You have read the licence and accept it.")
def fetch(to: Path | None, url: str, accept_licence: bool) -> None:
    """Download the checkpoint (4.8 GB); goes on where an earlier download ended."""
    click.echo(files.LICENCE_TEXT)
    if not accept_licence:
        raise click.ClickException("nothing was downloaded: add --accept-licence if you accept these terms")
    target = to or files.hub_folder() / files.NAME
    with click.progressbar(length=files.SIZE, label=files.NAME, show_pos=False) as bar:
        try:
            files.fetch(target, url=url, on_bytes=lambda there, _: bar.update(there - bar.pos))
        except files.FetchError as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"{target}: whole, sha256 {files.SHA256}")


@imagebind.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check(path: Path | None) -> None:
    """Say whether PATH (or the file that a build would take) is ImageBind's checkpoint, and if not, why."""
    from emid_assets.encoders.imagebind import model

    try:
        path = files.find_checkpoint(path)
    except EncoderUnavailableError as error:
        raise click.ClickException(str(error)) from None
    problems = files.file_problems(path)
    if problems:
        # Another file may still hold the right tensors, such as a checkpoint saved anew.
        try:
            differences = model.differences(model.map_checkpoint(path))
            problems += differences or ["its vision and audio tensors have the right names, shapes and types"]
        except EncoderUnavailableError as error:
            problems.append(str(error))
        raise click.ClickException("\n  ".join([f"{path} is not the official checkpoint:", *problems]))
    click.echo(f"{path}: ImageBind's official checkpoint, whole")


@imagebind.command()
@click.argument("assets", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The file. [default: the usual places]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16", "auto"])
)
def verify(assets: Path, checkpoint: Path | None, device: str, precision: str) -> None:
    """Reproduce the official README's vision × audio matrix from the files in the folder ASSETS."""
    from emid_assets.encoders.imagebind import encoder

    try:
        loaded = encoder.load_imagebind(device, precision=precision, checkpoint=checkpoint)  # type: ignore[arg-type]
        matrix = encoder.verify(loaded, assets)
    except EncoderUnavailableError as error:
        raise click.ClickException(str(error)) from None
    off = 0.0
    for row, expected in zip(matrix.tolist(), encoder.VERIFY_MATRIX, strict=True):
        click.echo("  ".join(f"{a:.4f} ({b:.4f})" for a, b in zip(row, expected, strict=True)))
        off = max(off, *(abs(a - b) for a, b in zip(row, expected, strict=True)))
    allowed = encoder.VERIFY_TOLERANCE[loaded.precision]
    if off > allowed:
        raise click.ClickException(f"off by up to {off:.4f}, more than the {allowed} of {loaded.precision}")
    click.echo(f"as published (in brackets), within {off:.4f}")
