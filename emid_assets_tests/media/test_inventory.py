"""The inventory of real media folders: every reason, every name, and what is not read twice."""

import csv
import hashlib
import math
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.media import contents
from emid_assets.media.folder_changes import look_at
from emid_assets.media.inventory import image_manifest, music_manifest, rejected_manifest, take_inventory
from emid_assets.media.limits import MediaFolderError, MediaLimits, TableError
from emid_assets.store.schemas import IMAGES, MEDIA_INVENTORY, MUSIC_CLIPS, REJECTED_MEDIA

FEELING = "33% Sad, depressing, 22% Awe-inspiring, amazing"
RATINGS = "4.9,3.8,4.6,4.2,5.4,3.9,5.5,4.5,3.6,4.4,5.3"


class Folder:
    """A media folder that a test fills: every file has other contents unless told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made = 0
        (root / "music").mkdir(parents=True)
        (root / "images").mkdir()

    def clip(self, name: str, seconds: float = 2.0) -> Path:
        self._made += 1
        path = self.root / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        t = np.arange(round(seconds * 8000)) / 8000
        samples = 0.5 * np.sin(2 * np.pi * (100 + 7 * self._made) * t)
        soundfile.write(path, samples.astype(np.float32), 8000)
        return path

    def image(self, name: str, size: tuple[int, int] = (16, 12)) -> Path:
        self._made += 1
        path = self.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (self._made % 256, self._made // 256, 99)).save(path)
        return path

    def table(self, kind: str, header: Sequence[str], *rows: Sequence[object]) -> Path:
        path = self.root / f"{kind}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    def items(self, previous: pl.DataFrame | None = None) -> dict[str, dict[str, object]]:
        """The inventory by item id; a test that repeats ids reads the frame itself."""
        rows = take_inventory(self.root, previous).to_dicts()
        assert len({row["item_id"] for row in rows}) == len(rows)
        return {row["item_id"]: row for row in rows}

    def reason(self, item_id: str) -> str:
        reason = self.items()[item_id]["reason"]
        assert isinstance(reason, str)
        assert "\n" not in reason
        return reason


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "media")


def usable(items: Mapping[str, Mapping[str, object]]) -> set[str]:
    return {item_id for item_id, item in items.items() if item["reason"] is None}


# ------------------------------------------------------------------------------------------ sample


def test_the_whole_sample_is_usable_and_says_that_no_one_rated_it(sample_media: Path) -> None:
    inventory = take_inventory(sample_media)
    assert inventory["reason"].null_count() == len(inventory) == 49
    assert inventory["label_source"].str.contains("not human-rated").all()
    assert inventory.select(pl.col("licence", "author").null_count()).row(0) == (0, 0)
    assert set(inventory["va_source"]) == {"category_mean", "tag"}
    assert inventory.filter(kind="music")["source_id"].n_unique() == 22


def test_the_manifests_hold_every_usable_item_once_with_their_declared_columns(sample_media: Path) -> None:
    inventory = take_inventory(sample_media)
    music = pl.concat([music_manifest(inventory, key) for key in MUSIC_EMOTION_KEYS])
    images = pl.concat([image_manifest(inventory, key) for key in IMAGE_EMOTION_KEYS])
    assert not MUSIC_CLIPS.differences(music)
    assert not IMAGES.differences(images)
    assert sorted(music["clip_id"]) == sorted(path.name for path in (sample_media / "music").iterdir())
    assert sorted(images["image_id"]) == sorted(path.name for path in (sample_media / "images").iterdir())
    assert music_manifest(inventory, "sad").select("emotion", "genre").unique().rows() == [("sad", "K")]
    assert image_manifest(inventory, "awe")["tag"].unique().to_list() == ["awe"]
    assert music_manifest(inventory, "erotic").is_empty()
    assert rejected_manifest(inventory).is_empty()
    assert not REJECTED_MEDIA.differences(rejected_manifest(inventory))


def test_the_attribution_names_every_author_package_and_licence_of_the_sample(sample_media: Path) -> None:
    attribution = (sample_media / "README.md").read_text(encoding="utf-8")
    for table in ("music.csv", "images.csv"):
        with (sample_media / table).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                author = {"Various": "photographers of unsplash.com and morgue-file.com"}.get(
                    row["author"], row["author"]
                )
                licence = row["licence"].partition(" (")[0].removesuffix("+")
                assert author in attribution
                assert licence in attribution
                assert f"`{row['source_package']}`" in attribution


def test_hash_and_size_are_those_of_the_bytes(sample_media: Path) -> None:
    for row in take_inventory(sample_media).iter_rows(named=True):
        content = (sample_media / row["file"]).read_bytes()
        digest, _, window = row["content_hash"].partition("#")
        assert digest == hashlib.sha256(content).hexdigest()
        assert window == ("t=0.0+8.0" if row["duration_s"] == 8.0 and row["size_bytes"] > 50_000 else "")
        assert row["size_bytes"] == len(content)


def test_threads_do_not_change_the_inventory(sample_media: Path) -> None:
    assert take_inventory(sample_media, workers=0).equals(take_inventory(sample_media, workers=4))


# ------------------------------------------------------------------------------------------ labels


def test_sub_folders_label_what_lies_in_them_at_any_depth(folder: Folder) -> None:
    for name in ("sad/a.wav", "K/b.wav", "Calm, relaxing, serene/c.wav", "scary/album 1/cd/d.wav"):
        folder.clip(name)
    folder.image("awe/a.png")
    items = folder.items()
    assert {item_id: item["partition"] for item_id, item in items.items()} == {
        "sad/a.wav": "sad",
        "K/b.wav": "sad",
        "Calm, relaxing, serene/c.wav": "calm",
        "scary/album 1/cd/d.wav": "scary",
        "awe/a.png": "awe",
    }
    assert usable(items) == items.keys()
    assert {item["label_source"] for item in items.values()} == {"folder"}
    assert (items["awe/a.png"]["valence"], items["awe/a.png"]["arousal"]) == (0.469, 0.740)
    assert (items["sad/a.wav"]["valence"], items["sad/a.wav"]["arousal"]) == (5.17, 4.49)


def test_without_table_a_file_needs_a_sub_folder_named_by_an_emotion(folder: Folder) -> None:
    folder.clip("rock/a.wav")
    folder.image("b.png")
    assert folder.reason("rock/a.wav").startswith("sub-folder: unknown music emotion 'rock'")
    assert folder.reason("b.png") == (
        "has no label: put it into a sub-folder named after its emotion, such as images/awe/, "
        "or list it in images.csv, or have it predicted: predict_emotion = on"
    )


def test_a_table_labels_by_letter_key_or_name_and_wins_over_the_sub_folder(folder: Folder) -> None:
    for name in ("a.wav", "b.wav", "sad/c.wav", "sad/d.wav"):
        folder.clip(name)
    rows = [["a.wav", "L"], ["./b.wav", "Joyful, cheerful"], ["sad/c.wav", "calm"], ["music/sad/d.wav", ""]]
    folder.table("music", ["file", "genre"], *rows)
    items = folder.items()
    assert [items[name]["partition"] for name in ("a.wav", "b.wav", "sad/c.wav", "sad/d.wav")] == [
        "scary", "joyful", "calm", "sad",
    ]  # fmt: skip
    assert items["sad/c.wav"]["label_source"] == "table"
    assert items["sad/d.wav"]["label_source"] == "folder"


def test_a_file_missing_from_the_table_is_used_only_in_a_sub_folder_named_by_an_emotion(
    folder: Folder,
) -> None:
    for name in ("listed.png", "new.png", "awe/new.png", "holiday/new.png"):
        folder.image(name)
    folder.table("images", ["file", "tag"], ["listed.png", "fear"])
    items = folder.items()
    assert usable(items) == {"listed.png", "awe/new.png"}
    assert folder.reason("new.png").startswith("missing from images.csv: list it there, or put it into")
    assert folder.reason("holiday/new.png").startswith("missing from images.csv")


def test_unknown_and_absent_labels_of_a_table_name_its_row(folder: Folder) -> None:
    folder.image("a.png")
    folder.image("b.png")
    folder.table("images", ["file", "tag"], ["a.png", "joy"], ["b.png", ""])
    assert folder.reason("a.png").startswith("images.csv row 2: unknown image emotion 'joy'")
    assert folder.reason("b.png").startswith("images.csv row 3: no tag")


# ------------------------------------------------------------------------------------------ tables


def test_emids_own_columns_are_read_as_they_are(folder: Folder) -> None:
    for name in ("one.wav", "143.m4a___58.wav", "two.wav"):
        folder.clip(name)
    header = [
        "Audio_Filename",
        "genre",
        "feeling",
        "emotion",
        "Image1_filename",
        "Image1_tag",
        "is_original_clip",
    ]
    folder.table(
        "music",
        header,
        ["one.wav", "K", FEELING, RATINGS, "x.jpg", "awe", "True"],
        ["143.m4a___58.wav", "K", FEELING, RATINGS, "y.jpg", "awe", "False"],
        ["two.wav", "K", FEELING, "nan" + RATINGS[3:], "z.jpg", "awe", "True"],
    )
    items = folder.items()
    one, expanded, two = items["one.wav"], items["143.m4a___58.wav"], items["two.wav"]
    assert usable(items) == items.keys()
    assert one["feelings"] == [
        {"feeling": "Sad, depressing", "percent": 33.0},
        {"feeling": "Awe-inspiring, amazing", "percent": 22.0},
    ]
    assert one["rating_obstruction"] == 4.5
    assert (one["valence"], one["arousal"], one["va_source"]) == (4.4, 4.9, "ratings")
    # The name of an expanded clip is mangled: its source is found by equal labels.
    assert (one["source_id"], expanded["source_id"], two["source_id"]) == ("one.wav", "one.wav", "two.wav")
    assert (one["is_original_clip"], expanded["is_original_clip"]) == (True, False)


def test_a_missing_rating_is_null_and_va_then_comes_from_the_category(folder: Folder) -> None:
    folder.clip("a.wav")
    folder.table("music", ["file", "genre", "emotion"], ["a.wav", "K", "nan" + RATINGS[3:]])
    clip = folder.items()["a.wav"]
    assert clip["reason"] is None
    assert (clip["rating_arousal"], clip["rating_valence"]) == (None, pytest.approx(4.4))
    assert (clip["valence"], clip["arousal"], clip["va_source"]) == (5.17, 4.49, "category_mean")


def test_a_clip_without_ratings_has_the_tables_valence_and_arousal(folder: Folder) -> None:
    for name in (
        "rated", "own", "predicted", "half", "odd", "far", "model", "nameless", "certain", "genre",
        "negative", "word", "endless",
    ):  # fmt: skip
        folder.clip(f"{name}.wav")
    folder.table(
        "music",
        ["file", "genre", "emotion", "valence", "arousal", "va_source", "valence_sd", "arousal_sd"],
        ["rated.wav", "K", RATINGS, 1, 1, "predicted", 1, 1],
        ["own.wav", "K", "nan" + RATINGS[3:], 2.5, 7, "", 1, 1],
        ["predicted.wav", "K", "", 2.5, 7, "Predicted", 0.84, 0.5],
        ["half.wav", "K", "", 2.5, "", "", "", ""],
        ["odd.wav", "K", "", 2.5, 7, "a guess", "", ""],
        ["far.wav", "K", "", 2.5, 9.5, "", "", ""],
        ["model.wav", "K", "", 2.5, 7, "MODEL: Music2Emo v1", 0.9, ""],
        ["nameless.wav", "K", "", 2.5, 7, "model: ", "", ""],
        ["certain.wav", "K", RATINGS, "", "", "", 0.25, 0],
        ["genre.wav", "K", "", "", "", "", 0.25, 0.25],
        ["negative.wav", "K", "", 2.5, 7, "", -0.1, 0],
        ["word.wav", "K", "", 2.5, 7, "", 0, "small"],
        ["endless.wav", "K", "", 2.5, 7, "", 0, "inf"],
    )
    items = folder.items()
    facts = ("valence", "arousal", "va_source", "valence_sd", "arousal_sd")
    assert {name: tuple(items[name][fact] for fact in facts) for name in usable(items)} == {
        "rated.wav": (4.4, 4.9, "ratings", None, None),
        "own.wav": (2.5, 7.0, "ratings", 1.0, 1.0),
        "predicted.wav": (2.5, 7.0, "predicted", 0.84, 0.5),
        "model.wav": (2.5, 7.0, "model:Music2Emo v1", 0.9, None),
        "certain.wav": (4.4, 4.9, "ratings", 0.25, 0.0),
        "genre.wav": (5.17, 4.49, "category_mean", None, None),
    }
    assert folder.reason("half.wav") == (
        "music.csv row 5: has only one of valence and arousal: give both, or neither"
    )
    assert folder.reason("odd.wav").startswith(
        "music.csv row 6: va_source is 'a guess': write one of ratings,"
    )
    assert folder.reason("far.wav") == "music.csv row 7: arousal is '9.5', expected a number from 1 to 9"
    assert folder.reason("nameless.wav").startswith("music.csv row 9: va_source is 'model:'")
    for name, cell in (
        ("negative", "row 12: valence_sd is '-0.1'"),
        ("word", "row 13: arousal_sd is 'small'"),
        ("endless", "row 14: arousal_sd is 'inf'"),
    ):
        assert folder.reason(f"{name}.wav") == f"music.csv {cell}, expected a number from 0 to 8"


def test_the_published_rows_have_one_source_for_each_original(folder: Folder, shared_data: Path) -> None:
    with (shared_data / "emid_shard0_dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shutil.copy(shared_data / "emid_shard0_dev.csv", folder.root / "music.csv")
    inventory = take_inventory(folder.root).with_columns(name=pl.col("file"))
    assert len(inventory) == len(rows)
    assert inventory["reason"].str.contains("missing from the disk").all()
    labels = {row["Audio_Filename"]: (row["feeling"], row["emotion"]) for row in rows}
    groups = inventory.group_by("source_id").agg("name")["name"].to_list()
    assert len(groups) == len(set(labels.values()))
    assert all(len({labels[name] for name in group}) == 1 for group in groups)
    assert inventory["va_source"].unique().to_list() == ["ratings"]


def test_the_tables_source_id_stands_for_its_row_and_for_all_of_the_same_source(folder: Folder) -> None:
    others = "1" + RATINGS[3:]
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"):
        folder.clip(name)
    folder.table(
        "music",
        ["file", "genre", "emotion", "source_id"],
        ["a.wav", "K", RATINGS, "tape 7"],
        ["b.wav", "K", RATINGS, ""],
        # With equal labels, but the table tells the source of each.
        ["c.wav", "K", others, "tape 8"],
        ["d.wav", "K", others, "tape 9"],
        # The id of an original is what its source is called.
        ["e.wav", "K", "", ""],
        ["f.wav", "K", "", "e.wav"],
    )
    assert [item["source_id"] for item in folder.items().values()] == [
        "tape 7", "tape 7", "tape 8", "tape 9", "e.wav", "e.wav",
    ]  # fmt: skip


def test_files_of_the_same_bytes_are_one_recording_and_one_source(folder: Folder) -> None:
    path = folder.clip("one/long.wav", seconds=20)
    copy = folder.root / "music" / "two" / "copy.wav"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    folder.table(
        "music",
        ["file", "genre", "start_s", "duration_s", "emotion"],
        ["one/long.wav", "K", "0", "5", RATINGS],
        ["two/copy.wav", "L", "5", "5", "1" + RATINGS[3:]],
    )
    items = folder.items()
    assert len(usable(items)) == 2
    assert {item["source_id"] for item in items.values()} == {"one/long.wav#t=0.0+5.0"}


def test_equal_ratings_are_equal_however_they_are_written(folder: Folder) -> None:
    for name in ("a.wav", "b___1.wav", "c.wav"):
        folder.clip(name)
    five = ",".join(["5"] * 11)
    folder.table(
        "music",
        ["file", "genre", "feeling", "emotion", "is_original_clip"],
        ["a.wav", "K", "33% Sad, depressing, 22% Dreamy", five, ""],
        ["b___1.wav", "K", "22.0% dreamy, 33% Sad, depressing", five.replace("5", "5.0", 1), "false"],
        ["c.wav", "K", "33% Sad, depressing, 21% Dreamy", five, ""],
    )
    assert {name: item["source_id"] for name, item in folder.items().items()} == {
        "a.wav": "a.wav", "b___1.wav": "a.wav", "c.wav": "c.wav",
    }  # fmt: skip


def test_an_expanded_clip_whose_source_cannot_be_found_has_a_reason(folder: Folder) -> None:
    for name in ("e1.wav", "e1___2.wav", "e1___3.wav", "e1___4.wav"):
        folder.clip(name, seconds=8)
    folder.table(
        "music",
        ["file", "genre", "emotion", "is_original_clip", "source_id", "start_s", "duration_s"],
        ["e1.wav", "K", "", "", "", "", ""],
        ["e1___2.wav", "K", "", "false", "", "", ""],
        ["e1___3.wav", "K", "", "false", "e1.wav", "", ""],
        ["e1___4.wav", "K", "1" + RATINGS[3:], "false", "", "", ""],
        ["e1.wav", "K", "", "false", "", "2", "3"],
    )
    items = folder.items()
    sources = {name: items[name]["source_id"] for name in usable(items)}
    assert sources == {
        "e1.wav": "e1.wav", "e1___3.wav": "e1.wav", "e1.wav#t=2.0+3.0": "e1.wav", "e1___4.wav": "e1___4.wav",
    }  # fmt: skip
    assert items["e1___2.wav"]["source_id"] is None
    assert folder.reason("e1___2.wav").startswith("music.csv row 3: is an expanded clip")
    assert "give its source_id" in folder.reason("e1___2.wav")


def test_clips_of_one_recording_are_one_source_whatever_the_table_says(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.clip("tape.wav", seconds=20)
    folder.table(
        "music",
        ["file", "clip_id", "genre", "start_s", "duration_s", "source_id"],
        ["tape.wav", "x", "K", "0", "5", "song 2"],
        ["tape.wav", "y", "L", "12.5", "5", "song 1"],
    )
    assert {item["source_id"] for item in folder.items().values()} == {"song 1"}
    assert "sources song 1, song 2 are one, song 1" in caplog.text


def test_rows_without_a_file_share_no_recording(folder: Folder) -> None:
    for name in ("a.wav", "b.wav"):
        folder.clip(name)
    others = "1" + RATINGS[3:]
    folder.table(
        "music", ["file", "genre", "emotion"],
        ["a.wav", "K", RATINGS], ["b.wav", "K", others], ["", "K", RATINGS], ["", "K", others],
    )  # fmt: skip
    rows = take_inventory(folder.root).filter(pl.col("reason").is_null())
    assert rows["source_id"].to_list() == ["a.wav", "b.wav"]


def test_windows_of_one_file_are_clips_of_one_source(folder: Folder) -> None:
    path = folder.clip("long.wav", seconds=10)
    folder.clip("other.wav")
    folder.table(
        "music",
        ["file", "genre", "start_s", "duration_s", "clip_id", "is_original_clip", "emotion"],
        ["long.wav", "K", "", "", "", "", RATINGS],
        ["long.wav", "K", "1.5", "2", "", "no", ""],
        ["long.wav", "K", "7", "", "coda", "0", ""],
        ["other.wav", "K", "", "", "", "", RATINGS],
    )
    items = folder.items()
    assert usable(items) == {"long.wav", "long.wav#t=1.5+2.0", "coda", "other.wav"}
    assert {item["source_id"] for item in items.values()} == {"long.wav"}
    assert [items["coda"][name] for name in ("start_s", "duration_s", "sample_rate")] == [7.0, 3.0, 8000]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert items["long.wav"]["content_hash"] == digest
    assert items["coda"]["content_hash"] == f"{digest}#t=7.0+"


def test_an_image_with_measured_va_uses_it(folder: Folder) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        folder.image(name)
    folder.table(
        "images",
        ["image", "tag", "valence", "arousal", "caption", "valence_sd", "arousal_sd", "va_source"],
        ["a.png", "awe", "0.75", "0", "a 'quoted', \"text\"", "0.02", "0.03", ""],
        ["b.png", "awe", "", "nan", "", "0.02", "", ""],
        ["c.png", "awe", "0.5", "", "", "", "", ""],
        ["d.png", "awe", "4.5", "2.5", "", "", "", ""],
        ["e.png", "awe", "0.5", "0.5", "", "", "", "Model:CLIP"],
    )
    items = folder.items()
    a, b = items["a.png"], items["b.png"]
    assert (a["valence"], a["arousal"], a["va_source"], a["caption"]) == (
        0.75,
        0,
        "measured",
        "a 'quoted', \"text\"",
    )
    assert (a["valence_sd"], a["arousal_sd"]) == (0.02, 0.03)
    assert (b["valence"], b["va_source"], b["caption"]) == (0.469, "tag", None)
    assert b["valence_sd"] is None
    assert items["e.png"]["va_source"] == "model:CLIP"
    assert folder.reason("c.png") == (
        "images.csv row 4: has only one of valence and arousal: give both, or neither"
    )
    assert folder.reason("d.png") == "images.csv row 5: valence is '4.5', expected a number from 0 to 1"


@pytest.mark.parametrize(
    ("column", "cell", "complaint"),
    [
        ("emotion", "1,2,3", "emotion: 3 numbers in '1,2,3', expected 11"),
        ("feeling", "33% Gloomy", "feeling: 'Gloomy' is none of the 28 feelings"),
        ("start_s", "soon", "start_s is 'soon', expected a number of at least 0"),
        ("start_s", "-1", "start_s is '-1', expected a number of at least 0"),
        ("start_s", "1,5", "start_s is '1,5', expected a number of at least 0"),
        ("duration_s", "inf", "duration_s is 'inf', expected a number of at least 0"),
        ("is_original_clip", "perhaps", "is_original_clip is 'perhaps': write true or false"),
    ],
)
def test_a_bad_cell_rejects_its_row_and_names_it(
    folder: Folder, column: str, cell: str, complaint: str
) -> None:
    folder.clip("a.wav")
    folder.clip("b.wav")
    folder.table(
        "music", ["file", "genre", "clip_id", column], ["a.wav", "K", "a", ""], ["b.wav", "K", "b", cell]
    )
    assert folder.reason("b") == f"music.csv row 3: {complaint}"
    assert usable(folder.items()) == {"a"}


def test_a_window_outside_its_file_is_rejected(folder: Folder) -> None:
    folder.clip("a.wav", seconds=3)
    folder.table(
        "music", ["file", "genre", "start_s", "duration_s", "clip_id"], ["a.wav", "K", "2", "5", "late"]
    )
    assert "from 2 s to 7 s does not lie in the file, which is 3 s long" in folder.reason("late")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "music.csv is empty"),
        (b"name,genre\na.wav,K\n", "has no column named file; its columns are: name, genre"),
        (b"file,FILE\na.wav,b.wav\n", "has two columns for file: file and FILE"),
        (b"file,genre\na.wav,K\nb.wav,K,\n", "music.csv row 3 has 3 cells and the header has 2"),
        (b"file,genre\na.wav,K\n\xff.wav,K\n", "music.csv line 3 is not UTF-8"),
        ("file,genre\na.wav,K\n".encode("utf-16"), "line 1 is not UTF-8: save the table as CSV in UTF-8"),
        (b'file,genre\na.wav,"K\n', "is not valid CSV"),
        (b"file,Emotions\na.wav,K\n", "has an unknown column 'Emotions': rename it to 'emotion'"),
        (b"file;genre\na.wav;K\n", "has no column named file; its columns are: file;genre"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_that_names_file_and_row(
    folder: Folder, content: bytes, complaint: str
) -> None:
    (folder.root / "music.csv").write_bytes(content)
    with pytest.raises(TableError) as raised:
        take_inventory(folder.root)
    assert complaint in str(raised.value)
    assert str(folder.root / "music.csv") in str(raised.value)


def test_byte_order_mark_blank_lines_case_and_unknown_columns_do_no_harm(folder: Folder) -> None:
    folder.clip("a.wav")
    (folder.root / "music.csv").write_bytes(
        '\ufeff FILE , Genre ,my notes\r\n\r\na.wav , k,"some,\nthing"\r\n,,\r\n'.encode()
    )
    assert folder.items()["a.wav"]["partition"] == "sad"


# ------------------------------------------------------------------------------------ names, paths


NAMES = [
    "with space.wav",
    'it\'s "quoted".wav',
    "<b>&amp; html.wav",
    "комната, ночь.wav",
    "音楽 🎵.wav",
    "a#t=1+2.wav",
    "per%20cent.wav",
    "back\\slash.wav",
    "trailing .WAV",
    "-rf.wav",
    "line\nbreak.wav",
    f"{'é' * 125}x.wav",  # 255 bytes
]


def test_awkward_names_are_found_by_folder(folder: Folder) -> None:
    for name in NAMES:
        folder.clip(f"sad/{name}")
    items = folder.items()
    assert usable(items) == {f"sad/{name}" for name in NAMES}
    assert {item["file"] for item in items.values()} == {f"music/sad/{name}" for name in NAMES}


def test_awkward_names_are_found_by_table(folder: Folder) -> None:
    for name in NAMES:
        folder.clip(name)
    folder.table("music", ["file", "genre"], *([name, "K"] for name in NAMES))
    assert usable(folder.items()) == set(NAMES)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_on_one_side_only(folder: Folder, on_disk: str, in_table: str) -> None:
    disk = unicodedata.normalize(on_disk, "café – Å.png")  # type: ignore[arg-type]
    folder.image(disk)
    folder.table("images", ["file", "tag"], [unicodedata.normalize(in_table, disk), "awe"])  # type: ignore[arg-type]
    assert usable(folder.items()) == {disk}


def test_a_name_that_is_not_utf_8_is_rejected_with_its_bytes_shown(folder: Folder) -> None:
    (folder.root / "music" / "sad").mkdir()
    shutil.copy(
        os.fsencode(folder.clip("sad/a.wav")), os.fsencode(folder.root / "music" / "sad") + b"/\xff.wav"
    )
    assert folder.reason("sad/\\xff.wav") == "file name is not valid UTF-8: rename the file"


def test_hidden_files_and_litter_are_ignored(folder: Folder) -> None:
    folder.image("awe/a.png")
    for name in (".DS_Store", "Thumbs.db", "awe/._a.png", "awe/desktop.ini"):
        (folder.root / "images" / name).write_bytes(b"litter")
    folder.image("__MACOSX/awe/b.png")
    folder.image(".trash/c.png")
    assert folder.items().keys() == {"awe/a.png"}


def test_other_files_are_rejected_with_a_reason(folder: Folder) -> None:
    (folder.root / "music" / "sad").mkdir()
    (folder.root / "music" / "sad" / "notes.txt").write_text("a note")
    (folder.root / "images" / "README").write_text("read me")
    folder.image("awe/a.png").rename(folder.root / "music" / "sad" / "cover.png")
    assert folder.reason("sad/notes.txt").startswith(
        "is not a known music format: '.txt' is none of wav, flac"
    )
    assert folder.reason("README").startswith("is not a known image format: 'no suffix' is none of jpg")
    assert folder.reason("sad/cover.png").startswith("is not a known music format")


def test_a_table_row_never_leads_out_of_the_media_folder(folder: Folder, tmp_path: Path) -> None:
    outside = folder.clip("secret.wav").rename(tmp_path / "secret.wav")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(outside, tmp_path / "elsewhere" / "b.wav")
    (folder.root / "music" / "door").symlink_to(tmp_path / "elsewhere")
    folder.table(
        "music",
        ["file", "genre", "clip_id"],
        ["../../secret.wav", "K", "up"],
        [str(outside), "K", "absolute"],
        ["x/../../../secret.wav", "K", "round"],
        ["door/b.wav", "K", "behind"],
        ["null\0byte.wav", "K", "null"],
        ["gone.wav", "K", "gone"],
        ["", "K", "blank"],
    )
    items = folder.items()
    assert not usable(items)
    assert items.pop("door")["reason"] == "is a link that leads out of the media folder"
    assert {item_id: str(item["reason"]).partition(": ")[2] for item_id, item in items.items()} == {
        "up": "file has .. in its path, which could lead out of the media folder",
        "round": "file has .. in its path, which could lead out of the media folder",
        "absolute": "file is an absolute path; write the path below music/",
        "behind": "file is behind a link that leads out of the media folder",
        "null": "file is missing from the disk (music/null byte.wav)",
        "gone": "file is missing from the disk (music/gone.wav)",
        "blank": "file is blank",
    }
    assert all(item["content_hash"] is None for item in items.values())


def test_links_that_lead_out_are_rejected_and_those_within_are_followed(
    folder: Folder, tmp_path: Path
) -> None:
    outside = folder.clip("x.wav").rename(tmp_path / "outside.wav")
    music = folder.root / "music"
    folder.clip("sad/a.wav")
    (music / "store").mkdir()
    folder.clip("store/b.wav")
    (music / "sad" / "out.wav").symlink_to(outside)
    (music / "sad" / "broken.wav").symlink_to(music / "nothing.wav")
    (music / "sad" / "in.wav").symlink_to(music / "store" / "b.wav")
    (music / "sad" / "loop").symlink_to(music)
    items = folder.items()
    assert usable(items) == {"sad/a.wav", "sad/in.wav"}
    assert items["sad/out.wav"]["reason"] == "is a link that leads out of the media folder"
    assert items["sad/out.wav"]["content_hash"] is None
    assert items["sad/broken.wav"]["reason"] == (
        "is a link that leads nowhere (No such file or directory): put the file itself here"
    )
    assert str(items["sad/loop"]["reason"]).startswith("is a link to a folder, which is not followed")


@pytest.mark.parametrize("name", ["music", "images.csv"])
def test_a_media_folder_whose_own_parts_lead_out_is_an_error(
    folder: Folder, tmp_path: Path, name: str
) -> None:
    (folder.root / "music").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (folder.root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MediaFolderError, match=f"{name} is a link that leads out of the media folder"):
        take_inventory(folder.root)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("odd.wav", "is a link in a circle: put the file itself here"),
        ("y" * 300 + ".wav", "is a link that leads nowhere (File name too long): put the file itself here"),
        ("a.wav/b.wav", "is a link that leads nowhere (Not a directory): put the file itself here"),
    ],
)
def test_a_link_that_cannot_be_followed_is_rejected_and_the_rest_is_used(
    folder: Folder, target: str, reason: str
) -> None:
    folder.clip("sad/a.wav")
    (folder.root / "music" / "sad" / "odd.wav").symlink_to(target)
    folder.table("music", ["file", "genre"], ["sad/odd.wav", "sad"], ["sad/a.wav/c.wav", "sad"])
    items = folder.items()
    assert usable(items) == {"sad/a.wav"}
    assert items["sad/odd.wav"]["reason"] == reason
    assert "file is missing from the disk" in str(items["sad/a.wav/c.wav"]["reason"])
    assert look_at(folder.root).files["music/sad/odd.wav"] == (None, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_is_rejected_and_the_rest_is_used(folder: Folder) -> None:
    folder.clip("sad/a.wav")
    folder.clip("joyful/b.wav").parent.chmod(0)
    assert folder.reason("joyful") == "folder cannot be read: Permission denied"
    assert usable(folder.items()) == {"sad/a.wav"}
    (folder.root / "music" / "joyful").chmod(0o700)


def test_a_media_folder_that_is_a_link_in_a_circle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "media").symlink_to("media")
    with pytest.raises(MediaFolderError, match="is not a readable folder"):
        take_inventory(tmp_path / "media")


@pytest.mark.parametrize("name", ["Music.csv", "music.CSV", "IMAGES.csv"])
def test_a_table_whose_name_is_not_in_lower_case_is_an_error_that_names_it(folder: Folder, name: str) -> None:
    folder.clip("sad/a.wav")
    (folder.root / name).write_text("file,genre\nsad/a.wav,joyful\n")
    for look in (take_inventory, look_at):
        with pytest.raises(MediaFolderError, match=f"{name} must be a file called {name.lower()}"):
            look(folder.root)


@pytest.mark.parametrize("target", ["elsewhere/music.csv", "music.csv", "x" * 300])
def test_a_table_that_is_a_link_to_nothing_is_an_error_that_names_it(folder: Folder, target: str) -> None:
    folder.clip("sad/a.wav")
    (folder.root / "music.csv").symlink_to(target)
    for look in (take_inventory, look_at):
        with pytest.raises(MediaFolderError, match=r"music\.csv must be a file called music\.csv"):
            look(folder.root)


def test_the_row_of_a_table_goes_before_a_copy_that_the_table_does_not_list(folder: Folder) -> None:
    listed = folder.clip("sad/song.wav")
    shutil.copy(listed, folder.root / "music" / "sad" / "acopy.wav")
    folder.table(
        "music",
        ["file", "genre", "licence", "emotion", "is_original_clip"],
        ["sad/song.wav", "joyful", "CC-BY-4.0", RATINGS, "false"],
    )
    items = folder.items()
    assert usable(items) == {"sad/song.wav"}
    song = items["sad/song.wav"]
    assert (song["partition"], song["licence"], song["va_source"]) == ("joyful", "CC-BY-4.0", "ratings")
    assert items["sad/acopy.wav"]["reason"] == "duplicate: same content as 'sad/song.wav'"


def test_a_row_whose_file_differs_in_case_alone_says_so(folder: Folder) -> None:
    folder.clip("Sad/Song.wav")
    folder.table("music", ["file", "genre"], ["music/sad/song.WAV", "sad"])
    assert folder.reason("music/sad/song.WAV").endswith(
        "; music/Sad/Song.wav differs only in upper and lower case: write it like that"
    )


def test_a_pipe_is_not_opened(folder: Folder) -> None:
    (folder.root / "music" / "sad").mkdir()
    os.mkfifo(folder.root / "music" / "sad" / "pipe.wav")
    assert folder.reason("sad/pipe.wav") == "is not a regular file (a pipe, socket or device)"


def test_a_folder_that_is_no_media_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaFolderError, match="contains neither music/ nor images/"):
        take_inventory(tmp_path)
    with pytest.raises(MediaFolderError, match="is not a readable folder"):
        take_inventory(tmp_path / "absent")


def test_images_alone_are_a_media_folder(folder: Folder) -> None:
    (folder.root / "music").rmdir()
    folder.image("awe/a.png")
    assert usable(folder.items()) == {"awe/a.png"}


def test_an_empty_media_folder_is_an_empty_inventory(folder: Folder) -> None:
    inventory = take_inventory(folder.root)
    assert inventory.is_empty()
    assert not MEDIA_INVENTORY.differences(inventory)


# ---------------------------------------------------------------------------------------- contents


def test_every_sort_of_useless_content_has_its_reason(folder: Folder) -> None:
    whole = folder.clip("sad/whole.ogg", seconds=9)
    sad, awe = whole.parent, folder.root / "images" / "awe"
    (sad / "text.mp3").write_text("This is a text, not music.\n" * 400)
    (sad / "cut.ogg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (sad / "empty.flac").touch()
    soundfile.write(sad / "silent.wav", np.zeros(24_000), 8000)
    folder.clip("sad/short.wav", seconds=0.2)
    folder.image("awe/dot.png", size=(1, 1))
    (awe / "empty.png").touch()
    (awe / "text.jpg").write_text("no pixels")
    Image.new("CMYK", (16, 16), (9, 9, 9, 9)).save(awe / "cmyk.jpg")
    Image.new("RGBA", (16, 16), (9, 9, 9, 9)).save(awe / "alpha.png")
    inventory = take_inventory(folder.root)
    reasons = dict(inventory.filter(pl.col("reason").is_not_null()).select("item_id", "reason").iter_rows())
    assert reasons == {
        "sad/text.mp3": "audio is unreadable: its contents are not WAV, FLAC, Ogg, Opus, MP3, AIFF or M4A",
        "sad/cut.ogg": "audio is truncated: the file ends before its end mark or its stated length",
        "sad/empty.flac": "audio file is empty (0 bytes)",
        "sad/silent.wav": "audio is silent: no sample is above 0.0001 of full scale",
        "sad/short.wav": "audio is too short: 0.2 s, the minimum is 1 s",
        "awe/dot.png": "image is too small: 1 × 1 pixels, the minimum is 8 a side",
        "awe/empty.png": "image file is empty (0 bytes)",
        "awe/text.jpg": "image is unreadable: its contents are not JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, "
        "HEIC or JPEG XL",
    }
    assert dict(rejected_manifest(inventory).select("item_id", "reason").iter_rows()) == reasons
    assert image_manifest(inventory, "awe")["image_id"].to_list() == ["awe/alpha.png", "awe/cmyk.jpg"]


def test_of_equal_contents_the_first_by_id_stays_and_originals_come_first(folder: Folder) -> None:
    first = folder.clip("sad/b.wav")
    for name in ("sad/a.wav", "sad/c.wav"):
        shutil.copy(first, folder.root / "music" / name)
    items = folder.items()
    assert usable(items) == {"sad/a.wav"}
    assert items["sad/c.wav"]["reason"] == "duplicate: same content as 'sad/a.wav'"
    folder.table("music", ["file", "is_original_clip"], ["sad/a.wav", "false"], ["sad/b.wav", "true"])
    items = folder.items()
    assert usable(items) == {"sad/b.wav"}
    assert items["sad/a.wav"]["reason"] == "duplicate: same content as 'sad/b.wav'"


def test_a_rejected_item_does_not_make_its_copy_a_duplicate(folder: Folder) -> None:
    original = folder.image("a.png")
    (folder.root / "images" / "awe").mkdir()
    shutil.copy(original, folder.root / "images" / "awe" / "b.png")
    assert usable(folder.items()) == {"awe/b.png"}


def test_an_id_belongs_to_the_first_row_that_has_it(folder: Folder) -> None:
    folder.image("a.png")
    folder.image("b.png")
    folder.table(
        "images",
        ["file", "tag", "image_id"],
        ["b.png", "awe", "x"],
        ["a.png", "awe", "x"],
        ["b.png", "awe", "y"],
    )
    inventory = take_inventory(folder.root)
    reasons = dict(inventory.filter(pl.col("reason").is_not_null()).select("file", "reason").iter_rows())
    assert reasons["images/a.png"] == "its id 'x' is already used by images/b.png: ids must be unique"
    assert reasons["images/b.png"] == "duplicate: same content as 'x'"


def test_music_and_images_may_share_an_id(folder: Folder) -> None:
    folder.clip("a.wav")
    folder.image("a.png")
    folder.table("music", ["file", "genre", "clip_id"], ["a.wav", "K", "1"])
    folder.table("images", ["file", "tag", "image_id"], ["a.png", "awe", "1"])
    assert take_inventory(folder.root)["reason"].null_count() == 2


def test_a_reason_is_one_readable_line_whatever_a_cell_holds(folder: Folder) -> None:
    folder.table("images", ["file", "tag", "image_id"], ["gone\n\r\n" + "x" * 5000, "awe", "1"])
    assert folder.reason("1").startswith("images.csv row 2: file is missing from the disk (images/gone xxx")
    assert len(folder.reason("1")) == 500


def test_a_file_that_vanishes_during_the_inventory_is_rejected(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {folder.clip("sad/a.wav"), folder.image("awe/a.png"), folder.image("awe/b.png")}
    hash_file = contents.sha256_of

    def hash_and_remove(path: Path) -> str:
        digest = "0" * 64 if path.name == "b.png" else hash_file(path)
        path.unlink()
        return hash_file(path) if path.name == "b.png" else digest

    monkeypatch.setattr(contents, "sha256_of", hash_and_remove)
    items = folder.items()
    assert len(items) == len(gone)
    assert all("No such file or directory" in str(item["reason"]) for item in items.values())


def test_a_file_that_is_replaced_while_it_is_read_gets_no_hash_and_is_read_again_even_if_put_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.image("awe/a.png")
    kept, stamp = path.read_bytes(), path.stat().st_mtime_ns
    probe = contents.probe_image

    def replaced_and_probed(path: Path, limits: MediaLimits) -> object:
        folder.image("awe/a.png", size=(40, 40))
        return probe(path, limits)

    monkeypatch.setattr(contents, "probe_image", replaced_and_probed)
    first = take_inventory(folder.root)
    assert first.select("content_hash", "width").rows() == [(None, None)]
    assert first["reason"].to_list() == [contents.CHANGING]
    monkeypatch.undo()
    path.write_bytes(kept)
    os.utime(path, ns=(stamp, stamp))
    second = take_inventory(folder.root, first)
    assert second.select("content_hash", "reason").rows() == [(hashlib.sha256(kept).hexdigest(), None)]


def test_limits_are_the_callers(folder: Folder) -> None:
    folder.clip("sad/a.wav", seconds=2)
    inventory = take_inventory(folder.root, limits=MediaLimits(min_duration_s=3))
    assert inventory["reason"].to_list() == ["audio is too short: 2 s, the minimum is 3 s"]


# ----------------------------------------------------------------------------------- the next time


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was hashed or decoded since the test began, in order."""
    read: list[str] = []

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(path: Path, *arguments: object) -> object:
            read.append(f"{name} {path.name}")
            return function(path, *arguments)

        return call

    for name in ("sha256_of", "probe_audio", "probe_image"):
        monkeypatch.setattr(contents, name, counted(name, getattr(contents, name)))
    return read


def test_unchanged_media_are_neither_hashed_nor_decoded_again(folder: Folder, read_files: list[str]) -> None:
    folder.clip("sad/a.wav")
    shutil.copy(folder.root / "music/sad/a.wav", folder.root / "music/sad/twin.wav")
    folder.clip("sad/short.wav", seconds=0.1)
    folder.image("awe/a.png")
    (folder.root / "images/awe/empty.png").touch()
    folder.image("unlabelled.png")
    first = take_inventory(folder.root)
    assert len(read_files) == 10  # five files with a label: one hash and one decoding each
    read_files.clear()
    progress: list[tuple[int, int]] = []
    second = take_inventory(
        folder.root, first, on_progress=lambda done, total: progress.append((done, total))
    )
    assert second.equals(first)
    assert read_files == []
    assert progress == []


def test_a_clip_with_a_silent_channel_beside_one_that_sounds_has_a_note_that_stays(folder: Folder) -> None:
    folder.clip("sad/mono.wav")
    sound, _ = soundfile.read(folder.clip("sad/half.wav"))
    for name, silent in (("sad/half.wav", [0 * sound, sound]), ("sad/four.wav", [sound, *[0 * sound] * 3])):
        soundfile.write(folder.root / "music" / name, np.stack(silent, axis=1), 8000)
    first = take_inventory(folder.root)
    for inventory in (first, take_inventory(folder.root, first)):
        assert inventory["reason"].null_count() == 3
        assert dict(inventory.select("item_id", "note").rows()) == {
            "sad/mono.wav": None,
            "sad/half.wav": "1 of its 2 channels is silent and left out",
            "sad/four.wav": "3 of its 4 channels are silent and left out",
        }


def test_only_new_and_changed_files_are_read(folder: Folder, read_files: list[str]) -> None:
    folder.image("awe/a.png")
    changed = folder.image("awe/b.png")
    first = take_inventory(folder.root)
    read_files.clear()
    folder.image("awe/new.png")
    folder.image("awe/b.png", size=(20, 20))
    os.utime(changed, ns=(1, 1))
    second = take_inventory(folder.root, first)
    assert sorted(read_files) == [
        "probe_image b.png",
        "probe_image new.png",
        "sha256_of b.png",
        "sha256_of new.png",
    ]
    assert dict(second.select("item_id", "width").iter_rows()) == {
        "awe/a.png": 16,
        "awe/b.png": 20,
        "awe/new.png": 16,
    }


def test_a_label_mended_in_the_table_needs_no_reading_of_other_files(
    folder: Folder, read_files: list[str]
) -> None:
    folder.clip("a.wav")
    folder.clip("b.wav", seconds=6)
    header = ["file", "genre", "start_s", "duration_s"]
    folder.table("music", header, ["a.wav", "x", "", ""], ["b.wav", "K", "0", "3"])
    first = take_inventory(folder.root)
    assert sorted(read_files) == ["probe_audio b.wav", "sha256_of b.wav"]
    read_files.clear()
    folder.table("music", header, ["a.wav", "L", "", ""], ["b.wav", "M", "0", "3"])
    second = take_inventory(folder.root, first)
    assert sorted(read_files) == ["probe_audio a.wav", "sha256_of a.wav"]
    assert second["partition"].to_list() == ["scary", "triumphant"]
    assert second["duration_s"].to_list() == [2, 3]
    read_files.clear()
    folder.table("music", header, ["a.wav", "L", "", ""], ["b.wav", "M", "0", "4"])
    third = take_inventory(folder.root, second)
    assert sorted(read_files) == ["probe_audio b.wav", "sha256_of b.wav"]
    assert third["duration_s"].to_list() == [2, 4]


def test_a_file_with_many_windows_is_hashed_once(folder: Folder, read_files: list[str]) -> None:
    folder.clip("a.wav", seconds=8)
    folder.table(
        "music", ["file", "genre", "start_s", "duration_s"], *(["a.wav", "K", start, 2] for start in range(5))
    )
    assert take_inventory(folder.root)["reason"].null_count() == 5
    assert read_files.count("sha256_of a.wav") == 1


def test_progress_counts_to_the_number_of_files(folder: Folder) -> None:
    for number in range(5):
        folder.image(f"awe/{number}.png")
    progress: list[tuple[int, int]] = []
    take_inventory(folder.root, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 5) for done in range(1, 6)]


def test_m4a_is_looked_at_again_once_pyav_is_installed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.root / "music" / "sad").mkdir()
    (folder.root / "music" / "sad" / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setattr("emid_assets.media.audio.is_pyav_installed", lambda: False)
    first = take_inventory(folder.root)
    assert "pip install 'emid-assets[m4a]'" in first["reason"][0]
    monkeypatch.setattr("emid_assets.media.audio.is_pyav_installed", lambda: True)
    second = take_inventory(folder.root, first)
    assert second["reason"][0].startswith("audio is unreadable")


def test_missing_va_is_only_where_the_label_is_unknown(folder: Folder) -> None:
    folder.clip("x.wav")
    folder.image("y.png")
    for item in folder.items().values():
        assert item["partition"] is None
        assert all(item[name] is None for name in ("valence", "arousal", "va_source"))
        assert not math.isnan(float(item["size_bytes"]))  # type: ignore[arg-type]


def test_a_sub_folder_in_capitals_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "Music").mkdir()
    (tmp_path / "images").mkdir()
    with pytest.raises(MediaFolderError, match=r"Music must be a folder called music"):
        take_inventory(tmp_path)


def test_a_table_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music.csv").mkdir()
    with pytest.raises(MediaFolderError, match=r"music\.csv must be a file called music\.csv"):
        take_inventory(tmp_path)


def test_a_table_with_semicolons_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music.csv").write_text("file;genre\na.ogg;sad\n")
    with pytest.raises(TableError, match="save it with commas"):
        take_inventory(tmp_path)


def test_backslashes_in_a_table_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music.csv").write_text("file,genre\nsad\\a.ogg,sad\n")
    assert "separate folders with /" in take_inventory(tmp_path)["reason"][0]
