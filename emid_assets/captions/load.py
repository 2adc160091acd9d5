"""Loads the captioner named in the setting `caption_model`."""

from emid_assets.captions.interface import Captioner


def load_captioner(model: str, device: str = "auto") -> Captioner:
    """The captioner for a value of `caption_model`; its weights are read for the first image.

    Args:
        model: a folder with a model saved by `transformers`, or a model's name on the Hugging Face
            Hub, which is downloaded if it is not in the cache.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        CaptionerUnavailableError: says what is missing and which command installs it.
    """
    from emid_assets.captions.transformers_captioner import TransformersCaptioner

    return TransformersCaptioner(model, device)
