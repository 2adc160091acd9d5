"""The tables of the acceptance run, and the media folder that it lays out; the run is `make acceptance`."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from emid_assets.affect.emotions import find_image_emotion, find_music_emotion
from emid_assets.media.inventory import take_inventory
from emid_assets_tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "acceptance"))

import real_media


def test_every_title_and_folder_has_a_label_that_the_pipeline_knows_and_stands_once() -> None:
    titles, folders = real_media.read_rows(real_media.TITLES), real_media.read_rows(real_media.FOLDERS)
    assert len({(row["package"], row["file"]) for row in titles}) == len(titles) == 171
    assert {find_music_emotion(row["genre"]).letter for row in titles} == set("ABCDEFGHIJKLM")
    assert len({(row["package"], row["files"]) for row in folders}) == len(folders)
    assert len({find_image_emotion(row["tag"]).key for row in folders}) == 8
    assert len(real_media.packages()) == 9


def test_the_media_folder_has_a_source_clip_in_every_long_track_and_no_file_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "unpacked"
    music = unpacked / "songs" / "usr" / "share" / "music"
    music.mkdir(parents=True)
    for name, seconds in (("long.wav", 60), ("short.wav", 5)):
        soundfile.write(music / name, np.sin(np.arange(seconds * 8000) / 10), 8000)
    (music / "broken.ogg").write_bytes(b"no sound")
    for place in ("one", "two"):
        picture = unpacked / "stamps" / "usr" / "share" / "stamps" / "images" / place / "same name.png"
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (20, 20), "red" if place == "one" else "blue").save(picture)
    titles, folders = tmp_path / "titles.csv", tmp_path / "folders.csv"
    rows = [["songs", f"usr/share/music/{name}", "K"] for name in ("long.wav", "short.wav", "broken.ogg")]
    for table, content in (
        (titles, [["package", "file", "genre"], *rows]),
        (folders, [["package", "files", "tag"], ["stamps", "usr/share/stamps/images/**/*.png", "awe"]]),
    ):
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(content)
    monkeypatch.setattr(real_media, "TITLES", titles)
    monkeypatch.setattr(real_media, "FOLDERS", folders)
    real_media.lay_out(unpacked, tmp_path / "media")
    inventory = take_inventory(tmp_path / "media", workers=0)
    found = {row["file"]: row for row in inventory.rows(named=True)}
    assert len(found) == 5
    assert (found["music/songs/long.wav"]["start_s"], found["music/songs/long.wav"]["duration_s"]) == (20, 10)
    assert found["music/songs/short.wav"]["duration_s"] == 5
    assert "unreadable" in found["music/songs/broken.ogg"]["reason"]
    assert inventory.filter(kind="image")["reason"].null_count() == 2
