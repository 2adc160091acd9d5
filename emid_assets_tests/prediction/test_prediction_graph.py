"""Prediction in the graph: on real small media, off by default, incremental, and marked all the way."""

import csv
import functools
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.definitions import build_definitions
from emid_assets.encoders.imagebind import encoder as imagebind
from emid_assets.prediction import image_text, music_head, predict
from emid_assets.prediction.music_head import MusicEmotionHead
from emid_assets.store.lake import Lake
from emid_assets_tests.encoders.imagebind.small_imagebind import SMALL, write_small_checkpoint

RATED = 12


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled clip and an unlabelled one; rated images, one with a tag, and two that are neither."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    (root / "music" / "sad").mkdir(parents=True)
    (root / "images" / "awe").mkdir(parents=True)
    for place, name in enumerate(["sad/a.wav", "album/b.wav"]):
        path = root / "music" / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(16_000 * (2 + place)), 16_000)
    rows = []
    for place in range(RATED):
        red = 20 * place
        pixels = np.clip(rng.normal((red, 120, 255 - red), 30, (40, 60, 3)), 0, 255).astype(np.uint8)
        name = "awe/tagged.png" if place == 0 else f"rated {place}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        words = ("a sad clown", "a happy child", "")[place % 3]
        rows.append([name, f"theme {place // 2}", 0.1 + 0.06 * place, 0.8 - 0.05 * place, words])
    for name in ("stormy sea.png", "IMG_2.png"):
        Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(root / "images" / name)
    with (root / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "group", "valence", "arousal", "text"], *rows])
    return root


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MIN_RATED", RATED)


def run(media: Path, lake: Path, job: str, partition: str | None = None, **settings: Any) -> Lake:
    definitions = build_definitions(media=str(media), lake=str(lake), workers=0, **settings)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(job).execute_in_process(
            partition_key=partition, instance=instance
        )
    checks = result.get_asset_check_evaluations()
    assert all(check.passed for check in checks if check.blocking)
    for check in checks:
        if check.check_name == "explains":  # a head that is no better than the mean is warned of
            head = Lake(lake).read(check.asset_key.path[-1])
            assert check.passed == ((head["valence_r2"] > 0) & (head["arousal_r2"] > 0)).all()
    return Lake(lake)


def test_off_by_default_nothing_is_read_and_unlabelled_media_have_their_reason(
    media: Path, tmp_path: Path
) -> None:
    lake = run(media, tmp_path / "lake", "inventory")
    for table in (
        "music_tags", "image_features", "image_encoder_features", "image_text_features", "image_emotion_head",
        "music_emotion_head", "predicted_emotion",
    ):  # fmt: skip
        assert lake.read(table).is_empty()
    rejected = lake.read("rejected_media")
    assert rejected.height == 1 + (RATED - 1) + 2
    assert rejected["reason"].str.contains("predict_emotion|sub-folder|no tag").all()


def test_on_it_labels_what_nobody_labelled_and_reads_nothing_twice(media: Path, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    lake = run(media, root, "inventory", predict_emotion="on")
    assert lake.read("rejected_media").is_empty()
    predicted = lake.read("predicted_emotion")
    by_source = {row[0]: row[1] for row in predicted.group_by("va_source").len().iter_rows()}
    assert by_source == {"predicted": 3, "measured": RATED - 1}
    head = lake.read("image_emotion_head").row(0, named=True)
    assert (head["images"], head["groups"], head["grouped_by"]) == (RATED, RATED // 2, "series")
    assert (root / head["weights_file"]).is_file()
    version = lake.current("image_emotion_head", "all")
    assert version is not None
    assert version.metadata["valence_r"] == head["valence_r"]

    clip = predicted.filter(pl.col("kind") == "music").row(0, named=True)
    clips = run(media, root, "embed_music", clip["partition"], predict_emotion="on").read("music_clips")
    row = clips.filter(pl.col("clip_id") == "album/b.wav").row(0, named=True)
    assert (row["va_source"], row["label_source"], row["valence"]) == (
        "predicted",
        "predicted",
        clip["valence"],
    )
    assert row["valence_sd"] > 0

    again = run(media, root, "inventory", predict_emotion="on")
    for table in ("music_tags", "image_features", "image_text_features"):
        stored = again.current(table, "all")
        assert stored is not None
        assert stored.metadata["encoded"] == 0
    assert again.read("predicted_emotion").equals(predicted)
    assert again.read("image_emotion_head").equals(lake.read("image_emotion_head"))


def test_words_are_read_from_captions_and_names_where_the_extra_is_installed(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = run(media, tmp_path / "lake", "inventory", predict_emotion="on")
    texts = {row["image_id"]: row["text"] for row in lake.read("image_text_features").iter_rows(named=True)}
    assert texts["rated 1.png"] == "a happy child"
    assert texts["rated 2.png"] == "rated"
    assert texts["stormy sea.png"] == "stormy sea"
    assert "IMG_2.png" not in texts
    head = lake.read("image_emotion_head").row(0, named=True)
    assert head["with_words"] == RATED
    with monkeypatch.context() as without:
        without.setattr(image_text, "text_encoder_identity", lambda: "")
        lake = run(media, tmp_path / "without", "inventory", predict_emotion="on")
    assert lake.read("image_text_features").is_empty()
    head = lake.read("image_emotion_head").row(0, named=True)
    assert (head["features"], head["with_words"]) == ("bundled", 0)
    assert lake.read("predicted_emotion").drop_nulls("partition").height == 3 + RATED - 1


def test_the_heads_features_are_the_encoders_where_that_is_wanted(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageBind's own classes at a small size, with random weights."""
    monkeypatch.setattr(
        imagebind, "load_imagebind", functools.partial(imagebind.load_imagebind, architecture=SMALL)
    )
    checkpoint = str(write_small_checkpoint(tmp_path / "small.pth"))
    chosen: dict[str, Any] = {
        "encoder": "imagebind",
        "imagebind_checkpoint": checkpoint,
        "precision": "float32",
    }
    lake = run(
        media,
        tmp_path / "lake",
        "inventory",
        predict_emotion="on",
        device="cpu",
        emotion_features="encoder",
        **chosen,
    )
    assert lake.read("image_features").is_empty()
    made = lake.read("image_encoder_features")
    assert made["features"].to_numpy().shape == (RATED + 2, SMALL.out_embed_dim)
    assert lake.read("image_emotion_head")["features"][0].split(" + ")[0] == "encoder"
    predicted = lake.read("predicted_emotion").filter(pl.col("va_source") == "predicted")
    assert predicted.filter(pl.col("kind") == "image").height == 2

    both = run(
        media,
        tmp_path / "lake",
        "inventory",
        predict_emotion="on",
        device="cpu",
        emotion_features="both",
        **chosen,
    )
    stored = both.current("image_encoder_features", "all")
    assert stored is not None
    assert stored.metadata["encoded"] == 0
    assert both.read("image_features")["image_id"].to_list() == made["image_id"].to_list()
    used = set(both.read("image_emotion_head")["features"][0].split(" + "))
    assert used & {"bundled", "encoder"}
    assert used <= {"bundled", "encoder", "text"}


def test_with_too_few_rated_images_no_head_is_trained_and_music_is_predicted_all_the_same(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "MIN_RATED", RATED + 1)
    lake = run(media, tmp_path / "lake", "inventory", predict_emotion="on")
    assert lake.read("image_features").is_empty()
    assert lake.read("image_emotion_head").is_empty()
    assert lake.read("predicted_emotion").drop_nulls("partition")["kind"].to_list() == ["music"]
    reasons = lake.read("rejected_media")["reason"].unique().to_list()
    assert len(reasons) == 1
    assert "there are 12" in reasons[0]


def test_rated_clips_teach_a_head_and_are_tagged_only_where_a_clip_lacks_an_emotion(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (music_head, predict):
        monkeypatch.setattr(module, "MIN_CLIPS", 6)
    root = tmp_path / "media"
    (root / "music" / "sad").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for place in range(6):
        sound = 0.02 * (1 + place) * rng.standard_normal(16_000 * 2)
        soundfile.write(root / "music" / "sad" / f"{place}.wav", sound, 16_000)
        rows.append([f"sad/{place}.wav", f"recording {place}", 3 + 0.5 * place, 7 - 0.4 * place])
    with (root / "music.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "source_id", "valence", "arousal"], *rows])
    (root / "images" / "awe").mkdir(parents=True)
    (root / "images" / "awe" / "a.png").write_bytes((media / "images" / "awe" / "tagged.png").read_bytes())
    folder = tmp_path / "lake"
    lake = run(root, folder, "inventory", predict_emotion="on")
    assert lake.read("music_tags").is_empty()  # every clip has its ratings: nothing to predict
    assert lake.read("music_emotion_head").is_empty()

    new = root / "music" / "album" / "new.wav"
    new.parent.mkdir()
    soundfile.write(new, 0.1 * rng.standard_normal(16_000 * 2), 16_000)
    lake = run(root, folder, "inventory", predict_emotion="on")
    assert lake.read("music_tags").height == 7
    head = lake.read("music_emotion_head").row(0, named=True)
    assert (head["clips"], head["groups"], head["grouped_by"]) == (6, 6, "source")
    trained = MusicEmotionHead.load(folder / head["weights_file"])
    tags = lake.read("music_tags").filter(pl.col("clip_id") == "album/new.wav")
    va, sd = trained.predict(tags["log_odds"].to_numpy())
    row = lake.read("predicted_emotion").row(0, named=True)
    assert (row["valence"], row["arousal_sd"]) == (va[0, 0], sd[0, 1])
    version = lake.current("music_emotion_head", "all")
    assert version is not None
    assert version.metadata["rule_valence_r"] == head["rule_valence_r"]
    again = run(root, folder, "inventory", predict_emotion="on")
    assert again.read("music_emotion_head").equals(lake.read("music_emotion_head"))
