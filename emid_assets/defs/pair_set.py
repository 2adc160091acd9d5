"""The pairs if the use of an image is limited: all clips' at once, in place of `alignment.fused_pairs`."""

from dataclasses import replace

import dagster as dg
import polars as pl

from emid_assets.defs.alignment import PAIRS_MADE_FROM
from emid_assets.orchestration.partitions import every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.store.data_version import frame_digest


@table_asset(
    stage="assign",
    table="fused_pairs",
    group_name="alignment",
    kinds={"numba", "duckdb"},
    ins=every_partition("similarity_matrix", "va_distances", "images"),
    declared=PAIRS_MADE_FROM,
    checks={
        "m_pairs_each": "No clip has more than m pairs; one with fewer has no candidate that is still free.",
        "images_exist": "Every pair has a usable image.",
        "within_limit": "No image is in more pairs than image_reuse_limit.",
    },
    warnings={"m_pairs_for_all": "The images suffice: each clip has m pairs, or one for each candidate."},
)
def fused_pairs_of_the_set(
    settings: SettingsResource,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The dataset: up to m images for each clip, none used more than a limit, with the largest sum of T.

    One table without partitions: what a clip gets depends on what every other clip gets, so the pairs of all
    emotions are one version with one recipe. After a change of one clip they are chosen again as a whole;
    if they turn out the same, so does their data version, and nothing that reads them is built.
    """
    from emid_assets.matching.assignment import pairs_as_a_set, passed_over
    from emid_assets.matching.frames import fused_pairs_frame
    from emid_assets.matching.fusion import Formula
    from emid_assets.report.previews import pairs_preview

    m, limit = settings.images_per_clip, settings.image_reuse_limit
    every_candidate = replace(Formula.of(settings), images_per_clip=max(1, len(va_distances)))
    ranked = fused_pairs_frame(similarity_matrix, va_distances, every_candidate)
    pairs = pairs_as_a_set(ranked, m, limit)
    lost = pairs.join(images, on="image_id", how="anti")["image_id"].unique().sort().to_list()
    return dg.MaterializeResult(
        value=pairs,
        data_version=dg.DataVersion(frame_digest(pairs)),
        metadata={
            "pairs": pairs.height,
            "image_reuse_limit": limit,
            "sum_of_fused_scores": float(pairs["fused_score"].to_numpy().sum()),
            "pictures": dg.MetadataValue.md(pairs_preview(pairs, images, settings.media_folder)),
        },
        check_results=[
            check_result("images_exist", lost, pairs.height),
            *_numbers(ranked, pairs, m, limit, passed_over(ranked, pairs, m, limit)),
        ],
    )


def _numbers(
    ranked: pl.DataFrame, pairs: pl.DataFrame, m: int, limit: int, left: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """The checks of how many pairs each clip and each image has."""
    wanted = ranked.group_by("clip_id").agg(wanted=pl.len().clip(upper_bound=m))
    found = pairs.group_by("clip_id").agg(found=pl.len())
    counted = wanted.join(found, on="clip_id", how="left").with_columns(pl.col("found").fill_null(0))
    wrong = counted.filter(pl.col("found") != pl.col("wanted")).sort("clip_id")
    too_many = wrong.filter(pl.col("found") > m)
    uses = pairs.group_by("image_id").len().sort("image_id")
    return [
        check_result(
            "m_pairs_each",
            [f"{clip}: {count} pairs, not {number}" for clip, number, count in too_many.rows()]
            + [f"{clip} could have {image}" for clip, image in left.rows()],
            wanted.height,
        ),
        check_result(
            "within_limit",
            [f"{image}: {count} pairs" for image, count in uses.filter(pl.col("len") > limit).rows()],
            uses.height,
        ),
        check_result(
            "m_pairs_for_all",
            [f"{clip}: {count} pairs, not {number}" for clip, number, count in wrong.rows()],
            wanted.height,
            dg.AssetCheckSeverity.WARN,
        ),
    ]
