"""The limits of a media file, and the errors of reading media."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MediaLimits:
    """Limits that keep useless files out of the data set and hostile files from filling the memory.

    Attributes:
        min_duration_s: shortest music clip, seconds.
        max_duration_s: longest audio file, seconds: a small file can decode to days of silence.
        max_channels: maximum number of channels of an audio file.
        silence_peak: a clip is silent if no channel swings by more than this (full scale is 1). The default,
            -80 dB, allows for the noise that lossy codecs add to digital silence.
        loudest_peak: a clip with a sample above this is not scaled to ±1. The default, 24 dB above full
            scale, is far above what floating-point masters and lossy decoders reach.
        min_side: minimum width and height of an image, pixels.
        max_pixels: maximum number of pixels of an image; the default is Pillow's decompression bomb limit.
    """

    min_duration_s: float = 1.0
    max_duration_s: float = 3600.0
    max_channels: int = 8
    silence_peak: float = 1e-4
    loudest_peak: float = 16.0
    min_side: int = 8
    max_pixels: int = 89_478_485


class MediaError(ValueError):
    """A media file cannot be used; `reason` is one line in English that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MissingExtraError(MediaError):
    """A media file needs an optional package that is not installed; `reason` says how to install it."""


class MediaFolderError(ValueError):
    """A media folder is not laid out as one; the message says what is missing."""


class TableError(ValueError):
    """A media table cannot be read; the message names the file, the row and what to do."""
