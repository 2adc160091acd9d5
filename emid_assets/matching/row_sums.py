"""A check of rows of S: their sum over all images, recomputed with the stored log-sum-exp."""

from collections.abc import Iterable

import numpy as np
import polars as pl

from emid_assets.matching.frames import embedding_matrix


def row_sums(
    similarity: pl.DataFrame, music_embeddings: pl.DataFrame, image_embeddings: Iterable[pl.DataFrame]
) -> pl.DataFrame:
    """Sum of each clip's row of S over all images, in float64; 1 if its log-sum-exp is right.

    Args:
        similarity: SIMILARITY_MATRIX rows; gives the log-sum-exp of each clip.
        music_embeddings: MUSIC_EMBEDDINGS of the n clips to check.
        image_embeddings: IMAGE_EMBEDDINGS of all images, in frames of any size.

    Returns:
        clip_id, row_sum: n rows.
    """
    denominators = similarity.select("clip_id", "log_sum_exp").unique("clip_id")
    rows = music_embeddings.select("clip_id").join(
        denominators, on="clip_id", how="left", maintain_order="left"
    )
    total = np.zeros(rows.height)
    if rows.height:
        X = embedding_matrix(music_embeddings).astype(np.float64)
        log_sum_exp = rows["log_sum_exp"].to_numpy()
        for images in image_embeddings:
            Y = embedding_matrix(images).astype(np.float64)
            total += np.exp(X @ Y.T - log_sum_exp[:, None]).sum(axis=1)
    return rows.select("clip_id").with_columns(row_sum=total)
