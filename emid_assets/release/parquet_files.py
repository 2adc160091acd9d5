"""Parquet in the layout of Hugging Face: media inside the rows, and features that `datasets` reads.

Belongs here: writing rows with their media in bounded memory, to the same bytes each time.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from emid_assets.release.release_media import Placed

SHARD_BYTES = 400_000_000
GROUP_BYTES = 64_000_000
GROUP_ROWS = 100

AUDIO, IMAGE = "Audio", "Image"
"""Features whose values are a struct of bytes and path."""

_MEDIUM = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_TYPES = {"string": pa.string(), "bool": pa.bool_(), "int32": pa.int32()}


def write_parquet(
    table: pl.DataFrame,
    features: Mapping[str, str],
    root: Path,
    folder: Path,
    split: str,
    files: Mapping[str, Placed],
) -> list[Path]:
    """Write a table as `split-00000-of-0000N-DIGEST.parquet`, with the bytes of every file that it names.

    The digest is that of the contents. `datasets` identifies what it has loaded by the patterns in the
    card, not by the files: if all had one name, it would still return the previous release.

    Args:
        table: for each feature a column; that of a medium holds paths below `root`, or null.
        features: column → `Audio`, `Image`, or a plain type such as `string`.
        root: the folder that the paths are below.
        folder: where the Parquet files go.
        split: their name.
        files: path below `root` → its file, whose size says how rows are divided.

    Returns:
        The files written, in order.
    """
    media = [name for name, feature in features.items() if feature in (AUDIO, IMAGE)]
    schema = pa.schema(
        [(name, _MEDIUM if name in media else _TYPES[feature]) for name, feature in features.items()],
        metadata={"huggingface": json.dumps({"info": {"features": _hugging_face(features)}})},
    )
    named = table.select(media).iter_rows() if media else ((),) * table.height
    sizes = [sum(files[file].size_bytes for file in row if file is not None) for row in named]
    digest = _digest(table.select(list(features)), media, files)
    shards = list(_divided(sizes, SHARD_BYTES, table.height))
    rows_of_a_group = GROUP_ROWS if media else table.height
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, (first, last) in enumerate(shards):
        path = folder / f"{split}-{place:05}-of-{len(shards):05}-{digest}.parquet"
        plain = [name for name in features if name not in media]
        with pq.ParquetWriter(path, schema, use_dictionary=plain, write_statistics=plain) as writer:
            for begin, end in _divided(sizes[first:last], GROUP_BYTES, rows_of_a_group):
                rows = table.slice(first + begin, end - begin).select(list(features))
                filled = [
                    {name: _medium(value, root) if name in media else value for name, value in row.items()}
                    for row in rows.iter_rows(named=True)
                ]
                writer.write_table(pa.Table.from_pylist(filled, schema=schema))
        written.append(path)
    return written


def pattern_of(written: Sequence[Path]) -> str:
    """The pattern that names the files that `write_parquet` has written, without their folder."""
    split, _, _, _, digest = written[0].name.split("-")
    return f"{split}-*-{digest}"


def _digest(table: pl.DataFrame, media: Sequence[str], files: Mapping[str, Placed]) -> str:
    digest = hashlib.sha256(table.write_csv().encode())
    for file in sorted({file for name in media for file in table[name].drop_nulls()}):
        digest.update(files[file].sha256.encode())
    return digest.hexdigest()[:16]


def yaml_features(features: Mapping[str, str]) -> list[str]:
    """The features as the lines that a dataset card has them in."""
    lines = []
    for name, feature in features.items():
        lines += [f"  - name: {name}", f"    dtype: {feature.lower()}"]
    return lines


def _hugging_face(features: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"_type": feature} if feature in (AUDIO, IMAGE) else {"dtype": feature, "_type": "Value"}
        for name, feature in features.items()
    }


def _divided(sizes: Sequence[int], most_bytes: int, most_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that keep below both limits, with at least one row each; one empty range of nothing."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and (total + size > most_bytes or place - first >= most_rows):
            yield first, place
            first, total = place, 0
        total += size
    yield first, len(sizes)


def _medium(file: str | None, root: Path) -> dict[str, Any] | None:
    return None if file is None else {"bytes": (root / file).read_bytes(), "path": file}
