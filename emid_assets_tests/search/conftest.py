"""A small lake that has everything that a query needs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters.adapted_embeddings import adapted_frame
from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.run_files import save_run
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import EXPANDED_CLIPS, IMAGES, MUSIC_CLIPS, TableSchema
from emid_assets_tests.small_lake import SETTINGS, make_lake


@dataclass
class Built:
    lake: Lake
    frames: LakeTables
    images: pl.DataFrame
    adapted: pl.DataFrame
    weights: Path


def manifest(schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    empty = schema.empty().schema
    missing = [name for name in empty if name not in frame.columns]
    return frame.with_columns(pl.lit(None, dtype=empty[name]).alias(name) for name in missing).select(
        list(empty)
    )


@pytest.fixture
def built(tmp_path: Path) -> Built:
    frames, lake = make_lake(), Lake(tmp_path / "lake")
    images = frames.images.with_columns(
        file="images/" + pl.col("image_id"),
        valence=pl.Series(np.linspace(0.1, 0.9, frames.images.height)),
        arousal=pl.Series(np.linspace(0.9, 0.2, frames.images.height) ** 2),
    )
    clips = frames.music_clips.with_columns(file="music/" + pl.col("clip_id"), valence=5.0, arousal=5.0)
    lake.write("images", "awe", manifest(IMAGES, images.head(40)))
    lake.write("images", "fear", manifest(IMAGES, images.tail(-40)))
    lake.write("music_clips", "sad", manifest(MUSIC_CLIPS, clips))
    lake.write("expanded_clips", "sad", EXPANDED_CLIPS.empty(24))
    facts = {"encoder": "bundled", "fingerprint": "f1"}
    lake.write("image_embeddings", "awe", frames.image_embeddings, facts)
    lake.write("music_embeddings", "sad", frames.music_embeddings, facts)
    weights, sha256 = save_run(train("bmf", pair_data(frames, seed=0), SETTINGS), lake.root / "weights", {})
    adapter = TrainedAdapter.load(weights)
    lake.write("trained_adapter", "bmf", adapter.manifest_frame(f"weights/{weights.name}", sha256))
    adapted = adapted_frame(weights, frames.music_embeddings, frames.image_embeddings)
    lake.write("adapted_embeddings", "bmf", adapted)
    return Built(lake, frames, images, adapted, weights)
