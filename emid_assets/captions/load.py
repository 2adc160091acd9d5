"""Loading the captioner that the setting `caption_model` names."""

from emid_assets.captions.interface import Captioner


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
