"""What a captioner is: the interface that the media stage works with.

Belongs here: the protocol and its error. No network and no torch: what defines assets imports this module.
"""

from typing import Protocol

from PIL import Image


class CaptionerUnavailableError(RuntimeError):
    """A captioner cannot be loaded: the package, the model or the device is missing or wrong."""


class Captioner(Protocol):
    """Says in a sentence what an image shows.

    A caption depends on the image and the captioner alone: the same captioner gives the same words.
    """

    @property
    def fingerprint(self) -> str:
        """Name and version of the model: stands beside every caption that it wrote."""

    def caption(self, image: Image.Image) -> str:
        """The caption of an RGB image, one line; empty where the model has nothing to say."""
