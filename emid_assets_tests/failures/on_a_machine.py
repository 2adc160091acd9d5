"""What `test_machines.py` has done on one of its machines: a module to run, which takes a function's name."""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import filelock
import polars as pl

from emid_assets.store.files import is_open_somewhere
from emid_assets_tests.failures import tiny
from emid_assets_tests.failures.machines import SHARED
from emid_assets_tests.failures.test_ray import ShardedPipeline, tables_of

PIPELINE = ShardedPipeline(Path(SHARED) / "media", Path(SHARED) / "lake")
EMBEDDINGS = PIPELINE.root / "tables" / "image_embeddings"


SAID = "said: "
"""Begins the lines of an answer: libraries print others."""


def say(answer: Any) -> None:
    print(SAID + json.dumps(answer), flush=True)


class ToTheConsole:
    """Stands for the connection by which a child says how its runs have ended."""

    send = staticmethod(say)


def media(source: str) -> None:
    """Copy the media to the shared folder."""
    shutil.copytree(source, PIPELINE.media)


def run(*places: str) -> None:
    """Runs, one after the other, each named STAGE or STAGE:PARTITION; says the first error, or nothing."""
    parts = [place.partition(":") for place in places]
    keyed = [(stage, key or None) for stage, _, key in parts]
    tiny.run_in_this_process(PIPELINE, keyed, None, ToTheConsole())


def hold() -> None:
    """Hold the locks without which `embed_images` cannot store, until killed."""
    with contextlib.ExitStack() as held:
        for tag in ("awe", "fear"):
            held.enter_context(filelock.FileLock(EMBEDDINGS / tag / ".lock"))
        say("held")
        sleep_until_killed()


def waits_for_a_lock() -> None:
    """Whether one of these locks is somebody else's."""
    try:
        with filelock.FileLock(EMBEDDINGS / "fear" / ".lock", timeout=3):
            say(False)
    except filelock.Timeout:
        say(True)


def read() -> None:
    """Have a version open, as whoever queries it has, until killed."""
    with duckdb.connect(str(version()), read_only=True):
        say("open")
        sleep_until_killed()


def is_read() -> None:
    """Whether anybody has that version open."""
    say(is_open_somewhere(version()))


def version() -> Path:
    folder = EMBEDDINGS / "fear"
    return folder / (folder / "CURRENT").read_text().split()[0]


def digest(frame: pl.DataFrame) -> str:
    """Of every value, to the last bit, but for when the media were copied."""
    frame = frame.drop("modified_ns", strict=False)
    return hashlib.sha256(json.dumps(frame.to_dicts(), default=str).encode()).hexdigest()


def digests() -> None:
    """Of every table, and how much of what was begun is unfinished."""
    found = {table: digest(frame) for table, frame in tables_of(PIPELINE).items()}
    say([found, [str(path) for path in PIPELINE.unfinished()]])


def sleep_until_killed() -> None:
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    functions = (media, run, hold, waits_for_a_lock, read, is_read, digests)
    {function.__name__: function for function in functions}[sys.argv[1]](*sys.argv[2:])
