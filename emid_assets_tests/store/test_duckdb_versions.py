"""DuckDB 1.5 and 2.x read and write each other's lakes.

The version that is not installed here goes into a folder of its own, once, and a subprocess finds it first.
"""

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

from emid_assets.store.lake import Lake

HERE = duckdb.__version__
OTHER_SERIES = "1.5" if int(HERE.partition(".")[0]) >= 2 else "2.0"

WRITE_AND_READ = """
import shutil, sys, duckdb, polars as pl
from pathlib import Path
from emid_assets.store.lake import Lake
lake = Lake(Path(sys.argv[1]))
frame = pl.read_ipc(sys.argv[2])
assert lake.read("image_embeddings", ["awe"]).equals(frame), "read"
assert lake.current("image_embeddings", "awe").metadata == {"by": sys.argv[3]}, "metadata"
assert pl.concat(lake.read_batches("image_embeddings", None, 2)).equals(frame), "batches"
with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
    assert connection.sql("SELECT count(*) FROM image_embeddings").fetchall() == [(len(frame),)], "view"
copy = Path(shutil.copytree(lake.root, sys.argv[1] + "-copy"))
with duckdb.connect(str(copy / "lake.duckdb"), read_only=True) as connection:
    shutil.rmtree(copy / "tables")
    try:
        connection.sql("SELECT count(*) FROM image_embeddings").fetchall()
    except duckdb.Error as error:
        assert str(copy) in str(error), error
    else:
        raise AssertionError("the copy reads the original")
lake.write("image_embeddings", "fear", frame, {"by": duckdb.__version__})
lake.rebuild_catalogue()
print(duckdb.__version__)
"""


@pytest.fixture(scope="session")
def other_duckdb(pytestconfig: pytest.Config) -> Path:
    """A folder with the other series of DuckDB, kept between runs."""
    assert pytestconfig.cache is not None
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = pytestconfig.cache.mkdir("duckdb") / f"{OTHER_SERIES}-{python}"
    if not (folder / "duckdb").is_dir():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        install = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
             "--target", str(unfinished), f"duckdb=={OTHER_SERIES}.*"],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if install.returncode:
            pytest.skip(
                f"needs duckdb {OTHER_SERIES} from the package registry: {install.stderr.strip()[-300:]}"
            )
        unfinished.replace(folder)
    return folder


def test_each_version_reads_files_and_catalogue_of_the_other(tmp_path: Path, other_duckdb: Path) -> None:
    frame = pl.DataFrame(
        {
            "image_id": ["a", "b", None],
            "embedding": pl.Series([[1.0, -0.0], [float("nan"), 3.0], None], dtype=pl.Array(pl.Float32, 2)),
            "feelings": [[{"feeling": "Sad, depressing", "percent": 33.0}], [], None],
            "at": pl.Series([1, 2, None], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "rank": pl.Series([1, 2**31 - 1, None], dtype=pl.Int32),
            "is_original": [True, False, None],
        }
    )
    frame.write_ipc(tmp_path / "frame.arrow")
    lake = Lake(tmp_path / "lake")
    lake.write("image_embeddings", "awe", frame, {"by": HERE})
    lake.rebuild_catalogue()

    repository = Path(__file__).resolve().parents[2]
    other = subprocess.run(
        [sys.executable, "-c", WRITE_AND_READ, str(lake.root), str(tmp_path / "frame.arrow"), HERE],
        env={**os.environ, "PYTHONPATH": f"{other_duckdb}{os.pathsep}{repository}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 0, other.stderr
    assert other.stdout.startswith(OTHER_SERIES)

    fear = lake.current("image_embeddings", "fear")
    assert fear is not None
    assert str(fear.metadata["by"]).startswith(OTHER_SERIES)
    assert lake.read("image_embeddings", ["fear"]).equals(frame)
    with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM image_embeddings").fetchall() == [(6,)]
