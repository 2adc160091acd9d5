"""Unlabelled media: kept in the inventory where they are asked for, and joined with what is predicted."""

from pathlib import Path

import polars as pl
import pytest

from emid_assets.media.inventory import image_manifest, music_manifest, rejected_manifest, take_inventory
from emid_assets.media.with_predictions import unlabelled, with_predictions
from emid_assets.store.schemas import PREDICTED_EMOTION
from emid_assets_tests.media.test_inventory import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "media")


def predicted(**of_item: tuple[str | None, float | None, float | None]) -> pl.DataFrame:
    """Rows of PREDICTED_EMOTION: id (without its suffix) → label, valence, arousal; no label is a reason."""
    rows = [
        {
            "kind": "music" if name.startswith("clip") else "image",
            "item_id": f"{name}.{'wav' if name.startswith('clip') else 'png'}", "content_hash": "x",
            "partition": label, "valence": valence, "arousal": arousal,
            "valence_sd": None if label is None else 0.3, "arousal_sd": None if label is None else 0.2,
            "va_source": None if label is None else "predicted",
            "reason": "silent" if label is None else None,
        }
        for name, (label, valence, arousal) in of_item.items()
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=PREDICTED_EMOTION.empty().schema)


def test_unlabelled_media_are_read_and_kept_apart_where_they_are_asked_for(folder: Folder) -> None:
    for name in ("sad/a.wav", "rock/b.wav", "c.wav"):
        folder.clip(name)
    folder.image("d.png")
    without = take_inventory(folder.root)
    assert without["reason"].null_count() == 1
    inventory = take_inventory(folder.root, without, keep_unlabelled=True)
    assert inventory["reason"].null_count() == 4
    found = unlabelled(inventory)
    assert found["item_id"].to_list() == ["d.png", "c.wav", "rock/b.wav"]
    assert found["content_hash"].null_count() == 0
    assert found["label_source"].null_count() == 3
    assert music_manifest(inventory, "sad").height == 1


def test_a_label_that_is_none_of_ours_stays_an_error(folder: Folder) -> None:
    folder.clip("a.wav")
    folder.clip("b.wav")
    folder.table("music", ["file", "genre"], ["a.wav", "sadd"], ["b.wav", ""])
    items = {row["item_id"]: row for row in take_inventory(folder.root, keep_unlabelled=True).to_dicts()}
    assert "unknown music emotion 'sadd'" in items["a.wav"]["reason"]
    assert items["b.wav"]["reason"] is None


def test_of_two_copies_the_labelled_one_is_used(folder: Folder) -> None:
    copy = folder.image("a.png")
    (folder.root / "images" / "awe").mkdir()
    (folder.root / "images" / "awe" / "z.png").write_bytes(copy.read_bytes())
    items = {row["item_id"]: row for row in take_inventory(folder.root, keep_unlabelled=True).to_dicts()}
    assert items["awe/z.png"]["reason"] is None
    assert items["a.png"]["reason"] == "duplicate: same content as 'awe/z.png'"


def test_predictions_take_their_place_in_the_manifests_and_are_marked(folder: Folder) -> None:
    for name in ("clip1.wav", "clip2.wav", "calm/given.wav"):
        folder.clip(name)
    for name in ("image1.png", "awe/given.png"):
        folder.image(name)
    inventory = take_inventory(folder.root, keep_unlabelled=True)
    found = predicted(clip1=("calm", 6.1, 4.7), clip2=(None, None, None), image1=("awe", 0.5, 0.7))
    calm = music_manifest(inventory, "calm", found)
    assert calm["clip_id"].to_list() == ["calm/given.wav", "clip1.wav"]
    assert calm["va_source"].to_list() == ["category_mean", "predicted"]
    assert calm["label_source"].to_list() == ["folder", "predicted"]
    assert calm["valence"].to_list() == [5.99, 6.1]
    assert calm["valence_sd"].to_list() == [None, 0.3]
    assert calm["genre"].to_list() == ["E", "E"]
    awe = image_manifest(inventory, "awe", found)
    assert awe["arousal_sd"].to_list() == [None, 0.2]
    assert rejected_manifest(inventory, found).rows() == [("music", "clip2.wav", "music/clip2.wav", "silent")]


def test_no_prediction_is_a_reason_and_never_a_silent_loss(folder: Folder) -> None:
    folder.clip("clip1.wav")
    inventory = take_inventory(folder.root, keep_unlabelled=True)
    assert "none was predicted" in rejected_manifest(inventory)["reason"][0]


def test_predictions_never_touch_what_was_labelled_or_rejected(folder: Folder) -> None:
    folder.clip("sad/clip1.wav")
    (folder.root / "music" / "clip2.wav").write_bytes(b"")
    inventory = take_inventory(folder.root, keep_unlabelled=True)
    stale = predicted(clip1=("calm", 1.0, 1.0), clip2=("calm", 1.0, 1.0)).with_columns(
        pl.col("item_id").replace("clip1.wav", "sad/clip1.wav")
    )
    assert with_predictions(inventory, stale).equals(inventory)


def test_the_series_of_an_image_is_its_folder_and_name_without_its_number(folder: Folder) -> None:
    names = ["Beach 1.png", "Beach 2.png", "trip/IMG_0001.png", "trip/IMG_0002.png", "dog(3).png", "7.png"]
    for name in names:
        folder.image(name)
    folder.table("images", ["file", "group"], ["Beach 2.png", "elsewhere"])
    found = {
        row["item_id"]: row["source_id"]
        for row in take_inventory(folder.root, keep_unlabelled=True).to_dicts()
    }
    assert [found[name] for name in names] == ["Beach", "elsewhere", "trip/IMG", "trip/IMG", "dog", ""]


def test_an_image_with_measurements_and_no_tag_keeps_them(folder: Folder) -> None:
    folder.image("image1.png")
    folder.table("images", ["file", "valence", "arousal"], ["image1.png", 0.25, 0.75])
    inventory = take_inventory(folder.root, keep_unlabelled=True)
    assert unlabelled(inventory).select("valence", "arousal", "va_source").row(0) == (0.25, 0.75, "measured")
