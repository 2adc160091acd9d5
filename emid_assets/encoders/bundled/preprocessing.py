"""Makes the input of the bundled networks from a file.

Belongs here: pure functions of a file's pixels and samples, without torch because worker processes
import this module. The networks are in `encoder.py`.
"""

import math

import numpy as np
from PIL import Image

from emid_assets.encoders.interface import Float32Array, MediaItem, PreparationError
from emid_assets.media.audio import read_audio, resample
from emid_assets.media.hearing import SILENCE, sounding, swing
from emid_assets.media.image import read_rgb

PREPROCESSING_VERSION = "1"

IMAGE_SIDE = 224
CROP = 0.875
SOUND_RATE = 22_050
WINDOW_S = 20
WINDOW_SAMPLES = WINDOW_S * SOUND_RATE
MAX_WINDOWS = 8


def prepare_image(item: MediaItem) -> Float32Array:
    """Read an image file: float32 (3, 224, 224), see `image_input`."""
    return image_input(read_rgb(item.path))


def prepare_music(item: MediaItem) -> Float32Array:
    """Read a music clip: float32 (windows, 441000), see `sound_input`."""
    return music_input(*read_audio(item.path, item.start_s, item.duration_s))


def music_input(samples: Float32Array, rate: int) -> Float32Array:
    """`sound_input` of a clip's samples (channels, n) at `rate` Hz: the mean of what sounds, resampled."""
    mono = sounding(samples).mean(axis=0, dtype=np.float32)
    return sound_input(resample(mono[None], rate, SOUND_RATE)[0])


def image_input(image: Image.Image) -> Float32Array:
    """EfficientNet-lite's input: the centre of the image, (x - 127) / 128, channels first.

    The central 87.5 % of the short side is resized with Pillow's bicubic filter to 224 × 224
    (Tan and Le 2019, arXiv 1905.11946, evaluation crop).

    Args:
        image: RGB, any size.

    Returns:
        float32 (3, 224, 224), about -1 to 1.
    """
    width, height = image.size
    side = CROP * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    pixels = image.resize(
        (IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    channels_last = (np.asarray(pixels, dtype=np.float32) - np.float32(127)) / np.float32(128)
    return np.ascontiguousarray(channels_last.transpose(2, 0, 1))


def sound_input(samples: Float32Array) -> Float32Array:
    """SoundNet's input: windows of 20 s at 22,050 Hz, scaled by 256 (Aytar et al. 2016, arXiv 1610.09001).

    A shorter clip is repeated until it fills a window. A longer one is covered by
    ceil(duration / 20 s), at most 8, evenly spaced windows: a **choice** that bounds memory and gives
    every window the same shape. Windows of digital silence are dropped, since the network's
    predictions for them are confident and meaningless.

    Args:
        samples: float32 (n,), mono, 22,050 Hz, -1 to 1.

    Returns:
        float32 (windows, 441000), at least one window.

    Raises:
        PreparationError: no sample, a sample that is not a number, or silence throughout.
    """
    if samples.size == 0:
        raise PreparationError("empty audio")
    if not np.isfinite(samples).all():
        raise PreparationError("audio has samples that are not finite numbers")
    if samples.size < WINDOW_SAMPLES:
        windows = np.resize(samples, (1, WINDOW_SAMPLES))
    else:
        count = min(math.ceil(samples.size / WINDOW_SAMPLES), MAX_WINDOWS)
        starts = np.linspace(0, samples.size - WINDOW_SAMPLES, count).round().astype(int)
        windows = np.stack([samples[start : start + WINDOW_SAMPLES] for start in starts])
    audible = windows[swing(windows) > SILENCE]
    if not audible.size:
        raise PreparationError(f"silent audio: no sample above {SILENCE:g} of full scale")
    return np.ascontiguousarray(audible * np.float32(256))
