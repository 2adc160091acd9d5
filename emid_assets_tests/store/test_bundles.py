"""The catalogue over thousands of small partitions: bundles, and one rebuild for many who ask."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import filelock
import polars as pl
import pytest

from emid_assets.store import lake as lake_module
from emid_assets.store.lake import Lake, LakeError


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake where five files of a table are many."""
    monkeypatch.setattr(lake_module, "_LOOSE_FILES", 4)
    return Lake(tmp_path / "lake", declared={})


def numbers(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": values}, schema={"value": pl.Int64})


def shown(lake: Lake) -> list[int]:
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        return [row[0] for row in connection.sql("SELECT value FROM many ORDER BY 1").fetchall()]


def files_of_the_view(lake: Lake) -> list[str]:
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        ((text,),) = connection.sql("SELECT sql FROM duckdb_views() WHERE view_name = 'many'").fetchall()
    return [part for part in text.split("'") if part.startswith(("tables/", ".bundles/"))]


def test_few_partitions_are_shown_as_they_are(lake: Lake) -> None:
    for number in range(4):
        lake.write("many", f"p{number}", numbers(number))
    lake.rebuild_catalogue()
    assert len(files_of_the_view(lake)) == 4
    assert not (lake.root / ".bundles").exists()


def test_many_partitions_are_shown_from_few_files_and_the_tables_stay_as_they_are(lake: Lake) -> None:
    for number in range(19):
        lake.write("many", f"p{number:02}", numbers(number))
    before = sorted((lake.root / "tables").rglob("*.duckdb"))
    lake.rebuild_catalogue()
    assert shown(lake) == list(range(19))
    assert len(files_of_the_view(lake)) <= 4 + 4
    assert sorted((lake.root / "tables").rglob("*.duckdb")) == before
    bundles = set((lake.root / ".bundles").rglob("*.duckdb"))
    lake.rebuild_catalogue()
    assert set((lake.root / ".bundles").rglob("*.duckdb")) == bundles  # nothing is copied twice


def test_whatever_is_written_and_removed_the_view_shows_what_the_partitions_hold(lake: Lake) -> None:
    chance = random.Random(0)
    held: dict[str, int] = {}
    for step in range(150):
        name = f"p{chance.randrange(14):02}"
        if chance.random() < 0.2:
            lake.remove("many", name)
            held.pop(name, None)
        else:
            lake.write("many", name, numbers(step))
            held[name] = step
        if held and chance.random() < 0.3:
            lake.rebuild_catalogue()
            assert shown(lake) == sorted(held.values())
    assert (lake.root / ".bundles").exists()


def test_a_bundle_that_nothing_shows_is_garbage_and_one_that_somebody_reads_is_not(lake: Lake) -> None:
    for number in range(9):
        lake.write("many", f"p{number}", numbers(number))
    lake.rebuild_catalogue()
    (first, _) = sorted((lake.root / ".bundles").rglob("*.duckdb"))
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as reader:
        cursor = reader.execute("SELECT value FROM many")
        lake.write("many", "p0", numbers(100))
        lake.rebuild_catalogue()
        lake.collect_garbage(0)
        assert first.exists()
        assert sorted(row[0] for row in cursor.fetchall()) == list(range(9))
    lake.rebuild_catalogue()
    lake.collect_garbage(0)
    assert not first.exists()
    assert not first.with_suffix(".files").exists()
    assert shown(lake) == [1, 2, 3, 4, 5, 6, 7, 8, 100]


def test_a_large_version_stays_where_it_is(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module, "_SMALL_BYTES", 0)
    for number in range(6):
        lake.write("many", f"p{number}", numbers(number))
    lake.rebuild_catalogue()
    assert len(files_of_the_view(lake)) == 6


def test_a_damaged_version_among_many_is_named_by_its_table_alone(lake: Lake) -> None:
    for number in range(9):
        lake.write("many", f"p{number}", numbers(number))
    lake.write("other", "all", numbers(7))
    version = lake.current("many", "p3")
    assert version is not None
    version.path.chmod(0o644)
    version.path.write_bytes(b"no database")
    lake.rebuild_catalogue()
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        assert connection.sql("SELECT value FROM other").fetchall() == [(7,)]
        with pytest.raises(duckdb.Error, match=r"p3|Build the partition"):
            connection.sql("SELECT value FROM many").fetchall()
    lake.write("many", "p3", numbers(3))
    lake.rebuild_catalogue()
    assert shown(lake) == list(range(9))


def test_many_who_ask_while_one_rebuilds_are_served_by_one_more(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.write("many", "first", numbers(100))
    lake.rebuild_catalogue()
    waiting: list[int] = []
    rebuilt: list[int] = []
    lock, rebuild = Lake._catalogue_lock, Lake._rebuild_catalogue

    def seen(self: Lake) -> Any:
        waiting.append(1)
        return lock(self)

    def counted(self: Lake) -> None:
        rebuilt.append(1)
        rebuild(self)

    monkeypatch.setattr(Lake, "_catalogue_lock", seen)
    monkeypatch.setattr(Lake, "_rebuild_catalogue", counted)

    def write(number: int) -> None:
        lake.write("many", f"p{number}", numbers(number))
        lake.rebuild_catalogue()

    with ThreadPoolExecutor(8) as pool:
        with filelock.FileLock(lake.root / "lake.duckdb.lock"):
            asked = [pool.submit(write, number) for number in range(8)]
            while len(waiting) < 8 and not any(one.done() for one in asked):
                pass
        for one in asked:
            one.result(120)
    assert shown(lake) == [*range(8), 100]
    assert len(rebuilt) == 1


def test_a_rebuild_that_was_killed_counts_for_nobody(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write("many", "first", numbers(1))
    lake.rebuild_catalogue()

    def fail(self: Lake) -> None:
        raise OSError("no space left on device")

    lake.write("many", "second", numbers(2))
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "_rebuild_catalogue", fail)
        with pytest.raises(LakeError, match="no space left"):
            lake.rebuild_catalogue()
    lake.rebuild_catalogue()
    assert shown(lake) == [1, 2]


@pytest.mark.parametrize("what", ["begun", "ended"])
@pytest.mark.parametrize("lost", ["", "\0\0", None, "1", "99"])
def test_after_a_loss_of_power_the_catalogue_shows_what_is_written_then(
    lake: Lake, what: str, lost: str | None
) -> None:
    """A count that was lost is empty, full of zeros, gone, or another one."""
    for value in range(3):
        lake.write("many", "one", numbers(value))
        lake.rebuild_catalogue()
    count = lake.root / ".catalogues" / what
    count.unlink() if lost is None else count.write_text(lost)
    for value in (98, 99):
        lake.write("many", "one", numbers(value))
        lake.rebuild_catalogue()
        assert shown(lake) == [value]


def test_where_hard_links_cannot_be_made_garbage_collection_takes_no_bundle_in_use(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr("os.link", no_links)
    for number in range(19):
        lake.write("many", f"p{number:02}", numbers(number))
    lake.rebuild_catalogue()
    first = files_of_the_view(lake)
    for again in range(3):
        lake.write("many", "p00", numbers(100 + again))
        lake.rebuild_catalogue()
        lake.collect_garbage(3600)
        assert shown(lake) == [*range(1, 19), 100 + again]
    assert all((lake.root / file).exists() for file in first)  # a reader may have the first one open
    lake.collect_garbage(0)
    assert shown(lake) == [*range(1, 19), 102]
    assert not all((lake.root / file).exists() for file in first)
    assert len(list((lake.root / ".catalogues").glob("*.files"))) == 2
