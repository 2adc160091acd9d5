"""Makes the input of the tagging networks from a music clip.

Belongs here: pure functions of a clip's samples, without torch because worker processes import this
module. The networks are in `musicnn.py`.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from emid_assets.encoders.interface import Float32Array, MediaItem, PreparationError
from emid_assets.media.audio import read_audio, resample
from emid_assets.media.hearing import SILENCE, sounding, swing

PREPROCESSING_VERSION = "1"

RATE = 16_000
FFT = 512
HOP = 256
BANDS = 96
FRAMES = 187
PATCH_SAMPLES = (FRAMES - 1) * HOP
MAX_PATCHES = 20


def prepare_tagging(item: MediaItem) -> Float32Array:
    """Read a music clip: float32 (patches, 187, 96), see `tagging_input`."""
    return music_input(*read_audio(item.path, item.start_s, item.duration_s))


def music_input(samples: Float32Array, rate: int) -> Float32Array:
    """What `prepare_tagging` returns for a clip of these samples (channels, n) at `rate` Hz."""
    mono = sounding(samples).mean(axis=0, dtype=np.float32)
    return tagging_input(resample(mono[None], rate, RATE)[0])


def tagging_input(samples: Float32Array) -> Float32Array:
    """Input of musicnn: log-mel patches of 3 s (Pons and Serra 2019, arXiv 1909.06654).

    Power spectra of 512 samples every 256 (periodic Hann window, centred frames, reflected ends),
    96 Slaney mel bands, log10(10000 mel + 1), cut into patches of 187 frames. A clip shorter than a
    patch is repeated. At most 20 patches, evenly spaced over the clip: a **choice** that bounds the
    work for a long recording. Patches of digital silence are dropped, since the networks' predictions
    for them are confident and meaningless.

    Args:
        samples: float32 (n,), mono, 16 kHz, -1 to 1.

    Returns:
        float32 (patches, 187, 96), at least one patch.

    Raises:
        PreparationError: no sample, a sample that is not a number, or silence throughout.
    """
    if samples.size == 0:
        raise PreparationError("empty audio")
    if not np.isfinite(samples).all():
        raise PreparationError("audio has samples that are not finite numbers")
    if samples.size < PATCH_SAMPLES:
        samples = np.resize(samples, PATCH_SAMPLES)
    bands = log_mel(samples)
    patches = len(bands) // FRAMES
    chosen = np.linspace(0, patches - 1, min(patches, MAX_PATCHES)).round().astype(int)
    audible = [
        patch
        for patch in chosen
        if swing(samples[patch * FRAMES * HOP : (patch + 1) * FRAMES * HOP]) > SILENCE
    ]
    if not audible:
        raise PreparationError(f"silent audio: no sample above {SILENCE:g} of full scale")
    return np.stack([bands[patch * FRAMES : (patch + 1) * FRAMES] for patch in audible])


def log_mel(samples: Float32Array) -> Float32Array:
    """Log-mel bands, float32 (1 + n // 256, 96), of mono samples (n,) at 16 kHz, n above 256."""
    padded = np.pad(samples, FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    return np.log10(10_000 * (power @ mel_bank().T) + 1).astype(np.float32)


@cache
def mel_bank() -> NDArray[np.float64]:
    """Slaney's mel bands (Auditory Toolbox, 1998): (96, 257), triangles of equal area, 0 to 8,000 Hz.

    The scale is linear below 1,000 Hz (200/3 Hz a step) and logarithmic above (27 steps for a factor
    of 6.4).
    """
    step, knee = 200 / 3, 1000 / (200 / 3)
    top = knee + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, BANDS + 2)
    edges = np.where(mels < knee, mels * step, 1000 * np.exp(np.log(6.4) / 27 * (mels - knee)))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.arange(FFT // 2 + 1) * RATE / FFT
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    bank: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return bank
