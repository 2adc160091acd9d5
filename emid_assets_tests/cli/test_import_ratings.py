"""`emid import ratings`: from a made-up published table to the inventory of the media folder."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from emid_assets.cli.main import main
from emid_assets.media.inventory import take_inventory
from emid_assets.prediction.predict import rated_images
from emid_assets.report.predicted import predicted_clips
from emid_assets_tests.defs.tiny_media import write_clip, write_image

FACTS = ("valence", "arousal", "va_source", "valence_sd", "arousal_sd")
OWN_ROWS = (
    "\ufeffAudio_Filename,mood,genre,valence,arousal,valence_sd,emotion\r\n"
    'deam/3.wav,"grey, wet",sad,2,3,,\r\n'
    "deam/4.wav,,sad,,,,\r\n"
    'deam/5.wav,,calm,,,,"5,5,5,5,5,5,5,5,5,5,5"\r\n'
    "deam/6.wav,,calm,5,5,,\r\n"
    "gone.wav,kept too,calm,1,1,,\r\n"
)
DEAM = (
    "song_id, valence_mean, valence_std, arousal_mean, arousal_std\n"
    "2,3.5,0.8,7.25,0.4\n3,5,1,5,1\n4,4,1,6,2\n5,5,1,6,1\n6,5,1,5,1\n7,3,1,3,1\n8,3,1,3,1\n"
)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    for seed, name in enumerate(("deam/2", "deam/3", "deam/4", "deam/5", "deam/6", "other/2")):
        write_clip(folder / "music" / f"{name}.wav", seed)
    for seed, name in enumerate(("Acorns 1", "Lake 1", "fear/corridor", "plain")):
        write_image(folder / "images" / f"{name}.png", seed)
    return folder


def run(media: Path, tables: Mapping[str, str], *options: str) -> Result:
    paths = [media.parent / name for name in tables]
    for path, text in zip(paths, tables.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["import", "ratings", *map(str, paths), "--media", str(media), *options])


def imported(media: Path, tables: Mapping[str, str], *options: str) -> dict[str, list[dict[str, object]]]:
    result = run(media, tables, *options, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, list[dict[str, object]]] = json.loads(result.stdout)
    return found


def facts(media: Path) -> dict[str, tuple[object, ...]]:
    inventory = take_inventory(media, keep_unlabelled=True)
    return {row["item_id"]: tuple(row[fact] for fact in FACTS) for row in inventory.to_dicts()}


def test_ratings_join_the_users_table_and_no_row_or_column_of_it_is_lost(media: Path) -> None:
    (media / "music.csv").write_bytes(OWN_ROWS.encode())
    found = imported(media, {"deam.csv": DEAM}, "--raters", "16", "--below", "deam")
    (table,), (written,) = found["tables"], found["written"]
    assert (table["layout"], table["names"], table["found"], table["absent"]) == ("DEAM", 7, 5, ["7", "8"])
    assert {name: written[name] for name in ("added", "completed", "replaced", "unchanged")} == {
        "added": 1, "completed": 2, "replaced": 0, "unchanged": 0,
    }  # fmt: skip
    assert written["conflicts"] == [
        "music.csv row 2: has valence, arousal = 2, 3 (ratings), not 5, 5 (ratings) (deam.csv row 3): kept",
        "music.csv row 4: has its 11 ratings (deam.csv row 5): kept",
    ]
    after = facts(media)
    assert after["deam/2.wav"] == (3.5, 7.25, "ratings", 0.2, 0.1)
    assert after["deam/3.wav"] == (2.0, 3.0, "ratings", None, None)
    assert after["deam/4.wav"] == (4.0, 6.0, "ratings", 0.25, 0.5)
    assert after["deam/5.wav"] == (5.0, 5.0, "ratings", None, None)
    assert after["deam/6.wav"] == (5.0, 5.0, "ratings", 0.25, 0.25)
    assert after["other/2.wav"][2] is None

    content = (media / "music.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfAudio_Filename,mood,genre,")
    assert content.count(b"\n") == content.count(b"\r\n")
    before = list(csv.reader(OWN_ROWS.removeprefix("\ufeff").splitlines()))
    rows = list(csv.reader(content.decode("utf-8-sig").splitlines()))
    assert [row[:3] for row in rows[: len(before)]] == [row[:3] for row in before]
    assert rows[5][: len(before[5])] == before[5]

    # The same import again changes nothing; with --overwrite, the ratings are the table's.
    imported(media, {"deam.csv": DEAM}, "--raters", "16", "--below", "deam")
    assert (media / "music.csv").read_bytes() == content
    again = imported(media, {"deam.csv": DEAM}, "--raters", "16", "--below", "deam", "--overwrite")
    assert again["written"][0]["replaced"] == 1
    assert facts(media)["deam/3.wav"] == (5.0, 5.0, "ratings", 0.25, 0.25)


def test_tables_that_belong_together_become_one_rating(media: Path) -> None:
    header = "song_id,sample_15000ms,sample_15500ms\n"
    tables = {"valence.csv": f"{header}2,0.25,0.75\n3,0,0\n", "arousal.csv": f"{header}2,-1,0\n"}
    found = imported(media, tables, "--below", "deam")
    assert found["written"][0]["conflicts"] == ["valence.csv row 3: deam/3.wav has no arousal: left out"]
    assert facts(media)["deam/2.wav"] == (7.0, 3.0, "ratings", None, None)
    assert facts(media)["deam/3.wav"][0] is None
    deviations = imported(media, {"std.csv": "musicId,Arousal(std),Valence(std)\n3,1,1\n"}, "--raters", "9")
    assert deviations["written"][0]["conflicts"] == [
        "std.csv row 2: deam/3.wav has no valence and arousal: left out"
    ]


def test_images_get_measured_values_and_tags_on_their_own_scale(media: Path) -> None:
    oasis = (
        ",Theme,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\n"
        "I1,Acorns 1,5.5,0.6,100,2.5,1.8,36\nI2,Lake 2,5,1,100,2,1,100\n"
    )
    tags = "image_id,emotion\nLake 1,contentment\ncorridor,awe\nplain,joy\n"
    found = imported(media, {"OASIS.csv": oasis, "EmoSet.csv": tags})
    assert facts(media)["Acorns 1.png"] == (0.75, 0.25, "measured", 0.01, 0.05)
    inventory = take_inventory(media, keep_unlabelled=True)
    labels = dict(inventory.select("item_id", "partition").iter_rows())
    assert (labels["Acorns 1.png"], labels["plain.png"]) == (None, None)
    assert (labels["Lake 1.png"], labels["fear/corridor.png"]) == ("contentment", "fear")
    assert found["tables"][1]["problems"] == [
        "EmoSet.csv row 4: unknown image emotion 'joy': use one of amusement, anger, awe, contentment, "
        "disgust, excitement, fear, sadness"
    ]
    assert found["written"][0]["conflicts"] == [
        "images/fear/corridor.png: is labelled fear, not awe (EmoSet.csv row 3): kept"
    ]


def test_outputs_of_another_model_are_kept_apart_from_ratings(media: Path) -> None:
    clips = "file,valence,arousal,valence_std,arousal_std\nmusic/deam/2.mp3,2,8,0.5,1\n"
    imported(media, {"m2e.csv": clips}, "--scale", "1", "9", "--model", "Music2Emo 1.0")
    pictures = "path,valence,arousal\n/data/fear/corridor.png,0.5,0.5\nplain.png,0.25,0.5\n"
    imported(media, {"clip.csv": pictures}, "--scale", "0", "1", "--model", "other model")
    after = facts(media)
    assert after["deam/2.wav"] == (2.0, 8.0, "model:Music2Emo 1.0", 0.5, 1.0)
    assert after["plain.png"] == (0.25, 0.5, "model:other model", None, None)
    inventory = take_inventory(media, keep_unlabelled=True)
    assert rated_images(inventory).is_empty()  # a head learns from people alone
    clips_table = inventory.filter(pl.col("kind") == "music").rename({"item_id": "clip_id"})
    assert predicted_clips(clips_table) == {"deam/2.wav"}
    # People's ratings do not replace them unless asked to, and the other way round.
    measured = {"r.csv": "file,valence,arousal\nplain.png,0.25,0.5\n"}
    (written,) = imported(media, measured, "--scale", "0", "1")["written"]
    assert written["conflicts"] == [
        "images.csv row 3: has valence, arousal = 0.25, 0.5 (model:other model), not 0.25, 0.5 (measured) "
        "(r.csv row 2): kept"
    ]
    imported(media, measured, "--scale", "0", "1", "--overwrite")
    assert facts(media)["plain.png"][2] == "measured"


def test_a_name_that_fits_several_files_is_told_with_what_to_do(media: Path) -> None:
    result = run(media, {"deam.csv": DEAM})
    assert result.exit_code == 0
    assert "4 of 7 clips found" in result.output
    assert (
        "1 not clear; give --below FOLDER:\n    deam.csv row 2: '2' may be deam/2.wav or other/2.wav"
        in result.output
    )
    assert "2 not in the media folder:\n    '7'\n    '8'\n" in result.output
    assert "7 deviations are not used: give --raters N" in result.output


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (DEAM.replace("song_id", "image"), ["--kind", "music"], "does not tell the scale"),
        (DEAM, ["--kind", "image"], "has the layout DEAM, which is not of image"),
        (DEAM, ["--below", "nowhere"], "no file that the tables name is in"),
        (DEAM, ["--scale", "9", "1"], "LOW must be less than HIGH"),
        (DEAM, ["--model", " "], "give the model's name"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_changes_nothing(
    media: Path, table: str, options: list[str], message: str
) -> None:
    result = run(media, {"deam.csv": table}, *options)
    assert result.exit_code != 0
    assert message in result.output
    assert not (media / "music.csv").exists()
    assert not (media / "images.csv").exists()


def test_a_table_that_names_files_of_both_kinds_needs_to_say_which_it_rates(media: Path) -> None:
    write_image(media / "images" / "4.png", 9)
    table = {"t.csv": "id,valence,arousal\n4,0.5,0.5\n"}
    result = run(media, table, "--scale", "0", "1")
    assert result.exit_code == 1
    assert "names files of music/ and of images/" in result.output
    imported(media, table, "--scale", "0", "1", "--kind", "image")
    assert facts(media)["4.png"][:3] == (0.5, 0.5, "measured")
