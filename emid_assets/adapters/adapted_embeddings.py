"""New embeddings of all music and images by a trained adapter: the rows of `adapted_embeddings`."""

from pathlib import Path

import numpy as np
import polars as pl

from emid_assets.adapters.pair_data import matrix, va_points
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.encoders.torch_device import choose_device
from emid_assets.store.schemas import ADAPTED_EMBEDDINGS


def adapted_frame(
    weights: Path,
    music_embeddings: pl.DataFrame,
    image_embeddings: pl.DataFrame,
    device: str = "cpu",
    image_va: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """New embeddings of all music and images, by the adapter in a weights file.

    Args:
        weights: file written by `TrainedAdapter.save`.
        music_embeddings: all partitions.
        image_embeddings: all partitions.
        device: where to compute.
        image_va: image_id, valence, arousal, valence_sd and arousal_sd **aligned to [-1, 1]²**; if None,
            networks with an emotion channel predict it from the images' embeddings.

    Returns:
        ADAPTED_EMBEDDINGS rows, music then images, each by id. `split` is null for images and for
        clips added after training.
    """
    adapter = TrainedAdapter.load(weights)
    music = music_embeddings.sort("clip_id")
    images = image_embeddings.sort("image_id")
    clip_ids, image_ids = music["clip_id"].to_list(), images["image_id"].to_list()
    p, q = adapter.embed(
        clip_ids,
        matrix(music["embedding"]),
        image_ids,
        matrix(images["embedding"]),
        None if image_va is None else va_points(images, image_va, "image_id"),
        device=str(choose_device(device)),
    )
    part_of = adapter.part_of()
    parts = [part_of.get(clip_id) for clip_id in clip_ids]
    return ADAPTED_EMBEDDINGS.check(
        pl.DataFrame(
            {
                "network": [adapter.network] * (len(p) + len(q)),
                "kind": ["music"] * len(p) + ["image"] * len(q),
                "item_id": clip_ids + image_ids,
                "split": pl.Series(parts + [None] * len(q), dtype=pl.String),
                "embedding": pl.Series(np.concatenate([p, q]), dtype=pl.Array(pl.Float32, p.shape[1])),
            }
        )
    )
