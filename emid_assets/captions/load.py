"""Loads the captioner named in the setting `caption_model`."""

from hashlib import sha256
from pathlib import Path

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


def captioner_identity(model: str) -> str:
    """Differs where the files of a model's folder have other sizes or times; found without reading them.

    Empty for a model of the Hub, whose name is all that is known without a request.
    """
    folder = Path(model)
    if not model or not folder.is_dir():
        return ""
    facts = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return sha256(repr([(name, one.st_size, one.st_mtime_ns) for name, one in facts]).encode()).hexdigest()
