"""Looking at a media folder: what counts as a change, and when it has come to rest."""

import os
from pathlib import Path

import pytest

from emid_assets.media.folder_changes import Watch, in_words, judge, look_at
from emid_assets.media.limits import MediaFolderError


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "music" / "sad").mkdir(parents=True)
    (tmp_path / "music" / "sad" / "one.ogg").write_bytes(b"one")
    (tmp_path / "images" / "awe").mkdir(parents=True)
    return tmp_path


def verdicts(media: Path, *steps: tuple[float, object]) -> list[str]:
    """The verdict at each time, after what is done to the folder before it."""
    watch, found = None, []
    for now, change in steps:
        if callable(change):
            change()
        watch, verdict = judge(watch, look_at(media).digest, now, 25)
        found.append(verdict)
    return found


def test_new_changed_and_removed_files_and_tables_each_change_the_digest(media: Path) -> None:
    seen = [look_at(media).digest]
    (media / "images" / "awe" / "new.jpg").write_bytes(b"new")
    seen.append(look_at(media).digest)
    (media / "images" / "awe" / "new.jpg").write_bytes(b"changed")
    seen.append(look_at(media).digest)
    os.utime(media / "images" / "awe" / "new.jpg", ns=(1, 1))
    seen.append(look_at(media).digest)
    (media / "music.csv").write_text("file\nsad/one.ogg\n")
    seen.append(look_at(media).digest)
    (media / "music" / "sad" / "one.ogg").rename(media / "music" / "sad" / "two.ogg")
    seen.append(look_at(media).digest)
    assert len(set(seen)) == len(seen)
    (media / "music" / "sad" / "two.ogg").rename(media / "music" / "sad" / "one.ogg")
    assert look_at(media).digest == seen[-2]


def test_hidden_files_as_rsync_writes_them_change_nothing(media: Path) -> None:
    before = look_at(media).digest
    (media / "music" / "sad" / ".two.ogg.Xy7Zq1").write_bytes(b"half")
    assert look_at(media).digest == before


def test_a_folder_is_asked_for_once_it_has_been_the_same_for_two_looks(media: Path) -> None:
    assert verdicts(media, (0, None), (30, None), (60, None)) == ["settling", "changed", "as before"]


def test_two_looks_in_quick_succession_are_not_enough(media: Path) -> None:
    assert verdicts(media, (0, None), (1, None), (24, None), (25, None)) == ["settling"] * 3 + ["changed"]


def test_a_copy_under_way_waits_until_it_is_whole(media: Path) -> None:
    half = media / "music" / "sad" / "two.ogg"

    def grow() -> None:
        with half.open("ab") as file:
            file.write(b"more")

    steps = [(0, None), (30, None), (60, grow), (90, grow), (120, grow), (150, None), (180, None)]
    assert verdicts(media, *steps) == [
        "settling", "changed", "settling", "settling", "settling", "changed", "as before",
    ]  # fmt: skip


def test_a_folder_that_goes_back_to_what_it_was_before_it_settled_asks_for_nothing(media: Path) -> None:
    new = media / "music" / "sad" / "new.ogg"
    steps = [(0, None), (30, None), (60, lambda: new.write_bytes(b"new")), (90, new.unlink)]
    assert verdicts(media, *steps)[2:] == ["settling", "as before"]


def test_a_clock_that_is_set_back_only_starts_the_wait_anew(media: Path) -> None:
    assert verdicts(media, (1000, None), (10, None), (40, None)) == ["settling", "settling", "changed"]


@pytest.mark.parametrize("table", ["music.csv", "images.csv", "pairs.csv", "import.csv"])
def test_a_change_of_a_table_is_a_change_of_the_folder(media: Path, table: str) -> None:
    before = look_at(media).digest
    (media / table).write_text("file\n")
    assert look_at(media).digest != before


def test_what_is_remembered_survives_as_text_and_nonsense_is_forgotten() -> None:
    watch = Watch("abc", 12.5, "xyz")
    assert Watch.from_text(watch.to_text()) == watch
    for nonsense in (None, "", "{", '{"digest": 1}', "[1]"):
        assert Watch.from_text(nonsense) is None


def test_a_folder_that_is_gone_is_an_error_and_not_an_empty_look(tmp_path: Path) -> None:
    with pytest.raises(MediaFolderError):
        look_at(tmp_path / "gone")
    with pytest.raises(MediaFolderError):
        look_at(tmp_path)  # an empty mount point


def test_the_difference_is_told_in_words(media: Path) -> None:
    look = look_at(media)
    size, modified = look.files["music/sad/one.ogg"]
    assert in_words(look, []) == "1 new, 0 changed, 0 removed"
    assert in_words(look, [("music/sad/one.ogg", size, modified)]) == "0 new, 0 changed, 0 removed"
    known = [("music/sad/one.ogg", size, 1), ("images/awe/old.jpg", 1, 1)]
    assert in_words(look, known) == "0 new, 1 changed, 1 removed"
