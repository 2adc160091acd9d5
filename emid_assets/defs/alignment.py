"""The alignment stage after S: E and T, and the pairs picked by them.

If the use of an image is limited, `pair_set.py` has the asset that takes the place of `fused_pairs`.
"""

import dagster as dg
import polars as pl

from emid_assets.defs.similarity import ALL_IMAGES, matching_plan
from emid_assets.media.expansion import all_clips, all_music_embeddings
from emid_assets.media.va_plane import Plane
from emid_assets.orchestration.declared import Declared, all_of
from emid_assets.orchestration.partitions import MUSIC_EMOTION_PARTITIONS, every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import FORMULA_SETTINGS
from emid_assets.store.data_version import frame_digest

PAIRS_MADE_FROM = Declared(code=2, settings=(*FORMULA_SETTINGS, "image_reuse_limit"))
"""What the pairs are made from, whether they are chosen clip by clip (below) or as a set (`pair_set.py`)."""


@table_asset(
    stage="align",
    group_name="alignment",
    kinds={"numpy", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    ins=every_partition("music_clips", "images"),
    deps=[ALL_IMAGES],
    declared=Declared(
        code=3,
        settings=(
            "va_alignment", "method", "emotion_kernel", "gaussian_sigma", "uncertainty_weight", "candidates",
            "images_per_clip",
        ),
    ),
    checks={"within_range": "Every E is in [0, 1], and no distance is missing."},
)  # fmt: skip
def va_distances(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    music_embeddings: pl.DataFrame,
    music_clips: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Emotional similarity E of each clip with each of its candidates, on the aligned valence-arousal plane.

    The candidates are those of S, and with the method `calibrated` also the first by E over all images. Each
    modality is aligned by its whole population, so every partition of the manifests is read.
    Expanded clips repeat the positions of their sources and are not part of that population.
    """
    from emid_assets.matching.frames import candidate_pairs, va_distance_frame
    from emid_assets.matching.fusion import Formula

    formula = Formula.of(all_of(settings))  # E and the candidates do not depend on α and S̃
    plane = Plane.fit(music_clips, images, settings.va_alignment)
    points = plane.clips(all_clips(music_clips, expanded_clips)), plane.images(images)
    music = all_music_embeddings(music_embeddings, expanded_clips)
    _, _, stored = matching_plan(settings, music, context.partition_key)
    pairs = candidate_pairs(similarity_matrix, *points, formula, music, stored)
    distances = va_distance_frame(pairs, *points, formula)
    outside = distances.filter(
        ~pl.col("emotional_similarity").is_between(0, 1) | pl.col("euclidean").is_nan()
    )
    return dg.MaterializeResult(
        value=distances,
        data_version=dg.DataVersion(frame_digest(distances)),
        metadata={
            "method": formula.method,
            "kernel": formula.kernel,
            "candidates_by_emotion_alone": distances.height - similarity_matrix.height,
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
        "no_image_was_missed": "No image that is not a candidate has a larger T than a clip's last pair.",
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
    from emid_assets.matching.frames import best_of, candidate_rows, unproven
    from emid_assets.matching.fusion import Formula
    from emid_assets.report.previews import pairs_preview

    formula = Formula.of(settings)
    candidates = candidate_rows(similarity_matrix, va_distances, formula)
    pairs = best_of(candidates, formula)
    wanted = candidates.group_by("clip_id").agg(wanted=pl.len().clip(upper_bound=formula.images_per_clip))
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
            "method": formula.method,
            "alpha": formula.alpha,
            "images_per_clip": formula.images_per_clip,
            "semantic_rescaling": formula.rescaling,
            "mean_fused_score": _mean(pairs["fused_score"]),
            "pictures": dg.MetadataValue.md(pairs_preview(pairs, images, settings.media_folder)),
        },
        check_results=[
            check_result(
                "m_pairs_each",
                [f"{clip}: {found} pairs, not {expected}" for clip, expected, found in wrong.rows()],
                wanted.height,
            ),
            check_result("no_image_was_missed", unproven(pairs, candidates, formula), wanted.height),
            check_result(
                "images_exist", [f"{image}" for image in lost["image_id"].unique().sort()], pairs.height
            ),
        ],
    )


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean()) if len(values) else float("nan")
