"""The evaluation stage: one page, and the figures behind it as a table."""

from typing import Any

import dagster as dg
import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.encoders.load import encoder_from
from emid_assets.media.lake_tables import LakeTables
from emid_assets.orchestration.partitions import every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import LOCAL_PATHS, Settings
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import write_in_place
from emid_assets.store.lake import Lake
from emid_assets.store.layout import PAIRS_PAGE, REPORT_PAGE

TEST_SECTION = "retrieval_test"
RELEASED_TASKS = "released_tasks"
PUBLIC_TASKS = "public_tasks"


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"matplotlib", "html", "duckdb"},
    ins=every_partition(
        "music_clips", "images", "music_embeddings", "expanded_clips", "image_embeddings",
        "similarity_matrix", "va_distances", "fused_pairs", "trained_adapter", "adapted_embeddings",
    ),
    # Read as a whole: what failed while it was embedded stands in partitions of its own.
    deps=["rejected_media"],
    checks={"every_clip_paired": "Every usable clip has pairs in the report."},
)  # fmt: skip
def evaluation_report(
    settings: SettingsResource,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    music_embeddings: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    image_embeddings: pl.DataFrame,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    trained_adapter: pl.DataFrame,
    adapted_embeddings: pl.DataFrame,
    study_results: pl.DataFrame,
    published_pairs: pl.DataFrame,
    image_emotion_head: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """How good the dataset and its adapters are: a page to read, look at and listen to, and its figures.

    The page is `report.html` in the lake folder, `pairs.html` beside it shows every clip's images by
    each system; the table holds every figure of the report.
    """
    from emid_assets.adapters.tuning import tuning_trials
    from emid_assets.evaluation.evaluate import evaluate, evaluate_public_tasks, evaluate_released_tasks
    from emid_assets.evaluation.sweep import sweep_around
    from emid_assets.evaluation.top_images import best_network, top_images
    from emid_assets.matching.fusion import Formula
    from emid_assets.release.published_pairs import compare
    from emid_assets.report import tables
    from emid_assets.report.page import EncoderFacts, render_page
    from emid_assets.report.pairs import SHOWN, render_pairs
    from emid_assets.report.predicted import predicted_clips

    rejected_media = Lake(settings.lake_folder).read("rejected_media")
    tables_ = LakeTables.of(
        settings.va_alignment,
        music_clips=music_clips,
        expanded_clips=expanded_clips,
        images=images,
        music_embeddings=music_embeddings,
        image_embeddings=image_embeddings,
        similarity_matrix=similarity_matrix,
        va_distances=va_distances,
        fused_pairs=fused_pairs,
        trained_adapter=trained_adapter,
        adapted_embeddings=adapted_embeddings,
    )
    formula = Formula.of(settings)
    # What was rejected as it was embedded; a row rejected for an id that is taken has a good clip's id.
    failed = rejected_media.filter(kind="music").select(clip_id="item_id")
    failed = failed.join(tables_.music_embeddings, on="clip_id", how="anti")
    clips = tables_.music_clips.join(failed, on="clip_id", how="anti")
    by_split = evaluate(
        tables_,
        formula,
        seed=settings.seed,
        predicted=predicted_clips(clips),
        weights={
            network: settings.lake_folder / file
            for network, file in trained_adapter.select("network", "weights_file").iter_rows()
        },
    )
    public_tasks = evaluate_public_tasks(tables_, settings.seed)
    released_tasks = evaluate_released_tasks(tables_)
    columns = ["system", "metric", "value"]
    metrics = pl.concat(
        [
            by_split.select(pl.format("retrieval_{}", "split").alias("section"), *columns),
            released_tasks.select(pl.lit(RELEASED_TASKS).alias("section"), *columns),
            public_tasks.select(pl.lit(PUBLIC_TASKS).alias("section"), *columns),
        ]
    )
    sweep = sweep_around(
        similarity_matrix,
        va_distances,
        music_clips,
        expanded_clips,
        images,
        settings.va_alignment,
        settings.images_per_clip,
        settings.semantic_rescaling,
    )
    metrics = pl.concat([metrics, tables.sweep_rows(sweep)])
    rows = tables.report_rows(
        clips, images, rejected_media, similarity_matrix, va_distances, fused_pairs, metrics
    )
    agreement = compare(
        published_pairs,
        fused_pairs,
        similarity_matrix,
        va_distances,
        images["image_id"],
        rescalings=sorted({settings.semantic_rescaling, "raw"}),
    )
    if agreement is not None:
        rows = pl.concat([rows, agreement.rows()])
    encoder = encoder_from(settings)
    page = render_page(
        music_clips=clips,
        joined_windows=expanded_clips.height,
        images=images,
        rejected_media=rejected_media,
        similarity_matrix=similarity_matrix,
        va_distances=va_distances,
        fused_pairs=fused_pairs,
        trained_adapters=trained_adapter,
        metrics=metrics,
        study_results=study_results,
        settings={name: getattr(settings, name) for name in Settings.model_fields if name not in LOCAL_PATHS},
        meanings={name: field.description or "" for name, field in Settings.model_fields.items()},
        encoder=EncoderFacts(encoder.name, encoder.licence, encoder.dimension, encoder.fingerprint),
        media=settings.media_folder,
        music_alignment=tables_.plane.music,
        image_alignment=tables_.plane.image,
        pairs_page=PAIRS_PAGE,
        agreement=agreement,
        image_emotion_head=image_emotion_head,
        sweep=sweep,
        tuning_trials=tuning_trials(Lake(settings.lake_folder)),
    )
    report = settings.lake_folder / REPORT_PAGE
    pairs = settings.lake_folder / PAIRS_PAGE
    network = best_network(trained_adapter)
    choices = top_images(tables_, network, formula, min(settings.images_per_clip, SHOWN))
    side_by_side = render_pairs(
        choices,
        clips,
        images,
        media=settings.media_folder,
        beside=settings.lake_folder,
        alpha=settings.alpha,
        network=network,
        embed_bytes=settings.page_media_mb * 1_000_000,
    )
    for file, content in ((pairs, side_by_side), (report, page)):
        write_in_place(file, content)
    unpaired = clips.join(fused_pairs, on="clip_id", how="anti")["clip_id"].to_list()
    semantic = tables.semantic_pairs(similarity_matrix, settings.images_per_clip)
    counts = tables.pair_counts(fused_pairs, clips, images)
    semantic_counts = tables.pair_counts(semantic, clips, images)
    plane = tables.va_plane(clips, images, tables_.plane.music, tables_.plane.image)
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(frame_digest(rows)),
        metadata={
            "report": dg.MetadataValue.path(report),
            "pairs_side_by_side": dg.MetadataValue.path(pairs),
            **_figures(counts, semantic_counts, plane, rows, settings.alpha),
            **_test_metrics(metrics),
        },
        check_results=[
            check_result("every_clip_paired", unpaired, clips.height),
        ],
    )


def _figures(
    counts: pl.DataFrame, semantic_counts: pl.DataFrame, plane: pl.DataFrame, rows: pl.DataFrame, alpha: float
) -> dict[str, dg.MetadataValue[Any]]:
    """The page's figures, small, for the web UI."""
    from emid_assets.report import figures, style, tables

    largest = max(
        int(table.select(IMAGE_EMOTION_KEYS).to_numpy().max()) for table in (counts, semantic_counts)
    )
    drawn = {
        "pairs_by_emotion": figures.pair_counts_figure(counts, f"alpha = {alpha}", largest),
        "pairs_by_emotion_semantic_only": figures.pair_counts_figure(semantic_counts, "alpha = 1", largest),
        "valence_arousal": figures.va_plane_figure(plane, aligned=True),
        "overlap_with_each_term": figures.overlap_figure(rows.filter(pl.col("section") == "overlap"), alpha),
    }
    test = tables.metric_table(rows, TEST_SECTION)
    if test.height:
        drawn["retrieval"] = figures.retrieval_figure(test)
    return {
        name: dg.MetadataValue.md(style.markdown_image(figure, name.replace("_", " ")))
        for name, figure in drawn.items()
    }


def _test_metrics(metrics: pl.DataFrame) -> dict[str, float]:
    """NDCG and hit rate of every system on the test split, as numbers that the web UI plots over time."""
    shown = metrics.filter(
        (pl.col("section") == TEST_SECTION) & pl.col("metric").is_in(["ndcg_at_10", "hit_rate_at_10"])
    )
    return {f"{system}_{metric}": value for _, system, metric, value in shown.rows()}
