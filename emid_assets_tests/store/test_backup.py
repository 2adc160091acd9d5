"""Backups: whatever happens meanwhile, what is restored is what was there, and no earlier backup is lost."""

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner

from emid_assets.cli.main import main
from emid_assets.store import backup as backup_module
from emid_assets.store.backup import BackupError, Backups
from emid_assets.store.lake import Lake

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "emid_assets_tests.store.test_backup"])


def frame_of(value: int) -> pl.DataFrame:
    return pl.DataFrame({"value": [value] * 50})


def write(lake: Lake, value: int, *partitions: str) -> None:
    for partition in partitions:
        lake.write("music_clips", partition, frame_of(value), {"value": value})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two partitions, one removed, weights, a page, records in SQLite, and what belongs to no backup."""
    made = Lake(tmp_path / "tables" / "lake", declared={})  # a folder whose name is one of a lake's
    write(made, 1, "sad", "calm", "gone")
    made.remove_others("music_clips", ["sad", "calm"])
    made.rebuild_catalogue()
    for name, content in {
        "weights/bmf.safetensors": "weights",
        "report.html": "page",
        "release/data/train.parquet": "rows",
        "study/answers/anna.json": "{}",
        "journal/music_embeddings/sad/1": "unfinished work",
        "study/page.unfinished/index.html": "half",
        ".build.lock": "",
    }.items():
        file = made.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    with contextlib.closing(sqlite3.connect(made.root / "runs.db")) as records:
        records.execute("PRAGMA journal_mode = WAL")
        records.execute("CREATE TABLE runs (id INTEGER)")
        records.commit()
    with duckdb.connect(made.root / "study" / "answers.duckdb") as answers:
        answers.execute("CREATE TABLE answers AS SELECT 5 AS chosen")
    return made


def values(root: Path) -> list[int]:
    frame = Lake(root, declared={}).read("music_clips")
    return frame["value"].to_list()


def contents(backups: Backups) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in backups.folder.glob("files/*/*")}


def test_what_is_restored_is_what_was_there(lake: Lake, tmp_path: Path) -> None:
    backups = Backups(tmp_path / "backups")
    made = backups.make(lake.root)
    write(lake, 2, "sad", "calm", "gone")
    (lake.root / "report.html").write_text("another page")
    restored = tmp_path / "restored"
    assert backups.restore(restored) == made
    assert values(restored) == [1] * 100
    with duckdb.connect(restored / "lake.duckdb", read_only=True) as catalogue:
        assert catalogue.sql("SELECT sum(value) FROM music_clips").fetchall() == [(100,)]
    kept = {file.relative_to(restored).as_posix() for file in restored.rglob("*") if file.is_file()}
    others = {name for name in kept if not name.startswith(("tables/", ".", "lake.duckdb"))}
    assert others == {
        "weights/bmf.safetensors", "report.html", "release/data/train.parquet", "study/answers/anna.json",
        "runs.db", "study/answers.duckdb",
    }  # fmt: skip
    assert (restored / "report.html").read_text() == "page"
    with duckdb.connect(restored / "study" / "answers.duckdb") as answers:
        assert answers.sql("SELECT chosen FROM answers").fetchall() == [(5,)]
    write(Lake(restored, declared={}), 3, "sad")
    assert sorted(set(values(restored))) == [1, 3]


def test_the_next_backup_writes_what_is_new_and_the_one_before_stays(lake: Lake, tmp_path: Path) -> None:
    backups = Backups(tmp_path / "backups")
    first = backups.make(lake.root)
    before = contents(backups)
    backups.make(lake.root)
    assert contents(backups) == before
    write(lake, 2, "sad")
    (lake.root / "report.html").write_text("page 2")
    backups.make(lake.root)
    new = contents(backups).keys() - before.keys()
    assert len(new) == 3  # the version, its pointer, and the page
    for name, expected in ((first.name, {1}), (None, {1, 2})):
        backups.restore(tmp_path / f"restored {name}", name)
        assert set(values(tmp_path / f"restored {name}")) == expected
    newest = backups.make(lake.root, keep=1)
    assert backups.names() == [newest.name]
    assert contents(backups).keys() == {file.sha256 for file in newest.files}
    assert backups.verify() == []


def test_records_that_a_writer_has_committed_and_not_yet_moved_into_the_file_are_kept(
    lake: Lake, tmp_path: Path
) -> None:
    backups = Backups(tmp_path / "backups")
    with contextlib.closing(sqlite3.connect(lake.root / "runs.db")) as records:
        records.execute("PRAGMA wal_autocheckpoint = 0")
        backups.make(lake.root)
        records.execute("INSERT INTO runs VALUES (7)")
        records.commit()
        records.execute("INSERT INTO runs VALUES (8)")  # not committed
        backups.make(lake.root)
    backups.restore(tmp_path / "restored")
    with contextlib.closing(sqlite3.connect(tmp_path / "restored" / "runs.db")) as records:
        assert records.execute("SELECT id FROM runs").fetchall() == [(7,)]


def test_while_runs_write_every_partition_is_kept_as_it_was_at_one_time(lake: Lake, tmp_path: Path) -> None:
    backups, stop = Backups(tmp_path / "backups"), threading.Event()

    def write_on() -> None:
        value = 2
        while not stop.is_set():
            write(lake, value, "sad", "calm")
            lake.collect_garbage(grace_s=0)
            value += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for number in range(5):
            backups.make(lake.root)
            backups.restore(tmp_path / f"restored {number}")
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        for partition in ("sad", "calm"):
            found = Lake(tmp_path / f"restored {number}", declared={}).read("music_clips", [partition])
            assert (found.height, found["value"].n_unique()) == (50, 1)


def on_each_line(act: Callable[[int], None]) -> None:
    """Call `act` before every line of the module that this process runs."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != backup_module.__file__:
            return None
        if event == "line":
            act(frame.f_lineno)
        return trace

    sys.settrace(trace)


def back_up_and_restore(lake: Path, folder: Path, target: Path) -> None:
    backups = Backups(folder)
    backups.make(lake, keep=2)
    backups.restore(target)


def lines_of(lake: Path, folder: Path, target: Path, to: Any) -> None:
    seen: dict[int, None] = {}
    on_each_line(lambda line: seen.setdefault(line))
    back_up_and_restore(lake, folder, target)
    sys.settrace(None)
    to.send(list(seen))


def killed_at(lake: Path, folder: Path, target: Path, line: int) -> None:
    def kill(now: int) -> None:
        if now == line:
            os.kill(os.getpid(), signal.SIGKILL)

    on_each_line(kill)
    back_up_and_restore(lake, folder, target)


@pytest.mark.slow
def test_killed_at_any_line_it_leaves_the_backups_before_whole_and_the_next_one_works(
    lake: Lake, tmp_path: Path
) -> None:
    backups = Backups(tmp_path / "backups")
    backups.make(lake.root)
    write(lake, 2, "sad")
    ours, theirs = multiprocessing.Pipe()
    child = processes.Process(target=lines_of, args=(lake.root, backups.folder, tmp_path / "first", theirs))
    child.start()
    lines = ours.recv()
    child.join()
    assert len(lines) > 60
    for number, line in enumerate(lines):
        write(lake, number + 3, "sad")
        lake.collect_garbage(grace_s=0)
        target = tmp_path / f"target {number}"
        child = processes.Process(target=killed_at, args=(lake.root, backups.folder, target, line))
        child.start()
        child.join()
        for name in backups.names():
            assert backups.verify(name) == [], line
        if target.exists():
            assert set(values(target)) <= {1, *range(3, number + 4)}, line
    backups.make(lake.root, keep=1)
    assert list((backups.folder / "files").glob("*.unfinished")) == []
    backups.restore(tmp_path / "last")
    assert set(values(tmp_path / "last")) == {1, len(lines) + 2}


def test_what_is_damaged_or_missing_in_a_backup_is_named_and_nothing_is_restored(
    lake: Lake, tmp_path: Path
) -> None:
    backups = Backups(tmp_path / "backups")
    made = {file.path: file for file in backups.make(lake.root).files}
    page = backups.folder / "files" / made["report.html"].sha256[:2] / made["report.html"].sha256
    page.chmod(0o644)
    page.write_text("pag3")
    assert [line.partition(":")[0] for line in backups.verify()] == ["report.html"]
    with pytest.raises(BackupError, match=r"report.html: its content .* is damaged"):
        backups.restore(tmp_path / "restored")
    page.unlink()
    with pytest.raises(BackupError, match=r"report.html: its content .* is missing"):
        backups.restore(tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "tables"]
    backups.make(lake.root)  # heals it
    assert backups.verify() == []


def test_a_damaged_pointer_is_kept_with_all_versions_beside_it(lake: Lake, tmp_path: Path) -> None:
    backups = Backups(tmp_path / "backups")
    pointer = lake.root / "tables" / "music_clips" / "sad" / "CURRENT"
    pointer.write_text("nonsense")
    kept = {file.path for file in backups.make(lake.root).files}
    assert {file.relative_to(lake.root).as_posix() for file in pointer.parent.glob("[C0]*")} <= kept
    assert [str(pointer) in damage for damage in backups.damaged] == [True]
    backups.restore(tmp_path / "restored")
    assert (tmp_path / "restored" / "tables" / "music_clips" / "sad" / "CURRENT").read_text() == "nonsense"
    pointer.unlink()
    pointer.write_text("000009-00000000.duckdb\n")
    with pytest.raises(BackupError, match=r"sad: the version that its CURRENT names is not there"):
        backups.make(lake.root)


def test_places_that_cannot_be_are_refused(lake: Lake, tmp_path: Path) -> None:
    backups = Backups(tmp_path / "backups")
    with pytest.raises(BackupError, match="has no backup: it has none"):
        backups.restore(tmp_path / "restored")
    with pytest.raises(BackupError, match="holds no lake"):
        backups.make(tmp_path / "tables")
    with pytest.raises(BackupError, match="is inside the lake"):
        Backups(lake.root / "backups").make(lake.root)
    made = backups.make(lake.root)
    with pytest.raises(BackupError, match=f"no backup yesterday: it has {made.name}"):
        backups.restore(tmp_path / "restored", "yesterday")
    with pytest.raises(BackupError, match="exists: give a new folder"):
        backups.restore(lake.root)
    description = backups.folder / "backups" / f"{made.name}.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "format": 9}))
    with pytest.raises(BackupError, match=r"is damaged .*format 9"):
        backups.restore(tmp_path / "restored")


def test_the_commands_back_up_verify_and_restore(lake: Lake, tmp_path: Path) -> None:
    media, folder, target = tmp_path / "media", tmp_path / "backups", tmp_path / "restored"
    media.mkdir()

    def emid(*arguments: object) -> tuple[int, str]:
        ended = CliRunner().invoke(main, ["lake", *map(str, arguments)])
        return ended.exit_code, ended.stdout + ended.stderr

    code, said = emid("backup", folder, "--lake", lake.root, "--media", media, "--keep", 1)
    assert code == 0, said
    assert "backed up" in said
    assert emid("verify", folder)[0] == 0
    code, said = emid("restore", folder, target)
    assert (code, set(values(target))) == (0, {1}), said
    code, said = emid("restore", folder, target)
    assert (code, "exists: give a new folder" in said) == (1, True)
    content = next(folder.glob("files/*/*"))
    content.unlink()
    code, said = emid("verify", folder)
    assert (code, f"{content} is missing" in said) == (1, True)
