"""Progress of long work, in the run's log and so in the web UI."""

import logging
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 5.0


def log_progress(log: logging.Logger, what: str) -> Callable[[int, int], None]:
    """A callback `(done, total)` that writes a line with rate and time left, at most every few seconds."""
    start = last = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        log.info(f"{what}: {done} of {total}, {rate:.1f} per second, {left:.0f} s left")

    return on_progress
