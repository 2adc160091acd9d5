import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from emid_assets.encoders.embed import Earlier, Progress, embed, unit_rows
from emid_assets.encoders.interface import EncoderOutOfMemoryError, MediaItem
from emid_assets.encoders.journal import CHUNK_ITEMS
from emid_assets.encoders.preparation import PreparationCrashError, WorkerDiedError
from emid_assets.media.identity import CHANGED
from emid_assets.store.files import sha256_of
from emid_assets.store.schemas import IMAGE_EMBEDDINGS, MUSIC_EMBEDDINGS, REJECTED_MEDIA
from emid_assets_tests.encoders.fake_encoder import (
    HANGING_MARK,
    WORKER_MARK,
    FakeEncoder,
    numbered,
    write_items,
)


def test_rows_are_unit_vectors_with_their_scale_in_the_order_of_the_items(tmp_path: Path) -> None:
    items = write_items(tmp_path, ["3 0 4 0", "0 2 0 0"])
    result = embed(items, FakeEncoder(), "music")
    frame = MUSIC_EMBEDDINGS.check(result.frame)
    assert frame["clip_id"].to_list() == ["item 0", "item 1"]
    np.testing.assert_allclose(frame["embedding"].to_numpy(), [[0.6, 0, 0.8, 0], [0, 1, 0, 0]], rtol=1e-7)
    assert frame["scale"].to_list() == [100.0, 40.0]
    assert (result.encoded, result.reused, result.rejected.height) == (2, 0, 0)


def test_a_second_run_on_unchanged_media_encodes_nothing(tmp_path: Path) -> None:
    items = write_items(tmp_path, numbered(5))
    first = embed(items, FakeEncoder(), "image")
    encoder = FakeEncoder()
    second = embed(items, encoder, "image", Earlier(first.frame, "fake-1"))
    assert (second.encoded, second.reused, encoder.batches) == (0, 5, [])
    assert second.frame.equals(first.frame)


def test_only_new_content_is_encoded_and_gone_content_leaves(tmp_path: Path) -> None:
    items = write_items(tmp_path, numbered(5))
    first = embed(items[:4], FakeEncoder(), "image")
    encoder = FakeEncoder()
    second = embed(items[1:], encoder, "image", Earlier(first.frame, "fake-1"))
    assert (second.encoded, second.reused, encoder.batches) == (1, 3, [1])
    assert second.frame.equals(embed(items[1:], FakeEncoder(), "image").frame)


def test_rows_of_another_encoder_are_not_kept(tmp_path: Path) -> None:
    items = write_items(tmp_path, numbered(3))
    first = embed(items, FakeEncoder(), "image")
    second = embed(items, FakeEncoder("fake-2"), "image", Earlier(first.frame, "fake-1"))
    assert (second.encoded, second.reused) == (3, 0)


def test_equal_contents_go_through_the_encoder_once(tmp_path: Path) -> None:
    items = write_items(tmp_path, ["1 2 3 4", "4 3 2 1", "1 2 3 4"])
    result = embed(items, FakeEncoder(), "image")
    assert result.encoded == 2
    assert result.frame["image_id"].to_list() == ["item 0", "item 1", "item 2"]
    assert result.frame["embedding"][0].equals(result.frame["embedding"][2])


def test_a_bad_file_is_rejected_with_its_reason_and_the_batch_goes_on(tmp_path: Path) -> None:
    items = write_items(tmp_path, ["1 0 0 0", "bad", "0 1 0 0", "not numbers", "0 0 1 0"])
    missing = items[4].path
    missing.unlink()
    result = embed(items, FakeEncoder(), "image", batch_size=2)
    assert result.frame["image_id"].to_list() == ["item 0", "item 2"]
    rejected = REJECTED_MEDIA.check(result.rejected)
    assert rejected["kind"].to_list() == ["image"] * 3
    assert rejected["item_id"].to_list() == ["item 1", "item 3", "item 4"]
    assert rejected["file"].to_list() == ["0001.txt", "0003.txt", "0004.txt"]
    assert rejected["reason"][0] == "no picture in it"
    assert "could not convert string to float" in rejected["reason"][1]
    assert "No such file" in rejected["reason"][2]


@pytest.mark.parametrize(("others", "workers"), [(0, 0), (40, 2)])
def test_a_file_replaced_after_the_inventory_is_rejected_and_leaves_nothing_under_its_old_hash(
    tmp_path: Path, others: int, workers: int
) -> None:
    items = [
        MediaItem(item.item_id, item.path, sha256_of(item.path), file=item.file)
        for item in write_items(tmp_path, [*numbered(others), "1 2 3 4"])
    ]
    replaced = items[-1]
    replaced.path.write_text("4 3 2 1")
    journal = tmp_path / "journal"
    encoder = FakeEncoder(wait_for=tmp_path / WORKER_MARK if workers else None)
    first = embed(items, encoder, "image", Earlier(journal=journal), workers=workers, batch_size=4)
    assert first.rejected.rows() == [("image", replaced.item_id, replaced.file, CHANGED)]
    assert (first.frame.height, first.changed) == (others, 1)

    replaced.path.write_text("1 2 3 4")  # put back
    second = embed(items, FakeEncoder(), "image", Earlier(first.frame, "fake-1", journal))
    assert (second.encoded, second.rejected.height, second.changed) == (1, 0, 0)
    row = second.frame.row(-1, named=True)
    np.testing.assert_allclose(np.array(row["embedding"]) * row["scale"], [1, 2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize("text", ["nan 0 0 0", "0 inf 0 0", "0 0 0 0"])
def test_a_row_that_is_no_direction_is_rejected_and_named(tmp_path: Path, text: str) -> None:
    items = write_items(tmp_path, ["1 0 0 0", text])
    result = embed(items, FakeEncoder(), "image")
    assert result.frame["image_id"].to_list() == ["item 0"]
    assert result.rejected["item_id"].to_list() == ["item 1"]
    assert "zero or not finite" in result.rejected["reason"][0]


def test_no_items_give_an_empty_frame_of_the_encoders_dimension(tmp_path: Path) -> None:
    result = embed([], FakeEncoder(), "image")
    assert IMAGE_EMBEDDINGS.check(result.frame).height == 0
    assert result.frame.schema["embedding"].shape == (4,)
    assert result.rejected.height == 0


def test_out_of_memory_halves_the_batch_and_loses_no_item(tmp_path: Path) -> None:
    items = write_items(tmp_path, numbered(20))
    encoder = FakeEncoder(room_for=3)
    result = embed(items, encoder, "image", batch_size=16)
    assert encoder.batches == [1, *[2] * 9, 1]
    assert result.frame.equals(embed(items, FakeEncoder(), "image").frame)


def test_an_item_that_does_not_fit_alone_is_named(tmp_path: Path) -> None:
    items = write_items(tmp_path, numbered(2))
    with pytest.raises(EncoderOutOfMemoryError, match=r"not even one item fits.*item 0 .*0000\.txt"):
        embed(items, FakeEncoder(room_for=0), "image", batch_size=4)


def test_progress_counts_to_the_end_failures_included(tmp_path: Path) -> None:
    items = write_items(tmp_path, [*numbered(6), "bad"])
    seen: list[Progress] = []
    embed(items, FakeEncoder(), "image", batch_size=3, on_progress=seen.append)
    assert [progress.done for progress in seen] == [1, 3, 6, 7]
    assert {progress.total for progress in seen} == {7}
    assert all(progress.per_second > 0 for progress in seen)
    assert seen[-1].seconds_left == 0
    assert seen[0].seconds_left == pytest.approx(6 / seen[0].per_second)


def test_workers_give_the_same_frame_as_no_workers(tmp_path: Path) -> None:
    items = write_items(tmp_path, [*numbered(40), "bad"])
    alone = embed(items, FakeEncoder(), "image", workers=0, batch_size=8)
    encoder = FakeEncoder(wait_for=tmp_path / WORKER_MARK)
    helped = embed(items, encoder, "image", workers=2, batch_size=8)
    assert helped.frame.equals(alone.frame)
    assert helped.rejected.equals(alone.rejected)


@pytest.mark.parametrize(
    ("text", "ending"), [("die", "was killed by SIGKILL"), ("exit", "ended with exit status 3")]
)
def test_a_worker_that_dies_gives_an_error_that_says_how_and_on_what(
    tmp_path: Path, text: str, ending: str
) -> None:
    items = write_items(tmp_path, [*numbered(40), text])
    with pytest.raises(
        WorkerDiedError, match=rf"{ending} while it prepared item 40 .*0040\.txt.*workers = 0"
    ):
        embed(items, FakeEncoder(wait_for=tmp_path / WORKER_MARK), "image", workers=2, batch_size=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_not_the_files_fault_stops_the_run_and_names_the_item(
    tmp_path: Path, workers: int
) -> None:
    items = write_items(tmp_path, [*numbered(40), "crash"])
    encoder = FakeEncoder(wait_for=tmp_path / WORKER_MARK if workers else None)
    with pytest.raises(PreparationCrashError, match=r"item 40 .*RuntimeError: a bug, not a bad file"):
        embed(items, encoder, "image", workers=workers, batch_size=4)


def test_a_worker_that_cannot_start_gives_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    encoder = FakeEncoder()
    with pytest.raises(WorkerDiedError, match=r"ended with exit status 1 while it started.*workers = 0"):
        embed(write_items(tmp_path, numbered(5000)), encoder, "image", workers=1, batch_size=1)


def children() -> set[str]:
    """The worker processes that this process has, whichever thread started them."""
    lists = Path("/proc/self/task").glob("*/children")
    of_all_threads = {child for of_thread in lists for child in of_thread.read_text().split()}
    return {
        child for child in of_all_threads if b"import serve" in Path(f"/proc/{child}/cmdline").read_bytes()
    }


def with_a_kept_worker(folder: Path) -> tuple[list[MediaItem], FakeEncoder]:
    """Items that one worker has helped to embed, and the encoder that waits for a worker."""
    items = write_items(folder, numbered(40))
    encoder = FakeEncoder(wait_for=folder / WORKER_MARK)
    embed(items, encoder, "image", workers=1, batch_size=4)
    return items, encoder


def test_workers_that_are_done_serve_the_next_run_and_no_more_are_kept(tmp_path: Path) -> None:
    items, encoder = with_a_kept_worker(tmp_path)
    first = children()
    (tmp_path / WORKER_MARK).unlink()  # or this process might do it all before the worker answers
    embed(items, encoder, "image", workers=1, batch_size=4)
    assert len(first) == 1
    assert children() == first


def test_a_worker_that_was_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    items, encoder = with_a_kept_worker(tmp_path)
    for child in children():
        os.kill(int(child), signal.SIGKILL)
    assert embed(items, encoder, "image", workers=1, batch_size=4).frame.height == 40


def test_a_worker_that_dies_as_the_next_run_takes_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, encoder = with_a_kept_worker(tmp_path)
    before = children()
    for child in before:
        os.kill(int(child), signal.SIGKILL)
    (tmp_path / WORKER_MARK).unlink()  # or this process might do it all before the worker is missed
    monkeypatch.setattr("emid_assets.encoders.preparation._Worker.lives", lambda worker: True)
    assert embed(items, encoder, "image", workers=1, batch_size=4).frame.height == 40
    assert len(children() - before) == 1


def test_a_worker_of_another_environment_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, encoder = with_a_kept_worker(tmp_path)
    before = children()
    monkeypatch.setenv("A_NEW_VARIABLE", "1")
    embed(items, encoder, "image", workers=1, batch_size=4)
    assert not children() & before


def test_a_run_that_is_given_up_leaves_no_busy_worker_behind(tmp_path: Path) -> None:
    def give_up(_: Progress) -> None:
        raise KeyboardInterrupt

    items = write_items(tmp_path, [*numbered(39), "hang"])
    hanging = tmp_path / HANGING_MARK
    items.insert(1, items.pop())
    with pytest.raises(KeyboardInterrupt):
        embed(items, FakeEncoder(wait_for=hanging), "image", workers=2, batch_size=4, on_progress=give_up)
    assert hanging.read_text() not in children()


def test_unit_rows_agrees_with_float64(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32) * np.float32(1e-20)
    units, norms, usable = unit_rows(raw)
    expected = np.sqrt((raw.astype(np.float64) ** 2).sum(1))
    assert usable.all()
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    np.testing.assert_allclose(units * norms[:, None], raw, rtol=3e-7)
    np.testing.assert_allclose(np.linalg.norm(units.astype(np.float64), axis=1), 1, atol=1e-6)


def test_a_killed_run_goes_on_from_what_its_journal_holds(tmp_path: Path) -> None:
    media, journal = tmp_path / "media", tmp_path / "journal"
    media.mkdir()
    items = write_items(media, numbered(1000))
    program = tmp_path / "run_until_killed.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            from pathlib import Path
            from emid_assets_tests.encoders.fake_encoder import FakeEncoder, numbered, write_items
            from emid_assets.encoders.embed import Earlier, embed

            def kill_late(progress):
                if progress.done >= 900:
                    os.kill(os.getpid(), signal.SIGKILL)

            items = write_items(Path(sys.argv[1]), numbered(1000))
            earlier = Earlier(journal=Path(sys.argv[2]))
            embed(items, FakeEncoder(), "image", earlier, workers=1, on_progress=kill_late)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, program, media, journal], env=environment, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    encoder = FakeEncoder()
    result = embed(items, encoder, "image", workers=0, earlier=Earlier(journal=journal))
    assert 900 - CHUNK_ITEMS <= result.reused < 900
    assert sum(encoder.batches) == result.encoded == 1000 - result.reused
    assert result.frame.equals(embed(items, FakeEncoder(), "image", workers=0).frame)

    again = embed(items, FakeEncoder(), "image", Earlier(journal=journal))
    assert again.encoded == 0  # a run that ended before the lake stored it loses nothing
    stored = embed(items, FakeEncoder(), "image", Earlier(again.frame, "fake-1", journal=journal))
    assert (stored.encoded, list(journal.iterdir())) == (0, [])  # what the lake has is not kept twice
