"""What can happen to a run: it is killed, its disk is full, its files are gone; and what is left after that.

After each: no lost or half-written partition, one clear line, and the next rebuild ends green.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from emid_assets.defs.health import dead_runs_sensor
from emid_assets.orchestration.stages import STAGES
from emid_assets_tests.failures.tiny import (
    ClockAt,
    DieComputing,
    DieStoring,
    Pipeline,
    RoomFor,
)

pytestmark = pytest.mark.slow

KILLED = str(-signal.SIGKILL)
KILLS = {
    "inventory": ("media_inventory", None),
    "embed_music": ("music_embeddings", "sad"),
    "embed_images": ("image_embeddings", "awe"),
    "align": ("va_distances", "sad"),
    "release": ("emid_release", None),
    "train_adapter": ("trained_adapter", "bmf"),
    "evaluate": ("evaluation_report", None),
    "study": ("listening_study", None),
    "health": ("pipeline_health", None),
}


def states(pipeline: Pipeline) -> dict[str, str]:
    """What is broken: asset/partition → why."""
    return {
        f"{row['asset']}/{row['partition']}": row["message"]
        for row in pipeline.health().broken.iter_rows(named=True)
    }


def test_every_stage_has_its_kill() -> None:
    assert set(KILLS) == set(STAGES)


@pytest.mark.parametrize(
    "stage",
    KILLS,
)
def test_a_run_killed_in_a_stage_loses_nothing_and_the_next_one_ends_green(
    pipeline: Pipeline, stage: str
) -> None:
    table, partition = KILLS[stage]
    place = f"{table}/{partition or 'all'}"
    rows = pipeline.rows()
    assert pipeline.run(stage, partition, DieStoring(table)) == KILLED
    assert pipeline.unfinished()
    assert pipeline.rows() == rows
    if stage != "health":  # which does not judge itself
        assert "process is gone" in states(pipeline)[place]

    assert pipeline.run(stage, partition) == ""
    assert pipeline.rows() == rows
    assert not pipeline.unfinished()
    assert not states(pipeline)


def test_a_build_killed_while_it_holds_the_device_keeps_no_later_build_waiting(
    pipeline: Pipeline,
) -> None:
    pairs = pipeline.lake.read("fused_pairs")
    assert pipeline.run("embed_music", "sad", DieComputing("music_embeddings")) == KILLED
    with pipeline.instance() as instance:  # beside a web UI, a sensor sees it
        said = dead_runs_sensor(dg.build_sensor_context(instance))
        assert f"ended {instance.get_runs(limit=1)[0].run_id}" in str(said)
        said = dead_runs_sensor(dg.build_sensor_context(instance))
        assert "the process of every running run is alive" in str(said)
    assert pipeline.run("embed_images", "awe", DieComputing("image_embeddings")) == KILLED
    assert pipeline.build() == ""
    assert pipeline.lake.read("fused_pairs").sort("clip_id", "rank").equals(pairs.sort("clip_id", "rank"))
    assert pipeline.health().is_healthy
    with pipeline.instance() as instance:
        assert all(run.is_finished for run in instance.get_runs())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room at all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return filler


def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(built: Pipeline, small_disk: Path) -> None:
    pipeline = built.copy(small_disk)
    rows = pipeline.rows()
    filler = fill(small_disk)
    said = pipeline.build()
    assert said
    assert "Traceback" not in said
    assert "full" in said or "has space" in said
    filler.unlink()
    assert pipeline.rows() == rows
    assert pipeline.run("embed_music", "sad") == ""
    assert not pipeline.unfinished()
    assert pipeline.rows() == rows


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody may write to: by its mode, or for root, who minds no mode, by a mount."""
    if os.getuid() != 0:
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            yield
        finally:
            for path in folders:
                path.chmod(0o755)
        return
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*arguments: str) -> None:
    mounted = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount: {mounted.stderr.strip()}")


def test_a_lake_that_may_not_be_written_to_is_told_and_left_as_it_was(pipeline: Pipeline) -> None:
    rows = pipeline.rows()
    with read_only(pipeline.root / "tables"):
        said = pipeline.run("embed_music", "sad")
        assert "cannot write music_clips/sad" in said
        assert "ead-only file system" in said or "ermission denied" in said
        assert "check that the folder is writable" in said
        assert pipeline.rows() == rows
    assert not pipeline.unfinished()
    assert "cannot write" in states(pipeline)["music_clips/sad"]
    assert pipeline.run("embed_music", "sad") == ""
    assert pipeline.rows() == rows
    assert not states(pipeline)


@pytest.mark.parametrize(
    ("stage", "table", "partition"),
    [
        ("inventory", "media_inventory", None),
        ("embed_music", "music_embeddings", "sad"),
        ("train_adapter", "trained_adapter", "bmf"),
    ],
)
def test_a_damaged_partition_is_told_and_made_anew_by_its_next_build(
    pipeline: Pipeline, stage: str, table: str, partition: str | None
) -> None:
    rows = pipeline.rows()
    version = pipeline.lake.current(table, partition or "all")
    assert version is not None
    version.path.chmod(0o644)
    content = bytearray(version.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    version.path.write_bytes(content)
    (why,) = states(pipeline).values()
    assert str(version.path) in why
    assert f"Build {table}/{partition or 'all'} again" in why

    assert pipeline.run(stage, partition) == ""
    assert pipeline.rows() == rows
    assert not states(pipeline)


def test_a_reader_of_a_damaged_partition_says_which_one_to_build_again(pipeline: Pipeline) -> None:
    version = pipeline.lake.current("image_embeddings", "fear")
    assert version is not None
    version.path.chmod(0o644)
    version.path.write_bytes(b"")
    said = pipeline.run("align", "sad")
    assert "Build image_embeddings/fear again" in said
    assert pipeline.run("embed_images", "fear") == ""
    assert pipeline.run("align", "sad") == ""


def test_a_clock_set_back_changes_neither_what_counts_nor_what_is_kept(pipeline: Pipeline) -> None:
    rows = pipeline.rows()
    before = pipeline.lake.current("music_embeddings", "sad")
    for _ in range(2):
        assert pipeline.run("inventory", None, ClockAt(-40 * 86_400)) == ""
        assert pipeline.run("embed_music", "sad", ClockAt(-40 * 86_400)) == ""
    after = pipeline.lake.current("music_embeddings", "sad")
    assert before is not None
    assert after is not None
    assert after.path.name > before.path.name
    assert pipeline.rows() == rows
    assert not states(pipeline)


def test_a_media_folder_that_is_gone_ends_the_run_and_empties_nothing(pipeline: Pipeline) -> None:
    rows = pipeline.rows()
    away = pipeline.media.rename(pipeline.media.with_name("away"))
    said = pipeline.run("inventory")
    assert str(pipeline.media) in said
    assert pipeline.rows() == rows
    pipeline.media.mkdir()  # where a disk is not mounted, its folder is there and empty
    said = pipeline.run("inventory")
    assert "neither music/ nor images/" in said
    assert pipeline.rows() == rows
    assert "media_inventory/all" in states(pipeline)

    pipeline.media.rmdir()
    away.rename(pipeline.media)
    assert pipeline.run("inventory") == ""
    assert pipeline.rows() == rows
    assert "media_inventory/all" not in states(pipeline)


def test_a_device_without_memory_takes_smaller_batches_or_names_the_item_that_does_not_fit(
    pipeline: Pipeline,
) -> None:
    rows = pipeline.rows()
    for partition in ("awe", "fear"):
        pipeline.lake.remove("image_embeddings", partition)
    pipeline.lake.rebuild_catalogue()
    pipeline.lake.collect_garbage(0)  # their files too, whose rows would be used again
    shutil.rmtree(pipeline.root / "journal", ignore_errors=True)
    assert pipeline.run("embed_images", "awe", RoomFor(1)) == ""
    said = pipeline.run("embed_images", "fear", RoomFor(0))
    assert "not even one item fits into the encoder's memory: fear/" in said
    assert "fear" not in pipeline.lake.partitions("image_embeddings")
    assert "not even one item fits" in states(pipeline)["image_embeddings/fear"]
    assert pipeline.run("embed_images", "fear") == ""
    assert pipeline.rows() == rows
    assert not states(pipeline)
