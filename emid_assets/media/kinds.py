"""The two kinds of media, and the names of their files."""

from typing import Literal

MediaKind = Literal["music", "image"]

PYAV_SUFFIXES = (".m4a",)
"""Of files that only PyAV reads (the extra `m4a`)."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", *PYAV_SUFFIXES)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
