"""Lines about long work, for output that is no terminal: a log, a pipe, a job of a cluster.

Belongs here: when a line is due and what it says. What has been done is the worker's to tell.
"""

import threading
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 30.0
_LOOK_S = 1.0


def rate_text(what: str, done: int, total: int, seconds: float) -> str:
    """How far work has come after so many seconds: `files read: 120 of 938, 3.0 per second, 273 s left`."""
    per_second = done / max(seconds, 1e-9)
    left = (total - done) / max(per_second, 1e-9)
    return f"{what}: {done} of {total}, {per_second:.1f} per second" + (
        f", {left:.0f} s left" if done else ""
    )


class ProgressLines:
    """Says where work is whenever nothing has been said for 30 s.

    As a context it watches from a thread of its own, so that work which tells nothing is heard of too:
    `align calm: still running, 60 s, 3 of 13 done`.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`say` takes a line; `clock` gives seconds."""
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._work = self._part = self._message = ""
        self._done = self._total = 0
        self._begun = self._said = clock()

    def begin(self, work: str, total: int = 1) -> None:
        """Work begins that has so many parts, such as a stage and its partitions."""
        with self._lock:
            self._work, self._part, self._message = work, "", ""
            self._done, self._total = 0, total
            self._begun = self._said = self._clock()

    def at(self, part: str) -> None:
        """A part of the work begins."""
        with self._lock:
            self._part, self._message = part, ""

    def tell(self, message: str) -> None:
        """What the work has to tell: the newest is said when a line is due."""
        with self._lock:
            self._message = message

    def advance(self) -> None:
        """A part is done."""
        with self._lock:
            self._done += 1

    def end(self, line: str) -> None:
        """The work is done: say so at once."""
        with self._lock:
            self._work = ""
            self._said = self._clock()
        self._say(line)

    def seconds(self) -> float:
        """Since the work began."""
        return self._clock() - self._begun

    def look(self) -> None:
        """Say a line if one is due."""
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
        while not self._stop.wait(_LOOK_S):
            self.look()
