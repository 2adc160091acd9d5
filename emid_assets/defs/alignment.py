"""The alignment stage after S: E and T, and the pairs picked by them.

If the use of an image is limited, `pair_set.py` has the asset that takes the place of `fused_pairs`.
"""

import dagster as dg
import polars as pl

from emid_assets.media.expansion import all_clips
from emid_assets.media.va_plane import Plane
from emid_assets.orchestration.declared import Declared
from emid_assets.orchestration.partitions import MUSIC_EMOTION_PARTITIONS, every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import in_use
from emid_assets.store.data_version import frame_digest

PAIRS_MADE_FROM = Declared(
    settings=("alpha", "images_per_clip", "semantic_rescaling", "image_reuse_limit"),
)
"""What the pairs are made from, whether they are chosen clip by clip (below) or as a set (`pair_set.py`)."""


@table_asset(
    stage="align",
    group_name="alignment",
    kinds={"numpy", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    ins=every_partition("music_clips", "images"),
    declared=Declared(code=2, settings=("va_alignment", "emotion_kernel", "gaussian_sigma")),
    checks={"within_range": "Every E is in [0, 1], and no distance is missing."},
)
def va_distances(
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    music_clips: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Emotional similarity E of each clip with each of its candidates, on the aligned valence-arousal plane.

    Each modality is aligned by its whole population, so every partition of the manifests is read.
    Expanded clips repeat the positions of their sources and are not part of that population.
    """
    from emid_assets.matching.frames import va_distance_frame

    plane = Plane.fit(music_clips, images, settings.va_alignment)
    distances = va_distance_frame(
        similarity_matrix,
        plane.clips(all_clips(music_clips, expanded_clips)),
        plane.images(images),
        in_use(settings, "emotion_kernel"),
        settings.gaussian_sigma,
    )
    outside = distances.filter(
        ~pl.col("emotional_similarity").is_between(0, 1) | pl.col("euclidean").is_nan()
    )
    return dg.MaterializeResult(
        value=distances,
        data_version=dg.DataVersion(frame_digest(distances)),
        metadata={
            "kernel": in_use(settings, "emotion_kernel"),
            "alignment": settings.va_alignment,
            "axes_without_spread": ", ".join(plane.axes_without_spread),
            "mean_emotional_similarity": _mean(distances["emotional_similarity"]),
        },
        check_results=[
            check_result(
                "within_range",
                [f"{clip} and {image}" for clip, image in outside.select("clip_id", "image_id").rows()],
                distances.height,
            ),
        ],
    )


@table_asset(
    stage="align",
    group_name="alignment",
    kinds={"numpy", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    ins=every_partition("images"),
    declared=PAIRS_MADE_FROM,
    checks={
        "m_pairs_each": "Each clip has exactly m pairs, or one for each candidate if it has fewer than m.",
        "images_exist": "Every pair has a usable image.",
    },
)
def fused_pairs(
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The dataset: each clip's m best images by T = αS̃ + (1 − α)E."""
    from emid_assets.matching.frames import fused_pairs_frame
    from emid_assets.report.previews import pairs_preview

    pairs = fused_pairs_frame(
        similarity_matrix,
        va_distances,
        in_use(settings, "alpha"),
        settings.images_per_clip,
        settings.semantic_rescaling,
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
            "alpha": in_use(settings, "alpha"),
            "images_per_clip": settings.images_per_clip,
            "semantic_rescaling": settings.semantic_rescaling,
            "mean_fused_score": _mean(pairs["fused_score"]),
            "pictures": dg.MetadataValue.md(pairs_preview(pairs, images, settings.media_folder)),
        },
        check_results=[
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
