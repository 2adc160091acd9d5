"""What a loss of power would leave: nothing gets its name before its content is on the disk.

Python tells of every rename and of every file that it opens; what a run syncs is noted here.
"""

from pathlib import Path
from typing import Any

import pytest

from emid_assets.search.index_files import searchable
from emid_assets.store.files import put_folder_in_place, write_in_place
from emid_assets.store.lake import Lake
from emid_assets_tests.failures.faults import Noting
from emid_assets_tests.failures.tiny import Pipeline, in_a_child, run_in_this_process

pytestmark = pytest.mark.slow

RUNS = [
    ("inventory", None), ("embed_music", "sad"), ("release", None), ("train_adapter", "bmf"), ("study", None),
    ("evaluate", None), ("health", None),
]  # fmt: skip


def noted(noting: Noting) -> str:
    return noting.notes.read_text() if noting.notes.exists() else ""


def test_whatever_runs_write_is_synced_before_it_gets_its_name_and_nothing_current_is_rewritten(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    noting = Noting(pipeline.root, tmp_path / "notes")
    (pipeline.root / "release" / "EMID_data.csv").unlink()
    assert in_a_child(run_in_this_process, pipeline, RUNS, noting) == ""
    assert noted(noting) == ""


def _write_badly(folder: Path, notes: Path, to: Any) -> None:
    Noting(folder, notes)()
    write_in_place(folder / "good", "1")
    (folder / "half").write_text("2")
    (folder / "half").replace(folder / "bad")
    (folder / "bad").write_text("3")
    to.send("")


def test_the_notes_name_what_is_written_badly(tmp_path: Path) -> None:
    assert in_a_child(_write_badly, tmp_path, tmp_path / "notes") == ""
    first, second = (tmp_path / "notes").read_text().splitlines()
    assert first == f"{tmp_path}/half is called {tmp_path}/bad and not synced"
    assert second == f"{tmp_path}/bad is rewritten in place"


def _search(root: Path, notes: Path, to: Any) -> None:
    Noting(root, notes)()
    searchable(Lake(root), "image", "bmf", "standardize")
    to.send("")


def test_the_search_index_is_synced_before_it_gets_its_name(pipeline: Pipeline, tmp_path: Path) -> None:
    assert in_a_child(_search, pipeline.root, tmp_path / "notes") == ""
    assert list((pipeline.root / "search").iterdir())
    assert noted(Noting(pipeline.root, tmp_path / "notes")) == ""


def test_a_folder_is_in_its_place_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "new" / "below").mkdir(parents=True)
    (tmp_path / "new" / "below" / "file").write_text("1")
    (tmp_path / "new" / "link").symlink_to("nowhere")
    put_folder_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "below" / "file").read_text() == "1"
    assert not (tmp_path / "new").exists()
