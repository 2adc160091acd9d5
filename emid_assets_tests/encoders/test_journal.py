import logging
from pathlib import Path

import numpy as np
import pytest

from emid_assets.encoders.journal import Journal


def add(journal: Journal, hashes: list[str]) -> np.ndarray:
    rows = np.random.default_rng(len(hashes)).normal(size=(len(hashes), 4)).astype(np.float32)
    journal.add(hashes, rows, np.arange(len(hashes), dtype=np.float32))
    return rows


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "encoder", "music")
    rows = add(journal, ["a", "b", "c"])
    journal.write()
    hashes, embeddings, scales = Journal(tmp_path, "encoder", "music").read(4, frozenset("ab"))
    assert hashes == ["a", "b", "c"]
    assert embeddings.tobytes() == rows.tobytes()
    assert scales.tolist() == [0, 1, 2]


def test_256_rows_make_a_chunk_and_fewer_wait(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "encoder", "music")
    add(journal, [f"{i}" for i in range(200)])
    assert not list(tmp_path.iterdir())
    add(journal, [f"{i}" for i in range(200, 260)])
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert len(Journal(tmp_path, "encoder", "music").read(4, frozenset({"259"}))[0]) == 260


@pytest.mark.parametrize(("fingerprint", "kind"), [("other", "music"), ("encoder", "image")])
def test_rows_of_another_encoder_or_kind_are_never_taken(tmp_path: Path, fingerprint: str, kind: str) -> None:
    journal = Journal(tmp_path, "encoder", "music")
    add(journal, ["a"])
    journal.write()
    assert Journal(tmp_path, fingerprint, kind).read(4, frozenset("a"))[0] == []
    assert not list(tmp_path.glob("*.parquet"))


def test_a_chunk_that_is_cut_off_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "encoder", "music")
    add(journal, ["a"])
    journal.write()
    add(journal, ["b"])
    journal.write()
    broken = sorted(tmp_path.glob("*.parquet"))[0]
    broken.write_bytes(broken.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        hashes, _, _ = Journal(tmp_path, "encoder", "music").read(4, frozenset("ab"))
    assert len(hashes) == 1
    assert broken.name in caplog.text
    assert not broken.exists()


def test_a_chunk_without_a_needed_row_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "encoder", "music")
    add(journal, ["a", "b"])
    journal.write()
    assert journal.read(4, frozenset("bc"))[0] == ["a", "b"]
    assert journal.read(4, frozenset("c"))[0] == []
    assert not list(tmp_path.iterdir())
