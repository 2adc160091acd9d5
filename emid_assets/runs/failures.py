"""Why a run failed, in one line: the error of its first failed step, without the names of our own classes.

Belongs here: reading failures out of Dagster's events. Who is told is for `build`, `health` and alerts.
"""

import builtins
from collections.abc import Iterable

from dagster import DagsterEvent

from emid_assets.runs.dagster_internals import SerializableErrorInfo

LONGEST_LINE = 500


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


def failure_line(error: SerializableErrorInfo) -> str:
    """The message in one line of bounded length."""
    return one_line(message_of(error))


def one_line(text: str) -> str:
    """`text` without line breaks and other control characters, cut to a readable length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
