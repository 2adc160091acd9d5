"""How a long-running command is stopped."""

import signal
import socket
from contextlib import suppress

_STOP = (signal.SIGINT, signal.SIGTERM)
_arrived: list[socket.socket] = []
"""A pair: Python writes the number of each signal that arrives into the second."""

_asked = False


def raise_on_signals() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, whatever handlers this process inherited.

    A shell makes its background jobs ignore Ctrl-C. Dagster, when it is imported, copies the handler of
    SIGINT to SIGTERM, which changes nothing here.
    """
    if not _arrived:
        _arrived.extend(socket.socketpair())
        for end in _arrived:
            end.setblocking(False)
        signal.set_wakeup_fd(_arrived[1].fileno(), warn_on_full_buffer=False)
    for number in _STOP:
        signal.signal(number, signal.default_int_handler)


def was_told_to_stop() -> bool:
    """Whether a signal to stop has arrived since `raise_on_signals`, whoever handled it.

    While Dagster executes a run, it handles signals itself and forgets some; and the exception may be
    raised where it is swallowed, or in a library that makes another one of it.
    """
    global _asked
    while _arrived and not _asked:
        try:
            _asked = any(number in _STOP for number in _arrived[0].recv(64))
        except BlockingIOError:
            break
    return _asked


def ignore_signals() -> None:
    """Go on through further signals: what a stopped command still does is short, and must not be cut."""
    for number in _STOP:
        with suppress(ValueError):  # not in the main thread, which no signal interrupts
            signal.signal(number, signal.SIG_IGN)
