"""The two kinds of media."""

from typing import Literal

MediaKind = Literal["music", "image"]
