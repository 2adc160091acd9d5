"""The two kinds of media, and the names of their files."""

from typing import Literal

MediaKind = Literal["music", "image"]

READER_VERSION = "2"
"""Changes when a file may be read differently than before: facts and embeddings are then made again."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".aac")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jxl",
)  # fmt: skip
