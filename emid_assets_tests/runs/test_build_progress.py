"""What `emid status` says while another process builds."""

from pathlib import Path

import pytest

from emid_assets.runs.build_progress import BuildProgress, build_under_way
from emid_assets.store.files import held_alone
from emid_assets.store.layout import BUILD_LOCK


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (BuildProgress("", 0, 0, 100.0), "preparing"),
        (BuildProgress("align", 0, 13, 100.0), "align, 0 of 13 partitions"),
        (BuildProgress("align", 4, 13, 100.0), "align, 4 of 13 partitions, about 45 s left in this stage"),
    ],
)
def test_stage_partitions_and_the_time_left(progress: BuildProgress, words: str) -> None:
    assert progress.in_words(120.0) == words


def test_only_a_build_that_holds_the_lock_is_under_way(tmp_path: Path) -> None:
    assert build_under_way(tmp_path) == ""
    with held_alone(tmp_path / BUILD_LOCK, RuntimeError("held")):
        assert build_under_way(tmp_path) == "preparing"
        BuildProgress("embed_music", 0, 13, 0.0).write(tmp_path)
        assert build_under_way(tmp_path) == "embed_music, 0 of 13 partitions"
    assert build_under_way(tmp_path) == ""


def test_the_file_of_a_killed_build_says_nothing(tmp_path: Path) -> None:
    BuildProgress("align", 3, 13, 0.0).write(tmp_path)
    (tmp_path / BUILD_LOCK).touch()
    assert build_under_way(tmp_path) == ""
