"""The Dagster instance of a build: its folder and its first-time setup."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from emid_assets.settings import ENVIRONMENT_PREFIX, Settings, load_operations, setting_text
from emid_assets.store.files import make_folder, write_in_place
from emid_assets.store.layout import DAGSTER_FOLDER, DAGSTER_RAY_FOLDER

if TYPE_CHECKING:
    from dagster import DagsterInstance

PACKAGE = Path(__file__).parents[1]
SHIPPED_INSTANCE = PACKAGE / "dagster.yaml"
RAY_INSTANCE = PACKAGE / "dagster_ray.yaml"
RECORDS_FOLDER = "history"
"""Where storages in SQLite keep their databases, in the instance's folder."""


def home_of(settings: Settings) -> Path:
    """The folder of Dagster's own records: `DAGSTER_HOME` if it is set, else a folder in the lake.

    In the lake it is `dagster/`, or `dagster-ray/` for the profile `ray`.
    """
    name = DAGSTER_RAY_FOLDER if load_operations().profile == "ray" else DAGSTER_FOLDER
    return Path(os.environ.get("DAGSTER_HOME") or settings.lake_folder / name).resolve()


def prepare_instance(settings: Settings) -> Path:
    """The folder `home_of`, made if it is not there.

    A new folder gets the profile's `dagster.yaml`; an existing one is not overwritten.
    """
    home = home_of(settings)
    make_folder(home)
    if not (home / "dagster.yaml").exists():
        shipped = RAY_INSTANCE if load_operations().profile == "ray" else SHIPPED_INSTANCE
        write_in_place(home / "dagster.yaml", shipped.read_bytes())
    return home


@contextmanager
def instance_to_read(home: Path) -> "Iterator[DagsterInstance]":
    """The instance in `home`, into which nothing is written: its records in SQLite are read from a copy.

    An empty one if there is none. The copy is needed because SQLite writes beside a database that it reads.
    """
    from dagster import DagsterInstance

    if not (home / "dagster.yaml").exists():
        with DagsterInstance.ephemeral() as instance:
            yield instance
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(home / "dagster.yaml", Path(folder, "dagster.yaml"))
        if (home / RECORDS_FOLDER).is_dir():
            shutil.copytree(
                home / RECORDS_FOLDER, Path(folder, RECORDS_FOLDER), copy_function=shutil.copyfile
            )
        with DagsterInstance.from_config(folder) as instance:
            yield instance


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
