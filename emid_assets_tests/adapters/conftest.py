"""A small lake whose pairs can be learnt: topics shared by music and images, VA by category and tag."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters.trained_adapter import TrainingSettings
from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.matching.frames import fused_pairs_frame, similarity_frame, va_distance_frame

CLIPS, IMAGES, DIMENSION, TOPICS = 60, 90, 24, 6
PAIRING = {"alpha": 0.6, "candidates": 20, "rescaling": "candidate_minmax", "kernel": "cosine", "sigma": 0.5}
SETTINGS = TrainingSettings(dimension=12, epochs=4, batch_clips=16)


@dataclass(frozen=True)
class SmallLake:
    music_embeddings: pl.DataFrame
    image_embeddings: pl.DataFrame
    fused_pairs: pl.DataFrame
    music_clips: pl.DataFrame
    images: pl.DataFrame
    music_va: pl.DataFrame
    image_va: pl.DataFrame

    def to_train(self) -> tuple[pl.DataFrame, ...]:
        return (
            self.music_embeddings, self.image_embeddings, self.fused_pairs,
            self.music_clips, self.music_va, self.image_va,
        )  # fmt: skip

    def to_evaluate(self) -> tuple[pl.DataFrame, ...]:
        return (
            self.music_embeddings, self.image_embeddings, self.fused_pairs,
            self.music_clips, self.images, self.music_va, self.image_va,
        )  # fmt: skip


def embeddings(key: str, ids: list[str], vectors: np.ndarray, scale: float) -> pl.DataFrame:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return pl.DataFrame(
        {
            key: ids,
            "content_hash": ids,
            "embedding": pl.Series(unit.astype(np.float32), dtype=pl.Array(pl.Float32, vectors.shape[1])),
            "scale": pl.Series([scale] * len(ids), dtype=pl.Float32),
        }
    )


def make_lake(sources: int = 30, seed: int = 0) -> SmallLake:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(TOPICS, DIMENSION))
    clip_ids = [f"clip {i:03d}" for i in rng.permutation(CLIPS)]
    image_ids = [f"image {i:03d}" for i in rng.permutation(IMAGES)]
    emotions = [MUSIC_EMOTIONS[i % 13] for i in range(CLIPS)]
    tags = [IMAGE_EMOTIONS[i % 8] for i in range(IMAGES)]
    music = rng.dirichlet([0.3] * TOPICS, CLIPS) @ shared + 0.1 * rng.normal(size=(CLIPS, DIMENSION))
    pictures = rng.dirichlet([0.3] * TOPICS, IMAGES) @ shared + 0.1 * rng.normal(size=(IMAGES, DIMENSION))
    music_va = pl.DataFrame(
        {
            "clip_id": clip_ids,
            "valence": [(emotion.valence - 5.1) / 3 for emotion in emotions],
            "arousal": [(emotion.arousal - 5.2) / 2 for emotion in emotions],
        }
    )
    image_va = pl.DataFrame(
        {
            "image_id": image_ids,
            "valence": [(tag.valence - 0.45) / 0.6 for tag in tags],
            "arousal": [(tag.arousal - 0.7) / 0.6 for tag in tags],
        }
    )
    music_frame = embeddings("clip_id", clip_ids, music, 20.0)
    image_frame = embeddings("image_id", image_ids, pictures, 1.0)
    similarity = similarity_frame(music_frame, image_frame, PAIRING["candidates"])
    distances = va_distance_frame(similarity, music_va, image_va, PAIRING["kernel"], PAIRING["sigma"])
    return SmallLake(
        music_embeddings=music_frame,
        image_embeddings=image_frame,
        fused_pairs=fused_pairs_frame(similarity, distances, PAIRING["alpha"], 3, PAIRING["rescaling"]),
        music_clips=pl.DataFrame(
            {
                "clip_id": clip_ids,
                "source_id": [f"source {i % sources}" for i in range(CLIPS)],
                "emotion": [emotion.key for emotion in emotions],
            }
        ),
        images=pl.DataFrame({"image_id": image_ids, "tag": [tag.key for tag in tags]}),
        music_va=music_va,
        image_va=image_va,
    )


@pytest.fixture(scope="session")
def lake() -> SmallLake:
    return make_lake()
