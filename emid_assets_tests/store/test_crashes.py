"""A writer is killed (SIGKILL) at every line of a write and in the middle of DuckDB's own writing.

Children are forked from a server that has imported the store and used none of it.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import polars as pl
import pytest

from emid_assets.store import files
from emid_assets.store import lake as lake_module
from emid_assets.store.lake import Lake

STORE_FILES = {lake_module.__file__, files.__file__}
CHANGING = {
    "write", "make_folder", "_write_version", "put_in_place", "write_in_place", "_point", "_clear_unfinished",
    "rebuild_catalogue", "_rebuild_catalogue", "_remember_catalogue", "_forget_closed_catalogues",
}  # fmt: skip
Line = tuple[str, int, int]  # file, line, line of the caller

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "emid_assets_tests.store.test_crashes"])


def frame_of(value: int) -> pl.DataFrame:
    return pl.DataFrame({"value": [value] * 2000, "text": [f"{value} {i}" for i in range(2000)]})


def write_and_show(lake: Lake, value: int) -> None:
    lake.write("music_clips", "sad", frame_of(value), {"value": value})
    lake.rebuild_catalogue()


def on_each_line(act: Callable[[Line], None]) -> None:
    """Call `act` before every line that this process runs of the functions that change the disk."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in STORE_FILES or frame.f_code.co_name not in CHANGING:
            return None
        if event == "line":
            caller = frame.f_back.f_lineno if frame.f_back else 0
            act((frame.f_code.co_filename, frame.f_lineno, caller))
        return trace

    sys.settrace(trace)


def report_lines(root: Path, value: int, to: Any) -> None:
    seen: dict[Line, None] = {}
    on_each_line(lambda line: seen.setdefault(line))
    write_and_show(Lake(root), value)
    sys.settrace(None)
    to.send(list(seen))


def be_killed_at_line(root: Path, value: int, line: Line) -> None:
    def kill(here: Line) -> None:
        if here == line:
            os.kill(os.getpid(), signal.SIGKILL)

    on_each_line(kill)
    write_and_show(Lake(root), value)


def be_killed_by_a_full_file(root: Path, value: int, limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel then kills, in the middle of a write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    write_and_show(Lake(root), value)


def killed_by(target: Callable[..., None], *arguments: Any) -> int:
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return -process.exitcode


def shown_value(lake: Lake) -> int:
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        ((value,),) = connection.sql("SELECT DISTINCT value FROM music_clips").fetchall()
        return int(value)


def unfinished(lake: Lake) -> list[Path]:
    return list(lake.root.rglob("*.unfinished*"))


@pytest.mark.slow
def test_a_writer_killed_at_any_line_that_changes_the_disk_leaves_the_old_version_or_the_new_one_whole(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    write_and_show(lake, 0)
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=report_lines, args=(tmp_path, 1, send))
    process.start()
    lines: list[Line] = receive.recv()
    process.join()
    assert len(lines) > 50

    kept, shown = 1, 1
    outcomes = set()
    for value, line in enumerate(lines, start=2):
        assert killed_by(be_killed_at_line, tmp_path, value, line) == signal.SIGKILL, line
        frame = lake.read("music_clips")
        now, now_shown = frame.item(0, "value"), shown_value(lake)
        assert frame.equals(frame_of(now)), f"killed at {line}"
        assert now in (kept, value), f"killed at {line}"
        assert now_shown in (shown, kept, value), f"killed at {line}"
        outcomes.add((now == value, now_shown == value))
        kept, shown = now, now_shown
    assert outcomes == {(False, False), (True, False), (True, True)}

    write_and_show(lake, -1)
    assert unfinished(lake) == []
    lake.collect_garbage(0)
    assert lake.read("music_clips").equals(frame_of(-1))
    assert len(list(tmp_path.rglob("*.duckdb"))) == 3  # the version, lake.duckdb, and its second name


@pytest.mark.parametrize("limit", [1, 5_000, 13_000, 20_000, 40_000])
def test_a_writer_killed_while_duckdb_writes_leaves_the_old_version_and_the_next_write_cleans_up(
    tmp_path: Path, limit: int
) -> None:
    lake = Lake(tmp_path)
    write_and_show(lake, 0)
    assert killed_by(be_killed_by_a_full_file, tmp_path, 1, limit) == signal.SIGXFSZ
    assert unfinished(lake) != []
    assert lake.read("music_clips").equals(frame_of(0))
    assert shown_value(lake) == 0

    write_and_show(lake, 2)
    assert unfinished(lake) == []
    assert lake.read("music_clips").equals(frame_of(2))


def test_the_first_writer_of_all_can_be_killed_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "new" / "lake")
    assert killed_by(be_killed_by_a_full_file, lake.root, 1, 5_000) == signal.SIGXFSZ
    assert lake.partitions("music_clips") == []
    assert lake.current("music_clips", "sad") is None
    write_and_show(lake, 2)
    assert shown_value(lake) == 2


def test_garbage_collection_takes_what_a_killed_writer_left(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_and_show(lake, 0)
    assert killed_by(be_killed_by_a_full_file, tmp_path, 1, 20_000) == signal.SIGXFSZ
    left = set(unfinished(lake))
    assert left
    assert set(lake.collect_garbage(3600)) == left
    assert lake.read("music_clips").equals(frame_of(0))
