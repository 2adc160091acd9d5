"""A release: EMID's columns, readable by the tools it is made for, and the same bytes each time."""

import csv
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import datasets
import mlcroissant
import numpy as np
import polars as pl
import pytest
import pytrec_eval
import soundfile
import yaml

from emid_assets.affect.emotions import RATINGS as RATING_NAMES
from emid_assets.affect.ratings import parse_feelings, parse_ratings
from emid_assets.evaluation.evaluate import evaluate_released_tasks
from emid_assets.media.audio import read_audio
from emid_assets.media.inventory import image_manifest, music_manifest, take_inventory
from emid_assets.media.lake_tables import LakeTables
from emid_assets.release import parquet_files, release_media
from emid_assets.release.emid_format import emid_columns, emotion_texts, feeling_texts
from emid_assets.release.emid_import import import_emid
from emid_assets.release.emid_release import is_whole
from emid_assets.release.emid_source import csv_pieces, parquet_pieces, places_beside
from emid_assets.release.item_tables import ItemTables
from emid_assets.release.release_media import ReleaseError
from emid_assets.store.files import sha256_of
from emid_assets.store.schemas import FEELINGS_TYPE
from emid_assets_tests.release.conftest import SmallSet
from emid_assets_tests.small_lake import UNCHANGED

COLUMNS = (
    "Audio_Filename,genre,feeling,emotion,Image1_filename,Image1_tag,Image1_text,Image2_filename,Image2_tag,"
    "Image2_text,Image3_filename,Image3_tag,Image3_text,is_original_clip"
)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "EMID_data.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load(folder: Path, cache: Path, name: str | None = None) -> datasets.Dataset:
    (split,) = datasets.load_dataset(str(folder), name, cache_dir=str(cache)).values()
    return split


def test_the_table_has_emids_columns_and_a_row_for_each_clip(small_set: SmallSet, release: Path) -> None:
    assert (release / "EMID_data.csv").read_text().splitlines()[0] == COLUMNS
    assert ",".join(emid_columns(3)) == COLUMNS
    rows = rows_of(release)
    assert len(rows) == small_set.music_clips.height == 6
    tags = dict(small_set.images.select("image_id", "tag").iter_rows())
    for row in rows:
        assert (release / row["Audio_Filename"]).is_file()
        for slot in (1, 2, 3):
            file = row[f"Image{slot}_filename"]
            assert (release / file).is_file()
            assert row[f"Image{slot}_tag"] == tags[file.removeprefix("images/")]
            assert row[f"Image{slot}_text"] == f'no. {file[7]}, "grey"'
    first = rows[0]
    assert first["Audio_Filename"] == "music/sad/song 0, live.wav"
    assert first["feeling"] == "33% Sad, depressing, 22% Awe-inspiring, amazing"
    assert first["emotion"] == "4.1,5.2,4.4,4.9,5.0,6.1,4.8,3.2,5.5,4.7,3.9"
    assert rows[1]["emotion"] == "nan,5.2,4.4,4.9,5.0,6.1,4.8,3.2,5.5,4.7,3.9"
    assert rows[2]["feeling"] == rows[2]["emotion"] == ""
    assert [row["is_original_clip"] for row in rows].count("false") == 1
    parquet = pl.read_parquet(release / "EMID_data.parquet")
    assert parquet.equals(pl.read_csv(release / "EMID_data.csv").select(parquet.columns))


def test_more_images_for_a_clip_are_more_columns(small_set: SmallSet, tmp_path: Path) -> None:
    small_set.release(tmp_path / "release", images_per_clip=5)
    header = (tmp_path / "release" / "EMID_data.csv").read_text().splitlines()[0].split(",")
    assert header[-4:] == ["Image5_filename", "Image5_tag", "Image5_text", "is_original_clip"]
    assert len(header) == 4 + 3 * 5 + 1
    assert all(row["Image4_filename"] == "" for row in rows_of(tmp_path / "release"))


def test_the_same_inputs_give_the_same_bytes(small_set: SmallSet, release: Path, tmp_path: Path) -> None:
    again = small_set.release(tmp_path / "again")
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert {*again["file"], "SHA256SUMS"} == files
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (release / file).read_bytes(), file


def test_published_texts_come_out_as_they_went_in(shared_data: Path) -> None:
    with (shared_data / "cowen_dev.csv").open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    ratings = np.array([parse_ratings(row["emotion"]) for row in published])
    stored = ratings.astype(np.float32)
    frame = pl.DataFrame({f"rating_{name}": stored[:, place] for place, name in enumerate(RATING_NAMES)})
    frame = frame.with_columns(
        va_source=pl.lit("ratings"),
        **{axis: pl.Series(ratings[:, RATING_NAMES.index(axis)]) for axis in ("valence", "arousal")},
    )
    written = [[float(cell) for cell in text.split(",")] for text in emotion_texts(frame)]
    assert written == [[float(cell) for cell in row["emotion"].split(",")] for row in published]
    feelings = [
        [{"feeling": name, "percent": percent} for name, percent in parse_feelings(row["feeling"]).items()]
        for row in published
    ]
    cells = pl.DataFrame({"feelings": pl.Series(feelings, dtype=FEELINGS_TYPE)})
    assert feeling_texts(cells).to_list() == [row["feeling"].strip() for row in published]


def test_licences_that_differ_in_case_are_one(small_set: SmallSet, tmp_path: Path) -> None:
    mixed = replace(
        small_set,
        music_clips=small_set.music_clips.with_columns(licence=pl.lit("CC-BY-4.0")),
        images=small_set.images.with_columns(licence=pl.lit("cc-by-4.0")),
    )
    mixed.release(tmp_path / "release")
    card = (tmp_path / "release" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert "license_name" not in front
    assert f"| CC-BY-4.0 | {small_set.music_clips.height} | " in card
    metadata = json.loads((tmp_path / "release" / "croissant.json").read_text())
    assert metadata["license"] == ["CC-BY-4.0"]


def test_the_library_loads_the_folder_with_audio_and_images(release: Path, tmp_path: Path) -> None:
    loaded = load(release, tmp_path)
    assert loaded.column_names == COLUMNS.split(",")
    assert isinstance(loaded.features["Audio_Filename"], datasets.Audio)
    assert isinstance(loaded.features["Image3_filename"], datasets.Image)
    assert loaded.features["is_original_clip"] == datasets.Value("bool")
    raw = loaded.cast_column("Audio_Filename", datasets.Audio(decode=False))
    for row, written in zip(raw, rows_of(release), strict=True):
        assert row["Audio_Filename"]["path"] == written["Audio_Filename"]
        assert row["Audio_Filename"]["bytes"] == (release / written["Audio_Filename"]).read_bytes()
        assert row["Image1_filename"].size == (16, 16)


def test_many_rows_become_several_files_that_load_as_one(
    small_set: SmallSet, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "SHARD_BYTES", 250_000)
    small_set.release(tmp_path / "release")
    names = sorted(path.stem.rpartition("-")[0] for path in (tmp_path / "release" / "data").iterdir())
    assert names == [f"train-{place:05}-of-{len(names):05}" for place in range(len(names))]
    assert len(names) >= 2
    whole = load(release, tmp_path / "a").to_dict()["genre"]
    assert load(tmp_path / "release", tmp_path / "b").to_dict()["genre"] == whole


def test_another_release_in_the_same_place_is_not_taken_from_the_librarys_cache(
    small_set: SmallSet, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "release", tmp_path / "cache"
    small_set.release(folder)
    first = load(folder, cache)
    qrels = load(folder / "retrieval" / "EMIDA2IRetrieval", cache, "qrels")
    other = replace(small_set, pairs=small_set.pairs.filter(pl.col("rank") < 3))
    other.release(folder)
    assert first["Image3_tag"][0] is not None
    assert load(folder, cache)["Image3_tag"][:] == [None] * 6
    assert qrels.num_rows == 18
    assert load(folder / "retrieval" / "EMIDA2IRetrieval", cache, "qrels").num_rows == 12


def test_the_card_says_what_the_data_set_holds(release: Path) -> None:
    _, front, text = (release / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    [data] = matter["configs"][0]["data_files"]
    assert data["split"] == "train"
    assert list(release.glob(data["path"])) == list((release / "data").iterdir())
    assert [feature["name"] for feature in matter["dataset_info"]["features"]] == COLUMNS.split(",")
    assert matter["license"] == "other"
    assert matter["size_categories"] == ["n<1K"]
    assert "| CC-BY-SA-3.0 | 1 | 0 |" in text
    assert "| CC-BY-3.0 | 3 | 0 |" in text
    assert "| not stated | 2 | 0 |" in text
    assert "| original | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 4 | 1 | 0 | 5 |" in text
    assert "| all | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 4 | 2 | 0 | 6 |" in text
    assert "18 pairs" in text
    assert "- Clips, 1: labels: table; valence and arousal: measured: the clip's own ratings." in text
    assert "- Images, 1: labels: table; valence and arousal: measured: the image's own ratings." in text
    assert "- Captions, 6: by table." in text
    assert "none \\| &lt;made up>" in text
    assert str(release.parent) not in text


def test_each_row_keeps_its_licence_and_author(release: Path) -> None:
    clips = pl.read_csv(release / "music.csv")
    assert clips.filter(clip_id="sad/song 0, live.wav").select("licence", "author").row(0) == (
        "CC-BY-3.0",
        "O, Brien",
    )
    images = pl.read_csv(release / "images.csv")
    assert set(images["licence"]) == {"CC0-1.0"}
    assert set(images["caption_source"]) == {"table"}
    assert set(images["va_source"]) == {"measured", "tag"}
    assert set(clips["va_source"]) == {"ratings", "category_mean"}


def test_croissant_is_valid_and_reads_the_rows(release: Path) -> None:
    metadata = mlcroissant.Dataset(str(release / "croissant.json"))
    assert metadata.metadata.issues.errors == set()
    # A date would make each build another one.
    assert ["datePublished" in warning for warning in metadata.metadata.issues.warnings] == [True]
    records = list(metadata.records("pairs"))
    assert len(records) == len(rows_of(release))
    assert records[0]["pairs/genre"] == b"K"
    kept = [str(record["pairs/is_original_clip"]).lower() for record in records]
    assert kept == [row["is_original_clip"] for row in rows_of(release)]
    files = json.loads((release / "croissant.json").read_text())["distribution"]
    sums = dict(reversed(line.split("  ", 1)) for line in (release / "SHA256SUMS").read_text().splitlines())
    assert all(sums[file["contentUrl"]] == file["sha256"] for file in files if "sha256" in file)


def test_the_checksums_are_those_of_every_file(small_set: SmallSet, tmp_path: Path) -> None:
    files = small_set.release(tmp_path / "release")
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    printed = subprocess.run(
        check, cwd=tmp_path / "release", capture_output=True, text=True, check=True
    ).stdout
    assert len(printed.splitlines()) == files.height
    listed = {
        path.relative_to(tmp_path / "release").as_posix() for path in (tmp_path / "release").rglob("*.*")
    }
    assert {file for file in listed if (tmp_path / "release" / file).is_file()} == set(files["file"])
    assert is_whole(tmp_path / "release", files)
    (tmp_path / "release" / "croissant.json").write_text("{}")
    assert not is_whole(tmp_path / "release", files)
    assert subprocess.run(check, cwd=tmp_path / "release", capture_output=True, check=False).returncode != 0


def test_windows_become_files_of_their_own_with_the_same_samples(small_set: SmallSet, release: Path) -> None:
    expected, rate = read_audio(small_set.media / "music" / "long.ogg", 3.25, 1.5)
    samples, cut_rate = soundfile.read(release / "music" / "long@3.25+1.500.flac", always_2d=True)
    assert cut_rate == rate == 32_000
    assert samples.T.shape == expected.shape
    assert np.abs(samples.T - expected).max() <= 1 / 32_768
    assert not (release / "music" / "long.ogg").exists()


def test_a_release_is_a_media_folder_of_the_same_clips(small_set: SmallSet, release: Path) -> None:
    inventory = take_inventory(release, workers=0)
    assert inventory["reason"].null_count() == inventory.height
    clips = pl.concat([music_manifest(inventory, "sad"), music_manifest(inventory, "scary")])
    kept = [
        "clip_id",
        "is_original_clip",
        "source_id",
        "genre",
        "feelings",
        "rating_valence",
        "licence",
        "author",
    ]
    mine = small_set.music_clips.join(small_set.pairs, on="clip_id", how="semi")
    assert clips.select(kept).sort("clip_id").equals(mine.select(kept).sort("clip_id"))
    images = pl.concat([image_manifest(inventory, tag) for tag in ("awe", "fear")]).sort("image_id")
    kept = ["image_id", "tag", "caption", "valence", "arousal", "va_source"]
    used = small_set.images.join(small_set.pairs, on="image_id", how="semi").sort("image_id")
    assert images.select(kept).equals(used.select(kept))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_is_released_can_be_imported_again(release: Path, tmp_path: Path, form: str) -> None:
    pieces = (
        csv_pieces(release / "EMID_data.csv", release) if form == "csv" else parquet_pieces([str(release)])
    )
    tables = ItemTables.of_folders(places_beside(pieces, release))
    summary = import_emid(pieces, tmp_path / "to", tables=tables)
    assert (summary.clips, summary.pairs) == (6, 18)
    assert {finding.outcome for finding in summary.findings} <= {"repaired"}
    # Terms, sources and measured values are those of the release's own tables.
    own = ["feeling", "source_id", "licence", "author", "label_source"]
    for kind, columns in (("music", own), ("images", ["text", "valence", "arousal", "source_id", "licence"])):
        released, imported = (
            sorted(
                [row[column] for column in columns]
                for row in csv.DictReader((folder / f"{kind}.csv").open(encoding="utf-8", newline=""))
            )
            for folder in (release, tmp_path / "to")
        )
        assert imported == released


@pytest.mark.parametrize(
    ("forms", "roles"),
    [
        ("folder", {"media"}),
        ("parquet", {"data"}),
        ("retrieval", {"retrieval"}),
        ("folder,parquet", {"media", "data"}),
    ],
)
def test_a_release_holds_the_media_in_the_forms_that_are_wanted_and_in_no_other(
    small_set: SmallSet, release: Path, tmp_path: Path, forms: str, roles: set[str]
) -> None:
    folder = tmp_path / "release"
    files = small_set.release(folder, forms=forms)
    assert set(files["role"]) == {"table", "card", *roles}
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {
        file.split("/")[0] for file in files["file"]
    }
    for file in files.filter(pl.col("role").is_in(roles))["file"]:
        assert (folder / file).read_bytes() == (release / file).read_bytes()
    card = (folder / "README.md").read_text()
    assert "configs" in yaml.safe_load(card.split("---\n")[1]) if "data" in roles else "configs" not in card
    for role, words in (
        ("media", "| `music/`, `images/` |"),
        ("data", "| `data/` |"),
        ("retrieval", "| `retrieval/` |"),
    ):
        assert (words in card) == (role in roles)
    described = [part["name"] for part in json.loads((folder / "croissant.json").read_text())["distribution"]]
    assert ("images" in described) == ("media" in roles)
    assert any(name.startswith("data/") for name in described) == ("data" in roles)


def test_files_that_are_as_the_inventory_found_them_are_not_hashed_again(
    small_set: SmallSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def telling(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr(release_media, "sha256_of", telling)
    files = small_set.release(tmp_path / "release")
    assert {path.suffix for path in hashed} == {".flac"}  # the windows, which are new files
    for file, sum_of_file in files.select("file", "sha256").iter_rows():
        assert sum_of_file == sha256_of(tmp_path / "release" / file), file


def test_media_that_have_changed_or_gone_stop_the_release_and_are_named(
    small_set: SmallSet, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    for path in small_set.media.rglob("*"):
        if path.is_file():
            copy = media / path.relative_to(small_set.media)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    changed = replace(small_set, media=media)
    changed.release(tmp_path / "release")
    before = (tmp_path / "release" / "SHA256SUMS").read_text()
    (media / "music" / "long.ogg").write_bytes(b"OggS")
    with pytest.raises(ReleaseError, match=r"long\.ogg has changed since the inventory"):
        changed.release(tmp_path / "release")
    (media / "music" / "long.ogg").unlink()
    with pytest.raises(ReleaseError, match=r"long\.ogg cannot be read"):
        changed.release(tmp_path / "release")
    (media / "music" / "long.ogg").symlink_to(small_set.media / "music" / "long.ogg")
    with pytest.raises(ReleaseError, match=r"long\.ogg is a link that leads out of the media folder"):
        changed.release(tmp_path / "release")
    assert (tmp_path / "release" / "SHA256SUMS").read_text() == before


def test_the_retrieval_tasks_load_as_the_benchmarks_tools_load_them(
    small_set: SmallSet, release: Path, tmp_path: Path
) -> None:
    pairs = set(small_set.pairs.select("clip_id", "image_id").iter_rows())
    for task, (queries, corpus) in {
        "EMIDA2IRetrieval": ("audio", "image"),
        "EMIDI2ARetrieval": ("image", "audio"),
    }.items():
        folder = release / "retrieval" / task
        parts = {part: load(folder, tmp_path, part) for part in ("queries", "corpus", "qrels")}
        assert sorted(datasets.get_dataset_config_names(str(folder))) == ["corpus", "qrels", "queries"]
        kinds = {"audio": datasets.Audio, "image": datasets.Image}
        assert isinstance(parts["queries"].features[queries], kinds[queries])
        assert isinstance(parts["corpus"].features[corpus], kinds[corpus])
        qrels = parts["qrels"].to_polars()
        assert qrels.columns == ["query-id", "corpus-id", "score"]
        turn = 1 if queries == "audio" else -1
        assert {row[:2][::turn] for row in qrels.iter_rows()} == pairs
        for part, column in (("queries", "query-id"), ("corpus", "corpus-id")):
            lines = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
            ids = [line["_id"] for line in lines]
            assert ids == parts[part]["id"][:]
            assert set(ids) == set(qrels[column])
            assert all((folder / line["file"]).is_file() for line in lines)
        plain = (folder / "qrels" / "test.tsv").read_text().splitlines()
        assert plain[0] == "query-id\tcorpus-id\tscore"
        assert len(plain) == 1 + len(pairs)


def test_a_clip_with_the_id_of_an_image_does_not_get_its_caption(small_set: SmallSet, tmp_path: Path) -> None:
    image, clip = small_set.pairs["image_id"][0], small_set.pairs["clip_id"][0]
    renamed = pl.col("clip_id").replace(clip, image)
    alike = replace(
        small_set,
        music_clips=small_set.music_clips.with_columns(renamed),
        pairs=small_set.pairs.with_columns(renamed),
    )
    alike.release(tmp_path / "release")
    for task, clips, images in (
        ("EMIDA2IRetrieval", "queries", "corpus"),
        ("EMIDI2ARetrieval", "corpus", "queries"),
    ):
        folder = tmp_path / "release" / "retrieval" / task
        texts = {
            part: {
                line["_id"]: line["text"]
                for line in map(json.loads, (folder / f"{part}.jsonl").read_text().splitlines())
            }
            for part in ("queries", "corpus")
        }
        assert image in texts[clips]
        assert set(texts[clips].values()) == {""}
        captions = dict(small_set.images.select("image_id", "caption").iter_rows())
        assert texts[images] == {one: captions[one] for one in texts[images]}
        assert texts[images][image]


def test_the_reports_figures_are_those_of_the_released_tasks(small_set: SmallSet, release: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = {
        name: {one: rng.normal(size=8).astype(np.float32) for one in ids}
        for name, ids in (
            ("clip_id", small_set.music_clips["clip_id"]),
            ("image_id", small_set.images["image_id"]),
        )
    }
    music, images = (
        pl.DataFrame({name: list(of_kind)}).with_columns(
            embedding=pl.Series(np.stack(list(of_kind.values())), dtype=pl.Array(pl.Float32, 8))
        )
        for name, of_kind in vectors.items()
    )
    tables = LakeTables(
        UNCHANGED, small_set.music_clips, small_set.images,
        music_embeddings=music, image_embeddings=images, fused_pairs=small_set.pairs,
    )  # fmt: skip
    measured = {metric: value for _, metric, value, *_ in evaluate_released_tasks(tables).iter_rows()}
    for task, (queries, corpus) in {
        "EMIDA2IRetrieval": ("clip_id", "image_id"),
        "EMIDI2ARetrieval": ("image_id", "clip_id"),
    }.items():
        folder = release / "retrieval" / task
        qrel: dict[str, dict[str, int]] = {}
        for row in pl.read_parquet(folder / "qrels" / "*.parquet").iter_rows():
            qrel.setdefault(row[0], {})[row[1]] = row[2]
        ids = pl.read_parquet(folder / "corpus" / "*.parquet", columns=["id"])["id"]
        run = {}
        for query in qrel:
            x = vectors[queries][query].astype(np.float64)
            scores = {one: vectors[corpus][one].astype(np.float64) for one in ids}
            run[query] = {
                one: float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for one, y in scores.items()
            }
        oracle = pytrec_eval.RelevanceEvaluator(qrel, {"ndcg_cut.10", "recall.1,10"}).evaluate(run)
        for ours, theirs in (
            ("ndcg_at_10", "ndcg_cut_10"), ("recall_at_1", "recall_1"), ("recall_at_10", "recall_10")
        ):  # fmt: skip
            expected = np.mean([of_query[theirs] for of_query in oracle.values()])
            assert measured[f"{task}/{ours}"] == pytest.approx(expected), (task, ours)
