"""The commands `emid lake backup`, `restore` and `verify`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emid_assets.cli.options import SettingsCommand, settings_from, settings_options

if TYPE_CHECKING:
    from emid_assets.store.backup import Backup

FOLDER = click.Path(file_okay=False, path_type=Path)
at_option = click.option("--at", metavar="NAME", help="Name of the backup; the newest by default.")


@click.group("lake")
def lake_group() -> None:
    """Back up the lake of a build, and restore it."""


@lake_group.command("backup", cls=SettingsCommand)
@click.argument("folder", type=FOLDER)
@click.option(
    "--keep", type=click.IntRange(min=1), help="Number of backups to keep, with this one. Default: all."
)
@settings_options
def backup_command(folder: Path, keep: int | None, **options: Any) -> None:
    """Back up the lake into FOLDER, while builds may be running.

    Only what no backup in FOLDER has is copied; on the same file system, tables and weights are linked.
    """
    from emid_assets.store.backup import Backups

    backups = Backups(folder)
    with _reported("backup") as on_progress:
        _tell(backups.make(settings_from(options).lake_folder, keep, on_progress), "backed up")
    for damage in backups.damaged:
        click.echo(f"Warning: backed up as it is, with all versions beside it: {damage}", err=True)


@lake_group.command("restore")
@click.argument("folder", type=FOLDER)
@click.argument("lake", type=FOLDER)
@at_option
def restore_command(folder: Path, lake: Path, at: str | None) -> None:
    """Make the lake LAKE, which must not exist, from a backup in FOLDER."""
    from emid_assets.store.backup import Backups

    with _reported("restore") as on_progress:
        _tell(Backups(folder).restore(lake, at, on_progress), f"restored to {lake.resolve()}")


@lake_group.command("verify")
@click.argument("folder", type=FOLDER)
@at_option
def verify_command(folder: Path, at: str | None) -> None:
    """Read a backup in FOLDER again, and name what is missing or damaged."""
    from emid_assets.store.backup import Backups

    backups = Backups(folder)
    with _reported("verify") as on_progress:
        wrong = backups.verify(at, on_progress)
        _tell(backups.read(at), "verified" if not wrong else f"has {len(wrong)} files that are wrong")
    if wrong:
        raise click.ClickException("\n".join(wrong))


@contextlib.contextmanager
def _reported(work: str) -> Iterator[Callable[[int, int], None]]:
    """Progress by file, and errors in one line."""
    from emid_assets.cli.terminal import progress
    from emid_assets.store.backup import BackupError

    try:
        with progress(work, "files", 0) as on_progress:
            yield on_progress
    except BackupError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or work}: {error.strerror or error}") from None


def _tell(backup: "Backup", what: str) -> None:
    click.echo(f"{backup.name}: {len(backup.files):,} files, {backup.bytes / 1e6:,.1f} MB, {what}")
