"""The images that each system shows first for a clip: semantic only, the α in use, an adapter; with S, E, T.

Belongs here: the first images of every clip by each system, as one frame that the page of pairs and
the listening study both show. Measuring the systems is `evaluate`.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from emid_assets.adapters import AdapterError
from emid_assets.adapters.pair_data import aligned_to, va_points
from emid_assets.matching.frames import embedding_matrix, fused_pairs_frame
from emid_assets.matching.fusion import Formula
from emid_assets.matching.order import top_k
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.schemas import TOP_IMAGES

SEMANTIC, FUSED, ADAPTER = "semantic", "fused", "adapter"
ROWS_AT_ONCE = 512


def best_network(trained_adapter: pl.DataFrame) -> str:
    """The network of the best validation NDCG@10, at the epoch whose weights were kept.

    A network without validation figures comes after those that have some; ties go by name.

    Args:
        trained_adapter: TRAINED_ADAPTER rows.

    Raises:
        AdapterError: no network is trained.
    """
    if trained_adapter.is_empty():
        raise AdapterError("no network is trained: materialize trained_adapter first")
    ndcg: dict[str, float | None] = {
        row["network"]: next(
            (epoch["ndcg_at_10"] for epoch in row["history"] if epoch["epoch"] == row["best_epoch"]), None
        )
        for row in trained_adapter.iter_rows(named=True)
    }
    return min(ndcg, key=lambda name: (ndcg[name] is None, -(ndcg[name] or 0.0), name))


def top_images(tables: LakeTables, network: str, formula: Formula, top: int) -> pl.DataFrame:
    """The first images of every clip by each of three systems.

    `semantic` takes the largest S, `fused` the largest T among the candidates, `adapter` the largest
    inner product of the network's new embeddings, over all images. For T, an image that is not a
    candidate of the clip by S has the S̃ of the weakest candidate, and with the method `calibrated` 0, as in
    `emid query`.

    Args:
        tables: the alignment, the embeddings, the new embeddings and the plane of the whole lake.
        network: of the adapter.
        formula: that made the pairs.
        top: images of a clip and system; fewer where there are no more.

    Returns:
        TOP_IMAGES, by clip, system and rank.

    Raises:
        AdapterError: tables that do not fit each other; names the first missing item.
    """
    similarity = tables.similarity_matrix
    if similarity.is_empty():
        return TOP_IMAGES.empty()
    pair = ["clip_id", "image_id"]
    scores = [*pair, "semantic_similarity", "emotional_similarity", "fused_score"]
    most = int(tables.va_distances.group_by("clip_id").len()["len"].to_numpy().max())
    # Every candidate with S̃, E and T: ranked by T, as many as there are.
    candidates = fused_pairs_frame(similarity, tables.va_distances, replace(formula, images_per_clip=most))
    by_s = similarity.filter(pl.col("rank") <= top).select(*pair, "rank")
    picks = [
        by_s.join(candidates.select(scores), on=pair, how="left").with_columns(system=pl.lit(SEMANTIC)),
        candidates.filter(pl.col("rank") <= top).with_columns(system=pl.lit(FUSED)),
    ]
    weakest = candidates.group_by("clip_id").agg(
        weakest=pl.lit(0.0) if formula.of_all_images else pl.col("rescaled_similarity").min()
    )
    adapters = _adapter_picks(tables, network, formula, top)
    picks.append(
        adapters.join(candidates.select(*pair, "rescaled_similarity"), on=pair, how="left")
        .join(weakest, on="clip_id", how="left")
        .with_columns(
            fused_score=formula.alpha * pl.coalesce("rescaled_similarity", "weakest")
            + (1.0 - formula.alpha) * pl.col("emotional_similarity"),
            system=pl.lit(ADAPTER),
        )
    )
    order = pl.col("system").replace_strict({SEMANTIC: 0, FUSED: 1, ADAPTER: 2})
    return pl.concat([pick.select(*TOP_IMAGES.columns) for pick in picks]).sort("clip_id", order, "rank")


def _adapter_picks(tables: LakeTables, network: str, formula: Formula, top: int) -> pl.DataFrame:
    """clip_id, rank, image_id, S and E of the adapter's first images of every clip."""
    music, images = tables.music_embeddings.sort("clip_id"), tables.image_embeddings.sort("image_id")
    adapted = tables.adapted_embeddings.filter(network=network)
    new = adapted.select("kind", "item_id", vector="embedding")
    p, q = (
        aligned_to(
            items,
            new.filter(kind=kind).select(pl.col("item_id").alias(key), "vector"),
            key,
            "adapted_embeddings",
        )["vector"].to_numpy()
        for items, kind, key in ((music, "music", "clip_id"), (images, "image", "image_id"))
    )
    X, Y = embedding_matrix(music), embedding_matrix(images)
    denominators = tables.similarity_matrix.group_by("clip_id").agg(pl.col("log_sum_exp").first())
    log_sum_exp = aligned_to(music, denominators, "clip_id", "similarity_matrix")["log_sum_exp"].to_numpy()
    music_plane = va_points(music, tables.music_va, "clip_id")
    image_plane = va_points(images, tables.image_va, "image_id")

    frames = []
    for start in range(0, music.height, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, music.height))
        found = top_k(p[rows] @ q.T, min(top, images.height))
        scores = np.einsum("nd,nkd->nk", X[rows], Y[found]).astype(np.float64)
        E = formula.emotional(music_plane[rows][:, None], image_plane[found])
        n, k = found.shape
        frames.append(
            pl.DataFrame(
                {
                    "clip_id": music["clip_id"].gather(np.repeat(rows, k)),
                    "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), n),
                    "image_id": images["image_id"].gather(found.ravel()),
                    "semantic_similarity": np.exp(scores - log_sum_exp[rows][:, None]).ravel(),
                    "emotional_similarity": E.ravel(),
                }
            )
        )
    return pl.concat(frames)
