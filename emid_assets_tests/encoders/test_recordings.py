"""One decoding of a recording for all clips of it: the same bits, in one process, in order."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emid_assets.encoders import recordings
from emid_assets.encoders.bundled import preprocessing as bundled_preprocessing
from emid_assets.encoders.imagebind import preprocessing as imagebind_preprocessing
from emid_assets.encoders.interface import MediaItem, Prepared
from emid_assets.encoders.preparation import prepare_all
from emid_assets.encoders.recordings import ItemReader, by_recording, shared_recordings
from emid_assets.media.audio import Recording, read_audio
from emid_assets.media.identity import CHANGED
from emid_assets.media.limits import MediaError
from emid_assets.store.files import sha256_of

FORMATS = ("wav", "flac", "ogg", "mp3")


def write_tones(path: Path, seconds: float = 14.0, rate: int = 32_000) -> Path:
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(size=t.size)
    left = 0.4 * np.sin(2 * np.pi * 220 * t * (1 + 0.01 * t)) + 0.01 * noise
    soundfile.write(path, np.stack([left, 0.5 * left[::-1]], axis=1), rate)
    return path


def windows(path: Path, count: int = 4) -> list[MediaItem]:
    return [
        MediaItem(f"{path.name} {n}", path, f"{path.name} {n}", 2.5 * n, 5.0, path.name) for n in range(count)
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_window_of_a_decoded_recording_has_the_samples_that_reading_it_alone_gives(
    tmp_path: Path, suffix: str
) -> None:
    path = write_tones(tmp_path / f"tones.{suffix}")
    recording = Recording(path)
    for start_s, duration_s in ((0.0, 5.0), (2.5, 5.0), (7.3, 2.0), (9.0, None)):
        samples, rate = recording.window(start_s, duration_s)
        alone, rate_alone = read_audio(path, start_s, duration_s)
        assert rate == rate_alone == 32_000
        assert samples.tobytes() == alone.tobytes()


def test_a_window_behind_the_end_is_an_error_that_says_how_long_the_file_is(tmp_path: Path) -> None:
    recording = Recording(write_tones(tmp_path / "tones.wav"))
    with pytest.raises(MediaError, match=r"from 12 s to 17 s does not lie in the file, which is 14 s long"):
        recording.window(12.0, 5.0)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("prepare", "music_input"),
    [
        (bundled_preprocessing.prepare_music, bundled_preprocessing.music_input),
        (imagebind_preprocessing.prepare_music, imagebind_preprocessing.audio_input),
    ],
    ids=["bundled", "imagebind"],
)
def test_clips_of_one_recording_are_prepared_as_each_by_itself_and_decoded_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    prepare: Callable[[MediaItem], Prepared],
    music_input: Callable[[np.ndarray, int], Prepared],
) -> None:
    decoded = []

    class Counted(Recording):
        def __init__(self, path: Path) -> None:
            decoded.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(recordings, "Recording", Counted)
    first, second = (windows(write_tones(tmp_path / f"{name}.{suffix}")) for name in ("first", "second"))
    items = [*first, *second]
    reader = ItemReader(prepare, music_input, shared_recordings(items))
    for item in items:
        assert reader(item).tobytes() == prepare(item).tobytes(), item.item_id
    assert decoded == [f"first.{suffix}", f"second.{suffix}"]


def test_a_recording_that_cannot_be_read_gives_each_of_its_clips_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "bad.ogg"
    path.write_bytes(b"OggS no more")
    items = windows(path)
    reader = ItemReader(
        bundled_preprocessing.prepare_music, bundled_preprocessing.music_input, shared_recordings(items)
    )
    found = [result for _, result in prepare_all(reader, items, workers=0, ahead=1)]
    assert len(found) == 4
    assert all(isinstance(reason, str) and "audio" in reason for reason in found)


def test_a_recording_that_is_replaced_while_it_is_decoded_gives_no_clip_even_if_it_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tones(tmp_path / "tones.wav")
    kept, content_hash = path.read_bytes(), sha256_of(path)
    items = [replace(item, content_hash=f"{content_hash}#{item.item_id}") for item in windows(path)]

    class Replaced(Recording):
        def __init__(self, path: Path) -> None:
            write_tones(path, seconds=20.0)
            super().__init__(path)
            path.write_bytes(kept)

    monkeypatch.setattr(recordings, "Recording", Replaced)
    reader = ItemReader(
        bundled_preprocessing.prepare_music, bundled_preprocessing.music_input, shared_recordings(items)
    )
    found = [result for _, result in prepare_all(reader, items, workers=0, ahead=1)]
    assert found == [CHANGED] * len(items)


def test_items_of_one_file_come_together_and_files_keep_their_order(tmp_path: Path) -> None:
    files = ["b", "a", "b", "c", "a"]
    items = [MediaItem(f"{file}{place}", tmp_path / file, str(place)) for place, file in enumerate(files)]
    assert [item.item_id for item in by_recording(items)] == ["b0", "b2", "a1", "a4", "c3"]
    assert shared_recordings(items) == {tmp_path / "a", tmp_path / "b"}


def process_number(item: MediaItem) -> Prepared:
    return np.array([os.getpid(), float(item.start_s)], dtype=np.float32)


@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_workers_give_every_clip_in_order_and_leave_a_recording_to_one_of_them(
    tmp_path: Path, ahead: int
) -> None:
    lengths = (1, 40, 3, 1, 60, 25, 1, 1)
    items = [
        MediaItem(f"{file}-{n}", tmp_path / str(file), f"{file}-{n}", float(n))
        for file, length in enumerate(lengths)
        for n in range(length)
    ]
    results = list(prepare_all(process_number, items, workers=3, ahead=ahead))
    assert [item for item, _ in results] == items
    by_file: dict[Path, set[float]] = {}
    for item, result in results:
        assert not isinstance(result, str)
        assert result[1] == item.start_s
        by_file.setdefault(item.path, set()).add(float(result[0]))
    assert all(len(processes) == 1 for processes in by_file.values())
