"""A captioner with a model of the package `transformers`, such as BLIP or GIT.

Belongs here: loading and running the model. It works with any model that `AutoModelForImageTextToText`
loads and that describes an image without a prompt or chat.
"""

import hashlib
import importlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from emid_assets.captions.interface import CaptionerUnavailableError
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.encoders.torch_device import choose_device

INSTALL_COMMAND = "pip install 'emid-assets[captions]'"
MAX_TOKENS = 40


class TransformersCaptioner:
    """See `emid_assets.captions.interface.Captioner`. Images go through the model one at a time.

    Decoding is greedy, so that the same model and image give the same text.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        """Find the model; the first `caption` reads its weights.

        Raises:
            CaptionerUnavailableError: `transformers`, the model or the device is missing.
        """
        if importlib.util.find_spec("transformers") is None:
            raise CaptionerUnavailableError(f"captions need the package transformers: {INSTALL_COMMAND}")
        _transformers().logging.disable_progress_bar()
        folder = Path(model).expanduser()
        self._model_name = str(folder.resolve()) if folder.is_dir() else model
        try:
            self._device = choose_device(device)
        except EncoderUnavailableError as error:
            raise CaptionerUnavailableError(str(error)) from error
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        folder = Path(self._model_name)
        if folder.is_dir():
            digest = hashlib.sha256()
            for file in sorted(path for path in folder.iterdir() if path.is_file()):
                digest.update(file.name.encode() + b"\0")
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
            return f"{folder.name}@{digest.hexdigest()[:12]}"
        try:
            config = _transformers().AutoConfig.from_pretrained(self._model_name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CaptionerUnavailableError(
                f"caption_model = {self._model_name!r} is not a folder and cannot be loaded from the Hub: "
                f"{reason}"
            ) from error
        return f"{self._model_name}@{str(config._commit_hash or 'unknown')[:12]}"

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """Model, image processor and tokenizer."""
        package, name = _transformers(), self._model_name
        try:
            model = package.AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
            # Pillow's resampling, with or without torchvision, so that pixels and text are the same.
            processor = package.AutoImageProcessor.from_pretrained(name, backend="pil")
            tokenizer = package.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CaptionerUnavailableError(
                f"caption_model = {self._model_name!r} cannot be loaded as a captioning model: {reason}"
            ) from error
        return model.to(self._device).eval(), processor, tokenizer

    @torch.inference_mode()
    def caption(self, image: Image.Image) -> str:
        """The model's text for an RGB image, on one line."""
        model, processor, tokenizer = self._parts
        pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        tokens = model.generate(pixel_values=pixels, max_new_tokens=MAX_TOKENS, num_beams=1, do_sample=False)
        words: str = tokenizer.decode(tokens[0], skip_special_tokens=True)
        return " ".join(words.split())


def _transformers() -> Any:
    """The package, which is large, optional and untyped."""
    return importlib.import_module("transformers")
