"""The readers against FFmpeg and others, on files made from seeds: whole, odd and damaged ones.

A few seeds here; the many are run by `pytest -m heavy emid_assets_tests/media/test_readers.py`.
"""

import selectors
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil
import pytest

from emid_assets_tests.media.made_files import CHECKS

HANG_S = 10.0
"""A file that takes more CPU time than this hangs: a tenth of a second is usual."""

STUCK_S = 120.0
"""A file that takes longer by the clock hangs too, though it may use no CPU: a busy machine is far faster."""


def differences(*seeds: str) -> list[str]:
    """What a process of its own prints about seeds (kind, first, count, ...), or the one that it dies of."""
    return watched([sys.executable, "-m", "emid_assets_tests.media.made_files", *seeds])


def watched(command: Sequence[str], hang_s: float = HANG_S) -> list[str]:
    """Lines of a command that start with DIFFERS, and the last of the others if it hangs or dies there."""
    found: list[str] = []
    last = "before the first seed"
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        waiting = selectors.DefaultSelector()
        waiting.register(process.stdout, selectors.EVENT_READ)
        used, since = 0.0, time.monotonic()
        while True:
            if not waiting.select(1.0):
                is_busy = last != "before the first seed" and cpu_s(process.pid) - used > hang_s
                if is_busy or time.monotonic() - since > STUCK_S:
                    process.kill()
                    return [*found, f"{last}: hangs"]
                continue
            line = process.stdout.readline().decode()
            if not line:
                break
            if line.startswith("DIFFERS"):
                found.append(line.strip())
            else:
                last = line.strip()
            used, since = cpu_s(process.pid), time.monotonic()
    if process.returncode != 0:
        found.append(f"{last}: the process ended with {process.returncode}")
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process that is not waited for yet."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_a_file_that_hangs_or_kills_the_process_is_named() -> None:
    begin = "print('DIFFERS audio seed 0: 1 s', flush=True); print('audio seed 1', flush=True); "
    for end, what in (
        ("\nwhile True: pass", "hangs"),
        ("import os; os._exit(3)", "the process ended with 3"),
    ):
        command = [sys.executable, "-c", begin + end]
        assert watched(command, hang_s=0.3) == ["DIFFERS audio seed 0: 1 s", f"audio seed 1: {what}"]


def test_files_of_a_few_seeds_are_read_as_others_read_them() -> None:
    seeds = [word for kind in CHECKS for word in (kind, "0", "50")]
    assert differences(*seeds) == []


@pytest.mark.heavy
@pytest.mark.parametrize("start", [0, 1_000_000, 2_000_000])
@pytest.mark.parametrize("kind", CHECKS)
def test_files_of_many_seeds_are_read_as_others_read_them(kind: str, start: int) -> None:
    assert differences(kind, str(start), "2000") == []
