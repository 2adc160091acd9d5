"""Captions: the table's stay, the captioner's fill the gaps once, and a real model writes them."""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from PIL import Image

from emid_assets.captions.fill import fill_captions
from emid_assets.captions.interface import CaptionerUnavailableError
from emid_assets.captions.load import captioner_identity, load_captioner
from emid_assets.definitions import build_definitions
from emid_assets.store.files import sha256_of
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import IMAGES

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = [*MARKS, "a", "red", "green", "sea", "sky", "of", "the", "cat"]


class Counting:
    """A captioner that tells the size of an image, and counts what it is asked."""

    def __init__(self, fingerprint: str = "counting@1") -> None:
        self.fingerprint = fingerprint
        self.asked = 0

    def caption(self, image: Image.Image) -> str:
        self.asked += 1
        return f"{image.width} by {image.height}"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name, width in (("a.png", 20), ("b.png", 30), ("c.png", 40)):
        Image.new("RGB", (width, 10), "teal").save(tmp_path / name)
    return tmp_path


def manifest(**captions: str | None) -> pl.DataFrame:
    schema = IMAGES.empty().schema
    rows = [
        {"image_id": name, "file": f"{name}.png", "content_hash": f"hash of {name}", "tag": "awe",
         "caption": caption, "caption_source": caption and "table"}
        for name, caption in captions.items()
    ]  # fmt: skip
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema)


def test_the_tables_captions_stay_and_the_gaps_are_filled_and_marked(media: Path) -> None:
    found = fill_captions(manifest(a=None, b="my own words", c=None), media, Counting())
    assert found.images.select("caption", "caption_source").rows() == [
        ("20 by 10", "counting@1"), ("my own words", "table"), ("40 by 10", "counting@1"),
    ]  # fmt: skip
    assert (found.written, found.reused) == (2, 0)


def test_a_second_run_asks_only_for_what_is_new_and_another_captioner_for_all(media: Path) -> None:
    first = fill_captions(manifest(a=None, b="my own words"), media, Counting())
    captioner = Counting()
    second = fill_captions(manifest(a=None, b=None, c=None), media, captioner, first.images)
    assert (second.written, second.reused, captioner.asked) == (2, 1, 2)
    assert second.images["caption"].to_list() == ["20 by 10", "30 by 10", "40 by 10"]
    other = fill_captions(manifest(a=None), media, Counting("counting@2"), first.images)
    assert (other.written, other.reused) == (1, 0)
    assert other.images["caption_source"].to_list() == ["counting@2"]


def test_a_picture_that_is_gone_has_no_caption_and_a_warning(
    media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (media / "a.png").write_bytes(b"no picture any more")
    found = fill_captions(manifest(a=None, c=None), media, Counting())
    assert found.images["caption"].to_list() == [None, "40 by 10"]
    assert found.images["caption_source"].to_list() == [None, "counting@1"]
    assert "no caption for a.png" in caplog.text


def test_a_picture_that_was_replaced_after_the_inventory_has_no_caption_and_counts_as_changed(
    media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = manifest(a=None).with_columns(content_hash=pl.lit(sha256_of(media / "a.png")))
    kept = (media / "a.png").read_bytes()
    (media / "a.png").write_bytes((media / "b.png").read_bytes())
    found = fill_captions(images, media, Counting())
    assert (found.images["caption"].to_list(), found.written, found.changed) == ([None], 0, 1)
    assert "no caption for a.png: changed since the inventory" in caplog.text
    (media / "a.png").write_bytes(kept)
    found = fill_captions(images, media, Counting(), found.images)
    assert (found.images["caption"].to_list(), found.written, found.changed) == (["20 by 10"], 1, 0)


def test_a_model_that_is_not_there_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(
        CaptionerUnavailableError, match="caption_model = 'no name of a model' is not a folder"
    ):
        load_captioner("no name of a model", "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    captioner = load_captioner(str(tmp_path), "cpu")
    with pytest.raises(CaptionerUnavailableError, match="cannot be loaded as a captioning model"):
        captioner.caption(Image.new("RGB", (8, 8)))


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP captioner of random weights and fourteen words, saved as `transformers` saves models."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("tiny-blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    text = {
        "vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 5,
        "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3, "projection_dim": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16, "projection_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    transformers.BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_writes_one_line_and_the_same_one_again(tiny_blip: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    captioner = load_captioner(str(tiny_blip), "cpu")
    caption = captioner.caption(image)
    assert caption
    assert set(caption.split()) <= set(WORDS)
    assert "\n" not in caption
    again = load_captioner(str(tiny_blip), "cpu")
    assert again.caption(image) == caption
    assert again.fingerprint == captioner.fingerprint
    assert captioner.fingerprint.startswith("tiny-blip")


def test_the_captioners_words_are_those_of_the_model_asked_directly(tiny_blip: Path) -> None:
    transformers = pytest.importorskip("transformers")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    model = transformers.BlipForConditionalGeneration.from_pretrained(tiny_blip)
    pixels = transformers.BlipImageProcessorPil.from_pretrained(tiny_blip)(images=image, return_tensors="pt")
    tokens = model.generate(**pixels, max_new_tokens=40, num_beams=1, do_sample=False)
    words = transformers.BertTokenizer.from_pretrained(tiny_blip).decode(tokens[0], skip_special_tokens=True)
    assert load_captioner(str(tiny_blip), "cpu").caption(image) == words.strip()


def test_other_weights_are_another_captioner(tiny_blip: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_blip.name
    copy.mkdir()
    for file in tiny_blip.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert load_captioner(str(copy), "cpu").fingerprint == load_captioner(str(tiny_blip), "cpu").fingerprint
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert load_captioner(str(copy), "cpu").fingerprint != load_captioner(str(tiny_blip), "cpu").fingerprint


def test_in_the_graph_captions_are_written_once_and_only_where_the_table_has_none(
    tiny_blip: Path, tmp_path: Path
) -> None:
    folder, lake = tmp_path / "media", Lake(tmp_path / "lake")
    (folder / "images" / "awe").mkdir(parents=True)
    for seed, name in enumerate(("with", "without")):
        pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "awe" / f"{name}.png")
    (folder / "images.csv").write_text("file,text\nawe/with.png,a wide sky\n")
    definitions = build_definitions(media=str(folder), lake=str(lake.root), caption_model=str(tiny_blip))
    job = definitions.resolve_implicit_global_asset_job_def()
    counts = []
    with dg.DagsterInstance.ephemeral() as instance:
        assert definitions.resolve_job_def("inventory").execute_in_process(instance=instance).success
        for _ in range(2):
            job.execute_in_process(
                partition_key="awe", instance=instance, asset_selection=[dg.AssetKey("images")]
            )
            version = lake.current("images", "awe")
            assert version is not None
            counts.append((version.metadata["captions_written"], version.metadata["captions_reused"]))
    assert counts == [(1, 0), (0, 1)]
    images = lake.read("images").sort("image_id")
    assert images["caption"][0] == "a wide sky"
    assert images["caption_source"].to_list() == ["table", load_captioner(str(tiny_blip)).fingerprint]
    assert set(images["caption"][1].split()) <= set(WORDS)


def test_the_identity_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    assert captioner_identity("") == captioner_identity("a/name") == ""
    (tmp_path / "weights").write_bytes(b"one")
    first = captioner_identity(str(tmp_path))
    assert first == captioner_identity(str(tmp_path)) != ""
    (tmp_path / "weights").write_bytes(b"other")
    assert captioner_identity(str(tmp_path)) != first
