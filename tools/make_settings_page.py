"""Write docs/settings.md from the settings' own definitions, or check that it is current (`--check`)."""

import argparse
import sys
from pathlib import Path

from pydantic import SecretStr

from emid_assets.settings import (
    ENVIRONMENT_PREFIX,
    GROUPS,
    SAMPLE_MEDIA,
    WANTED_OF_OPERATIONS,
    Operations,
    Settings,
    allowed_range,
    setting_text,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

<!-- Made by `python tools/make_settings_page.py` from emid_assets/settings.py: edit that file instead. -->

Each setting has one definition, in `emid_assets/settings.py`. There are three ways to give a value. Where
several are used, the first in this list wins:

1. on the command line: `emid build --images-per-clip 5` (hyphens instead of underscores);
   in the web UI's launchpad: `images_per_clip: 5`;
2. as an environment variable: `EMID_IMAGES_PER_CLIP=5`;
3. not at all: the default applies.

A wrong value is an error that names the setting and the allowed values. The command line reports it at
once, the launchpad when the run starts. `emid build --help` lists the same settings in the same groups.

Settings marked † are environment variables only, because some of them are secrets. They are read when the
web UI and its daemon start (see [operations.md](operations.md)). The exception is `profile`, which is also
the option `--profile`.
"""


def settings_page() -> str:
    """The page as Markdown: a table for each group, a row for each setting."""
    return INTRODUCTION + "".join(
        f"\n## {group}\n\n| setting | default | allowed | variable | meaning |\n|---|---|---|---|---|\n"
        + "".join(_row(name) for name in names)
        for group, names in GROUPS.items()
    )


def _row(name: str) -> str:
    of_a_run = name in Settings.model_fields
    field = (Settings if of_a_run else Operations).model_fields[name]
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    default = setting_text(default)
    shown = "the sample" if default == str(SAMPLE_MEDIA) else f"`{default}`" if default != "" else "empty"
    allowed = allowed_range(name) if of_a_run else WANTED_OF_OPERATIONS.get(name, "a file")
    cells = (
        f"`{name}`{'' if of_a_run else ' †'}",
        shown,
        allowed,
        f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
        field.description or "",
    )
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Write the page; with `--check` only say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is outdated")
    if parser.parse_args().check:
        if PAGE.read_text(encoding="utf-8") != settings_page():
            sys.exit(f"{PAGE} is outdated: run `python tools/make_settings_page.py` and commit the result")
    else:
        PAGE.write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
