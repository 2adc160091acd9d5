"""What a sound file really holds: lengths that no header tells, or that it tells wrongly, against FFmpeg."""

import struct
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from emid_assets.encoders.bundled.preprocessing import music_input
from emid_assets.encoders.imagebind.preprocessing import audio_input, prepare_music
from emid_assets.encoders.interface import MediaItem
from emid_assets.media.audio import (
    Recording,
    audio_length,
    opened_for_seeking,
    probe_audio,
    read_audio,
    read_header,
)
from emid_assets.media.limits import MediaError
from emid_assets_tests.media.ffmpeg import Samples, decode_audio, difference

RATE = 44_100
ID3V2 = b"ID3\4\0\0\0\0\x08\0" + bytes(1024)
ID3V1 = b"TAG" + b"Title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIIIQ", 2000, 20_000, 1, 0, 0) + bytes(20_000)


def music(seconds: float, channels: int = 2, rate: int = RATE, seed: int = 0, quiet_s: float = 0) -> Samples:
    """A rising tone in noise, (samples, channels); its first seconds may be nearly silent."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 30 * t) * t) + 0.05 * random.standard_normal(t.size)
    tone[: round(quiet_s * rate)] *= 0.001
    return np.stack([tone * 0.9**channel for channel in range(channels)], axis=1).astype(np.float32)


def mp3(
    samples: Samples, path: Path, *, rate: int = RATE, mode: str = "VARIABLE", level: float = 0.4
) -> bytes:
    soundfile.write(
        path,
        samples,
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode=mode,
        compression_level=level,
    )
    return path.read_bytes()


def without_header(content: bytes) -> bytes:
    """An mp3 without its first frame where that is an Info header: as programs write that stream."""
    has_header = b"Xing" in content[:200] or b"Info" in content[:200]
    return content[content.index(content[:2], 4) :] if has_header else content


def ours_and_theirs(path: Path) -> tuple[float, float, float]:
    """Our length, FFmpeg's in seconds, and the difference of the samples."""
    facts = probe_audio(path)
    samples, rate = read_audio(path)
    expected, expected_rate = decode_audio(path)
    assert rate == facts.sample_rate == expected_rate
    assert facts.channels == len(samples) == len(expected)
    assert facts.duration_s == samples.shape[1] / rate
    assert audio_length(path) == pytest.approx(facts.duration_s, abs=0.05)
    whole, _ = Recording(path).window(0, None)
    assert np.array_equal(whole, samples)
    return facts.duration_s, expected.shape[1] / rate, difference(samples, expected)


def assert_read_like_ffmpeg(path: Path, seconds: float, tolerance: float = 0.05) -> None:
    ours, theirs, differs = ours_and_theirs(path)
    assert ours == pytest.approx(theirs, abs=0.05)
    assert ours == pytest.approx(seconds, abs=tolerance)
    assert differs < 1e-4


def reason(path: Path) -> str:
    with pytest.raises(MediaError) as raised:
        probe_audio(path)
    with pytest.raises(MediaError):
        read_audio(path)
    return raised.value.reason


@pytest.mark.parametrize("rate", [22_050, 44_100])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_without_a_header_is_as_long_as_its_frames(tmp_path: Path, mode: str, rate: int) -> None:
    content = mp3(music(8, quiet_s=3, rate=rate), tmp_path / "whole.mp3", mode=mode, rate=rate)
    path = tmp_path / "stream.mp3"
    path.write_bytes(without_header(content))
    assert_read_like_ffmpeg(path, 8, 0.1)


def test_mp3s_joined_are_as_long_as_both(tmp_path: Path) -> None:
    first = mp3(music(2, seed=1), tmp_path / "a.mp3")
    second = mp3(music(4, seed=2), tmp_path / "b.mp3")
    path = tmp_path / "joined.mp3"
    for between in (b"", ID3V1, ID3V2, APE, b"\0" * 3000):
        path.write_bytes(first + between + second)
        ours, theirs, _ = ours_and_theirs(path)
        assert ours == pytest.approx(6, abs=0.15)
        assert ours == pytest.approx(theirs, abs=0.05)


def test_streams_of_two_bitrates_joined_are_as_long_as_both(tmp_path: Path) -> None:
    slow = mp3(music(2, seed=1), tmp_path / "a.mp3", mode="CONSTANT", level=0.9)
    fast = mp3(music(6, seed=2), tmp_path / "b.mp3", mode="CONSTANT", level=0)
    path = tmp_path / "joined.mp3"
    path.write_bytes(without_header(slow) + without_header(fast))
    assert_read_like_ffmpeg(path, 8, 0.15)


def test_mp3s_of_two_rates_joined_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    path.write_bytes(
        mp3(music(4), tmp_path / "a.mp3") + mp3(music(4, rate=22_050), tmp_path / "b.mp3", rate=22_050)
    )
    assert reason(path).startswith("audio holds several streams one after the other")


@pytest.mark.parametrize("before", [b"", ID3V2])
@pytest.mark.parametrize("behind", [ID3V1, APE, b"lyrics" * 900])
@pytest.mark.parametrize("header", [True, False])
def test_tags_are_no_sound_and_write_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], before: bytes, behind: bytes, header: bool
) -> None:
    content = mp3(music(2), tmp_path / "whole.mp3")
    path = tmp_path / "tagged.mp3"
    path.write_bytes(before + (content if header else without_header(content)) + behind)
    assert_read_like_ffmpeg(path, 2, 0.1)
    assert capfd.readouterr() == ("", "")
    if header:
        expected, _ = read_audio(tmp_path / "whole.mp3")
        assert np.array_equal(read_audio(path)[0], expected)


def test_an_mp3_that_starts_in_the_middle_of_a_frame_is_read_from_the_next(tmp_path: Path) -> None:
    content = without_header(mp3(music(6), tmp_path / "whole.mp3"))
    path = tmp_path / "recorded.mp3"
    for cut in (100, 5000, len(content) // 3):
        path.write_bytes(content[cut:])
        ours, theirs, _ = ours_and_theirs(path)
        assert ours == pytest.approx(theirs, abs=0.06)


def test_an_mp3_cut_in_the_middle_of_a_frame_is_as_long_as_what_is_there_or_truncated(tmp_path: Path) -> None:
    content = mp3(music(6), tmp_path / "whole.mp3")
    path = tmp_path / "cut.mp3"
    path.write_bytes(without_header(content)[:-200])
    assert_read_like_ffmpeg(path, 6, 0.1)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert reason(path).startswith("audio is truncated: 3.97 of 6.")


@pytest.mark.parametrize(("suffix", "rate"), [("opus", 48_000), ("ogg", 44_100)])
def test_chained_ogg_is_rejected_as_several_streams(tmp_path: Path, suffix: str, rate: int) -> None:
    subtype = {"opus": "OPUS", "ogg": "VORBIS"}[suffix]
    path = tmp_path / f"chained.{suffix}"
    content = b""
    for seed, seconds in enumerate((2, 3)):
        part = tmp_path / f"{seed}.{suffix}"
        soundfile.write(part, music(seconds, rate=rate, seed=seed), rate, format="OGG", subtype=subtype)
        assert_read_like_ffmpeg(part, seconds)
        content += part.read_bytes()
    path.write_bytes(content)
    assert reason(path).startswith("audio holds several streams one after the other")


def flac(path: Path, samples: Samples, subtype: str = "PCM_16") -> bytearray:
    soundfile.write(path, samples, RATE, format="FLAC", subtype=subtype)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("seconds", [1.5, 5])
@pytest.mark.parametrize("channels", [1, 6])
def test_a_flac_out_of_a_pipe_is_as_long_as_its_frames(tmp_path: Path, seconds: float, channels: int) -> None:
    path = tmp_path / "piped.flac"
    content = flac(path, music(seconds, channels))
    whole, _ = read_audio(path)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert_read_like_ffmpeg(path, seconds, 1e-9)
    assert np.array_equal(read_audio(path)[0], whole)


def test_joined_or_wrongly_counted_flac_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    content = flac(path, music(4))
    path.write_bytes(content + content)
    assert reason(path).startswith("audio holds several streams one after the other")
    content[25] = 0
    content[24] = 0
    path.write_bytes(content)
    assert reason(path).startswith("audio is damaged: its header states")


def wav_parts(path: Path, **options: str) -> tuple[bytearray, int]:
    soundfile.write(path, music(2), RATE, **options)
    content = bytearray(path.read_bytes())
    return content, content.find(b"data") + 4


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF - 36, 0x7FFFF024, 0xFFFFFFFF, 0xFFFFFFDB])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_out_of_a_pipe_is_whole(tmp_path: Path, size: int, subtype: str) -> None:
    path = tmp_path / "piped.wav"
    content, at = wav_parts(path, subtype=subtype)
    content[4:8] = content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert_read_like_ffmpeg(path, 2, 0.01)


@pytest.mark.parametrize("behind", [ID3V1, ID3V2, b"\0", b"LIST\xff\0\0\0INFO"])
@pytest.mark.parametrize("form", ["WAV", "AIFF"])
def test_bytes_behind_the_samples_are_no_sound(tmp_path: Path, form: str, behind: bytes) -> None:
    path = tmp_path / "tagged"
    soundfile.write(path, music(6), RATE, format=form, subtype="PCM_16")
    whole, _ = read_audio(path)
    path.write_bytes(path.read_bytes() + behind)
    assert probe_audio(path).duration_s == 6
    assert np.array_equal(read_audio(path)[0], whole)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_aiff_out_of_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "piped.aiff"
    soundfile.write(path, music(6), RATE, subtype="PCM_16")
    whole, _ = read_audio(path)
    content = bytearray(path.read_bytes())
    sound, common = content.find(b"SSND") + 4, content.find(b"COMM") + 10
    content[4:8] = content[sound : sound + 4] = struct.pack(">I", size)
    content[common : common + 4] = struct.pack(">I", size)
    path.write_bytes(content)
    assert probe_audio(path).duration_s == 6
    assert np.array_equal(read_audio(path)[0], whole)


@pytest.mark.parametrize("form", ["WAV", "AIFF", "RF64"])
def test_missing_samples_are_truncation_whatever_the_container(tmp_path: Path, form: str) -> None:
    path = tmp_path / "cut"
    soundfile.write(path, music(6), RATE, format=form, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-50_000])
    assert reason(path) == "audio is truncated: the file ends before its end mark or its stated length"


def test_every_reader_agrees_on_a_file_behind_another_header(tmp_path: Path) -> None:
    content = mp3(music(14, quiet_s=2), tmp_path / "whole.mp3")
    path = tmp_path / "stream.mp3"
    path.write_bytes(without_header(content))
    with opened_for_seeking(path) as file:
        assert file is None
    item = MediaItem("clip", path, "hash")
    assert np.array_equal(prepare_music(item), audio_input(*read_audio(path)))
    window, rate = read_audio(path, 9.0, 4.0)
    assert window.shape == (2, 4 * rate)
    whole, _ = read_audio(path)
    assert np.array_equal(window, whole[:, 9 * rate : 13 * rate])


def test_an_mp3_within_a_wav_is_as_long_as_its_frames(tmp_path: Path) -> None:
    frames = mp3(music(3, 1), tmp_path / "whole.mp3", mode="CONSTANT")
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 16_000, 1, 0, 12, 1, 2, 417, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(frames))
    path = tmp_path / "wrapped.wav"
    for stream in (frames, without_header(frames)):
        content = chunks[:-4] + struct.pack("<I", len(stream)) + stream
        path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
        ours, theirs, differs = ours_and_theirs(path)
        assert ours == pytest.approx(3, abs=0.1)
        assert ours == pytest.approx(
            theirs, abs=0.06
        )  # FFmpeg leaves the filled ends of the encoder in a WAV
        assert differs < 1e-4


def test_a_cover_of_megabytes_and_eight_channels_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp3"
    path.write_bytes(b"ID3\4\0\0\x01\x40\0\0" + bytes(192 << 14) + mp3(music(2), tmp_path / "whole.mp3"))
    assert_read_like_ffmpeg(path, 2, 0.1)
    path = tmp_path / "eight.wav"
    soundfile.write(path, music(2, 8, 96_000), 96_000, subtype="PCM_24")
    assert_read_like_ffmpeg(path, 2, 1e-9)
    path = tmp_path / "eight.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48_000, layout="7.1")
        samples = np.ascontiguousarray(music(2, 8, 48_000).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="7.1")
        frame.sample_rate, frame.pts = 48_000, 0
        to_planes = av.AudioResampler(format="fltp")
        for part in to_planes.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    assert_read_like_ffmpeg(path, 2, 0.05)


@pytest.mark.parametrize("codec", ["aac", "alac"])
@pytest.mark.parametrize("flags", ["", "faststart", "frag_keyframe+empty_moov"])
def test_m4a_of_every_form_is_as_long_as_its_samples(tmp_path: Path, codec: str, flags: str) -> None:
    path = tmp_path / "clip.m4a"
    samples = music(3)
    with av.open(str(path), "w", format="mp4", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        for start in range(0, len(samples), 4096):
            block = np.ascontiguousarray(samples[start : start + 4096].T)
            form = "fltp" if codec == "aac" else "s16p"
            if codec == "alac":
                block = (block * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format=form, layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name in ("clip.m4a", "clip.mp3", "clip.wav"):
        named = path.rename(tmp_path / name)
        assert_read_like_ffmpeg(named, 3, 0.05)
        named.rename(path)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_U8"), ("RF64", "PCM_16"), ("WAVEX", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"), ("WAV", "ULAW"), ("WAV", "ALAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"),
        ("AIFF", "PCM_S8"), ("AIFF", "PCM_24"), ("AIFF", "FLOAT"), ("AIFF", "ULAW"), ("FLAC", "PCM_24"),
    ],
)  # fmt: skip
def test_samples_of_every_sort_are_those_that_ffmpeg_gives(tmp_path: Path, form: str, subtype: str) -> None:
    path = tmp_path / "clip"
    soundfile.write(path, music(2), RATE, format=form, subtype=subtype)
    ours, theirs, differs = ours_and_theirs(path)
    assert ours == pytest.approx(theirs, abs=0.05)
    assert ours == pytest.approx(2, abs=0.05)
    # Each decoder of ADPCM rounds in its own way.
    assert differs < (1e-2 if "ADPCM" in subtype else 1e-6)


def with_ffmpeg(path: Path, form: str, codec: str, samples: Samples) -> None:
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        to_codec = av.AudioResampler(format=stream.format, layout="stereo", rate=RATE, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        for part in [*to_codec.resample(frame), *to_codec.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "aiff", "adts"])
def test_a_file_is_read_by_its_contents_whatever_it_is_called(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clip.{form}"
    if form == "adts":
        with_ffmpeg(path, "adts", "aac", music(2))
    else:
        soundfile.write(path, music(2), RATE)
    expected = probe_audio(path)
    assert expected.duration_s == pytest.approx(2, abs=0.1)
    samples, _ = read_audio(path)
    for suffix in ("wav", "mp3", "m4a", "opus"):
        named = path.rename(tmp_path / f"other.{suffix}")
        assert probe_audio(named) == expected
        assert np.array_equal(read_audio(named)[0], samples)
        named.rename(path)


def test_flac_that_cannot_be_read_is_rejected_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "clip.ogg"
    with_ffmpeg(path, "ogg", "flac", music(2))
    assert reason(path) == "audio is FLAC in Ogg, which cannot be read: save it as .flac"
    path.write_bytes(ID3V2 + bytes(flac(path, music(2))))
    assert reason(path) == "audio is FLAC behind an ID3 tag, which cannot be read: remove the tag"


# --------------------------------------------------------------------------------- what is heard


def wav(path: Path, *channels: Samples, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype=subtype)
    return path


def test_channels_that_cancel_each_other_are_rejected(tmp_path: Path) -> None:
    left = music(6, 1)[:, 0]
    for factor in (-1, -0.999, -0.99):
        path = wav(tmp_path / "phase.wav", left, factor * left)
        assert "its channels cancel each other" in reason_of_probe(path)
    probe_audio(wav(tmp_path / "wide.wav", left, -0.9 * left))
    probe_audio(wav(tmp_path / "other.wav", left, music(6, 1, seed=3)[:, 0]))


def reason_of_probe(path: Path) -> str:
    with pytest.raises(MediaError) as raised:
        probe_audio(path)
    return raised.value.reason


@pytest.mark.parametrize("silent", [0, 1])
def test_of_a_silent_and_a_sounding_channel_every_encoder_hears_what_sounds(
    tmp_path: Path, silent: int
) -> None:
    sound = music(14, 1)[:, 0]
    channels = [sound, sound]
    channels[silent] = 0 * sound + 0.25  # a constant is as silent as zeros
    path = wav(tmp_path / "half.wav", *channels)
    samples, rate = read_audio(path)
    assert probe_audio(path).channels == len(samples) == 2
    assert probe_audio(path).silent_channels == 1
    alone, _ = read_audio(wav(tmp_path / "mono.wav", sound))
    assert np.array_equal(music_input(samples, rate), music_input(alone, rate))
    spectrograms = audio_input(samples, rate)
    assert spectrograms.std(axis=(2, 3)).min() > 0.1
    assert np.array_equal(prepare_music(MediaItem("clip", path, "hash")), spectrograms)


def by_encoder(path: Path) -> None:
    prepare_music(MediaItem("clip", path, "hash"))


def test_a_decoder_writes_nothing_to_the_terminal_about_a_damaged_mp3(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.mp3"
    content = mp3(music(3, 1), path)
    said = ""
    for seed in range(12):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in random.integers(2000, len(damaged), 60):
            damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        with suppress(soundfile.LibsndfileError):
            soundfile.read(path)
        said += capfd.readouterr().err
        for read in (probe_audio, read_audio, Recording, audio_length, read_header, by_encoder):
            with suppress(MediaError):
                read(path)
        assert capfd.readouterr() == ("", "")
    assert "mpg123" in said  # it does write without us, and again after us


def test_samples_far_above_full_scale_are_rejected(tmp_path: Path) -> None:
    sound = music(6, 1)[:, 0]
    reason = reason_of_probe(wav(tmp_path / "scale.wav", 32_768 * sound))
    assert reason.startswith("audio has samples up to 1.") or "e+04 of full scale" in reason
    probe_audio(wav(tmp_path / "loud.wav", 4 * sound))


def test_a_constant_is_silence(tmp_path: Path) -> None:
    path = wav(tmp_path / "constant.wav", np.full(3 * RATE, 0.25, np.float32))
    assert reason_of_probe(path) == "audio is silent: its samples are constant"
