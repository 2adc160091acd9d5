"""Reading audio: real files of every format, whole, damaged and hostile."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from emid_assets.media import audio
from emid_assets.media.audio import (
    AudioFacts,
    audio_length,
    probe_audio,
    read_audio,
    read_header,
    resample,
)
from emid_assets.media.limits import MediaError, MediaLimits

RATE = 16_000
FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "aiff")


def tone(seconds: float, channels: int = 1, rate: int = RATE) -> npt.NDArray[np.float32]:
    """A chord, (samples, channels), that is nowhere silent and tells its place in time by pitch."""
    t = np.arange(round(seconds * rate)) / rate
    y = 0.3 * np.sin(2 * np.pi * (220 + 40 * t) * t) + 0.1 * np.sin(2 * np.pi * 1310 * t)
    return np.stack([y / (1 + c) for c in range(channels)], axis=1).astype(np.float32)


def write(path: Path, samples: npt.NDArray[np.float32], rate: int = RATE, **options: str) -> Path:
    if path.suffix == ".opus":
        options = {"format": "OGG", "subtype": "OPUS"}
    soundfile.write(path, samples, rate, **options)
    return path


def reason(path: Path, *arguments: object) -> str:
    with pytest.raises(MediaError) as raised:
        probe_audio(path, *arguments)  # type: ignore[arg-type]
    assert "\n" not in raised.value.reason
    return raised.value.reason


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_as_soundfile_reads_it(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip.{suffix}", tone(3, channels=2))
    assert probe_audio(path) == AudioFacts(3.0, RATE, 2)
    samples, rate = read_audio(path)
    expected, _ = soundfile.read(path, dtype="float32")
    assert rate == RATE
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    # `soundfile.read` seeks before it reads, which moves the last bit of an mp3.
    assert samples == pytest.approx(expected.T, abs=1e-6 if suffix == "mp3" else 0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_window_holds_the_very_samples_of_the_whole_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip.{suffix}", tone(12))
    whole, _ = read_audio(path)
    window, _ = read_audio(path, 7.3, 2.5)
    assert window.shape == (1, round(2.5 * RATE))
    assert window == pytest.approx(
        whole[:, round(7.3 * RATE) : round(9.8 * RATE)], abs=1e-6 if suffix == "mp3" else 0
    )
    assert probe_audio(path, 7.3, 2.5) == AudioFacts(2.5, RATE, 1)
    assert read_audio(path, 10.0)[0].shape == (1, 2 * RATE)


@pytest.mark.parametrize(("start", "duration"), [(11.0, 5.0), (13.0, None), (-1.0, 2.0), (1e300, 1.0)])
def test_a_window_beyond_the_file_is_an_error(tmp_path: Path, start: float, duration: float | None) -> None:
    path = write(tmp_path / "clip.wav", tone(12))
    assert "does not lie in the file, which is 12 s long" in reason(path, start, duration)
    with pytest.raises(MediaError, match="does not lie"):
        read_audio(path, start, duration)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_text_file_is_unreadable_under_every_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"notes.{suffix}"
    path.write_text("This is a text, not music.\n" * 400)
    assert reason(path).startswith("audio is unreadable: its contents are not WAV")
    with pytest.raises(MediaError, match="unreadable"):
        read_audio(path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_truncated_file_is_rejected_in_every_format(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = write(tmp_path / f"whole.{suffix}", tone(12))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * kept)])
    assert "truncated" in reason(cut) or "unreadable" in reason(cut)


def test_an_ogg_that_ends_with_a_whole_page_before_its_end_is_truncated(tmp_path: Path) -> None:
    content = write(tmp_path / "whole.ogg", tone(12)).read_bytes()
    cut = tmp_path / "cut.ogg"
    cut.write_bytes(content[: content.rfind(b"OggS")])
    assert reason(cut).startswith("audio is truncated")


def ogg_checksum(page: bytes) -> int:
    """RFC 3533: CRC-32 of polynomial 04c11db7, no reflection, over the page with its own field zero."""
    remainder = 0
    for byte in page:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ 0x04C11DB7 if remainder & 1 << 31 else remainder << 1) & 0xFFFFFFFF
    return remainder


def test_an_ogg_whose_end_mark_comes_a_little_before_its_last_page_is_whole(tmp_path: Path) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal((6 * 44_100, 2)).astype(np.float32)
    content = bytearray(write(tmp_path / "whole.ogg", noise, 44_100).read_bytes())
    last = content.rfind(b"OggS")
    start = content.rfind(b"OggS", 0, last)
    page = content[start:last]
    assert ogg_checksum(page[:22] + bytes(4) + page[26:]) == int.from_bytes(page[22:26], "little")
    page[5] |= 4
    page[22:26] = bytes(4)
    page[22:26] = ogg_checksum(page).to_bytes(4, "little")
    content[start:last] = page
    marked = tmp_path / "marked twice.ogg"
    marked.write_bytes(content)
    facts = probe_audio(marked)
    assert facts.duration_s == read_audio(marked)[0].shape[1] / facts.sample_rate < 6 - 0.1
    assert audio_length(marked) == read_header(marked).duration_s == facts.duration_s
    with pytest.raises(MediaError, match="does not lie in the file"):
        read_audio(marked, 1.0, 5.0)
    assert facts.duration_s == pytest.approx(6, abs=0.5)


def test_every_sample_clip_is_whole(sample_media: Path) -> None:
    for path in sorted((sample_media / "music").iterdir()):
        facts = probe_audio(path)
        assert facts.duration_s == pytest.approx(8, abs=0.1) or facts.duration_s == 20.5
        assert (facts.sample_rate, facts.channels) == (22_050, 1)


def test_an_empty_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp3"
    path.touch()
    assert reason(path) == "audio file is empty (0 bytes)"


def test_a_file_without_samples_is_too_short(tmp_path: Path) -> None:
    path = write(tmp_path / "none.wav", np.zeros((0, 1), np.float32))
    assert reason(path) == "audio is too short: 0 s, the minimum is 1 s"
    with pytest.raises(MediaError, match="no samples"):
        read_audio(path)


def test_a_short_clip_is_rejected_and_the_limit_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path / "blip.flac", tone(0.4))
    assert reason(path) == "audio is too short: 0.4 s, the minimum is 1 s"
    assert probe_audio(path, limits=MediaLimits(min_duration_s=0.4)).duration_s == 0.4


@pytest.mark.parametrize("suffix", FORMATS)
def test_digital_silence_is_rejected_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"silence.{suffix}", np.zeros((3 * RATE, 1), np.float32))
    assert reason(path).startswith("audio is silent")


def test_a_silent_window_of_a_loud_file_is_silent_and_a_loud_one_is_not(tmp_path: Path) -> None:
    samples = tone(9)
    samples[3 * RATE : 6 * RATE] = 0
    path = write(tmp_path / "gap.wav", samples)
    assert reason(path, 3.0, 3.0).startswith("audio is silent")
    assert probe_audio(path, 5.0, 3.0).duration_s == 3.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_rejected(tmp_path: Path, bad: float) -> None:
    samples = tone(3)
    samples[RATE] = bad
    path = write(tmp_path / "bad.wav", samples, subtype="FLOAT")
    assert "not finite" in reason(path)


def test_a_small_file_that_decodes_to_hours_is_rejected_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(110):
            file.write(np.zeros(60 * 8000, np.float32))
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(soundfile.SoundFile, "read", None)  # a read would be a TypeError
    assert reason(path) == "audio is too long: 6600 s, the maximum is 3600 s"


def test_too_many_channels_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "many.wav", tone(2, channels=9))
    assert reason(path) == "audio has 9 channels, the maximum is 8"


def test_random_damage_gives_samples_or_a_reason(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    reasons: list[str] = []
    for suffix in FORMATS:
        whole = write(tmp_path / f"whole.{suffix}", tone(1.5)).read_bytes()
        path = tmp_path / f"damaged.{suffix}"
        for _ in range(25):
            content = bytearray(whole)
            for place in random.integers(0, min(len(content), 300), 3):
                content[place] = random.integers(0, 256)
            path.write_bytes(content)
            for read in (probe_audio, lambda path: read_audio(path, 0.0, 1.0)):
                try:
                    read(path)
                except MediaError as error:
                    reasons.append(error.reason)
    assert reasons
    assert all(reason and "\n" not in reason for reason in reasons)


def test_resampling_keeps_a_tone_at_its_pitch() -> None:
    t = np.arange(44_100) / 44_100
    samples = np.stack([np.sin(2 * np.pi * 440 * t), np.cos(2 * np.pi * 440 * t)]).astype(np.float32)
    resampled = resample(samples, 44_100, 16_000)
    assert resampled.shape == (2, 16_000)
    assert resampled.dtype == np.float32
    t = np.arange(16_000) / 16_000
    inner = slice(500, -500)
    assert np.abs(resampled[0, inner] - np.sin(2 * np.pi * 440 * t)[inner]).max() < 1e-3
    assert resample(samples, 44_100, 44_100) is samples


@pytest.fixture
def m4a(tmp_path: Path) -> Callable[[npt.NDArray[np.float32]], Path]:
    """Writes samples as AAC in an m4a file."""
    av = pytest.importorskip("av", reason="needs the extra m4a (PyAV)")

    def encode(samples: npt.NDArray[np.float32]) -> Path:
        path = tmp_path / "clip.m4a"
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        return path

    return encode


def test_m4a_is_read_and_cut_where_pyav_is_installed(m4a: Callable[[npt.NDArray[np.float32]], Path]) -> None:
    original = tone(12)
    path = m4a(original)
    facts = probe_audio(path)
    assert facts.duration_s == pytest.approx(12, abs=0.1)
    assert (facts.sample_rate, facts.channels) == (RATE, 1)
    whole, rate = read_audio(path)
    assert rate == RATE
    common = min(whole.shape[1], len(original))
    assert np.corrcoef(whole[0, :common], original[:common, 0])[0, 1] > 0.99
    window, _ = read_audio(path, 7.3, 2.5)
    assert np.array_equal(window, whole[:, round(7.3 * RATE) : round(9.8 * RATE)])


def test_half_an_m4a_is_rejected(m4a: Callable[[npt.NDArray[np.float32]], Path]) -> None:
    path = m4a(tone(12))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "unreadable" in reason(path) or "truncated" in reason(path)


def test_m4a_without_pyav_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setattr(audio, "is_pyav_installed", lambda: False)
    assert "pip install 'emid-assets[m4a]'" in reason(path)
