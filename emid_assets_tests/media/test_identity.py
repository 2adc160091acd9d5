"""A file that is no longer the one that the inventory listed, before and while it is read."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emid_assets.media.identity import CHANGED, unchanged
from emid_assets.media.limits import MediaError
from emid_assets.store.files import sha256_of

OLD, NEW = b"the content of the inventory", b"a new content of this length"
HASH = hashlib.sha256(OLD).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(OLD)
    return path


@pytest.mark.parametrize("content_hash", [HASH, f"{HASH}#t=0.0+5.0"])
def test_the_file_of_the_inventory_can_be_read_and_another_cannot(path: Path, content_hash: str) -> None:
    with unchanged(path, content_hash):
        assert path.read_bytes() == OLD
    stamp = path.stat().st_mtime_ns
    path.write_bytes(NEW)
    os.utime(path, ns=(stamp, stamp))  # nothing but the bytes tells that it is another
    assert sha256_of(path) != HASH
    with pytest.raises(MediaError, match="changed since the inventory"), unchanged(path, content_hash):
        raise AssertionError("it was read")


def written_to(path: Path) -> None:
    path.write_bytes(NEW)


def replaced_with_the_same_time(path: Path) -> None:
    stamp = path.stat().st_mtime_ns
    other = path.with_name("other")
    other.write_bytes(NEW)
    os.utime(other, ns=(stamp, stamp))
    other.replace(path)


def put_back(path: Path) -> None:
    path.unlink()
    path.write_bytes(OLD)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [written_to, replaced_with_the_same_time, put_back, Path.unlink])
@pytest.mark.parametrize("error", [None, ValueError("half a file"), OSError("half a file")])
def test_a_change_during_the_reading_is_the_reason_whatever_the_reader_says(
    path: Path, change: Callable[[Path], None], error: Exception | None
) -> None:
    def read() -> None:
        with unchanged(path, HASH):
            change(path)
            if error is not None:
                raise error

    with pytest.raises(MediaError) as rejected:
        read()
    assert rejected.value.reason == CHANGED


def test_the_readers_own_error_is_kept_where_nothing_changed(path: Path) -> None:
    with pytest.raises(KeyError, match="a bug"), unchanged(path, HASH):
        raise KeyError("a bug")


def test_a_file_that_is_gone_is_told_so(path: Path) -> None:
    path.unlink()
    with pytest.raises(MediaError, match="cannot be read: No such file"), unchanged(path, HASH):
        raise AssertionError("it was read")


@pytest.mark.parametrize("content_hash", ["", "a name", HASH[:-1], HASH + "0"])
def test_what_is_no_hash_of_an_inventory_is_not_checked(path: Path, content_hash: str) -> None:
    with unchanged(path, content_hash):
        path.write_bytes(NEW)
