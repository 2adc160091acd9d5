"""Both methods side by side: what `paper` and `calibrated` choose for the same clips and images.

Belongs here: the pairs of each method, measured by the same figures. What the pairs of the method in use are
made of is `pair_statistics`.
"""

from collections.abc import Mapping
from typing import get_args

import polars as pl

from emid_assets.evaluation.pair_statistics import figure_rows
from emid_assets.matching.frames import candidate_pairs, fused_pairs_frame, va_distance_frame
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.emotion_metrics import MUSIC_TO_IMAGE_EMOTION
from emid_assets.settings import Method, Settings
from emid_assets.store.schemas import EVALUATION_REPORT

SECTION_OF_METHODS = "methods"
METHODS: tuple[Method, ...] = get_args(Method)


def formulas(settings: Settings) -> dict[Method, Formula]:
    """The formula in use under its method's name, and that of the other method with its own α and kernel."""
    other = {"alpha": "auto", "emotion_kernel": "auto"}
    return {
        method: Formula.of(
            settings.model_copy(update={} if method == settings.method else {"method": method, **other})
        )
        for method in METHODS
    }


def compare_methods(tables: LakeTables, of_method: Mapping[Method, Formula]) -> pl.DataFrame:
    """Figures of the pairs that each method chooses, by the same measures.

    Args:
        tables: media, embeddings and `similarity_matrix` of the whole lake.
        of_method: the formula of each method.

    Returns:
        EVALUATION_REPORT rows of section `methods`, systems `paper`, `calibrated` and `all_images`:
        `mean_emotional_similarity` (E of `calibrated`, with uncertainty), `mean_semantic_rank` (K + 1 stands
        for an image that is not among the K), `va_distance` (mean on the plane), `rated` (share of picks
        with measured valence and arousal), `label_precision` and `coverage` (share of the images that are
        used). Of `all_images` only `rated`. No rows where there are no pairs.
    """
    similarity = tables.similarity_matrix
    if similarity.is_empty():
        return EVALUATION_REPORT.empty()
    rated = tables.images.select("image_id", "tag", rated=pl.col("va_source").eq_missing("measured"))
    rows = [("all_images", "rated", _mean(rated["rated"]))]
    for method, formula in of_method.items():
        pairs = _pairs(tables, formula).select("clip_id", "image_id")
        measured = va_distance_frame(
            pairs.with_columns(score=pl.lit(0.0, pl.Float32)),
            tables.music_va,
            tables.image_va,
            of_method["calibrated"],
        )
        beyond = int(similarity["rank"].to_numpy().max()) + 1
        picks = (
            measured.join(
                similarity.select("clip_id", "image_id", "rank"), on=["clip_id", "image_id"], how="left"
            )
            .join(rated, on="image_id")
            .join(tables.music_clips.select("clip_id", "emotion"), on="clip_id")
            .sort("clip_id", "image_id")  # so that the means sum in one order
        )
        fitting = picks["emotion"].replace_strict(MUSIC_TO_IMAGE_EMOTION, default=None) == picks["tag"]
        figures = {
            "mean_emotional_similarity": _mean(picks["emotional_similarity"]),
            "mean_semantic_rank": _mean(picks["rank"].fill_null(beyond)),
            "va_distance": _mean(picks["euclidean"]),
            "rated": _mean(picks["rated"]),
            "label_precision": _mean(fitting),
            "coverage": picks["image_id"].n_unique() / max(1, tables.image_embeddings.height),
        }
        rows += [(method, name, value) for name, value in figures.items()]
    return figure_rows(SECTION_OF_METHODS, rows)


def methods_table(statistics: pl.DataFrame) -> dict[str, dict[str, float]]:
    """The figures of `compare_methods` out of PAIR_STATISTICS: system, metric, value."""
    table: dict[str, dict[str, float]] = {}
    of_methods = statistics.filter(section=SECTION_OF_METHODS)
    for system, metric, value in of_methods.select("system", "metric", "value").iter_rows():
        table.setdefault(system, {})[metric] = value
    return table


def _pairs(tables: LakeTables, formula: Formula) -> pl.DataFrame:
    va = tables.music_va, tables.image_va
    similarity = tables.similarity_matrix
    pairs = candidate_pairs(similarity, *va, formula, tables.music_embeddings, tables.image_embeddings)
    return fused_pairs_frame(similarity, va_distance_frame(pairs, *va, formula), formula)


def _mean(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).to_numpy().mean())
