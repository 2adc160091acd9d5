"""Rows of a lake that do not belong to their files, found by hashing and encoding the files again."""

import os
from pathlib import Path

import polars as pl
import pytest

from emid_assets.encoders.embed import embed
from emid_assets.encoders.interface import MediaItem
from emid_assets.encoders.verify import EmbeddingCheck, FileCheck, check_embeddings, check_files
from emid_assets.media.identity import stamp_of
from emid_assets.store.files import sha256_of
from emid_assets.store.lake import Lake
from emid_assets_tests.encoders.fake_encoder import FakeEncoder

TEXTS = {"a": "1 2 3 4", "b": "4 3 2 1", "c": "1 2 3 5"}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "images").mkdir(parents=True)
    for name, text in TEXTS.items():
        (folder / "images" / name).write_text(text)
    return folder


def items_of(media: Path) -> list[MediaItem]:
    paths = sorted((media / "images").iterdir())
    return [MediaItem(path.name, path, sha256_of(path), file=f"images/{path.name}") for path in paths]


@pytest.fixture
def lake(tmp_path: Path, media: Path) -> Lake:
    """The tables of these files, as far as the checks read them."""
    lake, items, encoder = Lake(tmp_path / "lake"), items_of(media), FakeEncoder()
    listed = pl.DataFrame(
        {"file": [item.file for item in items], "content_hash": [item.content_hash for item in items]}
    )
    stamps = pl.DataFrame(
        [stamp_of(item.path) for item in items], ["size_bytes", "modified_ns"], orient="row"
    )
    lake.write("media_inventory", "all", listed.hstack(stamps))
    lake.write("images", "awe", listed.head(2))
    lake.write("images", "fear", listed.tail(1))
    for partition, own in (("awe", items[:2]), ("fear", items[2:])):
        frame = embed(own, encoder, "image", workers=0).frame
        lake.write("image_embeddings", partition, frame, {"fingerprint": encoder.fingerprint})
    return lake


def check(lake: Lake, media: Path, encoder: FakeEncoder) -> tuple[FileCheck, EmbeddingCheck]:
    told: list[tuple[int, int]] = []
    files = check_files(lake, media, 2, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(TEXTS), len(TEXTS))
    rows = check_embeddings(
        lake, media, encoder, files.good, 0, lambda done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1]
    return files, rows


def test_a_lake_whose_rows_belong_to_their_files_has_no_findings(lake: Lake, media: Path) -> None:
    encoder = FakeEncoder()
    files, rows = check(lake, media, encoder)
    assert (files.findings.height, files.files, len(files.good)) == (0, 3, 3)
    assert (rows.findings.height, rows.embeddings, rows.others) == (0, 3, 0)
    assert sum(encoder.batches) == 3


@pytest.mark.parametrize("same_time", [True, False])
def test_a_file_with_other_bytes_is_named_in_each_table_with_what_to_do(
    lake: Lake, media: Path, same_time: bool
) -> None:
    path = media / "images" / "b"
    stamp = path.stat().st_mtime_ns
    path.write_text("9 9 9 9")
    os.utime(path, ns=(stamp, stamp + (not same_time)))
    files, rows = check(lake, media, FakeEncoder())
    cure = f"touch {path}, then run emid build" if same_time else "run emid build"
    problem = "its bytes have another hash than the row"
    assert files.findings.rows() == [
        ("media_inventory", "all", "images/b", problem, cure),
        ("images", "awe", "images/b", problem, cure),
    ]
    assert files.good == {"images/a", "images/c"}
    assert (rows.findings.height, rows.embeddings) == (0, 2)


def test_a_file_that_is_gone_is_named(lake: Lake, media: Path) -> None:
    (media / "images" / "c").unlink()
    files, _ = check(lake, media, FakeEncoder())
    assert files.findings.select("table", "partition", "problem", "cure").rows() == [
        (table, partition, "the file cannot be read: No such file or directory", "run emid build")
        for table, partition in (("media_inventory", "all"), ("images", "fear"))
    ]


def test_an_embedding_of_other_bytes_under_the_hash_of_the_file_is_found(lake: Lake, media: Path) -> None:
    right = lake.read("image_embeddings", ["awe"])
    wrong = right.with_columns(pl.col("embedding", "scale").reverse())
    lake.write("image_embeddings", "awe", wrong, {"fingerprint": "fake-1"})
    files, rows = check(lake, media, FakeEncoder())
    assert files.findings.is_empty()
    folders = f"{lake.root}/tables/image_embeddings/awe {lake.root}/journal/image_embeddings/awe"
    cure = f"rm -r {folders}, then run emid build --all"
    assert rows.findings.rows() == [
        ("image_embeddings", "awe", file, "its embedding is that of other content", cure)
        for file in ("images/a", "images/b")
    ]


def test_an_embedding_with_the_direction_of_its_file_and_another_length_is_found(
    lake: Lake, media: Path
) -> None:
    longer = lake.read("image_embeddings", ["fear"]).with_columns(pl.col("scale") * 2)
    lake.write("image_embeddings", "fear", longer, {"fingerprint": "fake-1"})
    assert check(lake, media, FakeEncoder())[1].findings["file"].to_list() == ["images/c"]


def test_the_embeddings_of_another_encoder_are_counted_and_not_compared(lake: Lake, media: Path) -> None:
    _, rows = check(lake, media, FakeEncoder("fake-2"))
    assert (rows.findings.height, rows.embeddings, rows.others) == (0, 0, 3)
