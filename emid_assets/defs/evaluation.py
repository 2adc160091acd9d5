"""The evaluation stage: measures the pairs and the networks, and writes the pages that show the results."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.health.mixtures import Used, digest_of_used, settings_of
from emid_assets.health.recipes import MANNER
from emid_assets.media.lake_tables import MEDIA, LakeTables
from emid_assets.orchestration.declared import DECLARED, Declared, Outside, all_of
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import FORMULA_SETTINGS, Settings, in_use
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import write_in_place
from emid_assets.store.lake import Lake, Version
from emid_assets.store.layout import COPIES_FOLDER, PAIRS_PAGE, REPORT_PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _digest_of_trials(settings: Settings, _: str) -> str:
    files = Lake(settings.lake_folder).current_files("tuning_trials")
    return str(sorted(f"{network}/{file.name}" for network, file in files.items()))


AFTER_THE_REPORT = {"evaluation_report", "pipeline_health", "emid_release"}


def _used(settings: Settings) -> Used:
    """What all tables that the report comes from were built with."""
    found = Lake(settings.lake_folder).survey(sorted(DECLARED.keys() - AFTER_THE_REPORT))
    return settings_of(version for version in found.values() if isinstance(version, Version))


def _digest_of_trials_and_used(settings: Settings, _: str) -> str:
    return f"{_digest_of_trials(settings, '')} {digest_of_used(_used(settings))}"


EMBEDDED_MEDIA = (*MEDIA, "music_embeddings")
"""Tables that list every clip and image of the data set, and the clips that could be embedded."""


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"matplotlib", "duckdb"},
    reads=(*EMBEDDED_MEDIA, "image_embeddings", "similarity_matrix", "va_distances", "fused_pairs"),
    # Read with all its partitions: items that could not be embedded are in separate partitions.
    deps=["rejected_media"],
    declared=Declared(code=3, settings=(*FORMULA_SETTINGS, "encoder", "image_reuse_limit")),
    checks={"every_clip_paired": "Every usable clip has pairs, if the limit of each image's use allows it."},
)
def pair_statistics(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """Statistics of the pairs: sizes, pairs by emotion, what S or E alone would pick, and both methods."""
    from emid_assets.evaluation import pair_statistics as statistics
    from emid_assets.evaluation.methods import compare_methods, formulas
    from emid_assets.report import figures
    from emid_assets.report.tables import va_plane

    alpha = in_use(settings, "alpha")
    tables = _usable(tables, settings)
    rows = pl.concat(
        [statistics.pair_statistics(tables), compare_methods(tables, formulas(all_of(settings)))]
    )
    counts = {system: statistics.counts_by_emotion(rows, system) for system in ("fused", "semantic")}
    largest = max(int(frame.select(IMAGE_EMOTION_KEYS).to_numpy().max()) for frame in counts.values())
    plane = va_plane(tables.music_clips, tables.images, tables.plane)
    overlap = rows.filter(section=statistics.SECTION_OF_OVERLAP)
    drawn = {
        "pairs_by_emotion": figures.pair_counts_figure(counts["fused"], f"alpha = {alpha}", largest),
        "pairs_by_emotion_semantic_only": figures.pair_counts_figure(
            counts["semantic"], "alpha = 1", largest
        ),
        "valence_arousal": figures.va_plane_figure(plane, aligned=True),
    }
    if overlap.height:
        drawn["overlap_with_each_term"] = figures.overlap_figure(overlap, alpha)
    unpaired = tables.music_clips.join(tables.fused_pairs, on="clip_id", how="anti")
    if settings.image_reuse_limit:  # a clip may be left without: the pairs' own checks say which
        unpaired = unpaired.join(tables.similarity_matrix, on="clip_id", how="anti")
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(frame_digest(rows)),
        metadata={
            **{f"{system}_{metric}": value for _, system, metric, value in overlap.iter_rows()},
            **_markdown(drawn),
        },
        check_results=[
            check_result("every_clip_paired", unpaired["clip_id"].to_list(), tables.music_clips.height)
        ],
    )


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"torch", "duckdb"},
    reads=(*EMBEDDED_MEDIA, "image_embeddings", "fused_pairs", "trained_adapter", "adapted_embeddings"),
    declared=Declared(code=4, settings=(*FORMULA_SETTINGS, "seed")),
    checks={"every_network_measured": "All networks have metrics on the same splits."},
)
def retrieval_metrics(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """How well every network and every baseline ranks images: for unseen clips, and two more protocols.

    Sections `retrieval_test` and `retrieval_validation` are cold: clips of unseen sources. `retrieval_warm`
    (known clips, a pair of each held out) and `retrieval_cold_images` (unseen clips and unseen images) train
    each network once more, where there are enough clips; else they say how many there are.
    """
    from emid_assets.evaluation import evaluate
    from emid_assets.matching.fusion import Formula
    from emid_assets.report.figures import retrieval_figure
    from emid_assets.report.predicted import predicted_clips
    from emid_assets.report.tables import metric_table

    weights = {
        network: settings.lake_folder / file
        for network, file in tables.trained_adapter.select("network", "weights_file").iter_rows()
    }
    predicted = predicted_clips(tables.music_clips)
    rows = evaluate.retrieval_metrics(tables, Formula.of(settings), settings.seed, predicted, weights)
    networks = tables.adapted_embeddings["network"].unique().sort().to_list()
    by_split = rows.filter(
        pl.col("section").str.starts_with("retrieval_"), pl.col("system") != evaluate.NOT_MEASURED
    )
    measured = set(by_split.select("system", "section").iter_rows())
    missing = [
        f"{network} in {section}"
        for network in networks
        for section in by_split["section"].unique(maintain_order=True)
        if (network, section) not in measured
    ]
    test = rows.filter(section=evaluate.TEST_SECTION)
    shown = test.filter(pl.col("metric").is_in(["ndcg_at_10", "hit_rate_at_10"]))
    drawn = metric_table(rows, evaluate.TEST_SECTION)
    figures = {"retrieval": retrieval_figure(drawn)} if drawn.height else {}
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(frame_digest(rows)),
        metadata={
            **{f"{row['system']}_{row['metric']}": row["value"] for row in shown.iter_rows(named=True)},
            **_markdown(figures),
        },
        check_results=[check_result("every_network_measured", missing, len(networks))],
    )


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"numpy", "duckdb"},
    reads=("music_clips", "expanded_clips", "images", "similarity_matrix", "va_distances"),
    declared=Declared(code=2, settings=FORMULA_SETTINGS),
    checks={"shares_within_range": "Every share of the picks is in [0, 1]."},
)
def alpha_sweep(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """The effect of alpha, m and K on the pairs: a grid computed from the stored S and E."""
    from emid_assets.evaluation.sweep import selected_point, sweep_around
    from emid_assets.matching.fusion import Formula
    from emid_assets.report.figures import sweep_figure

    grid = sweep_around(tables, Formula.of(settings))
    shares = ("same_as_emotional", "same_as_semantic", "label_precision", "coverage")
    outside = grid.filter(~pl.all_horizontal(pl.col(shares).is_between(0, 1)))
    best = selected_point(grid) or {}
    return dg.MaterializeResult(
        value=grid,
        data_version=dg.DataVersion(frame_digest(grid)),
        metadata={
            **{f"selected_{name}": value for name, value in best.items()},
            **_markdown({"labels": sweep_figure(grid, in_use(settings, "alpha"))} if grid.height else {}),
        },
        check_results=[
            check_result("shares_within_range", [str(row) for row in outside.rows()], grid.height)
        ],
    )


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"numpy", "duckdb"},
    reads=(
        "music_clips", "expanded_clips", "images", "similarity_matrix", "va_distances", "fused_pairs",
        "published_pairs",
    ),
    declared=Declared(code=2, settings=("alpha", "semantic_rescaling")),
    checks={"agreement_within_range": "No alpha agrees with more published pairs than there are candidates."},
)  # fmt: skip
def published_agreement(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """How many of the published pairs (`pairs.csv`) are among ours, now and at each alpha."""
    from emid_assets.release.published_pairs import compare
    from emid_assets.report.figures import agreement_figure
    from emid_assets.store.schemas import PUBLISHED_AGREEMENT

    rescalings = sorted({settings.semantic_rescaling, "raw"})
    agreement = compare(tables.published_pairs, tables, rescalings)
    rows = agreement.frame() if agreement else PUBLISHED_AGREEMENT.empty()
    beyond = rows.filter(pl.max_horizontal("agree_at_alpha", "agree") > pl.col("among_candidates"))
    metadata: dict[str, Any] = {}
    if agreement:
        figure = agreement_figure(agreement.by_alpha, agreement.comparable, in_use(settings, "alpha"))
        metadata = {
            "comparable": agreement.comparable,
            "agree": agreement.agree,
            "agree_by_chance": agreement.by_chance,
            **_markdown({"agreement": figure}),
        }
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(frame_digest(rows)),
        metadata=metadata,
        check_results=[
            check_result("agreement_within_range", [str(row) for row in beyond.rows()], rows.height)
        ],
    )


@table_asset(
    stage="evaluate",
    group_name="evaluation",
    kinds={"matplotlib", "html", "duckdb"},
    reads=(
        *EMBEDDED_MEDIA, "fused_pairs", "trained_adapter", "top_images", "pair_statistics",
        "retrieval_metrics", "alpha_sweep", "published_agreement", "study_results", "image_emotion_head",
        "music_emotion_head",
    ),
    # The inventory has the captions, which are not in the data version of the images.
    deps=["rejected_media", "media_inventory"],
    declared=Declared(
        settings=tuple(sorted(Settings.model_fields.keys() - MANNER)),
        outside=Outside("tuning trials or what a table was built with", _digest_of_trials_and_used),
        writes=(REPORT_PAGE, PAIRS_PAGE),
    ),
)  # fmt: skip
def evaluation_report(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """The report on the dataset and its adapters: two pages with pictures and sound, and a table of figures.

    In the lake folder, `report.html` is the report, and `pairs.html` shows every clip's images by each
    system. The table holds every figure of the report.
    """
    from emid_assets.adapters.tuning import tuning_trials
    from emid_assets.evaluation.top_images import best_network
    from emid_assets.report.gallery import Copies
    from emid_assets.report.page import BuildFacts, EncoderFacts, render_page
    from emid_assets.report.pairs import render_pairs
    from emid_assets.report.tables import report_rows

    lake = Lake(settings.lake_folder)
    facts = EncoderFacts.of(lake.versions("music_embeddings")[0].metadata)
    trials = tuning_trials(lake)
    tables = replace(_usable(tables, settings), tuning_trials=trials)
    report, pairs = settings.lake_folder / REPORT_PAGE, settings.lake_folder / PAIRS_PAGE
    copies = Copies(settings.media_folder, settings.lake_folder / COPIES_FOLDER)
    build = replace(BuildFacts.of(settings, facts).built_with(_used(settings)), copies=copies)
    side_by_side = render_pairs(
        replace(tables, top_images=tables.top_images.filter(pl.col("rank") <= settings.images_per_clip)),
        best_network(tables.trained_adapter),
        build.alpha,
        media=copies,
        beside=settings.lake_folder,
        embed_bytes=settings.page_media_mb * 1_000_000,
    )
    write_in_place(pairs, side_by_side)
    write_in_place(report, render_page(tables, build, pairs_page=PAIRS_PAGE))
    copies.collect_garbage()
    rows = report_rows(tables)
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(frame_digest(rows)),
        metadata={
            "report": dg.MetadataValue.path(report),
            "pairs_side_by_side": dg.MetadataValue.path(pairs),
        },
    )


def _usable(tables: LakeTables, settings: SettingsResource) -> LakeTables:
    """The tables with rejected media, without the clips that could not be embedded."""
    rejected = Lake(settings.lake_folder).read("rejected_media")
    return replace(tables, rejected_media=rejected).without_failed()


def _markdown(figures: Mapping[str, "Figure"]) -> dict[str, dg.MetadataValue[Any]]:
    """Small figures for the web UI."""
    from emid_assets.report.style import markdown_image

    return {
        name: dg.MetadataValue.md(markdown_image(figure, name.replace("_", " ")))
        for name, figure in figures.items()
    }
