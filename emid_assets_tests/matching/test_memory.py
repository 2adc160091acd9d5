"""X and Y beyond memory: parts from files, groups of rows, and what they take."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.matching.frames import similarity_frame
from emid_assets.matching.top_k_softmax import MatchingError, fit_memory, top_k_softmax
from emid_assets.store.lake import Lake
from emid_assets_tests.matching.brute_force import unit_rows


class FileParts:
    """A float32 matrix in an `.npy` file as parts that are read one at a time.

    Memory-mapped pages count as the process's memory while they are mapped; read parts do not stay.
    """

    def __init__(self, path: Path, columns: int) -> None:
        matrix = np.load(path, mmap_mode="r")
        self._path, self._at_once = path, columns
        self.columns, self._dimension = matrix.shape
        self._offset = matrix.offset

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.columns, self._at_once):
            count = min(self._at_once, self.columns - start)
            offset = self._offset + 4 * start * self._dimension
            part = np.fromfile(self._path, np.float32, count * self._dimension, offset=offset)
            yield part.reshape(count, self._dimension)


def test_parts_read_from_a_file_give_the_bits_of_the_array_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, 50, 32, 20.0), unit_rows(rng, 1000, 32)
    np.save(tmp_path / "Y.npy", Y)
    whole = top_k_softmax(X, Y, 10, tile=(512, 250))
    for columns in (500, 250):
        state = top_k_softmax(X, FileParts(tmp_path / "Y.npy", columns), 10, tile=(512, 250))
        assert state.ids.tobytes() == whole.ids.tobytes()
        assert state.sum_exp.tobytes() == whole.sum_exp.tobytes()


def test_groups_of_rows_within_a_memory_give_the_ids_of_all_rows_at_once() -> None:
    rng = np.random.default_rng(1)
    X, Y = unit_rows(rng, 90, 16, 20.0), unit_rows(rng, 1000, 16)
    rows, columns = fit_memory(4.26 + 2 * 0.05, 16, 20, threads=1)
    assert rows < 90
    assert columns < 1000
    ids = [top_k_softmax(X[start : start + rows], Y, 20).ids for start in range(0, 90, rows)]
    np.testing.assert_array_equal(np.concatenate(ids), top_k_softmax(X, Y, 20).ids)


def test_a_memory_that_holds_no_tile_is_refused() -> None:
    with pytest.raises(MatchingError, match="8 MB is too little"):
        fit_memory(8, 1024, 50, threads=1)


PAST_MEMORY = """
import resource, sys
import numpy as np
from emid_assets.matching.top_k_softmax import top_k_softmax
from emid_assets_tests.matching.test_memory import FileParts
X = np.load(sys.argv[1])
top_k_softmax(X[:2], X, 2, backend="numba", product="onednn")  # libraries and compiled code are loaded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
state = top_k_softmax(X, FileParts(sys.argv[2], 65536), 50)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
np.save(sys.argv[3], state.ids)
"""


@pytest.mark.heavy
def test_a_million_images_stream_within_a_gigabyte_with_the_ids_of_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    X = unit_rows(rng, 500, 256, 20.0)
    Y = np.concatenate([unit_rows(rng, 100_000, 256) for _ in range(10)])
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "Y.npy", Y)
    files = [str(tmp_path / name) for name in ("X.npy", "Y.npy", "ids.npy")]
    done = subprocess.run(
        [sys.executable, "-c", PAST_MEMORY, *files], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 1000.0
    np.testing.assert_array_equal(np.load(files[2]), top_k_softmax(X, Y, 50).ids)


def test_images_streamed_from_the_lakes_partition_files_give_the_frame_of_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lake = Lake(tmp_path / "lake")

    def embeddings(key: str, rows: int, scale: float) -> pl.DataFrame:
        names = [f"{key} {i}" for i in rng.permutation(rows)]
        vectors = pl.Series(unit_rows(rng, rows, 16), dtype=pl.Array(pl.Float32, 16))
        scales = np.full(rows, scale, dtype=np.float32)
        return pl.DataFrame({key: names, "content_hash": names, "embedding": vectors, "scale": scales})

    music, images = embeddings("clip_id", 12, 20.0), embeddings("image_id", 700, 1.0)
    lake.write("image_embeddings", "awe", images[:300])
    lake.write("image_embeddings", "fear", images[300:])

    def stream() -> Iterator[pl.DataFrame]:
        return lake.read_batches("image_embeddings", ["image_id", "embedding", "scale"], 128)

    streamed, whole = similarity_frame(music, stream, 20), similarity_frame(music, images, 20)
    assert streamed.equals(whole)
