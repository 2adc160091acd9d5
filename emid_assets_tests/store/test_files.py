"""Files that are replaced in one step."""

import os
import stat
import threading
from pathlib import Path

import pytest

from emid_assets.store import files
from emid_assets.store.files import write_in_place


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for content, expected in (("α\n", "α\n".encode()), (b"\r\n\x00", b"\r\n\x00"), ("", b"")):
        write_in_place(path, content)
        assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_else_may_write_to_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_in_place(tmp_path / "page.html", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o644


def test_the_file_and_its_folder_are_on_the_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    sync = files.sync

    def noted(path: Path) -> None:
        synced.append((path.name, (tmp_path / "page.html").exists()))
        sync(path)

    monkeypatch.setattr(files, "sync", noted)
    write_in_place(tmp_path / "page.html", "text")
    (first, was_there), (second, is_there) = synced
    assert first.startswith("page.html.")
    assert (was_there, second, is_there) == (False, tmp_path.name, True)


def test_a_failed_write_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    write_in_place(path, "before")

    def full(_: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        write_in_place(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_the_same_time_each_write_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    contents = [character * 100_000 for character in "abcd"]
    torn: list[str] = []

    def write(content: str) -> None:
        for _ in range(10):
            write_in_place(path, content)
            if (found := path.read_text()) not in contents:
                torn.append(found[:10])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
    assert list(tmp_path.iterdir()) == [path]
