"""Copies of media that are kept from page to page: what is encoded, and what is deleted."""

import shutil
from pathlib import Path

import pytest

from emid_assets.media.identity import CHANGED
from emid_assets.report import gallery
from emid_assets.report.gallery import Copies, player, thumbnail
from emid_assets.settings import SAMPLE_MEDIA

IMAGES, CLIPS = (
    sorted(path.relative_to(SAMPLE_MEDIA).as_posix() for path in (SAMPLE_MEDIA / kind).glob("*.*g"))
    for kind in ("images", "music")
)
IMAGE, CLIP, OTHER_CLIP = IMAGES[0], CLIPS[0], CLIPS[1]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for file in (IMAGE, CLIP):
        (tmp_path / "media" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SAMPLE_MEDIA / file, tmp_path / "media" / file)
    return tmp_path / "media"


def test_a_later_page_encodes_nothing_again_and_shows_the_same(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [thumbnail(media, IMAGE), player(media, CLIP, 0.5, 2.0), player(media, CLIP, 0.0, 2.0)]
    first = Copies(media, tmp_path / "kept")
    assert [first.thumbnail(IMAGE), first.player(CLIP, 0.5, 2.0), first.player(CLIP, 0.0, 2.0)] == expected
    assert [path.suffix for path in sorted((tmp_path / "kept").iterdir())].count(".mpeg") == 2
    (media / IMAGE).rename(media / "renamed.jpg")
    monkeypatch.setattr(gallery, "read_rgb", None)
    monkeypatch.setattr(gallery, "read_audio", None)
    later = Copies(media, tmp_path / "kept")
    assert [later.thumbnail("renamed.jpg"), later.player(CLIP, 0.5, 2.0)] == expected[:2]
    later.collect_garbage()
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_changed_file_is_encoded_and_a_missing_or_damaged_one_is_said_to_be_so(
    media: Path, tmp_path: Path
) -> None:
    Copies(media, tmp_path / "kept").player(CLIP, 0.0, 2.0)
    shutil.copyfile(SAMPLE_MEDIA / OTHER_CLIP, media / CLIP)
    copies = Copies(media, tmp_path / "kept")
    assert copies.player(CLIP, 0.0, 2.0) == player(media, CLIP, 0.0, 2.0)
    (media / IMAGE).write_bytes(b"no image")
    assert "no image" not in copies.thumbnail(IMAGE).uri
    assert copies.thumbnail(IMAGE).problem.startswith(IMAGE)
    (media / IMAGE).unlink()
    assert copies.thumbnail(IMAGE).problem == f"{IMAGE} is no longer in the media folder"
    copies.collect_garbage()
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_no_copy_is_kept_of_a_file_that_is_replaced_while_it_is_read(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = gallery.read_rgb

    def replaced_and_read(path: Path) -> object:
        shutil.copyfile(SAMPLE_MEDIA / IMAGES[1], path)
        return read(path)

    monkeypatch.setattr(gallery, "read_rgb", replaced_and_read)
    copy = Copies(media, tmp_path / "kept").thumbnail(IMAGE)
    assert (copy.uri, copy.problem) == ("", f"{IMAGE}: {CHANGED}")
    monkeypatch.undo()
    shutil.copyfile(SAMPLE_MEDIA / IMAGE, media / IMAGE)
    assert Copies(media, tmp_path / "kept").thumbnail(IMAGE) == thumbnail(media, IMAGE)
