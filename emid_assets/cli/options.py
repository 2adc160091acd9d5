"""Settings on the command line: one option for each, made from the settings' own definition."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from emid_assets.media.folder import SUBFOLDERS
from emid_assets.runs.instance import prepare_instance, what_ray_lacks
from emid_assets.settings import (
    ENVIRONMENT_PREFIX,
    GROUPS,
    Settings,
    SettingsError,
    allowed_range,
    load_operations,
    load_settings,
    setting_text,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def _use_profile(_: click.Context, __: click.Parameter, profile: str | None) -> None:
    if profile is not None:
        os.environ[f"{ENVIRONMENT_PREFIX}PROFILE"] = profile  # for this process and all that it starts


profile_option = click.option(
    "--profile",
    type=click.Choice(["local", "ray"]),
    callback=_use_profile,
    expose_value=False,
    help="Where runs are executed: on this machine, or on a Ray cluster (docs/cluster.md). [EMID_PROFILE]",
)


class SettingsCommand(click.Command):
    """A command whose help lists its own options first, then the settings in their groups."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the help."""
        records = {each.name: each.get_help_record(context) for each in self.get_params(context)}
        grouped = {name for names in GROUPS.values() for name in names}
        own = [name for name in records if name not in grouped]
        for title, names in {"Options": own, **GROUPS}.items():
            if shown := [record for name in names if (record := records.get(name))]:
                with formatter.section(title):
                    formatter.write_dl(shown)


def output_path(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names a file to write: an error before the work where it cannot be."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise click.BadParameter(f"{str(path)!r} cannot be written: name a file in a folder that is there")
    return path


def settings_options(command: Command) -> Command:
    """Give a command one option for each setting; an option that is not given comes as None."""
    for name, field in reversed(Settings.model_fields.items()):
        choices = ("off", "on") if field.annotation is bool else get_args(field.annotation)
        default = setting_text(field.default) if field.default != "" else "empty"
        command = click.option(
            "--" + name.replace("_", "-"),
            name,
            type=click.Choice(choices) if choices else str,
            metavar=None if choices else "DIR" if name in ("media", "lake") else "VALUE",
            help=f"{field.description} [{'' if choices else allowed_range(name) + '; '}"
            f"default: {default}; {ENVIRONMENT_PREFIX}{name.upper()}]",
        )(command)
    return command


class BadValueError(click.ClickException):
    """A setting or an argument has a value that it cannot have; the exit code is that of a wrong option."""

    exit_code = 2


def settings_from(options: dict[str, Any]) -> Settings:
    """The settings that a command's options give, with an error of one line where one is wrong."""
    from emid_assets.store.lake import Lake, LakeError

    try:
        settings = load_settings(options)
        load_operations()
        Lake(settings.lake_folder)
    except SettingsError as error:
        raise BadValueError(str(error)) from None
    except LakeError as error:
        raise BadValueError(f"lake = {str(settings.lake_folder)!r}: {error}") from None
    if not settings.media_folder.is_dir():
        raise BadValueError(f"media = {settings.media!r}: there is no such folder")
    _refuse_lake_among_media(settings)
    return settings


def _refuse_lake_among_media(settings: Settings) -> None:
    """A lake has pictures and sound too, which the next build would take for media."""
    media, lake = settings.media_folder, settings.lake_folder
    taken = (media, *(media / name for name in SUBFOLDERS.values()))
    if lake == media or any(folder in (lake, *lake.parents) for folder in taken[1:]):
        raise BadValueError(
            f"lake = {str(lake)!r}: this is in the media folder {media}, whose files a build reads: choose a "
            "folder outside its music/ and images/"
        )


def prepared_instance(settings: Settings) -> Path:
    """Dagster's folder for these settings, with an error of one line where it cannot be prepared.

    The catalogue of a lake that was moved or copied is rewritten.
    """
    from emid_assets.store.lake import Lake, LakeError

    try:
        lake = Lake(settings.lake_folder)
        moved_from = lake.settle()
        home = prepare_instance(settings)
    except LakeError as error:
        raise BadValueError(f"lake = {str(settings.lake_folder)!r}: {error}") from None
    except OSError as error:
        raise BadValueError(
            f"lake = {str(settings.lake_folder)!r}: cannot be created or written to ({error.strerror}): "
            "choose a folder that you may write to"
        ) from None
    if moved_from is not None:
        click.echo(
            f"This lake was moved or copied from {moved_from}: {lake.catalogue_path} is rewritten for its "
            "new folder",
            err=True,
        )
    if load_operations().profile == "ray" and (lack := what_ray_lacks(home)):
        raise click.ClickException(lack)
    return home
