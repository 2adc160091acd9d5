"""Cost of a query besides embedding the file: opening the search files, ranking, S, E and T.

`python benchmarks/query.py --images 50000 --json rows.json`

- A lake is written to a temporary folder: random unit embeddings, one network trained for an epoch
  on a few clips (its quality is not evaluated), its new embeddings of all images.
- `ours-first-query` is the first query after a build, which writes the files that later ones
  memory-map; `ours-query` is a later one, which opens the files again each time;
  `ours-query-fresh-process` is the same in a process that has imported everything but not queried yet.
- CPU seconds of the process, one BLAS thread; the median of `--rounds`.
"""
# ruff: noqa: E402

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import polars as pl
import torch

from emid_assets.adapters.adapted_embeddings import adapted_frame
from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.run_files import save_run
from emid_assets.adapters.trained_adapter import TrainingSettings
from emid_assets.adapters.training import train
from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.matching.frames import fused_pairs_frame, similarity_frame, va_distance_frame
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.search.index_files import searchable
from emid_assets.search.query import nearest
from emid_assets.settings import Settings, in_use
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import IMAGES, MUSIC_CLIPS, TableSchema


def embeddings(key: str, ids: list[str], dimension: int, scale: float, seed: int) -> pl.DataFrame:
    rows = np.random.default_rng(seed).standard_normal((len(ids), dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return pl.DataFrame(
        {
            key: ids,
            "content_hash": ids,
            "embedding": pl.Series(rows, dtype=pl.Array(pl.Float32, dimension)),
            "scale": pl.Series([scale] * len(ids), dtype=pl.Float32),
        }
    )


def manifest(schema: TableSchema, columns: dict[str, Any]) -> pl.DataFrame:
    empty = schema.empty().schema
    rows = pl.DataFrame(columns)
    missing = [pl.lit(None, dtype=empty[name]).alias(name) for name in schema.columns if name not in columns]
    return schema.check(rows.with_columns(missing).cast({name: empty[name] for name in columns}))


def write_lake(lake: Lake, network: str, n_images: int, n_clips: int, dimension: int) -> None:
    """Everything that a query reads, with one partition per emotion."""
    clips, pictures, music, images = [], [], [], []
    for place, emotion in enumerate(MUSIC_EMOTIONS):
        ids = [f"{emotion.key}/{number:05}.ogg" for number in range(n_clips // len(MUSIC_EMOTIONS) + 1)]
        facts = {"clip_id": ids, "source_id": ids, "file": ids, "emotion": emotion.key}
        facts |= {"valence": emotion.valence, "arousal": emotion.arousal}
        clips.append(manifest(MUSIC_CLIPS, facts))
        music.append(embeddings("clip_id", ids, dimension, 20.0, place))
        lake.write("music_clips", emotion.key, clips[-1])
        lake.write("music_embeddings", emotion.key, music[-1], {"encoder": "random", "fingerprint": "0"})
    for place, tag in enumerate(IMAGE_EMOTIONS):
        ids = [f"{tag.key}/{number:06}.jpg" for number in range(n_images // len(IMAGE_EMOTIONS))]
        facts = {"image_id": ids, "file": ids, "tag": tag.key, "valence": tag.valence, "arousal": tag.arousal}
        pictures.append(manifest(IMAGES, facts))
        images.append(embeddings("image_id", ids, dimension, 1.0, 100 + place))
        lake.write("images", tag.key, pictures[-1])
        lake.write("image_embeddings", tag.key, images[-1], {"encoder": "random", "fingerprint": "0"})
    all_clips, all_images, X, Y = (pl.concat(parts) for parts in (clips, pictures, music, images))
    plane = Plane.fit(all_clips, all_images, "standardize")
    tables = LakeTables(plane, all_clips, all_images, music_embeddings=X, image_embeddings=Y)
    settings = Settings()
    similarity = similarity_frame(X, Y, settings.candidates)
    distances = va_distance_frame(similarity, tables.music_va, tables.image_va, "cosine", 0.5)
    pairs = fused_pairs_frame(
        similarity, distances, in_use(settings, "alpha"), 3, settings.semantic_rescaling
    )
    adapter = train(
        network,
        pair_data(replace(tables, fused_pairs=pairs), seed=0, formula=Formula.of(settings)),
        TrainingSettings(epochs=1),
    )  # fmt: skip
    weights, sha256 = save_run(adapter, lake.root / "weights", {})
    lake.write("trained_adapter", network, adapter.manifest_frame(f"weights/{weights.name}", sha256))
    lake.write("adapted_embeddings", network, adapted_frame(weights, X, Y, "cpu", tables.image_va))


def query_seconds(settings: Settings, network: str, dimension: int, rounds: int) -> list[float]:
    """CPU seconds of each of `rounds` queries, from opening the files to the table of results."""
    rng = np.random.default_rng(7)
    seconds = []
    for _ in range(rounds):
        embedding = rng.standard_normal(dimension, dtype=np.float32)
        embedding /= np.linalg.norm(embedding)
        started = time.process_time()
        searched = searchable(Lake(settings.lake_folder), "image", network, settings.va_alignment)
        found = nearest(searched, "music", embedding, 20.0, settings, 10)
        seconds.append(time.process_time() - started)
        assert found.height == 10
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="no effect: there are no peers to skip")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--network", default="distilled")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)  # a fresh process queries this one
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.lake is not None:
        settings = Settings(lake=str(arguments.lake))
        print(json.dumps(query_seconds(settings, arguments.network, arguments.dimension, 1)))
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(lake=folder)
        write_lake(
            Lake(settings.lake_folder),
            arguments.network,
            arguments.images,
            arguments.clips,
            arguments.dimension,
        )
        first = query_seconds(settings, arguments.network, arguments.dimension, 1)
        later = query_seconds(settings, arguments.network, arguments.dimension, arguments.rounds)
        command = [sys.executable, __file__, "--lake", folder, "--network", arguments.network]
        command += ["--dimension", str(arguments.dimension)]
        fresh = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]
            for _ in range(min(3, arguments.rounds))
        ]
    measured = {"ours-first-query": first, "ours-query": later, "ours-query-fresh-process": fresh}
    rows = [
        {
            "name": name,
            "images": arguments.images,
            "cpu_seconds": statistics.median(seconds),
            "rounds": len(seconds),
        }
        for name, seconds in measured.items()
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))
    for row in rows:
        print(f"{row['name']:26} {1000 * row['cpu_seconds']:9.1f} ms CPU")


if __name__ == "__main__":
    main()
