"""The report's part on the listening study: from its statistics to what the page shows.

Belongs here: where each figure of the table `study_results` appears, and how it is worded. The
figures are computed by `study.statistics`, drawn by `study_figures`; markup is in `study.html.j2`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from emid_assets.affect.emotions import MUSIC_EMOTION_KEYS
from emid_assets.report import study_figures

ALL = "all"
FEW = 20
"""With fewer participants or clips, the page says that it only shows that the machinery runs."""
CONDITIONS = {
    "semantic": "α = 1: the content alone",
    "fused": "the α in use: content and feeling",
    "adapter": "the adapter's best network",
    "random": "any image",
}
_SCOPES = {
    "without_exclusions": "with those who failed an attention check",
    "without_ties": "trials in which all conditions wanted different images",
    "test_clips": "clips that no adapter learnt from",
}
_TESTS = {
    "binomial": "Exact binomial test against chance",
    "mcnemar": "Exact McNemar test",
    "conditional_logit": "Conditional logit",
}
_AGREEMENT = {"krippendorff_alpha": "Krippendorff's α", "fleiss_kappa": "Fleiss' κ"}


def study_section(results: pl.DataFrame) -> dict[str, Any]:
    """What the page says of the study that was answered last.

    Args:
        results: frame STUDY_RESULTS.

    Returns:
        Nothing where there are no results. Else `exclusions`, `other_designs` (how many were answered
        before), and, where any trial was analysed,
        `shares`, `comparisons`, `tests`, `agreement`, `emotions`, `sensitivity` as rows, `few`, and the
        figures `shares_figure`, `differences_figure`, `emotions_figure` (None with fewer than two
        emotions).
    """
    if results.is_empty():
        return {}
    other_designs = results["design_hash"].n_unique() - 1
    results = results.filter(pl.col("design_hash") == pl.col("design_hash").first())
    section: dict[str, Any] = {
        "exclusions": _exclusions(results),
        "other_designs": other_designs,
        "shares": [],
    }
    shares = _shares(results, [ALL])
    if shares.is_empty():
        return section
    chance = _of(results, ALL, "shares", "chance")["estimate"][0]
    differences = _of(results, ALL, "bootstrap", "risk_difference").filter(pl.col("versus") != "chance")
    emotions = _shares(results, MUSIC_EMOTION_KEYS)
    drawn = differences.select(pl.format("{} − {}", "condition", "versus").alias("comparison"), "estimate",
                               "low", "high")  # fmt: skip
    return section | {
        "chance": chance,
        "tied": _tied_trials(results),
        "trials": shares["trials"][0],
        "participants": shares["participants"][0],
        "clips": shares["clips"][0],
        "few": min(shares["participants"][0], shares["clips"][0]) < FEW,
        "meanings": [(name, CONDITIONS[name]) for name in shares["condition"] if name in CONDITIONS],
        "shares": shares.rows(named=True),
        "shares_figure": study_figures.study_shares_figure(shares, chance),
        "comparisons": _comparisons(results, differences),
        "differences_figure": study_figures.study_differences_figure(drawn) if drawn.height else None,
        "tests": [
            (title, _of(results, ALL, analysis).rows(named=True)) for analysis, title in _TESTS.items()
        ],
        "agreement": [
            row | {"title": _AGREEMENT[row["measure"]]}
            for row in _of(results, ALL, "agreement").iter_rows(named=True)
        ],
        "emotions": emotions.rows(named=True),
        "emotions_figure": study_figures.study_emotions_figure(emotions, chance)
        if emotions["emotion"].n_unique() > 1
        else None,
        "sensitivity": [
            row | {"title": _SCOPES[row["emotion"]]}
            for row in _shares(results, _SCOPES).iter_rows(named=True)
        ],
    }


def _exclusions(results: pl.DataFrame) -> list[dict[str, Any]]:
    """reason, participants, trials; in the order of the table, without reasons that applied to nobody."""
    rows = results.filter(analysis="exclusions").pivot("measure", index="note", values="estimate")
    kept = rows.filter((pl.col("participants") > 0) | pl.col("note").is_in(["answered", "analysed"]))
    return kept.rename({"note": "reason"}).rows(named=True)


def _tied_trials(results: pl.DataFrame) -> int:
    """Analysed trials in which two conditions wanted the same image."""
    counted = _of(results, ALL, "exclusions", "trials").filter(pl.col("note").str.contains("the same image"))
    return int(counted["estimate"].sum())


def _shares(results: pl.DataFrame, scopes: Iterable[str]) -> pl.DataFrame:
    """Shares with both intervals, the scopes in this order, the most chosen condition of all first.

    Columns `emotion` (the scope), `condition`, `share`, `low`, `high`, `wilson_low`, `wilson_high`,
    `chosen`, `trials`, `participants`, `clips`.
    """
    wilson = results.filter(analysis="shares", measure="share")
    order = wilson.filter(scope=ALL).sort("estimate", "condition", descending=[True, False])["condition"]
    wanted = pl.DataFrame({"scope": list(scopes)}, schema={"scope": pl.String})
    clustered = results.filter(pl.col("versus").is_null(), analysis="bootstrap", measure="share")
    of_wilson = wilson.select("scope", "condition", pl.col("low").alias("wilson_low"),
                              pl.col("high").alias("wilson_high"))  # fmt: skip
    return (
        wanted.join(pl.DataFrame({"condition": order}), how="cross")
        .join(clustered, on=["scope", "condition"], how="inner", maintain_order="left")
        .join(of_wilson, on=["scope", "condition"], how="left", maintain_order="left")
        .select(
            pl.col("scope").alias("emotion"),
            "condition",
            pl.col("estimate").alias("share"),
            "low",
            "high",
            "wilson_low",
            "wilson_high",
            (pl.col("estimate") * pl.col("trials")).round().cast(pl.Int64).alias("chosen"),
            "trials",
            "participants",
            "clips",
        )
    )


def _comparisons(results: pl.DataFrame, differences: pl.DataFrame) -> list[dict[str, Any]]:
    """The primary analyses of each two conditions, a row for each."""
    key = ["condition", "versus"]
    gee = _of(results, ALL, "gee", "odds_ratio").select(
        *key, "estimate", "low", "high", "p_value", "p_adjusted", "note"
    )
    h = _of(results, ALL, "bootstrap", "cohens_h").select(*key, pl.col("estimate").alias("cohens_h"))
    return (
        differences.select(*key, "estimate", "low", "high")
        .join(gee, on=key, how="left", maintain_order="left", suffix="_odds")
        .join(h, on=key, how="left", maintain_order="left")
        .rows(named=True)
    )


def _of(results: pl.DataFrame, scope: str, analysis: str, measure: str | None = None) -> pl.DataFrame:
    found = results.filter(scope=scope, analysis=analysis)
    return found if measure is None else found.filter(measure=measure)


def as_percent(value: float | None) -> str:
    """A share in percent: `33.8 %`."""
    return "–" if value is None else f"{as_points(value)} %"


def as_points(value: float) -> str:
    """A difference of shares in percentage points: `−3.9`."""
    return f"{100 * value:.1f}".replace("-", "−")


def as_factor(value: float) -> str:
    """An odds ratio, or an effect size: `1.73`."""
    return f"{value:.2f}".replace("-", "−")


def as_interval(row: Mapping[str, Any], low: str = "low", high: str = "high", unit: str = "%") -> str:
    """The interval in two columns of a row: `27.9 to 39.3 %`.

    Args:
        row: with the ends; None where an end has no limit, or both where there is no interval.
        low: column of the lower end.
        high: column of the upper end.
        unit: `%`, nothing for percentage points, or `times` for ratios.
    """
    if row[low] is None and row[high] is None:
        return "–"
    written = as_factor if unit == "times" else as_points
    ends = ["∞" if end is None else written(end) for end in (row[low], row[high])]
    return f"{ends[0]} to {ends[1]}" + (" %" if unit == "%" else "")


def as_p_value(value: float | None) -> str:
    """A p-value to three decimals, never as zero."""
    if value is None:
        return "–"
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


FILTERS = {
    "share": as_percent,
    "points": as_points,
    "factor": as_factor,
    "interval": as_interval,
    "p_value": as_p_value,
}
"""How the template writes study_figures."""
