import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emid_assets.encoders.imagebind import preprocessing
from emid_assets.encoders.imagebind.images import prepare_image, resize_and_crop
from emid_assets.encoders.imagebind.preprocessing import (
    FRAMES,
    RATE,
    audio_input,
    normalise_pixels,
    prepare_music,
    sub_clip_bounds,
    sub_clip_times,
)
from emid_assets.encoders.interface import MediaItem, PreparationError
from emid_assets.media.audio import read_audio
from emid_assets.media.limits import MediaError


def signal(rate: int, seconds: float, channels: int) -> np.ndarray:
    """The published golden signal: a decaying, wavering chord, each channel quieter than the last."""
    t = np.arange(int(rate * seconds)) / rate
    y = np.exp(-0.3 * t) * sum(
        0.2 / k * np.sin(2 * np.pi * 220 * k * t * (1 + 0.01 * np.sin(3 * t))) for k in range(1, 8)
    )
    one = np.round(np.clip(y, -1, 1) * 32767).astype(np.int16) / np.float32(32768)
    return np.stack([one / np.float32(1 + c) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize("key", ["44100_5.0_1", "48000_3.5_2", "16000_8.0_1", "22050_1.3_1"])
def test_spectrograms_are_the_official_codes(shared_data: Path, key: str) -> None:
    golden = json.loads((shared_data / "imagebind" / "golden_audio.json").read_text())[key]
    rate, seconds, channels = key.split("_")
    samples = signal(int(rate), float(seconds), int(channels))
    x = audio_input(samples, int(rate))
    assert sub_clip_bounds(math.ceil(samples.shape[1] * RATE / int(rate))) == [
        tuple(b) for b in golden["bounds"]
    ]
    assert list(x.shape) == golden["shape"]
    assert x.dtype == np.float32
    # Not by their hash: the last bits of a Fourier transform are the processor's.
    np.testing.assert_allclose(x[:, 0, ::16, :193:24].reshape(-1, 9), golden["sub"], atol=1e-4)
    np.testing.assert_allclose([x.mean(), x.std()], [golden["mean"], golden["std"]], atol=1e-4)


def test_spectrograms_do_not_depend_on_the_number_of_threads_bit_for_bit() -> None:
    before, made = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.add(audio_input(signal(44_100, 5.0, 1), 44_100).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(made) == 1


@given(st.integers(RATE * 2, RATE * 4000))
@settings(max_examples=300, deadline=None)
def test_sub_clips_are_spread_from_the_clips_start_to_its_end(samples: int) -> None:
    bounds = sub_clip_bounds(samples)
    assert bounds[0][0] == 0
    assert samples - 1 <= bounds[-1][1] <= samples
    for index, (start, end) in enumerate(bounds):
        assert abs(start - index * (samples - 2 * RATE) / 2) <= 1
        assert end - start in (2 * RATE, 2 * RATE - 1)


@given(st.integers(1, RATE * 2))
def test_a_clip_shorter_than_a_sub_clip_is_taken_whole_three_times(samples: int) -> None:
    assert sub_clip_bounds(samples) == [(0, samples)] * 3


@given(st.floats(2, 1e4), st.integers(1, 5), st.integers(2, 10))
def test_positions_are_those_of_the_pinned_sampler_and_not_pypis(d: float, length: int, n: int) -> None:
    starts = [float(start) for start, _ in sub_clip_times(d, length, n)]
    expected = [i * max(d - length, 0) / (n - 1) for i in range(n)]
    np.testing.assert_allclose(starts, expected, rtol=1e-12)


def test_a_spectrogram_is_kaldis_filter_bank_in_float64() -> None:
    samples = signal(16_000, 2.0, 1)
    x = samples[0].astype(np.float64) - samples[0].astype(np.float64).mean()
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    bins = mel(np.arange(257) * 16_000 / 512)
    bank = np.array([np.interp(bins, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(128)])
    window = np.hanning(400)
    rows = []
    for start in range(0, len(x) - 399, 160):
        frame = x[start : start + 400] - x[start : start + 400].mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        rows.append(np.log(np.maximum(bank @ power, 1.1920929e-07)))
    expected = np.zeros((128, 204))
    expected[:, : len(rows)] = np.array(rows).T
    got = audio_input(samples, 16_000)[0, 0].astype(np.float64)
    # Bands of next to no energy carry float32's rounding; they weigh little.
    np.testing.assert_allclose(got, (expected + 4.268) / 9.138, atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_hears_the_same_tone(rate: int) -> None:
    t = np.arange(3 * rate) / rate
    tone = (0.3 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)[None]
    loudest = audio_input(tone, rate)[1, 0, :, 50:150].mean(1).argmax()
    bank = preprocessing._mel_bank()
    assert loudest == int(bank[:, 32].argmax())  # bin 32 of 512 at 16 kHz is 1,000 Hz


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_first_channel_is_heard_after_the_mean_of_all_is_taken_away(channels: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, (channels, 6 * RATE)).astype(np.float32)
    samples[1:] = 0.25
    x = audio_input(samples, RATE)
    assert x.shape == (3, 1, 128, FRAMES)
    # A constant is removed from every frame anyway: the first channel alone decides.
    np.testing.assert_allclose(x, audio_input(samples[:1], RATE), atol=2e-3)


def test_silence_gives_the_floor_and_zeros_after_the_end() -> None:
    x = audio_input(np.zeros((1, RATE), np.float32), RATE)
    frames = 1 + (RATE - 400) // 160
    np.testing.assert_allclose(x[..., :frames], (math.log(1.1920929e-07) + 4.268) / 9.138, rtol=1e-6)
    np.testing.assert_allclose(x[..., frames:], 4.268 / 9.138, rtol=1e-6)


@pytest.mark.parametrize(("samples", "accepted"), [(400, True), (399, False), (1, False), (0, False)])
def test_less_than_one_frame_of_25_ms_is_refused(samples: int, accepted: bool) -> None:
    audio = np.full((1, samples), 0.1, np.float32)
    if accepted:
        assert np.isfinite(audio_input(audio, RATE)).all()
    else:
        with pytest.raises(PreparationError, match="too short"):
            audio_input(audio, RATE)


def test_audio_that_is_not_finite_is_refused() -> None:
    with pytest.raises(PreparationError, match="finite"):
        audio_input(np.full((1, RATE), np.nan, np.float32), RATE)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_reading_only_the_sub_clips_gives_the_bits_of_reading_it_all(
    tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    path = tmp_path / f"clip.{suffix}"
    noise = np.random.default_rng(rate).normal(0, 0.1, (channels, 25 * rate)).astype(np.float32)
    soundfile.write(path, noise.T, rate)
    for start, duration in [(0.0, None), (3.2101, 13.0), (11.7, None)]:
        item = MediaItem("a", path, "a", start, duration)
        whole = audio_input(*read_audio(path, start, duration))
        assert prepare_music(item).tobytes() == whole.tobytes()


def test_reading_only_the_sub_clips_reads_a_quarter_of_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, signal(44_100, 30.0, 1).T, 44_100)
    counts: list[int] = []
    read = preprocessing._read
    monkeypatch.setattr(preprocessing, "_read", lambda f, a, b: (counts.append(b - a), read(f, a, b))[1])
    prepare_music(MediaItem("a", path, "a"))
    assert len(counts) == 3
    assert sum(counts) < 0.21 * 30 * 44_100


@pytest.mark.parametrize(("start", "duration"), [(40.0, None), (0.0, 99.0)])
def test_a_window_outside_the_file_is_refused(tmp_path: Path, start: float, duration: float | None) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, signal(16_000, 30.0, 1).T, 16_000)
    with pytest.raises(MediaError, match="does not lie in the file"):
        prepare_music(MediaItem("a", path, "a", start, duration))


def test_a_text_file_that_claims_to_be_audio_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp3"
    path.write_text("hello " * 1000)
    with pytest.raises(MediaError):
        prepare_music(MediaItem("a", path, "a"))


@pytest.mark.parametrize(
    "size", [(224, 224), (225, 224), (640, 480), (333, 1001), (31, 57), (1, 1), (3000, 7)]
)
def test_an_image_is_resized_and_cropped_as_torchvision_does(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(size))
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    pixels = resize_and_crop(image)
    width, height = size
    # torchvision 0.14, transforms.functional: Resize's arithmetic, then CenterCrop's.
    new = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    left, top = round((new[0] - 224) / 2.0), round((new[1] - 224) / 2.0)
    expected = np.asarray(image.resize(new, Image.BICUBIC))[top : top + 224, left : left + 224]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)


def test_normalised_pixels_are_clips_in_float64_and_every_value_is_covered() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 3).T.reshape(3, 16, 16).copy()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    spread = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    got = normalise_pixels(torch.from_numpy(pixels))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), (pixels / 255 - mean) / spread, atol=5e-7)


def test_an_image_file_is_read_as_eight_bit_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    image.save(path)
    np.testing.assert_array_equal(prepare_image(MediaItem("a", path, "a")), resize_and_crop(image))
