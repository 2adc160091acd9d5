"""The names of Dagster that are not part of its public interface, and where we need each.

All of them were checked with Dagster 1.13.27. No other module imports from `dagster._core` or
`dagster_shared` (a test says so), so this is the file to look at when Dagster's version is raised.

- AssetGraphSubset, PartitionBackfill, BULK_ACTION_TERMINAL_STATUSES: the job `rebuild` asks for a backfill of
  everything; publicly, only the web UI and its GraphQL can.
- LocalComputeLogManager: whether captured logs lie in a local folder that the web UI serves pictures from.
- ModuleCodePointer, RepositoryPythonOrigin: a run that a launcher starts names the code that it runs.
- SerializableErrorInfo: the error of a failed step, as its event holds it.
- WorkerStatus: what a launcher says of a run's process.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
    from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
    from dagster._core.launcher import WorkerStatus
    from dagster._core.origin import RepositoryPythonOrigin
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
    from dagster_shared.error import SerializableErrorInfo

_MODULES = {
    "BULK_ACTION_TERMINAL_STATUSES": "dagster._core.execution.backfill",
    "AssetGraphSubset": "dagster._core.definitions.assets.graph.asset_graph_subset",
    "LocalComputeLogManager": "dagster._core.storage.local_compute_log_manager",
    "ModuleCodePointer": "dagster._core.code_pointer",
    "PartitionBackfill": "dagster._core.execution.backfill",
    "RepositoryPythonOrigin": "dagster._core.origin",
    "SerializableErrorInfo": "dagster_shared.error",
    "WorkerStatus": "dagster._core.launcher",
}

__all__ = [
    "BULK_ACTION_TERMINAL_STATUSES",
    "AssetGraphSubset",
    "LocalComputeLogManager",
    "ModuleCodePointer",
    "PartitionBackfill",
    "RepositoryPythonOrigin",
    "SerializableErrorInfo",
    "WorkerStatus",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the definitions need few of these modules to load."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
