from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from emid_assets.encoders.bundled.preprocessing import (
    SOUND_RATE,
    WINDOW_SAMPLES,
    image_input,
    prepare_image,
    prepare_music,
    sound_input,
)
from emid_assets.encoders.interface import MediaItem, PreparationError


def tone(seconds: float, rate: int = SOUND_RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def test_an_image_of_one_colour_becomes_that_colour_around_127() -> None:
    x = image_input(Image.new("RGB", (640, 300), (255, 127, 0)))
    assert x.shape == (3, 224, 224)
    assert x.dtype == np.float32
    assert np.unique(x[0]).tolist() == [1.0]
    assert np.unique(x[1]).tolist() == [0.0]
    assert np.unique(x[2]).tolist() == [-0.9921875]


def test_the_image_is_cropped_to_seven_eighths_of_its_short_side_around_the_middle() -> None:
    pixels = np.zeros((256, 400, 3), np.uint8)
    pixels[16:240, 88:312] = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    expected = (pixels[16:240, 88:312].astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(image_input(Image.fromarray(pixels)), expected.transpose(2, 0, 1))


def test_a_short_clip_is_repeated_until_it_fills_a_window() -> None:
    clip = tone(8)
    x = sound_input(clip)
    assert x.shape == (1, WINDOW_SAMPLES)
    np.testing.assert_array_equal(x[0, : clip.size], clip * 256)
    np.testing.assert_array_equal(x[0, clip.size : 2 * clip.size], clip * 256)


@pytest.mark.parametrize(("seconds", "windows"), [(20, 1), (20.1, 2), (30, 2), (60, 3), (600, 8)])
def test_a_long_clip_is_covered_from_its_start_to_its_end(seconds: float, windows: int) -> None:
    clip = np.linspace(0.1, 1, round(seconds * SOUND_RATE), dtype=np.float32)
    x = sound_input(clip)
    assert x.shape == (windows, WINDOW_SAMPLES)
    assert x[0, 0] == clip[0] * 256
    assert x[-1, -1] == clip[-1] * 256


def test_windows_of_silence_are_left_out_and_silence_throughout_is_refused() -> None:
    clip = np.concatenate([np.zeros(3 * WINDOW_SAMPLES, np.float32), tone(20)])
    assert sound_input(clip).shape == (1, WINDOW_SAMPLES)
    with pytest.raises(PreparationError, match="silent"):
        sound_input(np.full(1000, 1e-5, np.float32))


@pytest.mark.parametrize(
    ("samples", "reason"), [([], "empty"), ([0.1, np.nan], "finite"), ([np.inf], "finite")]
)
def test_audio_without_usable_samples_is_refused(samples: list[float], reason: str) -> None:
    with pytest.raises(PreparationError, match=reason):
        sound_input(np.array(samples, np.float32))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 6), (22_050, 1)])
def test_a_clip_of_any_rate_and_channels_is_the_mean_of_its_channels(
    tmp_path: Path, rate: int, channels: int
) -> None:
    path = tmp_path / "clip.wav"
    clip = tone(3, rate)
    soundfile.write(
        path, np.stack([clip * (c + 1) / channels for c in range(channels)], 1), rate, subtype="FLOAT"
    )
    x = prepare_music(MediaItem("a", path, "a", start_s=1.0, duration_s=1.0))
    gain = (channels + 1) / (2 * channels)
    inner = slice(1000, SOUND_RATE - 1000)  # a resampling filter rings at the ends
    np.testing.assert_allclose(x[0, inner] / 256, gain * tone(2)[SOUND_RATE:][inner], atol=2e-3)


def test_an_image_file_is_read_upright_and_on_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(path)
    np.testing.assert_array_equal(
        prepare_image(MediaItem("a", path, "a")), image_input(Image.new("RGB", (300, 300), "white"))
    )
