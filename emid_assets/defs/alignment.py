"""The alignment stage: S, E and T, and the pairs that they pick.

A music partition is matched against the images of all image partitions, since the softmax of a
clip's row runs over every image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import cast

import dagster as dg
import polars as pl

from emid_assets.defs.checks import check_result, schema_result, table_asset
from emid_assets.defs.partitions import MUSIC_EMOTION_PARTITIONS, every_partition
from emid_assets.defs.resources import SettingsResource
from emid_assets.media.va_plane import image_alignment, music_alignment, on_plane
from emid_assets.store.data_version import frame_digest
from emid_assets.store.duckdb_store import Lake, Version

ROW_SUM_TOLERANCE = 1e-4
ROWS_SUMMED = 64


def require_one_encoder(versions: Sequence[Version]) -> None:
    """Raise where embedding partitions were not all made by one encoder.

    Raises:
        dg.Failure: names the partitions of each encoder, and what to materialize again.
    """
    made_by: dict[str, list[str]] = {}
    for version in versions:
        names = made_by.setdefault(str(version.metadata["fingerprint"]), [])
        names.append(f"{version.table}[{version.partition}]")
    if len(made_by) > 1:
        groups = "; ".join(f"{fingerprint}: {', '.join(names)}" for fingerprint, names in made_by.items())
        raise dg.Failure(
            f"embeddings of different encoders cannot be compared ({groups}); "
            "materialize music_embeddings and image_embeddings again for all partitions, with one encoder",
            allow_retries=False,
        )


@table_asset(
    group_name="alignment",
    kinds={"torch", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    deps=[dg.AssetDep("image_embeddings", partition_mapping=dg.AllPartitionMapping())],
    checks={
        "rows_sum_to_one": "exp(score - log_sum_exp) over all images sums to one within 1e-4 "
        "(a sample of rows, in float64)."
    },
)
def similarity_matrix(
    settings: SettingsResource, music_embeddings: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Semantic similarity S = softmax(X·Yᵀ): each clip's K largest entries, and its row's log-sum-exp.

    The whole matrix is never held, nor are all images: they are streamed from the store. With the
    log-sum-exp any other entry can be had again.
    """
    from emid_assets.matching.alignment import measure_fast_mode, similarity_frame
    from emid_assets.matching.row_sums import row_sums
    from emid_assets.matching.stream import fit_memory, usable_processors

    lake = Lake(settings.lake_folder)
    image_versions = lake.versions("image_embeddings")
    require_one_encoder([*lake.versions("music_embeddings"), *image_versions])
    threads = settings.matching_threads or usable_processors()
    dimension = cast(pl.Array, music_embeddings.schema["embedding"]).shape[0]
    rows, columns = fit_memory(settings.matching_memory_mb, dimension, settings.candidates, threads)

    def images() -> Iterator[pl.DataFrame]:
        return lake.read_batches(
            "image_embeddings", ["image_id", "embedding", "scale"], columns, image_versions
        )

    similarity = pl.concat(
        similarity_frame(
            clips, images, settings.candidates, threads=threads, product=settings.matching_product
        )
        for clips in (music_embeddings.iter_slices(rows) if music_embeddings.height else [music_embeddings])
    )
    fast_mode = {}
    if settings.matching_product == "int8":
        error = measure_fast_mode(music_embeddings, images, similarity, settings.candidates)
        fast_mode = {f"fast_mode_{name}": value for name, value in asdict(error).items()}
    sums = row_sums(similarity, music_embeddings.head(ROWS_SUMMED), images())
    wrong = sums.filter((pl.col("row_sum") - 1).abs() > ROW_SUM_TOLERANCE)
    number_of_images = sum(version.rows for version in image_versions)
    return dg.MaterializeResult(
        value=similarity,
        data_version=dg.DataVersion(frame_digest(similarity)),
        metadata={
            "clips": music_embeddings.height,
            "images": number_of_images,
            "candidates_per_clip": min(settings.candidates, number_of_images),
            **fast_mode,
        },
        check_results=[
            schema_result("similarity_matrix", similarity),
            check_result(
                "rows_sum_to_one", [f"{clip}: {total:.6f}" for clip, total in wrong.rows()], sums.height
            ),
        ],
    )


@table_asset(
    group_name="alignment",
    kinds={"numpy", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    ins=every_partition("music_clips", "images"),
    checks={"within_range": "E lies in [0, 1] and no distance is missing."},
)
def va_distances(
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Emotional similarity E of each clip with each of its candidates, on the aligned valence-arousal plane.

    Both modalities are aligned by their whole population, so every partition of the manifests is read.
    """
    from emid_assets.matching.alignment import va_distance_frame

    music = music_alignment(music_clips, settings.va_alignment)
    image = image_alignment(images, settings.va_alignment)
    distances = va_distance_frame(
        similarity_matrix,
        on_plane(music_clips, "clip_id", music),
        on_plane(images, "image_id", image),
        settings.emotion_kernel,
        settings.gaussian_sigma,
    )
    outside = distances.filter(
        ~pl.col("emotional_similarity").is_between(0, 1) | pl.col("euclidean").is_nan()
    )
    return dg.MaterializeResult(
        value=distances,
        data_version=dg.DataVersion(frame_digest(distances)),
        metadata={
            "kernel": settings.emotion_kernel,
            "alignment": settings.va_alignment,
            "axes_without_spread": ", ".join(
                [f"music {axis}" for axis in music.fixed_axes]
                + [f"image {axis}" for axis in image.fixed_axes]
            ),
            "mean_emotional_similarity": _mean(distances["emotional_similarity"]),
        },
        check_results=[
            schema_result("va_distances", distances),
            check_result(
                "within_range",
                [f"{clip} and {image}" for clip, image in outside.select("clip_id", "image_id").rows()],
                distances.height,
            ),
        ],
    )


@table_asset(
    group_name="alignment",
    kinds={"numpy", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    ins=every_partition("images"),
    checks={
        "m_pairs_each": "Each clip has exactly m pairs, or as many as it has candidates where that is fewer.",
        "images_exist": "Every pair's image is a usable image.",
    },
)
def fused_pairs(
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The dataset: each clip's m best images by T = αS̃ + (1 − α)E."""
    from emid_assets.matching.alignment import fused_pairs_frame

    pairs = fused_pairs_frame(
        similarity_matrix, va_distances, settings.alpha, settings.images_per_clip, settings.semantic_rescaling
    )
    wanted = similarity_matrix.group_by("clip_id").agg(
        wanted=pl.len().clip(upper_bound=settings.images_per_clip)
    )
    found = pairs.group_by("clip_id").agg(found=pl.len())
    wrong = (
        wanted.join(found, on="clip_id", how="left")
        .with_columns(pl.col("found").fill_null(0))
        .filter(pl.col("found") != pl.col("wanted"))
        .sort("clip_id")
    )
    lost = pairs.join(images, on="image_id", how="anti")
    return dg.MaterializeResult(
        value=pairs,
        data_version=dg.DataVersion(frame_digest(pairs)),
        metadata={
            "pairs": pairs.height,
            "alpha": settings.alpha,
            "images_per_clip": settings.images_per_clip,
            "semantic_rescaling": settings.semantic_rescaling,
            "mean_fused_score": _mean(pairs["fused_score"]),
        },
        check_results=[
            schema_result("fused_pairs", pairs),
            check_result(
                "m_pairs_each",
                [f"{clip}: {found} pairs, not {expected}" for clip, expected, found in wrong.rows()],
                wanted.height,
            ),
            check_result(
                "images_exist", [f"{image}" for image in lost["image_id"].unique().sort()], pairs.height
            ),
        ],
    )


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean()) if len(values) else float("nan")
