"""What a run says about itself when it starts: which process executes it, and which lake it builds.

Belongs here: the two tags. `dead_runs` asks for the process; `orchestration.run_facts` for the lake, since
several lakes may share one instance.
"""

import os
from pathlib import Path

from dagster import DagsterInstance

from emid_assets.runs.processes import name_of_this_process
from emid_assets.store.layout import DAGSTER_FOLDER

PROCESS_TAG = "emid/process"
"""Run tag with the name of the process that executes the run (see `emid_assets.runs.processes`)."""

LAKE_TAG = "emid/lake"
"""Run tag with the lake that the run builds, see `name_of_lake`."""


def tell_of_run(instance: DagsterInstance, run_id: str, lake: Path) -> None:
    """Tag a run that this process has started. A re-executed run has the tags of the first one until then."""
    tags = {PROCESS_TAG: name_of_this_process(), LAKE_TAG: name_of_lake(lake)}
    instance.add_run_tags(run_id, tags)


def name_of_lake(lake: Path) -> str:
    """A lake's folder, for the tag; relative where DAGSTER_HOME is in it: both may be moved or copied.

    Without DAGSTER_HOME, the records are in the lake (see `runs.instance`).
    """
    home = Path(os.environ.get("DAGSTER_HOME") or lake / DAGSTER_FOLDER).resolve()
    return os.path.relpath(lake, home) if home.is_relative_to(lake) else str(lake)
