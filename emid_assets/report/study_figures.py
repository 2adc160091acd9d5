"""The figures of the listening study."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from emid_assets.report.style import _MARKERS, _WIDTH, _figure, _light, _styled

_CONDITIONS = {"semantic": "semantic", "fused": "accent", "adapter": "series-1", "random": "muted"}
"""Colours of the listening study's conditions."""


@_styled
def study_shares_figure(shares: pl.DataFrame, chance: float) -> Figure:
    """How often each condition of the listening study was chosen, with both of its intervals.

    Args:
        shares: columns `condition`, `share`, the interval `low` and `high` by participants and clips
            (null where it cannot be computed), and Wilson's, `wilson_low` and `wilson_high`.
        chance: a share without preference.
    """
    figure, axes = _figure(_WIDTH, 1.1 + 0.42 * shares.height)
    for place, row in enumerate(shares.iter_rows(named=True)):
        colour = _light(_CONDITIONS.get(row["condition"], "muted"))
        axes.plot([row["wilson_low"], row["wilson_high"]], [place] * 2, color=colour, linewidth=7, alpha=0.3,
                  solid_capstyle="butt")  # fmt: skip
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place] * 2, color=colour, marker="|", markersize=7)
        axes.plot(row["share"], place, color=colour, marker="o", markersize=5)
    axes.axvline(chance, color=_light("muted"), linewidth=0.9, linestyle="--", zorder=0)
    axes.set_xlabel(f"share of the trials that chose it (dashed: chance, {chance:.0%})")
    _conditions_axis(axes, shares["condition"].to_list())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


@_styled
def study_differences_figure(differences: pl.DataFrame) -> Figure:
    """Differences between the shares of two conditions, with their intervals by participants and clips.

    Args:
        differences: columns `comparison`, `estimate`, `low`, `high`; null ends where there are none.
    """
    figure, axes = _figure(_WIDTH, 0.9 + 0.34 * differences.height)
    for place, (_, estimate, low, high) in enumerate(
        differences.select("comparison", "estimate", "low", "high").iter_rows()
    ):
        if low is not None:
            axes.plot([low, high], [place] * 2, color=_light("accent"), marker="|", markersize=7)
        axes.plot(estimate, place, color=_light("accent"), marker="D", markersize=4.5)
    axes.axvline(0, color=_light("muted"), linewidth=0.9, linestyle="--", zorder=0)
    axes.set_xlabel("difference of the shares, in percentage points")
    _conditions_axis(axes, differences["comparison"].to_list())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    return figure


@_styled
def study_emotions_figure(shares: pl.DataFrame, chance: float) -> Figure:
    """How often each condition was chosen for the clips of each emotion, with Wilson's intervals.

    Args:
        shares: columns `emotion`, `condition`, `share`, `wilson_low`, `wilson_high`, in the order to draw.
        chance: a share without preference.
    """
    emotions = shares["emotion"].unique(maintain_order=True).to_list()
    conditions = shares["condition"].unique(maintain_order=True).to_list()
    figure, axes = _figure(_WIDTH, 1.1 + len(emotions) * (0.14 + 0.09 * len(conditions)))
    apart = 0.7 / max(len(conditions), 1)
    axes.barh(range(0, len(emotions), 2), 1, height=1.0, color=_light("ground"), zorder=0)
    for order, condition in enumerate(conditions):
        rows = shares.filter(condition=condition)
        places = [emotions.index(emotion) for emotion in rows["emotion"]]
        across = np.array(places) + (order - (len(conditions) - 1) / 2) * apart
        colour = _light(_CONDITIONS.get(condition, "muted"))
        axes.hlines(across, rows["wilson_low"].to_numpy(), rows["wilson_high"].to_numpy(), colors=colour,
                    linewidth=1.2, zorder=2)  # fmt: skip
        axes.scatter(rows["share"].to_numpy(), across, s=17, marker=_MARKERS[order % len(_MARKERS)],
                     color=colour, linewidths=0, label=condition, zorder=3)  # fmt: skip
    axes.axvline(chance, color=_light("muted"), linewidth=0.9, linestyle="--", zorder=1)
    axes.set(xlim=(0, 1), xlabel=f"share of the trials that chose it (dashed: chance, {chance:.0%})")
    _conditions_axis(axes, emotions)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _conditions_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=_light("ink"))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
