"""The Dagster instance of a build: where it lives, and how it is set up the first time."""

import os
import shutil
from pathlib import Path

from emid_assets.settings import ENVIRONMENT_PREFIX, Settings

SHIPPED_INSTANCE = Path(__file__).parent / "dagster.yaml"


def prepare_instance(settings: Settings) -> Path:
    """The folder of Dagster's own records: `DAGSTER_HOME` where it is set, else the lake's `dagster/`.

    A new folder gets the shipped `dagster.yaml`; one that has its own keeps it.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or settings.lake_folder / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(SHIPPED_INSTANCE, home / "dagster.yaml")
    return home


def environment_of(settings: Settings, home: Path) -> dict[str, str]:
    """The variables that make another process see the same settings and the same instance."""
    values = settings.model_dump() | {"media": settings.media_folder, "lake": settings.lake_folder}
    variables = {ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in values.items()}
    return variables | {"DAGSTER_HOME": str(home)}
