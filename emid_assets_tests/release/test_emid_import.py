"""The published data set as a media folder: its traps, by name, and what is made of them."""

import csv
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from emid_assets.cli.main import main
from emid_assets.media.audio import AudioFacts, read_header
from emid_assets.media.inventory import image_manifest, music_manifest, take_inventory
from emid_assets.media.limits import MediaError
from emid_assets.release.emid_import import ImportSummary, import_emid
from emid_assets.release.emid_source import SourceError, csv_pieces, parquet_pieces, places_beside
from emid_assets.release.import_folder import ImportRefusedError
from emid_assets.release.item_tables import ItemTables
from emid_assets.release.published_pairs import read_published_pairs
from emid_assets.store.files import write_in_place
from emid_assets_tests.release.published import FEELINGS, RATINGS, good_rows, picture, row, tone, write_rows

AWE = ("a.png", picture(1), "awe")


def found(summary: ImportSummary) -> list[tuple[str, str, str, str]]:
    return [
        (finding.outcome, finding.kind, finding.where.split(" ", 1)[1], finding.item)
        for finding in summary.findings
    ]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".import/" not in path.as_posix()
    }


def test_rows_become_tables_files_and_pairs_that_the_inventory_takes(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train-0.parquet", good_rows(5))
    summary = import_emid(parquet_pieces([str(tmp_path / "data" / "train-*.parquet")]), tmp_path / "to")
    assert (summary.rows, summary.clips, summary.originals, summary.sources) == (5, 5, 5, 5)
    assert (summary.images, summary.pairs) == (7, 15)
    assert summary.findings == []
    inventory = take_inventory(tmp_path / "to", workers=0)
    assert inventory["reason"].null_count() == inventory.height == 12
    clips, images = music_manifest(inventory, "sad"), image_manifest(inventory, "awe")
    assert clips["rating_arousal"].to_list() == pytest.approx([2.0, 2.1, 2.2, 2.3, 2.4])
    assert clips["feelings"][0].to_list()[1] == {"feeling": "Awe-inspiring, amazing", "percent": 22.0}
    assert images["caption"].to_list() == ["a picture of awe"] * 7
    pairs = read_published_pairs(tmp_path / "to")
    assert set(pairs["clip_id"]) == set(clips["clip_id"])
    assert set(pairs["image_id"]) == set(images["image_id"])
    assert pairs.filter(clip_id="song1.wav").rows() == [
        ("song1.wav", f"p{number}.png", number) for number in (1, 2, 3)
    ]


def test_every_trap_of_the_published_rows_is_named_and_repaired_or_rejected(tmp_path: Path) -> None:
    rows = [
        row("3143.m4a.wav", tone(200), [AWE]),
        row("143.m4a___58.wav", tone(201, rate=48_000), [AWE, AWE], original=False),
        row("empty.wav", b"", [AWE]),
        row("nothing.wav", None, [AWE]),
        row("header.wav", tone(300, seconds=0.0), [AWE]),
        row("no ratings.wav", tone(202), [AWE], emotion=None),
        row("nan.wav", tone(203), [AWE], emotion="nan" + RATINGS[3:]),
        row("eleven.wav", tone(204), [AWE], emotion="nan" + RATINGS[3:] + ",1"),
        row("ten.wav", tone(205), [AWE], emotion=RATINGS.replace("4.1", "10.0")),
        row("feeling.wav", tone(206), [AWE], feeling="33% Bored"),
        row("genre.wav", tone(207), [("only here.png", picture(2), "fear")], genre="Z"),
        row("again.wav", tone(200), [AWE]),
        row("3143.m4a.wav", tone(208), [("a.png", picture(3), "awe")], emotion=RATINGS.replace("4.1", "2.0")),
        row("5.m4a", tone(209, form="FLAC"), [("x.jpg", picture(4), "awe")], emotion=RATINGS[:-1] + "1"),
        row(None, tone(210), [(None, picture(5), "awe")], emotion=RATINGS[:-1] + "2"),
        row("lost___7.wav", tone(211), [("b.png", b"no image", "awe")], emotion="5" + RATINGS[1:],
            original=None),
        row("tags.wav", tone(212), [("a.png", picture(1), "fear"), ("c.png", picture(6), "joy")],
            emotion="6" + RATINGS[1:], original=None),
    ]  # fmt: skip
    write_rows(tmp_path / "train.parquet", rows, group_rows=5)
    summary = import_emid(parquet_pieces([str(tmp_path / "train.parquet")]), tmp_path / "to")
    named_audio = next(path.name for path in (tmp_path / "to" / "music").glob("music-*.wav"))
    assert Counter(found(summary)) == Counter(
        [
            ("repaired", "mangled name", "row 2", "143.m4a___58.wav"),
            ("repaired", "image twice in a row", "row 2", "image 2 a.png"),
            ("rejected", "audio without content", "row 3", "empty.wav"),
            ("rejected", "audio without content", "row 4", "nothing.wav"),
            ("rejected", "audio without content", "row 5", "header.wav"),
            ("repaired", "no ratings", "row 6", "no ratings.wav"),
            ("repaired", "missing rating", "row 7", "nan.wav"),
            ("repaired", "unreadable emotion", "row 8", "eleven.wav"),
            ("repaired", "unreadable rating", "row 9", "ten.wav"),
            ("repaired", "unreadable feeling", "row 10", "feeling.wav"),
            ("kept", "clip without a known genre", "row 11", "genre.wav"),
            ("repaired", "originals of equal ratings", "row 11", "genre.wav"),
            ("rejected", "clip that is already there", "row 12", "again.wav"),
            ("repaired", "name of two contents", "row 13", "3143.m4a.wav"),
            ("repaired", "name of two contents", "row 13", "image 1 a.png"),
            ("repaired", "name of another type", "row 14", "5.m4a"),
            ("repaired", "name of another type", "row 14", "image 1 x.jpg"),
            ("repaired", "without a name", "row 15", named_audio),
            ("repaired", "without a name", "row 15", "image 1"),
            ("repaired", "is_original_clip is missing", "row 16", "lost___7.wav"),
            ("repaired", "source is not among the rows", "row 16", "lost___7.wav"),
            ("rejected", "image without content", "row 16", "image 1 b.png"),
            ("repaired", "is_original_clip is missing", "row 17", "tags.wav"),
            ("repaired", "image of two tags", "row 17", "image 1 a.png"),
            ("kept", "image without a known tag", "row 17", "image 2 c.png"),
        ]
    )
    assert [(line["outcome"], line["kind"]) for line in table(tmp_path / "to" / "import.csv")] == [
        (finding.outcome, finding.kind) for finding in summary.findings
    ]
    music = {line["file"]: line for line in table(tmp_path / "to" / "music.csv")}
    assert summary.clips == len(music) == 13
    assert summary.sample_rates == {44_100: 12, 48_000: 1}
    assert music["143.m4a___58.wav"]["source_id"] == "3143.m4a.wav"
    assert music["143.m4a___58.wav"]["is_original_clip"] == "false"
    assert music["nan.wav"]["emotion"].startswith("nan,5.2,")
    assert music["no ratings.wav"]["emotion"] == music["eleven.wav"]["emotion"] == ""
    assert music["feeling.wav"]["feeling"] == ""
    assert "5.m4a.flac" in music
    assert music["lost___7.wav"]["is_original_clip"] == "false"
    images = {line["file"]: line["tag"] for line in table(tmp_path / "to" / "images.csv")}
    assert images["a.png"] == "awe"
    assert (music["genre.wav"]["genre"], images["c.png"]) == ("Z", "joy")
    # A build names what the import rejected, and what it kept for somebody to mend.
    inventory = take_inventory(tmp_path / "to", workers=0).filter(pl.col("reason").is_not_null())
    left_out = {row["item_id"]: row["reason"] for row in inventory.iter_rows(named=True)}
    assert set(left_out) == {
        "c.png", "genre.wav", "train.parquet row 16: image 1 b.png",
        *(f"train.parquet row {item}" for item in ("3: empty.wav", "4: nothing.wav", "5: header.wav")),
        "train.parquet row 12: again.wav",
    }  # fmt: skip
    assert left_out["train.parquet row 3: empty.wav"] == "not imported: empty (0 bytes)"
    assert ": unknown music emotion 'Z'" in left_out["genre.wav"]


def test_the_layout_is_the_one_that_the_library_writes(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "Audio_Filename": datasets.Audio(), "genre": datasets.Value("string"),
            "feeling": datasets.Value("string"), "emotion": datasets.Value("string"),
            "Image1_filename": datasets.Image(), "Image1_tag": datasets.Value("string"),
            "Image1_text": datasets.Value("string"), "is_original_clip": datasets.Value("bool"),
        }
    )  # fmt: skip
    rows = [{name: cells[name] for name in features} for cells in good_rows(3)]
    written = datasets.Dataset.from_list(rows).cast(features)  # to encode audio itself it asks for a codec
    (tmp_path / "data").mkdir()
    written.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    summary = import_emid(parquet_pieces([str(tmp_path / "data")]), tmp_path / "to")
    assert (summary.clips, summary.images, summary.pairs, summary.findings) == (3, 3, 3, [])
    assert (tmp_path / "to" / "music" / "song0.wav").read_bytes() == rows[0]["Audio_Filename"]["bytes"]


def test_a_stopped_import_goes_on_and_ends_with_the_same_folder(tmp_path: Path) -> None:
    for shard in range(3):
        write_rows(tmp_path / f"train-{shard}.parquet", good_rows(9)[3 * shard : 3 * shard + 3])
    pieces = parquet_pieces([str(tmp_path / "train-*.parquet")])

    def stop(done: int, total: int) -> None:
        assert total == 9
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_emid(pieces, tmp_path / "stopped", stop)
    summary = import_emid(pieces, tmp_path / "stopped")
    assert 3 <= summary.reused_rows < 6
    whole = import_emid(pieces, tmp_path / "whole")
    assert whole.reused_rows == 0
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")


def test_files_are_on_the_disk_before_anything_says_that_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "train.parquet", good_rows(4))
    synced: set[tuple[int, int]] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        facts = os.fstat(descriptor)
        synced.add((facts.st_dev, facts.st_ino))

    def unsynced(path: Path, content: str | bytes) -> None:
        media = [file for name in ("music", "images") for file in (tmp_path / "to" / name).iterdir()]
        assert media
        assert [file.name for file in media if (file.stat().st_dev, file.stat().st_ino) not in synced] == []
        write_in_place(path, content)

    monkeypatch.setattr("os.fsync", noting)
    monkeypatch.setattr("emid_assets.release.import_folder.write_in_place", unsynced)
    assert import_emid(parquet_pieces([str(source)]), tmp_path / "to").clips == 4


def test_again_nothing_is_read_unless_a_file_is_gone_or_the_source_is_another(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "train.parquet", good_rows(4))
    first = import_emid(parquet_pieces([str(source)]), tmp_path / "to")
    before = everything(tmp_path / "to")
    again = import_emid(parquet_pieces([str(source)]), tmp_path / "to")
    assert (first.reused_rows, again.reused_rows) == (0, 4)
    assert everything(tmp_path / "to") == before
    (tmp_path / "to" / "music" / "song3.wav").unlink()
    assert import_emid(parquet_pieces([str(source)]), tmp_path / "to").reused_rows == 2
    assert everything(tmp_path / "to") == before
    write_rows(source, good_rows(3))
    assert import_emid(parquet_pieces([str(source)]), tmp_path / "to").clips == 3


def test_no_file_of_a_rejected_row_is_in_the_folder(tmp_path: Path) -> None:
    media = tmp_path / "published"
    media.mkdir()
    good, chained = tone(200), tone(201)
    unusable = {
        "copy.wav": good, "short row.wav": tone(202), "empty.wav": b"",
        "cut.wav": tone(203, seconds=3)[:-9000],
        "text.wav": b"no sound", "damaged.ogg": b"OggS" + bytes(300), "damaged.flac": b"fLaC" + bytes(300),
        "damaged.m4a": b"\0\0\0\x20ftypM4A " + bytes(300), "damaged.mp3": b"ID3" + bytes(300),
    }  # fmt: skip
    for name, content in {"good.wav": good, "chained.wav": chained, **unusable}.items():
        (media / name).write_bytes(content)
    lines = ["Audio_Filename,genre,feeling,emotion,is_original_clip"]
    for name in ("good.wav", "chained.wav", "gone.wav", *unusable):
        rest = "" if name == "short row.wav" else f',"{FEELINGS}","{RATINGS}",True'
        lines.append(f"{name},K{rest}")
    (tmp_path / "EMID_data.csv").write_text("\n".join(lines))
    pieces, folder = csv_pieces(tmp_path / "EMID_data.csv", media), tmp_path / "to"

    def imported(rejects: bytes, reader: str) -> tuple[list[str], set[str]]:
        """Files of the folder, and rejected names, where a reader of this version rejects a content."""

        def read(path: Path) -> AudioFacts:
            if path.read_bytes() == rejects:
                raise MediaError("audio holds several streams one after the other")
            return read_header(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("emid_assets.release.media_store.read_header", read)
            patch.setattr("emid_assets.release.import_folder.READER_VERSION", reader)
            summary = import_emid(pieces, folder)
        rejected = {finding.item for finding in summary.findings if finding.outcome == "rejected"}
        return sorted(path.name for path in (folder / "music").iterdir()), rejected

    # What an older reader accepted and put in place goes, and what it rejected comes.
    of_old = {*unusable, "gone.wav", "good.wav"}
    assert imported(good, "1") == (["chained.wav"], of_old)
    assert imported(chained, "2") == (["good.wav"], {*unusable, "gone.wav", "chained.wav"})
    assert [path.name for path in (folder / "music").rglob("*")] == ["good.wav"]


def test_a_row_group_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    audio = tone(220, seconds=30.0) * 1  # 2.6 MB a row, 160 MB in one row group
    rows = [row(f"{number}.wav", audio[:-4] + number.to_bytes(4, "little"), [AWE]) for number in range(60)]
    write_rows(tmp_path / "train.parquet", rows, group_rows=1000)
    del rows
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from emid_assets.release.emid_import import import_emid\n"
        "from emid_assets.release.emid_source import parquet_pieces\n"
        "import pyarrow as pa\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "summary = import_emid(parquet_pieces([sys.argv[1]]), Path(sys.argv[2]))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(summary.clips, (after - before) // 1024)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "train.parquet"), str(tmp_path / "to")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    clips, megabytes = map(int, printed)
    assert clips == 60
    assert megabytes < 80


def test_the_published_rows_at_hand_fall_into_their_sources(tmp_path: Path, shared_data: Path) -> None:
    published = table(shared_data / "emid_shard0_dev.csv")
    (tmp_path / "music").mkdir()
    for number, line in enumerate(published):
        content = tone(200 + 5 * number, rate=16_000, seconds=0.3, form="MP3")
        (tmp_path / "music" / line["Audio_Filename"]).write_bytes(content)
    summary = import_emid(csv_pieces(shared_data / "emid_shard0_dev.csv", tmp_path), tmp_path / "to")
    music = {line["file"]: line for line in table(tmp_path / "to" / "music.csv")}
    assert len(music) == len(published) == 1067
    assert {finding.outcome for finding in summary.findings} == {"repaired"}
    # The labels stand unchanged, and group the clips: one source, and one original, for each.
    sources: dict[tuple[str, str], set[str]] = {}
    for line in published:
        kept = music[line["Audio_Filename"]]
        assert (kept["feeling"], kept["emotion"]) == (line["feeling"], line["emotion"])
        sources.setdefault((line["feeling"], line["emotion"]), set()).add(kept["source_id"])
    assert all(len(of_labels) == 1 for of_labels in sources.values())
    assert summary.sources == len(sources) == 124
    mangled = {finding.item for finding in summary.findings if finding.kind == "mangled name"}
    expected = {
        line["Audio_Filename"]
        for line in published
        if (mark := re.fullmatch(r"(.+)___\d+\.mp3", line["Audio_Filename"]))
        and music[line["Audio_Filename"]]["source_id"] not in (f"{mark[1]}.mp3", line["Audio_Filename"])
        and "___" not in music[line["Audio_Filename"]]["source_id"]
    }
    assert mangled == expected
    assert 0.05 < len(mangled) / len(published) < 0.25
    assert music["143.m4a___58.mp3"]["source_id"] == "3143.m4a.mp3"


def test_a_csv_finds_its_files_in_any_folder_and_says_which_it_does_not(tmp_path: Path) -> None:
    media = tmp_path / "published"
    for name, content in {
        "musicData/3143.m4a.wav": tone(200), "musicData/143.m4a___58.wav": tone(201),
        "imageData/awe/1.png": picture(1), "imageData/fear/1.png": picture(2), "imageData/2.png": picture(3),
    }.items():  # fmt: skip
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(content)
    header = "Audio_Filename,genre,feeling,emotion,Image1_filename,Image1_tag,Image1_text,is_original_clip"
    lines = [
        f'3143.m4a,K,"{FEELINGS}","{RATINGS}",1.png,awe,,True',
        f'143.m4a___58,K,"{FEELINGS}","{RATINGS}",1.png,fear,,False',
        f'gone.wav,K,"{FEELINGS}","{RATINGS}",1.png,joy,,True',
        f'3143.m4a,K,"{FEELINGS}"',
        "",
    ]
    (tmp_path / "EMID_data.csv").write_text("\n".join([header, *lines]), encoding="utf-8-sig")
    summary = import_emid(csv_pieces(tmp_path / "EMID_data.csv", media), tmp_path / "to")
    pairs = {line["clip_id"]: line["image_id"] for line in table(tmp_path / "to" / "pairs.csv")}
    names = sorted(path.name for path in (tmp_path / "to" / "images").iterdir())
    assert set(pairs) == {"3143.m4a.wav", "143.m4a___58.wav"}
    assert pairs["3143.m4a.wav"] == "1.png"
    assert names == sorted(["1.png", pairs["143.m4a___58.wav"]])
    kinds = Counter(finding.kind for finding in summary.findings if finding.outcome == "rejected")
    assert kinds == {"audio without content": 1, "image without content": 1, "row of another shape": 1}
    # What was missing may come: the same command then reads it.
    (media / "gone.wav").write_bytes(tone(203))
    assert import_emid(csv_pieces(tmp_path / "EMID_data.csv", media), tmp_path / "to").clips == 3


def test_tables_that_somebody_has_changed_are_not_written_over_unless_told(tmp_path: Path) -> None:
    source, folder = write_rows(tmp_path / "train.parquet", good_rows(2)), tmp_path / "to"
    import_emid(parquet_pieces([str(source)]), folder)
    written = (folder / "music.csv").read_text()
    edited = written.replace(",K,", ",A,", 1)
    (folder / "music.csv").write_text(edited)
    write_rows(source, good_rows(3))
    with pytest.raises(ImportRefusedError, match=r"to: music\.csv: changed since an import .*--overwrite"):
        import_emid(parquet_pieces([str(source)]), folder)
    assert (folder / "music.csv").read_text() == edited
    import_emid(parquet_pieces([str(source)]), folder, overwrite=True)
    assert (folder / "music.csv").read_text().startswith(written)
    # What an import has written at any time is nobody's change.
    (folder / "music.csv").write_text(written)
    assert import_emid(parquet_pieces([str(source)]), folder).clips == 3


def test_one_folder_holds_what_the_last_import_gave_and_nothing_of_others(tmp_path: Path) -> None:
    pieces = {}
    for one in (1, 2):
        media = tmp_path / f"media{one}"
        media.mkdir()
        lines = ["Audio_Filename,genre,feeling,emotion,is_original_clip"]
        for number in range(one, one + 3):
            (media / f"{number}.wav").write_bytes(tone(200 + 10 * one + number))
            os.utime(media / f"{number}.wav", (0, 0))  # names, sizes and times are no help
            lines.append(f'{number}.wav,K,"{FEELINGS}","{RATINGS}",True')
        (tmp_path / f"{one}.csv").write_text("\n".join(lines))
        pieces[one] = csv_pieces(tmp_path / f"{one}.csv", media)
    for one in (1, 2, 1):
        summary = import_emid(pieces[one], tmp_path / "to")
        names = sorted(path.name for path in (tmp_path / "to" / "music").iterdir())
        assert names == [f"{number}.wav" for number in range(one, one + 3)]
        for name in names:
            content = (tmp_path / "to" / "music" / name).read_bytes()
            assert content == (tmp_path / f"media{one}" / name).read_bytes()
    assert (summary.clips, summary.reused_rows, summary.removed_files) == (3, 0, 3)


def test_media_that_somebody_has_changed_are_not_written_over_unless_told(tmp_path: Path) -> None:
    source, folder = write_rows(tmp_path / "train.parquet", good_rows(2)), tmp_path / "to"
    import_emid(parquet_pieces([str(source)]), folder)
    (folder / "music" / "song1.wav").write_bytes(tone(999))
    with pytest.raises(ImportRefusedError, match=r"to: music/song1\.wav: changed since an import"):
        import_emid(parquet_pieces([str(source)]), folder)
    assert (folder / "music" / "song1.wav").read_bytes() == tone(999)
    import_emid(parquet_pieces([str(source)]), folder, overwrite=True)
    assert (folder / "music" / "song1.wav").read_bytes() == tone(221)


def test_a_second_import_into_a_folder_waits_for_nobody(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "train.parquet", good_rows(2))
    pieces = parquet_pieces([str(source)])

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(ImportRefusedError, match="is running"):
            import_emid(pieces, tmp_path / "to")

    assert import_emid(pieces, tmp_path / "to", meanwhile).clips == 2
    assert import_emid(pieces, tmp_path / "to").clips == 2


def test_originals_of_equal_labels_are_one_source_and_names_decide_nothing(tmp_path: Path) -> None:
    other = "7" + RATINGS[1:]
    rows = [
        row("3143.m4a.wav", tone(200), genre="K"),
        row("143.m4a.wav", tone(201), genre="A"),
        # Named after the second, as a mangled name of the first's expanded clip would be.
        row("143.m4a___58.wav", tone(202), genre="A", original=False),
        row("mangled___2.wav", tone(203), genre="K", original=False, emotion=RATINGS.replace("5.0", "5.00")),
        row("d.wav", tone(204), emotion=other),
        row("e.wav", tone(205), emotion=other, genre="A"),
        row("song.m4a.wav", tone(206), emotion=None),
        row("song___4.wav", tone(207), emotion=None, original=False),
    ]
    source = write_rows(tmp_path / "train.parquet", rows)
    summary = import_emid(parquet_pieces([str(source)]), tmp_path / "to")
    sources = {line["file"]: line["source_id"] for line in table(tmp_path / "to" / "music.csv")}
    assert sources == {
        "3143.m4a.wav": "143.m4a.wav", "143.m4a.wav": "143.m4a.wav", "143.m4a___58.wav": "143.m4a.wav",
        "mangled___2.wav": "143.m4a.wav",
        "d.wav": "d.wav", "e.wav": "d.wav", "song.m4a.wav": "song.m4a.wav", "song___4.wav": "",
    }  # fmt: skip
    assert summary.sources == 3
    named = [(outcome, kind, item) for outcome, kind, _, item in found(summary) if kind != "no ratings"]
    assert named == [
        ("repaired", "originals of equal ratings", "143.m4a.wav"),
        ("repaired", "mangled name", "mangled___2.wav"),
        ("repaired", "originals of equal ratings", "e.wav"),
        ("kept", "source cannot be found", "song___4.wav"),
    ]
    reasons = dict(take_inventory(tmp_path / "to").select("item_id", "reason").iter_rows())
    assert "whose source cannot be found" in reasons.pop("song___4.wav")
    assert set(reasons.values()) == {None}


def test_terms_are_those_of_the_tables_beside_the_rows_else_those_that_are_given(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train.parquet", good_rows(2))
    (tmp_path / "music.csv").write_text(
        "file,source_id,licence,author\nmusic/song0.wav,tape 1,CC0-1.0,\nelse.wav,x,CC-BY-4.0,Nobody\n"
    )
    (tmp_path / "images.csv").write_text("file,valence,arousal,licence\np0.png,0.25,0.75,CC-BY-4.0\n")
    arguments = ["--parquet", str(tmp_path / "data"), "--to", str(tmp_path / "to"), "--licence", "Ours"]
    result = CliRunner().invoke(main, ["import", "emid", *arguments])
    assert result.exit_code == 0, result.output
    assert "4 items: Ours, Zou et al. 2023 (EMID); 2 items: as in the tables beside the rows" in result.output
    music, images = (table(tmp_path / "to" / f"{kind}.csv") for kind in ("music", "images"))
    assert [(line["source_id"], line["licence"], line["author"]) for line in music] == [
        ("tape 1", "CC0-1.0", ""),
        ("song1.wav", "Ours", "Zou et al. 2023 (EMID)"),
    ]
    assert [(line["valence"], line["arousal"], line["licence"]) for line in images] == [
        ("0.25", "0.75", "CC-BY-4.0"), *[("", "", "Ours")] * 3,
    ]  # fmt: skip
    (tmp_path / "music.csv").write_text("file,licence\na/1.wav,CC0-1.0\na/1.wav,CC-BY-4.0\n")
    result = CliRunner().invoke(main, ["import", "emid", *arguments])
    where = f"{tmp_path / 'music.csv'} row 3 and music.csv row 2"
    assert f"{where} contradict each other about a/1.wav" in result.output
    (tmp_path / "music.csv").write_text("no table")
    result = CliRunner().invoke(main, ["import", "emid", *arguments])
    assert result.exit_code == 1
    assert f"{tmp_path / 'music.csv'} has no column named file" in result.output


def test_a_row_of_a_table_is_about_the_file_at_its_own_path_and_whatever_has_the_same_content(
    tmp_path: Path,
) -> None:
    media = tmp_path / "media"
    for name, content in {
        "a/1.wav": tone(200), "b/1.wav": tone(201), "2.wav": tone(202),
        "p.png": picture(1), "same.png": picture(1),
    }.items():  # fmt: skip
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(content)
    lines = ["Audio_Filename,genre,feeling,emotion,Image1_filename,Image1_tag,is_original_clip"]
    lines += [f'{name},K,"{FEELINGS}","{RATINGS}",p.png,awe,True' for name in ("a/1.wav", "b/1.wav", "2.wav")]
    lines.append(f'x/1.wav,K,"{FEELINGS}","{RATINGS}",same.png,awe,True')
    (tmp_path / "EMID_data.csv").write_text("\n".join(lines))
    (media / "music.csv").write_text(
        "file,licence,author\na/1.wav,CC0-1.0,Alice\n2.wav,CC0-1.0,Bob\n2.wav,CC0-1.0,Bob\ngone.wav,CC0-1.0,Eve\n"
    )
    (media / "images.csv").write_text("file,licence\nsame.png,CC-BY-4.0\n")
    pieces = csv_pieces(tmp_path / "EMID_data.csv", media)
    tables = ItemTables.of_folders(places_beside(pieces, media))
    summary = import_emid(pieces, tmp_path / "to", tables=tables)
    authors = {line["published_as"][-1]: line["author"] for line in table(tmp_path / "to" / "music.csv")}
    assert authors == {"2": "Alice", "3": "Zou et al. 2023 (EMID)", "4": "Bob"}
    assert [line["licence"] for line in table(tmp_path / "to" / "images.csv")] == ["CC-BY-4.0"]
    reasons = {(found.outcome, found.item): found.reason for found in summary.findings}
    assert reasons["kept", "gone.wav"] == "1 files of the table are in no published row: gone.wav"
    # Another folder's file of the name is another file.
    assert "no file of this name below" in reasons["rejected", "1.wav"]
    assert "(but a/1.wav, in another folder)" in reasons["rejected", "1.wav"]


@pytest.mark.parametrize("listed", ["0.wav", "0.wav___1.wav"])
def test_a_source_that_a_table_tells_of_one_clip_is_that_of_its_group(tmp_path: Path, listed: str) -> None:
    rows = [row("0.wav", tone(200)), row("0.wav___1.wav", tone(201), original=False)]
    source = write_rows(tmp_path / "train.parquet", rows)
    (tmp_path / "music.csv").write_text(f"file,source_id\n{listed},song 7\n")
    tables = ItemTables.of_folders([tmp_path])
    summary = import_emid(parquet_pieces([str(source)]), tmp_path / "to", tables=tables)
    assert {line["source_id"] for line in table(tmp_path / "to" / "music.csv")} == {"song 7"}
    assert summary.findings == []


def test_files_of_one_name_in_two_folders_are_two_sources(tmp_path: Path) -> None:
    for folder, pitch in (("u", 200), ("v", 201)):
        ratings = RATINGS.replace("4.1", f"{pitch - 198}")
        rows = [row(f"{folder}.wav", tone(pitch), [AWE], emotion=ratings)]
        path = write_rows(tmp_path / folder / "train.parquet", rows)
        os.utime(path, (0, 0))
    for _ in range(2):
        summary = import_emid(parquet_pieces([str(tmp_path)]), tmp_path / "to")
        assert (summary.clips, summary.findings) == (2, [])
    published = {line["published_as"] for line in table(tmp_path / "to" / "music.csv")}
    assert published == {"u/train.parquet row 1", "v/train.parquet row 1"}


def test_names_as_file_systems_and_spreadsheets_write_them_are_understood(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / unicodedata.normalize("NFC", "café.wav")).write_bytes(tone(200))
    (media / "p.png").write_bytes(picture(1))
    (media / "two.wav").write_bytes(tone(201))
    (media / "two.flac").write_bytes(tone(202, form="FLAC"))
    (media / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"no row names it")
    os.mkfifo(media / "pipe.wav")
    decomposed = unicodedata.normalize("NFD", "café.wav")
    (tmp_path / "EMID_data.csv").write_text(
        "Audio_Filename,genre,feeling,emotion,Image1_filename,Image1_tag,Image1_text,"
        "Image2_filename,Image2_tag,is_original_clip\n"
        f"{decomposed},nan,nan,nan,p.png,awe,nan,nan,nan,True\n"
        f'two,K,"{FEELINGS}","{RATINGS}",p.png,awe,,,,True\n'
        f'pipe.wav,K,"{FEELINGS}","{RATINGS}",p.png,awe,,,,True\n'
    )
    summary = import_emid(csv_pieces(tmp_path / "EMID_data.csv", media), tmp_path / "to")
    assert (summary.clips, summary.images, summary.pairs) == (1, 1, 1)
    [line] = table(tmp_path / "to" / "music.csv")
    assert (line["genre"], line["feeling"], line["emotion"]) == ("", "", "")
    assert table(tmp_path / "to" / "images.csv")[0]["text"] == ""
    rejected = {found.item: found.reason for found in summary.findings if found.outcome == "rejected"}
    assert set(rejected) == {"two", "pipe.wav"}
    assert "2 files below" in rejected["two"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("audio_filename,genre", "has a column 'audio_filename': rename it to 'Audio_Filename'"),
        ("Audio_Filename,Genre", "has a column 'Genre': rename it to 'genre'"),
        ("Audio_Filename,genre,emotions", "has a column 'emotions': rename it to 'emotion'"),
        ("Audio_Filename,genre,genre", "has two columns named genre"),
        ("Audio_Filename,Image1_name", "has a column 'Image1_name': rename it to 'Image1_filename'"),
        ("Audio_Filename,Image1_filename,Image3_filename", "a column Image3_filename and none named Image2_"),
        ("Audio_Filename;genre", "separated by semicolons or tabs: save it with commas"),
    ],
)
def test_columns_that_would_be_lost_are_errors(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "EMID_data.csv").write_text(header + "\n")
    with pytest.raises(SourceError, match=message):
        csv_pieces(tmp_path / "EMID_data.csv", tmp_path)


def test_media_of_ones_own_are_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine" / "music").mkdir(parents=True)
    (tmp_path / "mine" / "music.csv").write_text("file,genre\n")
    source = write_rows(tmp_path / "train.parquet", good_rows(1))
    with pytest.raises(ImportRefusedError, match=r"mine contains music, music\.csv, .* give another folder"):
        import_emid(parquet_pieces([str(source)]), tmp_path / "mine")
    assert (tmp_path / "mine" / "music.csv").read_text() == "file,genre\n"


def test_a_source_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    (tmp_path / "a.csv").write_text("file,genre\nx,y\n")
    with pytest.raises(SourceError, match="no file matches"):
        parquet_pieces([str(tmp_path / "train-*.parquet")])
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read as Parquet"):
        parquet_pieces([str(tmp_path / "a.parquet")])
    with pytest.raises(SourceError, match="no column Audio_Filename; its columns are: file, genre"):
        csv_pieces(tmp_path / "a.csv", tmp_path)


def test_a_damaged_file_is_named_with_the_row_and_mended_by_fetching_it_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "train.parquet", good_rows(6))
    whole = source.read_bytes()
    group = pq.ParquetFile(source).metadata.row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    source.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
    with pytest.raises(SourceError, match=r"train\.parquet is damaged at row 3 .* download it again"):
        import_emid(parquet_pieces([str(source)]), tmp_path / "to")
    source.write_bytes(whole)
    assert import_emid(parquet_pieces([str(source)]), tmp_path / "to").clips == 6


def test_the_command_prints_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    rows = [*good_rows(2), row("empty.wav", b"", [AWE])]
    write_rows(tmp_path / "data" / "train-0.parquet", rows)
    arguments = [
        "import",
        "emid",
        "--parquet",
        str(tmp_path / "data" / "train-*"),
        "--to",
        str(tmp_path / "to"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "2 (2 original) from 2 sources; 2 at 44,100 Hz" in result.output
    assert "train-0.parquet row 3, empty.wav: empty (0 bytes)" in result.output
    assert f"emid build --media {tmp_path / 'to'}" in result.output
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert (told["rows"], told["reused_rows"], told["clips"], told["sample_rates"]) == (3, 3, 2, {"44100": 2})
    assert told["findings"] == {"repaired": 0, "kept": 0, "rejected": 1}
    written = json.loads(next((tmp_path / "to" / ".import").glob("*.json")).read_text())
    assert written
    of_parquet = ["--parquet", str(tmp_path / "data")]
    for wrong in (
        [], ["--csv", str(tmp_path / "to" / "music.csv")], ["--parquet", "nothing-*"],
        [*of_parquet, "--media", str(tmp_path / "data"), "--to", str(tmp_path)],
        [*of_parquet, "--to", str(tmp_path / "data" / "train-0.parquet")],
    ):  # fmt: skip
        result = CliRunner().invoke(main, ["import", "emid", *wrong])
        assert result.exit_code == 2
        assert "Traceback" not in result.output
