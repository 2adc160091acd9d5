"""Settings on the command line: one option for each, made from the settings' own definition."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from emid_assets.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    SettingsError,
    allowed_range,
    load_operations,
    load_settings,
    setting_text,
)

Command = TypeVar("Command", bound=Callable[..., Any])


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
            help=f"{field.description} "
            f"[{allowed_range(name)}; default: {default}; {ENVIRONMENT_PREFIX}{name.upper()}]",
        )(command)
    return command


def settings_from(options: dict[str, Any]) -> Settings:
    """The settings that a command's options give, with an error of one line where one is wrong."""
    try:
        settings = load_settings(options)
        load_operations()
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    if not settings.media_folder.is_dir():
        raise click.ClickException(f"media = {settings.media!r}: there is no such folder")
    return settings
