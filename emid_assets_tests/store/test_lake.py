"""The lake: versions, the catalogue over them, several processes, garbage, and damage."""

import multiprocessing
import os
import resource
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from emid_assets.store.files import is_open_somewhere
from emid_assets.store.lake import Lake, LakeError, Scalar
from emid_assets.store.schemas import FUSED_PAIRS, TABLES

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "emid_assets_tests.store.test_lake"])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def numbers(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": values}, schema={"value": pl.Int64})


def versions(lake: Lake) -> list[Path]:
    return sorted((lake.root / "tables").rglob("*.duckdb"))


def shown(lake: Lake, table: str = "music_clips") -> list[int]:
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        return [row[0] for row in connection.sql(f"SELECT value FROM {table} ORDER BY 1").fetchall()]


def asked(lake: Lake, query: str) -> list[Any]:
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        return connection.sql(query).fetchall()


# Versions


def test_a_partition_is_built_by_one_at_a_time_and_the_other_is_told_that_it_waits(lake: Lake) -> None:
    seen: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with lake.built_alone("music_clips", "sad", waits.set):
            seen.append("second")

    with lake.built_alone("music_clips", "sad", lambda: seen.append("first waits")):
        with lake.built_alone("music_clips", "calm", lambda: seen.append("another partition waits")):
            other = threading.Thread(target=second)
            other.start()
            assert waits.wait(30)
        seen.append("first")
    other.join(30)
    assert seen == ["first", "second"]


def test_a_version_is_a_read_only_file_with_its_facts_and_metadata(lake: Lake) -> None:
    metadata: dict[str, Scalar] = {
        "fingerprint": "bundled-1",
        "encoded": 3,
        "share": 0.25,
        "partial": False,
        "parent": None,
    }
    written = lake.write("music_clips", "sad-00", numbers(1, 2), metadata)
    found = lake.current("music_clips", "sad-00")
    assert found == written
    assert found.rows == 2
    assert found.bytes == found.path.stat().st_size
    assert found.schema == pl.Schema({"value": pl.Int64})
    assert found.metadata == metadata
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o444
    with duckdb.connect(str(found.path), read_only=True) as connection:
        assert connection.sql("SELECT value FROM data").fetchall() == [(1,), (2,)]
        assert ("rows", "2") in connection.sql("SELECT key, value FROM metadata").fetchall()


def test_a_new_version_replaces_the_old_one_and_leaves_other_partitions_alone(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.write("music_clips", "calm", numbers(2))
    lake.write("music_clips", "sad", numbers(3))
    assert lake.partitions("music_clips") == ["calm", "sad"]
    assert lake.read("music_clips")["value"].to_list() == [2, 3]
    assert lake.read("music_clips", ["sad", "calm"])["value"].to_list() == [3, 2]


def test_only_the_columns_that_are_asked_for_are_read_in_their_order(lake: Lake) -> None:
    lake.write("music_clips", "sad", pl.DataFrame({"a": [1], "b": ["x"], "c": [True]}))
    assert lake.read("music_clips", columns=["c", "a"]).to_dict(as_series=False) == {"c": [True], "a": [1]}
    with pytest.raises(LakeError, match="music_clips/sad has no column nope; it has a, b, c"):
        lake.read("music_clips", columns=["nope"])


def test_a_removed_partition_is_gone_and_can_be_written_again(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.write("music_clips", "calm", numbers(2))
    lake.remove("music_clips", "sad")
    lake.remove("music_clips", "sad")
    lake.remove("music_clips", "never_built")
    lake.rebuild_catalogue()
    assert lake.current("music_clips", "sad") is None
    assert lake.partitions("music_clips") == ["calm"]
    assert shown(lake) == [2]
    lake.write("music_clips", "sad", numbers(3))
    assert lake.read("music_clips", ["sad"])["value"].to_list() == [3]


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", ".hidden", "Sad", "a b", "a'b", "a\0", "é", "x" * 200]
)
def test_names_that_could_leave_the_folder_or_meet_on_another_disk_are_refused(lake: Lake, name: str) -> None:
    with pytest.raises(LakeError, match="not a partition name"):
        lake.write("music_clips", name, numbers(1))
    with pytest.raises(LakeError, match="not a table name"):
        lake.write(name, "sad", numbers(1))
    assert not lake.root.exists()


def test_metadata_that_is_no_scalar_is_refused(lake: Lake) -> None:
    wrong: Any = {"list": [1]}
    with pytest.raises(LakeError, match="metadata 'list' of music_clips/sad is a list"):
        lake.write("music_clips", "sad", numbers(1), wrong)


def test_reading_what_is_not_built_names_what_is(lake: Lake) -> None:
    with pytest.raises(LakeError, match="holds no table music_clips yet: build it first"):
        lake.read("music_clips")
    lake.write("music_clips", "calm", numbers(1))
    with pytest.raises(LakeError, match=r"partition sad of table music_clips is not built \(built: calm\)"):
        lake.read("music_clips", ["calm", "sad"])


def test_partitions_whose_types_differ_are_an_error_that_names_both(lake: Lake) -> None:
    lake.write("music_clips", "calm", pl.DataFrame(schema={"embedding": pl.Array(pl.Float32, 3)}))
    lake.write("music_clips", "sad", pl.DataFrame(schema={"embedding": pl.Array(pl.Float32, 4)}))
    with pytest.raises(LakeError, match=r"embedding is Array.*4.* in partition sad, but Array.*3.* in calm"):
        lake.read("music_clips")
    lake.rebuild_catalogue()  # half-way through a change of encoder, other tables must stay readable


def test_batches_are_the_same_rows_in_the_same_order(lake: Lake) -> None:
    lake.write("music_clips", "calm", numbers(*range(5000)))
    lake.write("music_clips", "dreamy", numbers())
    lake.write("music_clips", "sad", numbers(*range(5000, 7000)))
    batches = list(lake.read_batches("music_clips", ["value"], 700))
    assert max(batch.height for batch in batches) <= 700
    assert pl.concat(batches)["value"].to_list() == list(range(7000))
    of_sad = lake.read_batches("music_clips", None, 3, lake.versions("music_clips")[1:])
    assert next(of_sad)["value"].to_list() == [5000, 5001, 5002]
    with pytest.raises(LakeError, match="batch_rows"):
        next(lake.read_batches("music_clips", None, 0))


def extra_memory_of_reading(root: Path, to: Any) -> None:
    lake = Lake(root)

    def read(partition: str) -> tuple[int, int]:
        version = lake.current("not_declared", partition)
        assert version is not None
        batches = lake.read_batches("not_declared", ["values"], 1024, [version])
        rows = sum(batch.height for batch in batches)
        return rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    _, before = read("small")
    rows, after = read("large")
    to.send((rows, after - before))


def test_batches_take_memory_for_a_few_batches_and_not_for_the_table(lake: Lake) -> None:
    values = np.random.default_rng(0).integers(-(2**62), 2**62, (150_000, 256))
    frame = pl.DataFrame({"values": pl.Series(values, dtype=pl.Array(pl.Int64, 256))})
    lake.write("not_declared", "small", frame.head(2048))
    lake.write("not_declared", "large", frame)
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=extra_memory_of_reading, args=(lake.root, send))
    process.start()
    rows, extra = receive.recv()
    process.join()
    shutil.rmtree(lake.root)
    assert rows == 150_000
    assert extra < frame.estimated_size() * 0.65


# The catalogue


def test_the_catalogue_has_every_declared_table_empty_and_typed_before_anything_is_built(lake: Lake) -> None:
    lake.rebuild_catalogue()
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        tables = {row[0] for row in connection.sql("SHOW TABLES").fetchall()}
        assert tables == set(TABLES)
        columns = connection.sql("DESCRIBE fused_pairs").fetchall()
        assert [column[0] for column in columns] == list(FUSED_PAIRS.columns)
        assert {column[0]: column[1] for column in columns}["rank"] == "INTEGER"
        assert connection.sql(
            "SELECT sum(fused_score) FROM fused_pairs JOIN images USING (image_id)"
        ).fetchall() == [(None,)]


def test_views_show_all_current_partitions_and_no_column_more(lake: Lake) -> None:
    for i, partition in enumerate(["sad-00", "sad-01", "calm"]):
        lake.write("music_clips", partition, numbers(i))
    lake.write("not_declared", "all", numbers(9))
    lake.rebuild_catalogue()
    assert shown(lake) == [0, 1, 2]
    assert shown(lake, "not_declared") == [9]
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        assert [row[0] for row in connection.sql("DESCRIBE music_clips").fetchall()] == ["value"]
        assert connection.sql("SELECT value FROM lake.music_clips LIMIT 0").fetchall() == []


def test_a_lake_in_a_folder_with_odd_letters_works(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "it's [a] *lake* ü")
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    assert shown(lake) == [1]
    with duckdb.connect() as connection:
        attach(connection, lake.root, "lake")
        assert connection.sql("SELECT value FROM lake.music_clips").fetchall() == [(1,)]


def test_a_question_mark_in_the_folder_is_refused_because_duckdb_cuts_paths_there(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"why\? has a question mark"):
        Lake(tmp_path / "why?")


def test_a_lost_catalogue_is_rebuilt(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    lake.catalogue_path.unlink()
    shutil.rmtree(lake.root / ".catalogues")
    lake.rebuild_catalogue()
    assert shown(lake) == [1]


def test_a_reader_that_keeps_the_catalogue_open_even_to_write_disturbs_nobody(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    with duckdb.connect(str(lake.catalogue_path)) as reader:
        reader.execute("CREATE TABLE mine AS SELECT 42 AS answer")
        assert lake.catalogue_path.with_name("lake.duckdb.wal").exists()
        lake.write("music_clips", "sad", numbers(2))
        lake.rebuild_catalogue()
        assert lake.collect_garbage(0) == []
        # The old catalogue still answers with the old version, and the new one with the new.
        assert reader.sql("SELECT value FROM music_clips").fetchall() == [(1,)]
    assert shown(lake) == [2]
    assert [path.name[:6] for path in lake.collect_garbage(0)] == ["000001"]
    assert shown(lake) == [2]


def test_a_log_left_by_a_crashed_user_of_the_catalogue_does_not_spoil_the_next_one(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    process = processes.Process(target=change_the_catalogue_and_be_killed, args=(lake.catalogue_path,))
    process.start()
    process.join()
    assert lake.catalogue_path.with_name("lake.duckdb.wal").exists()
    lake.write("music_clips", "sad", numbers(2))
    lake.rebuild_catalogue()
    assert shown(lake) == [2]


def change_the_catalogue_and_be_killed(path: Path) -> None:
    connection = duckdb.connect(str(path))
    connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")
    os.kill(os.getpid(), signal.SIGKILL)


# Moved and copied lakes


def attach(connection: duckdb.DuckDBPyConnection, folder: Path, name: str) -> None:
    path = str(folder / "lake.duckdb").replace("'", "''")
    connection.execute(f"ATTACH '{path}' AS {name} (READ_ONLY)")


@pytest.fixture
def copy(lake: Lake, tmp_path: Path) -> Lake:
    """A copy of `lake` with the value 1, in a folder with odd letters; the original went on and has 2."""
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    folder = tmp_path / "it's [a] *copy* ü"
    shutil.copytree(lake.root, folder)
    lake.write("music_clips", "sad", numbers(2))
    lake.rebuild_catalogue()
    return Lake(folder)


def test_the_catalogue_of_a_moved_lake_reads_the_tables_beside_it(lake: Lake, tmp_path: Path) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    moved = Lake(lake.root.rename(tmp_path / "elsewhere"))
    assert shown(moved) == [1]
    assert moved.read("music_clips")["value"].to_list() == [1]


def test_a_copied_catalogue_reads_its_own_tables_by_any_way_to_it_and_never_the_original(
    copy: Lake, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(copy.root)
    monkeypatch.chdir(copy.root)
    for path in (copy.catalogue_path, "lake.duckdb", "../link/lake.duckdb"):
        with duckdb.connect(path, read_only=True) as connection:
            monkeypatch.chdir(tmp_path)
            assert connection.sql("SELECT value FROM music_clips").fetchall() == [(1,)]
            monkeypatch.chdir(copy.root)
    shutil.rmtree(copy.root / "tables")
    with pytest.raises(duckdb.Error, match=r"No files found.*copy\[\*\] ü/tables/music_clips/sad"):
        shown(copy)
    assert shown(lake) == [2]


def test_a_read_only_copy_reads_its_own_tables(copy: Lake) -> None:
    for path in copy.root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert shown(copy) == [1]


def test_an_attached_copy_is_an_error_that_names_both_folders_until_it_has_settled(
    copy: Lake, lake: Lake
) -> None:
    with duckdb.connect() as connection:
        attach(connection, copy.root, "copied")
        with pytest.raises(duckdb.Error) as refused:
            connection.sql("SELECT count(*) FROM copied.music_clips").fetchall()
    told = str(refused.value)
    assert f"{copy.catalogue_path} is not where it was written, which is {lake.root}." in told
    assert f"emid status --lake {copy.root}" in told
    assert copy.settle() == lake.root
    assert copy.settle() is None
    with duckdb.connect() as connection:
        attach(connection, copy.root, "copied")
        attach(connection, lake.root, "original")
        rows = connection.sql("SELECT c.value, o.value FROM copied.music_clips c, original.music_clips o")
        assert rows.fetchall() == [(1, 2)]


@pytest.mark.parametrize("has_settled", [False, True])
def test_a_lake_attached_to_an_open_one_is_not_shown_with_its_rows(
    copy: Lake, lake: Lake, has_settled: bool
) -> None:
    if has_settled:
        copy.settle()
    with duckdb.connect(lake.catalogue_path, read_only=True) as connection:
        attach(connection, copy.root, "copied")
        with pytest.raises(duckdb.Error, match="cannot be attached to another lake: start DuckDB without"):
            connection.sql("SELECT value FROM copied.music_clips").fetchall()


@pytest.mark.parametrize("elsewhere", ["/elsewhere", "/elsewhere/lake.duckdb.tmp", ""])
def test_a_client_with_a_temporary_folder_of_its_own_reads_the_right_tables_or_none(
    copy: Lake, lake: Lake, elsewhere: str
) -> None:
    def value(of: Lake) -> Any:
        with duckdb.connect(of.catalogue_path, True, {"temp_directory": elsewhere}) as connection:
            return connection.sql("SELECT value FROM music_clips").fetchall()

    with pytest.raises(duckdb.Error):
        value(copy)
    if "lake.duckdb" not in elsewhere:
        assert value(lake) == [(2,)]
        copy.settle()
        assert value(copy) == [(1,)]


def test_a_lake_that_was_never_built_or_stayed_has_nothing_to_settle(lake: Lake) -> None:
    assert lake.settle() is None
    assert not lake.root.exists()
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    before = lake.catalogue_path.stat()
    assert lake.settle() is None
    assert lake.catalogue_path.stat() == before


def test_a_catalogue_from_before_folders_were_recorded_is_rebuilt(copy: Lake) -> None:
    (copy.root / ".catalogues" / "folder").unlink()
    before = copy.catalogue_path.stat().st_ino
    assert copy.settle() is None
    assert copy.catalogue_path.stat().st_ino != before


# Several processes


def write_many(root: Path, writer: int, rounds: int) -> None:
    lake = Lake(root)
    for i in range(rounds):
        value = writer * 1000 + i
        lake.write("music_clips", f"own-{writer}", numbers(*[value] * 500))
        lake.write("music_clips", "shared", numbers(*[value] * 500))
        lake.rebuild_catalogue()
        lake.collect_garbage(0)


def test_four_writers_and_a_reader_see_only_whole_versions_and_lose_no_update(lake: Lake) -> None:
    lake.write("music_clips", "shared", numbers(*[0] * 500))
    lake.rebuild_catalogue()
    writers = [processes.Process(target=write_many, args=(lake.root, w, 4)) for w in range(1, 5)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        counts = lake.read("music_clips").group_by("value").len()
        assert set(counts["len"]) <= {500, 1000}
        with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
            files = connection.sql("SELECT count(*) FROM music_clips").fetchall()
        assert files[0][0] % 500 == 0
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0

    assert lake.partitions("music_clips") == ["own-1", "own-2", "own-3", "own-4", "shared"]
    for writer_number in range(1, 5):
        assert set(lake.read("music_clips", [f"own-{writer_number}"])["value"]) == {writer_number * 1000 + 3}
    # Nobody rebuilt it after the last of them: the last of them must have seen every update.
    assert shown(lake) == sorted(lake.read("music_clips")["value"])


def hold_open(path: Path, read_only: bool, opened: Any, close: Any) -> None:
    with duckdb.connect(str(path), read_only=read_only):
        opened.set()
        close.wait()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_another_process_has_open_is_seen_to_be_open(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "some.duckdb"
    duckdb.connect(str(path)).close()
    assert not is_open_somewhere(path)
    opened, close = processes.Event(), processes.Event()
    process = processes.Process(target=hold_open, args=(path, read_only, opened, close))
    process.start()
    opened.wait()
    assert is_open_somewhere(path)
    close.set()
    process.join()
    assert not is_open_somewhere(path)


def test_asking_whether_a_file_is_open_does_not_give_up_the_lock_of_the_one_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "some.duckdb"
    duckdb.connect(str(path)).close()
    with duckdb.connect(str(path), read_only=True):
        assert is_open_somewhere(path)
        receive, send = processes.Pipe(duplex=False)
        process = processes.Process(target=ask, args=(path, send))
        process.start()
        assert receive.recv() is True
        process.join()


def ask(path: Path, to: Any) -> None:
    to.send(is_open_somewhere(path))


# Garbage


def test_partitions_that_are_not_among_others_are_removed_and_named(lake: Lake) -> None:
    for name in ("sad", "sad-00", "sad-01", "images-awe", "images-awe-00"):
        lake.write("rejected", name, numbers(1))
    assert lake.remove_others("rejected", ["images-awe-00"], "images-") == ["images-awe"]
    assert lake.remove_others("rejected", ["sad-00", "sad-01"]) == ["images-awe-00", "sad"]
    assert lake.remove_others("rejected", ["sad-00", "sad-01"]) == []
    assert lake.partitions("rejected") == ["sad-00", "sad-01"]
    assert lake.remove_others("never_built", ["sad"]) == []
    left = lake.removed("rejected")
    assert [version.partition for version in left] == ["images-awe", "images-awe-00", "sad"]
    assert pl.concat(lake.read_batches("rejected", None, 10, left))["value"].to_list() == [1, 1, 1]
    lake.collect_garbage(0)
    assert lake.removed("rejected") == []


def test_a_partition_with_a_damaged_pointer_is_removed_among_others_and_blocks_no_other_table(
    lake: Lake,
) -> None:
    for name in ("calm", "sad"):
        lake.write("music_clips", name, numbers(1))
    lake.write("images", "awe", numbers(2))
    empty = lake.root / "tables" / "music_clips" / "sad-00"
    empty.mkdir()
    for folder in (lake.root / "tables" / "music_clips" / "sad", empty):
        (folder / "CURRENT").write_text("nonsense")
    lake.rebuild_catalogue()
    with duckdb.connect(lake.catalogue_path, read_only=True) as catalogue:
        assert catalogue.sql("SELECT value FROM images").fetchall() == [(2,)]
        with pytest.raises(duckdb.Error, match="CURRENT is damaged"):
            catalogue.sql("SELECT * FROM music_clips").fetchall()
    assert lake.remove_others("music_clips", ["calm"]) == ["sad", "sad-00"]
    assert lake.partitions("music_clips") == ["calm"]
    assert lake.remove_others("music_clips", ["calm"]) == []
    lake.write("music_clips", "sad", numbers(3))
    assert sorted(lake.read("music_clips")["value"].to_list()) == [1, 3]


def test_old_versions_go_after_the_grace_period_since_they_were_superseded(lake: Lake) -> None:
    first = lake.write("music_clips", "sad", numbers(1)).path
    week_ago = time.time() - 7 * 86_400
    os.utime(first, (week_ago, week_ago))
    lake.write("music_clips", "sad", numbers(2))
    lake.rebuild_catalogue()
    # Written a week ago, but superseded only now.
    assert lake.collect_garbage(3600) == []
    assert lake.collect_garbage(0) == [first]
    assert lake.read("music_clips")["value"].to_list() == [2]


def test_the_files_of_a_removed_partition_go_after_the_grace_period(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.remove("music_clips", "sad")
    lake.rebuild_catalogue()
    assert lake.collect_garbage(3600) == []
    assert len(lake.collect_garbage(0)) == 1
    assert lake.collect_garbage(0) == []  # nothing is left of it but its pointer
    assert versions(lake) == []


def test_a_damaged_pointer_keeps_no_other_partition_from_being_collected(lake: Lake) -> None:
    for partition in ("calm", "sad"):
        for value in (1, 2):
            lake.write("music_clips", partition, pl.DataFrame({"value": [value]}))
    (lake.root / "tables" / "music_clips" / "calm" / "CURRENT").write_text("nonsense")
    assert [path.parent.name for path in lake.collect_garbage(0)] == ["sad"]


def test_a_version_that_only_the_existing_catalogue_shows_stays(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    lake.write("music_clips", "sad", numbers(2))  # and no rebuild
    assert lake.collect_garbage(0) == []
    assert shown(lake) == [1]
    lake.rebuild_catalogue()
    assert len(lake.collect_garbage(0)) == 1


def test_a_version_that_a_process_has_open_stays_until_it_is_closed(lake: Lake) -> None:
    old = lake.write("music_clips", "sad", numbers(1)).path
    opened, close = processes.Event(), processes.Event()
    process = processes.Process(target=hold_open, args=(old, True, opened, close))
    process.start()
    opened.wait()
    lake.write("music_clips", "sad", numbers(2))
    lake.rebuild_catalogue()
    assert lake.collect_garbage(0) == []
    close.set()
    process.join()
    assert lake.collect_garbage(0) == [old]


def test_a_stream_of_batches_keeps_its_version_while_it_is_read(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(*range(200_000)))
    batches = lake.read_batches("music_clips", None, 2048)
    rows = next(batches).height
    lake.write("music_clips", "sad", numbers(-1))
    lake.rebuild_catalogue()
    assert lake.collect_garbage(0) == []
    assert rows + sum(batch.height for batch in batches) == 200_000
    assert len(lake.collect_garbage(0)) == 1


def test_garbage_of_a_lake_that_does_not_exist_is_nothing(lake: Lake) -> None:
    assert lake.collect_garbage(0) == []
    assert not lake.root.exists()


def test_without_a_pointer_no_version_is_thrown_away(lake: Lake) -> None:
    version = lake.write("music_clips", "sad", numbers(1))
    (version.path.parent / "CURRENT").unlink()
    assert lake.collect_garbage(0) == []
    assert version.path.exists()


# Damage


@pytest.mark.parametrize("damage", ["emptied", "cut short", "header overwritten", "not a database"])
def test_a_damaged_file_is_an_error_that_names_it_and_the_way_out(lake: Lake, damage: str) -> None:
    path = lake.write("music_clips", "sad", numbers(*range(100_000))).path
    lake.write("images", "awe", numbers(7))
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(
        {
            "emptied": b"",
            "cut short": content[:9_000],
            "header overwritten": b"\xff" * 4096 + content[4096:],
            "not a database": b"clip_id,valence\n" * 1000,
        }[damage]
    )
    with pytest.raises(LakeError) as caught:
        lake.read("music_clips")
    assert str(path) in str(caught.value)
    assert "Build music_clips/sad again" in str(caught.value)
    with pytest.raises(LakeError, match="Build music_clips/sad again"):
        lake.current("music_clips", "sad")

    lake.rebuild_catalogue()
    assert shown(lake, "images") == [7]
    for query in ("SELECT clip_id FROM music_clips", "SELECT count(*) FROM music_clips"):
        with pytest.raises(duckdb.Error, match=r"table music_clips cannot be read.*Build the partition"):
            asked(lake, query)
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    assert shown(lake) == [1]


def test_one_flipped_byte_in_the_data_is_found_and_named(lake: Lake) -> None:
    path = lake.write(
        "music_clips", "sad", pl.DataFrame({"value": np.random.default_rng(0).random(300_000)})
    ).path
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(LakeError, match=path.name):
        lake.read("music_clips")
    with pytest.raises(LakeError, match=path.name):
        list(lake.read_batches("music_clips", None, 2048))


@pytest.mark.parametrize("nonsense", [b"", b"../../etc/passwd", b"\xff\xfe\xfa"])
def test_a_pointer_with_nonsense_in_it_is_named_hides_no_partition_and_is_written_again(
    lake: Lake, nonsense: bytes
) -> None:
    version = lake.write("music_clips", "sad", numbers(1))
    calm = lake.write("music_clips", "calm", numbers(2))
    (version.path.parent / "CURRENT").write_bytes(nonsense)
    with pytest.raises(LakeError, match="CURRENT is damaged"):
        lake.read("music_clips")
    found = lake.survey(["music_clips"])
    assert found["music_clips", "calm"] == calm
    assert isinstance(found["music_clips", "sad"], LakeError)
    lake.write("music_clips", "sad", numbers(3))
    assert lake.read("music_clips", ["sad"])["value"].to_list() == [3]
    assert version.path.exists()


def test_a_pointer_to_nothing_is_named(lake: Lake) -> None:
    version = lake.write("music_clips", "sad", numbers(1))
    version.path.unlink()
    with pytest.raises(LakeError, match=r"is missing, though CURRENT"):
        lake.read("music_clips")


def be_refused_room(root: Path, to: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    to.send(error_of_writing(root, numbers(*range(200_000))))


def be_refused_the_folder(root: Path, to: Any) -> None:
    if os.geteuid() == 0:
        os.seteuid(65_534)
    to.send(error_of_writing(root, numbers(2)))


def error_of_writing(root: Path, frame: pl.DataFrame) -> str:
    try:
        Lake(root).write("music_clips", "sad", frame)
    except LakeError as error:
        return str(error)
    return "no error"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("refusal", [be_refused_room, be_refused_the_folder])
def test_no_room_and_no_permission_are_clear_errors_and_the_old_version_stays(
    open_folder: Path, refusal: Any
) -> None:
    lake = Lake(open_folder / "lake")
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    folder = lake.root / "tables" / "music_clips" / "sad"
    if refusal is be_refused_the_folder:
        folder.chmod(0o555)
        (folder / ".lock").chmod(0o444)
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=refusal, args=(lake.root, send))
    process.start()
    message = receive.recv()
    process.join()
    folder.chmod(0o755)
    assert "cannot write music_clips/sad" in message
    assert "The previous version is untouched" in message
    assert lake.read("music_clips")["value"].to_list() == [1]
    assert shown(lake) == [1]
    assert list(lake.root.rglob("*.unfinished*")) == []


def test_a_lake_that_is_a_file_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    lake = Lake(tmp_path / "lake")
    with pytest.raises(LakeError, match="cannot write music_clips/sad"):
        lake.write("music_clips", "sad", numbers(1))
    with pytest.raises(LakeError, match="cannot write the catalogue"):
        lake.rebuild_catalogue()


def test_batches_of_given_versions_are_the_same_rows_whatever_is_built_meanwhile(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.write("music_clips", "sad", numbers(1, 2))
    versions = lake.versions("music_clips")
    lake.write("music_clips", "sad", numbers(3))
    lake.write("music_clips", "calm", numbers(4))
    for _ in range(2):
        batches = list(lake.read_batches("music_clips", None, 10, versions))
        assert pl.concat(batches)["value"].to_list() == [1, 2]
    assert pl.concat(lake.read_batches("music_clips", None, 10))["value"].to_list() == [4, 3]


def test_one_rebuild_shows_all_that_was_written_in_its_block_at_its_end(lake: Lake) -> None:
    lake.write("music_clips", "sad", numbers(1))
    lake.rebuild_catalogue()
    with suppress(KeyboardInterrupt), lake.one_rebuild():
        with Lake(lake.root).one_rebuild():
            lake.write("music_clips", "sad", numbers(2))
            lake.rebuild_catalogue()
        lake.write("music_clips", "calm", numbers(3))
        assert shown(lake) == [1]
        assert lake.read("music_clips")["value"].to_list() == [3, 2]
        raise KeyboardInterrupt
    assert shown(lake) == [2, 3]
    lake.write("music_clips", "sad", numbers(4))
    lake.rebuild_catalogue()
    assert shown(lake) == [3, 4]


def test_small_and_large_versions_read_alike(lake: Lake) -> None:
    large = pl.DataFrame({"value": range(300_000), "name": ["clip"] * 300_000})
    lake.write("music_clips", "large", large)
    lake.write("music_clips", "small", large.head(5))
    for columns in (None, ["name", "value"], ["value"]):
        expected = pl.concat([large, large.head(5)]).select(columns or large.columns)
        for _ in range(2):
            assert lake.read("music_clips", columns=columns).equals(expected)
            assert pl.concat(lake.read_batches("music_clips", columns, 7000)).equals(expected)
