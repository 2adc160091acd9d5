"""The names that we import from Dagster's private modules, and why we need each.

All of them were checked with Dagster 1.13.27. No other module imports from `dagster._core` or
`dagster_shared` (a test enforces it), so check this file when you upgrade Dagster.

- AssetGraphSubset, PartitionBackfill, BULK_ACTION_TERMINAL_STATUSES: the job `rebuild` requests a backfill of
  everything; the public interface for that is the web UI and its GraphQL only.
- ConfigurableClassData, ConsolidatedSqliteEventLogStorage, SqlPollingEventWatcher, SqliteRunStorage:
  `records` makes these keep their connections open; no setting of dagster.yaml does.
- LocalComputeLogManager: whether captured logs are in a local folder, from which the web UI serves pictures.
- ModuleCodePointer, RepositoryPythonOrigin: a run that a launcher starts names the code that it executes.
- SqlEventLogStorage: `records` deletes the results of a deleted run's checks; Dagster leaves them.
- SerializableErrorInfo: the error of a failed step, as stored in its event.
- WorkerStatus: the state of a run's process, as its launcher reports it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
    from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
    from dagster._core.launcher import WorkerStatus
    from dagster._core.origin import RepositoryPythonOrigin
    from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqlEventLogStorage
    from dagster._core.storage.event_log.polling_event_watcher import SqlPollingEventWatcher
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
    from dagster._core.storage.runs import SqliteRunStorage
    from dagster._serdes import ConfigurableClassData
    from dagster_shared.error import SerializableErrorInfo

_MODULES = {
    "BULK_ACTION_TERMINAL_STATUSES": "dagster._core.execution.backfill",
    "AssetGraphSubset": "dagster._core.definitions.assets.graph.asset_graph_subset",
    "ConfigurableClassData": "dagster._serdes",
    "ConsolidatedSqliteEventLogStorage": "dagster._core.storage.event_log",
    "LocalComputeLogManager": "dagster._core.storage.local_compute_log_manager",
    "ModuleCodePointer": "dagster._core.code_pointer",
    "PartitionBackfill": "dagster._core.execution.backfill",
    "RepositoryPythonOrigin": "dagster._core.origin",
    "SerializableErrorInfo": "dagster_shared.error",
    "SqlEventLogStorage": "dagster._core.storage.event_log",
    "SqlPollingEventWatcher": "dagster._core.storage.event_log.polling_event_watcher",
    "SqliteRunStorage": "dagster._core.storage.runs",
    "WorkerStatus": "dagster._core.launcher",
}

__all__ = [
    "BULK_ACTION_TERMINAL_STATUSES",
    "AssetGraphSubset",
    "ConfigurableClassData",
    "ConsolidatedSqliteEventLogStorage",
    "LocalComputeLogManager",
    "ModuleCodePointer",
    "PartitionBackfill",
    "RepositoryPythonOrigin",
    "SerializableErrorInfo",
    "SqlEventLogStorage",
    "SqlPollingEventWatcher",
    "SqliteRunStorage",
    "WorkerStatus",
]


def __getattr__(name: str) -> Any:
    """Import a name on use: loading the definitions needs few of these modules."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
