"""Why a run failed, in one line: the error of its first failed step, without the names of our own classes.

Belongs here: reading failures from Dagster's events. `build`, `health` and `defs.alerts` report them.
"""

import builtins
from collections.abc import Iterable

from dagster import DagsterEvent

from emid_assets.runs.dagster_internals import SerializableErrorInfo

LONGEST_LINE = 500


def first_error(events: Iterable[DagsterEvent]) -> SerializableErrorInfo:
    """The error that the first failed step raised, without the errors that Dagster wraps around it.

    Its own cause is ignored: our errors say all that a reader needs.
    """
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error is not None:
            return error
    return SerializableErrorInfo("the run failed; the web UI has its log", [], None)


def message_of(error: SerializableErrorInfo) -> str:
    """The message, without the class name unless it is one of Python's built-in errors."""
    message = error.message.strip()
    is_ours = error.cls_name is not None and not hasattr(builtins, error.cls_name)
    return message.partition(": ")[2] if is_ours else message


def failure_line(error: SerializableErrorInfo) -> str:
    """The message as one line of bounded length."""
    return one_line(message_of(error))


def one_line(text: str) -> str:
    """`text` without line breaks and other control characters, cut to a readable length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
