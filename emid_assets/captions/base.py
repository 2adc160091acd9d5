"""What a captioner is: the interface that the media stage works with, and how one is loaded.

Belongs here: the protocol, its error and `load_captioner`. No network and no torch: what defines
assets imports this module.
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


def load_captioner(model: str, device: str = "auto") -> Captioner:
    """A captioner by the setting `caption_model`; its weights are read when the first image comes.

    Args:
        model: a folder with a model that `transformers` saved, or a model's name on the Hugging Face
            Hub, which is downloaded if it is not there.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        CaptionerUnavailableError: says what is missing and which command brings it.
    """
    from emid_assets.captions.transformers_captioner import TransformersCaptioner

    return TransformersCaptioner(model, device)
