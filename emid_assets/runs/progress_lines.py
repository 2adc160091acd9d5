"""Progress lines for output that is not a terminal: a log, a pipe, a cluster job.

Belongs here: when a line is due and what it says. The worker reports its own progress.
"""

import contextlib
import threading
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 30.0
_LOOK_S = 1.0


def rate_text(what: str, done: int, total: int, seconds: float) -> str:
    """Progress as text: `files read: 120 of 938, 3.0 per second, 273 s left`."""
    per_second = done / max(seconds, 1e-9)
    left = (total - done) / max(per_second, 1e-9)
    return f"{what}: {done} of {total}, {per_second:.1f} per second" + (
        f", {left:.0f} s left" if done else ""
    )


class ProgressLines:
    """Prints a progress line whenever there has been none for 30 s.

    As a context manager it watches from its own thread, so that silent work is reported too:
    `align calm: still running, 60 s, 3 of 13 done`.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`say` prints a line; `clock` returns seconds."""
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._work = self._part = self._message = ""
        self._done = self._total = 0
        self._begun = self._said = clock()

    def begin(self, work: str, total: int = 1) -> None:
        """Begin work with `total` parts, such as a stage and its partitions."""
        with self._lock:
            self._work, self._part, self._message = work, "", ""
            self._done, self._total = 0, total
            self._begun = self._said = self._clock()

    def at(self, part: str) -> None:
        """Begin a part of the work."""
        with self._lock:
            self._part, self._message = part, ""

    def tell(self, message: str) -> None:
        """Record a message from the work; the newest one is printed when a line is due."""
        with self._lock:
            self._message = message

    def advance(self) -> None:
        """Count a part as done."""
        with self._lock:
            self._done += 1

    def end(self, line: str) -> None:
        """End the work, and print `line` at once."""
        with self._lock:
            self._work = ""
            self._said = self._clock()
        self._say(line)

    def seconds(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._begun

    def look(self) -> None:
        """Print a line if one is due."""
        with self._lock:
            now = self._clock()
            if not self._work or now - self._said < SECONDS_BETWEEN_LINES:
                return
            self._said = now
            line = f"{self._work} {self._part}".rstrip()
            line += f": {self._message}" if self._message else f": still running, {now - self._begun:.0f} s"
            if self._total > 1:
                line += f", {self._done} of {self._total} done"
            self._message = ""
        self._say(line)

    def __enter__(self) -> "ProgressLines":
        threading.Thread(target=self._watch, name="progress lines", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk the work's own next line tells
            while not self._stop.wait(_LOOK_S):
                self.look()
