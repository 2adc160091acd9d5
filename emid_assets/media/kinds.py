"""The two kinds of media, and the names of their files."""

from typing import Literal

MediaKind = Literal["music", "image"]

READER_VERSION = "3"
"""Changes when a file may be read differently than before: facts and embeddings are then made again."""

OPTIONAL_READERS = ("av", "pillow_heif", "pillow_jxl")
"""Packages of the extras m4a, heic and jxl: with one more, more files can be used."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".aac")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jxl",
)  # fmt: skip
