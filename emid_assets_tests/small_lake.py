"""A small lake whose pairs can be learnt: topics shared by music and images, VA by category and tag."""

import numpy as np
import polars as pl

from emid_assets.adapters.trained_adapter import TrainingSettings
from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import VaAlignment
from emid_assets.matching.frames import fused_pairs_frame, similarity_frame, va_distance_frame
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane

CLIPS, IMAGES, DIMENSION, TOPICS = 60, 90, 24, 6
FORMULA = Formula(
    alpha=0.6, candidates=20, images_per_clip=3, rescaling="candidate_minmax", kernel="cosine", sigma=0.5
)
UNCHANGED = Plane(*[VaAlignment("fixed", (0.0, 0.0), (1.0, 1.0))] * 2)
"""A plane for valence and arousal that lie in [-1, 1]² already."""

SETTINGS = TrainingSettings(dimension=12, epochs=4, batch_clips=16)


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


def make_lake(sources: int = 30, seed: int = 0) -> LakeTables:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(TOPICS, DIMENSION))
    clip_ids = [f"clip {i:03d}" for i in rng.permutation(CLIPS)]
    image_ids = [f"image {i:03d}" for i in rng.permutation(IMAGES)]
    emotions = [MUSIC_EMOTIONS[i % 13] for i in range(CLIPS)]
    tags = [IMAGE_EMOTIONS[i % 8] for i in range(IMAGES)]
    music = rng.dirichlet([0.3] * TOPICS, CLIPS) @ shared + 0.1 * rng.normal(size=(CLIPS, DIMENSION))
    pictures = rng.dirichlet([0.3] * TOPICS, IMAGES) @ shared + 0.1 * rng.normal(size=(IMAGES, DIMENSION))
    music_clips = pl.DataFrame(
        {
            "clip_id": clip_ids,
            "source_id": [f"source {i % sources}" for i in range(CLIPS)],
            "emotion": [emotion.key for emotion in emotions],
            "valence": [(emotion.valence - 5.1) / 3 for emotion in emotions],
            "arousal": [(emotion.arousal - 5.2) / 2 for emotion in emotions],
        }
    )
    images = pl.DataFrame(
        {
            "image_id": image_ids,
            "tag": [tag.key for tag in tags],
            "valence": [(tag.valence - 0.45) / 0.6 for tag in tags],
            "arousal": [(tag.arousal - 0.7) / 0.6 for tag in tags],
        }
    )
    music_frame = embeddings("clip_id", clip_ids, music, 20.0)
    image_frame = embeddings("image_id", image_ids, pictures, 1.0)
    similarity = similarity_frame(music_frame, image_frame, FORMULA.candidates)
    music_va, image_va = UNCHANGED.clips(music_clips), UNCHANGED.images(images)
    distances = va_distance_frame(similarity, music_va, image_va, FORMULA)
    return LakeTables(
        UNCHANGED,
        music_clips,
        images,
        music_embeddings=music_frame,
        image_embeddings=image_frame,
        fused_pairs=fused_pairs_frame(similarity, distances, FORMULA),
    )
