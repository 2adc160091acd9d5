"""What is kept in memory of files that were read: never anything but what is on the disk."""

import os
from pathlib import Path

from emid_assets.store.recently_read import RecentlyRead


def test_the_least_recently_used_contents_go_first(tmp_path: Path) -> None:
    recent = RecentlyRead[str](most_bytes=100)
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.write_text(path.name)
        recent.keep(path, path.name, 40)
        recent.get(paths[0])
    assert [recent.get(path) for path in paths] == ["0", None, "2"]
    recent.keep(paths[0], "larger", 101)
    assert [recent.get(path) for path in paths] == [None, None, None]


def test_a_file_that_is_replaced_written_to_or_gone_is_read_again(tmp_path: Path) -> None:
    recent = RecentlyRead[str](most_bytes=100)
    path = tmp_path / "version"
    path.write_text("one")
    recent.keep(path, "one", 10)
    assert recent.get(path) == "one"
    (tmp_path / "other").write_text("two")
    os.utime(tmp_path / "other", ns=(0, path.stat().st_mtime_ns))
    (tmp_path / "other").replace(path)
    assert recent.get(path) is None
    recent.keep(path, "two", 10)
    path.write_text("more")
    assert recent.get(path) is None
    recent.keep(path, "more", 10)
    path.unlink()
    assert recent.get(path) is None
