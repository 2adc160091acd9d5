"""DuckDB in this process, kept between uses: making one takes 40 ms of CPU, and reading a small version 8."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


class _Kept(threading.local):
    """Idle connections of one thread, and the process that made them: a forked one must not use them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.idle: list[duckdb.DuckDBPyConnection] = []


_kept = _Kept()


@contextlib.contextmanager
def kept_connection() -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection to an empty DuckDB in memory, which is used again afterwards.

    Leave it as it came: detach what was attached, unregister what was registered, and set nothing. After an
    exception it is closed instead.
    """
    import duckdb

    if _kept.process != os.getpid():
        _kept.__init__()  # type: ignore[misc]
    connection = _kept.idle.pop() if _kept.idle else duckdb.connect()
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
    _kept.idle.append(connection)
