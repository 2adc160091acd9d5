"""The captioner interface that the media stage works with.

Belongs here: the protocol and its error. No network and no torch: modules that define assets import this one.
"""

from typing import Protocol

from PIL import Image


class CaptionerUnavailableError(RuntimeError):
    """A captioner cannot be loaded: the package, the model or the device is missing or wrong."""


class Captioner(Protocol):
    """Describes an image in one sentence.

    A caption depends only on the image and the captioner: the same captioner gives the same text.
    """

    @property
    def fingerprint(self) -> str:
        """Name and version of the model, stored with every caption that it wrote."""

    def caption(self, image: Image.Image) -> str:
        """The caption of an RGB image, one line; empty if the model generates no text."""
