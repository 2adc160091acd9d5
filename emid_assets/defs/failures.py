"""Why a run failed, in one line: what its first failed step raised, without names of our own classes.

Belongs here: reading failures out of Dagster's events. Who is told is for `build`, `health` and alerts.
"""

import builtins
from collections.abc import Iterable

from dagster import DagsterEvent
from dagster_shared.error import SerializableErrorInfo

from emid_assets import alerts


def first_error(events: Iterable[DagsterEvent]) -> SerializableErrorInfo:
    """What the first failed step raised, out of the errors that Dagster wraps around it.

    What that was caused by is left alone: an error of ours says all that a reader needs.
    """
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error is not None:
            return error
    return SerializableErrorInfo("the run failed; the web UI has its log", [], None)


def message_of(error: SerializableErrorInfo) -> str:
    """The message, without the name of the class where that is ours and not Python's own."""
    message = error.message.strip()
    is_ours = error.cls_name is not None and not hasattr(builtins, error.cls_name)
    return message.partition(": ")[2] if is_ours else message


def one_line(error: SerializableErrorInfo) -> str:
    """The message in one line of bounded length."""
    return alerts.one_line(message_of(error))
