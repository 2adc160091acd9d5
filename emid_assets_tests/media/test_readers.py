"""The readers against FFmpeg and others, on files made from seeds: whole, odd and damaged ones.

A few seeds here; the many are run by `pytest -m heavy emid_assets_tests/media/test_readers.py`.
"""

import selectors
import subprocess
import sys

import pytest

from emid_assets_tests.media.made_files import CHECKS

HANG_S = 60.0
"""A file that takes longer hangs: a tenth of a second is usual."""


def differences(*seeds: str) -> list[str]:
    """What a process of its own prints about seeds (kind, first, count, ...), or the one that it dies of."""
    command = [sys.executable, "-m", "emid_assets_tests.media.made_files", *seeds]
    found: list[str] = []
    last = "before the first seed"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        waiting = selectors.DefaultSelector()
        waiting.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not waiting.select(HANG_S):
                process.kill()
                return [*found, f"{last}: hangs"]
            line = process.stdout.readline().decode()
            if not line:
                break
            if line.startswith("DIFFERS"):
                found.append(line.strip())
            else:
                last = line.strip()
    if process.returncode != 0:
        found.append(f"{last}: the process ended with {process.returncode}")
    return found


def test_files_of_a_few_seeds_are_read_as_others_read_them() -> None:
    seeds = ("audio", "0", "50", "damaged-audio", "0", "50", "damaged-images", "0", "50")
    assert differences(*seeds) == []


@pytest.mark.heavy
@pytest.mark.parametrize("start", [0, 1_000_000, 2_000_000])
@pytest.mark.parametrize("kind", CHECKS)
def test_files_of_many_seeds_are_read_as_others_read_them(kind: str, start: int) -> None:
    assert differences(kind, str(start), "2000") == []
