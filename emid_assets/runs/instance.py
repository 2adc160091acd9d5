"""The Dagster instance of a build: its folder and its first-time setup."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from emid_assets.settings import ENVIRONMENT_PREFIX, Settings, load_operations, setting_text
from emid_assets.store.layout import DAGSTER_FOLDER, DAGSTER_RAY_FOLDER

PACKAGE = Path(__file__).parents[1]
SHIPPED_INSTANCE = PACKAGE / "dagster.yaml"
RAY_INSTANCE = PACKAGE / "dagster_ray.yaml"


def prepare_instance(settings: Settings) -> Path:
    """The folder of Dagster's own records: `DAGSTER_HOME` if it is set, else a folder in the lake.

    In the lake it is `dagster/`, or `dagster-ray/` for the profile `ray`. A new folder gets the profile's
    `dagster.yaml`; an existing one is not overwritten.
    """
    name, shipped = DAGSTER_FOLDER, SHIPPED_INSTANCE
    if load_operations().profile == "ray":
        name, shipped = DAGSTER_RAY_FOLDER, RAY_INSTANCE
    home = Path(os.environ.get("DAGSTER_HOME") or settings.lake_folder / name).resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(shipped, home / "dagster.yaml")
    return home


def what_ray_lacks(home: Path) -> str:
    """Why the profile `ray` cannot start on the instance in `home`, and how to fix it; empty if it can."""
    packages = [name for name in ("ray", "dagster_ray", "dagster_postgres") if find_spec(name) is None]
    if packages:
        return f"the profile ray needs {', '.join(packages)}: pip install 'emid-assets[ray]'"
    named = re.findall(r"^[^#\n]*env: (\w+)", (home / "dagster.yaml").read_text("utf-8"), flags=re.MULTILINE)
    missing = [name for name in named if not os.environ.get(name)]
    if missing:
        return (
            f"the profile ray needs {', '.join(missing)} in the environment: source the file that "
            "`make cluster-up` writes (. .emid/cluster/environment), or see docs/cluster.md"
        )
    return ""


def environment_of(settings: Settings, home: Path) -> dict[str, str]:
    """The environment variables that give another process the same settings and the same instance."""
    values = settings.model_dump() | {"media": settings.media_folder, "lake": settings.lake_folder}
    variables = {
        ENVIRONMENT_PREFIX + name.upper(): str(setting_text(value)) for name, value in values.items()
    }
    return variables | {"DAGSTER_HOME": str(home)}
