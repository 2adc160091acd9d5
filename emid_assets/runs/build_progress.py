"""How far a build is, told to other processes: what `emid status` says while `emid build` runs."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from emid_assets.store.files import write_in_place
from emid_assets.store.layout import BUILD_LOCK, BUILD_PROGRESS


@dataclass(frozen=True)
class BuildProgress:
    """How far a stage of a build is.

    Attributes:
        stage: the stage under way; empty while the build is preparing.
        done: its partitions that are done.
        total: its partitions that the build runs.
        began: when the stage began, in seconds since 1970.
    """

    stage: str
    done: int
    total: int
    began: float

    def write(self, lake: Path) -> None:
        """Tell other processes."""
        write_in_place(lake / BUILD_PROGRESS, json.dumps(asdict(self)))

    def in_words(self, now: float) -> str:
        """Such as `align, 7 of 13 partitions, about 25 s left`."""
        if not self.total:
            return "preparing"
        text = f"{self.stage}, {self.done} of {self.total} partitions"
        if not self.done:
            return text
        left = max(0.0, now - self.began) / self.done * (self.total - self.done)
        return f"{text}, about {left:.0f} s left in this stage"


def build_under_way(lake: Path) -> str:
    """What a build that runs now is doing, in words; empty if none runs."""
    lock = filelock.FileLock(lake / BUILD_LOCK, timeout=0)
    if not (lake / BUILD_LOCK).exists():
        return ""
    try:
        with lock:
            return ""
    except filelock.Timeout:
        pass
    except OSError:  # the lake cannot be written to, so no build of this user runs in it
        return ""
    try:
        progress = BuildProgress(**json.loads((lake / BUILD_PROGRESS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        progress = BuildProgress("", 0, 0, 0.0)
    return progress.in_words(time.time())
