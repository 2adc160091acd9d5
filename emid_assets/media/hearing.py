"""What an encoder hears of a clip, and whether that is sound at all.

Belongs here: which channels count, and the judgement of samples. An encoder hears the mean of the channels
that sound, or the first of them; a clip is judged on the same.
"""

import numpy as np
import numpy.typing as npt

from emid_assets.media.limits import MediaError, MediaLimits

Samples = npt.NDArray[np.float32]

SILENCE = MediaLimits().silence_peak
"""A channel that swings by no more than this around its middle is silent (full scale is 1)."""

_CANCELLED = 1e-4
"""Share of a channel's power, -40 dB, below which nothing is left of it in the mean of the channels."""


def swing(samples: Samples) -> Samples:
    """Half the distance from the lowest to the highest sample, along the last axis: 0 for a constant."""
    half: Samples = (samples.max(axis=-1) - samples.min(axis=-1)) / np.float32(2)
    return half


def sounding(samples: Samples) -> Samples:
    """The channels (channels, n) that sound, if others are silent; otherwise all of them.

    A recording on one channel of two is heard at its own level, and never as the silence of the other.
    """
    if len(samples) < 2 or samples.shape[1] == 0:
        return samples
    sound = swing(samples) > SILENCE
    return samples[sound] if sound.any() and not sound.all() else samples


class Judge:
    """Judges a clip that arrives in blocks.

    Args:
        channels: of the clip.
        limits: silence, and the loudest samples.
    """

    def __init__(self, channels: int, limits: MediaLimits) -> None:
        self._limits = limits
        self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._sum, self._products = np.zeros(channels), np.zeros((channels, channels))
        self._frames = 0

    def add(self, block: Samples) -> None:
        """Take the next samples (channels, n).

        Raises:
            MediaError: a sample is not finite.
        """
        # min and max propagate NaN.
        self._low = np.minimum(self._low, block.min(axis=1))
        self._high = np.maximum(self._high, block.max(axis=1))
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise MediaError("audio has samples that are not finite (NaN or infinity)")
        self._frames += block.shape[1]
        if len(block) > 1:
            self._sum += block.sum(axis=1, dtype=np.float64)
            self._products += block @ block.T

    def verdict(self) -> int:
        """How many channels are silent while others sound; an error if what an encoder hears is not sound.

        Raises:
            MediaError: they are silent, constant or far above full scale, or the channels cancel each other.
        """
        peak = float(max(self._high.max(), -self._low.min()))
        if peak > self._limits.loudest_peak:
            raise MediaError(
                f"audio has samples up to {peak:.2g} of full scale: scale its floating-point samples to ±1"
            )
        sound = (self._high - self._low) / 2 > self._limits.silence_peak
        if not sound.any():
            if peak > self._limits.silence_peak:
                raise MediaError("audio is silent: its samples are constant")
            raise MediaError(
                f"audio is silent: no sample is above {self._limits.silence_peak:g} of full scale"
            )
        if sound.sum() > 1:
            means = self._sum[sound] / self._frames
            powers = self._products[np.ix_(sound, sound)] / self._frames - np.outer(means, means)
            if powers.mean() < _CANCELLED * powers.diagonal().max():
                raise MediaError("audio cannot be heard: its channels cancel each other in their mean")
        return int((~sound).sum())
