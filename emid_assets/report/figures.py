"""The report's figures, drawn with matplotlib: one function for each.

Belongs here: drawing, from frames. Colours, fonts and how a figure becomes SVG or PNG are in `style`, the
listening study's figures in `study_figures`. Nothing here uses pyplot or a display, and equal inputs
give equal bytes.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.media.va_plane import IMAGE_SCALE, MUSIC_SCALE
from emid_assets.report.style import _DASHES, _MARKERS, _SERIES, _WIDTH, Floats, _figure, _light, _styled

_RASTER_ABOVE = 2000
"""Points beyond which a cloud is drawn as a picture inside the SVG: its size stays bounded."""


@_styled
def pair_counts_figure(counts: pl.DataFrame, title: str, largest: int | None = None) -> Figure:
    """Heat map of pairs by music category and image tag (figure 5 of the paper).

    Args:
        counts: frame of `evaluation.pair_statistics.pair_counts`.
        title: says which pairs.
        largest: count of the darkest cell, so that two figures compare; default: the frame's own largest.
    """
    values = counts.select(IMAGE_EMOTION_KEYS).to_numpy()
    top = max(int(values.max()) if largest is None else largest, 1)
    figure, axes = _figure(_WIDTH, 4.4)
    for (row, column), value in np.ndenumerate(values):
        share = min(float(value) / top, 1.0)
        axes.add_patch(
            matplotlib.patches.Rectangle(
                (column + 0.03, row + 0.03), 0.94, 0.94, facecolor=_light("accent"), alpha=share, linewidth=0
            )
        )
        if value:
            colour = _light("onaccent") if share > 0.7 else _light("ink")
            axes.text(
                column + 0.5, row + 0.5, f"{value}", ha="center", va="center", color=colour, fontsize=7.5
            )
    axes.set(xlim=(0, len(IMAGE_EMOTION_KEYS)), ylim=(len(values), 0), title=title)
    axes.set_xticks(
        np.arange(len(IMAGE_EMOTION_KEYS)) + 0.5,
        IMAGE_EMOTION_KEYS,
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(
        np.arange(len(values)) + 0.5,
        [f"{letter} {key}" for key, letter in counts.select("emotion", "genre").rows()],
    )
    axes.tick_params(axis="x", length=0, labelcolor=_light("image"))
    axes.tick_params(axis="y", length=0, labelcolor=_light("music"))
    axes.set_xticks(range(len(IMAGE_EMOTION_KEYS) + 1), minor=True)
    axes.set_yticks(range(len(values) + 1), minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor")
    axes.spines[:].set_visible(False)
    return figure


@_styled
def va_plane_figure(plane: pl.DataFrame, aligned: bool) -> Figure:
    """Labels and items on the valence-arousal plane (figure 3 of the paper).

    Letters of music in circles, tags of images beside diamonds, clips and images as small points.
    Hollow where no item has the label.

    Args:
        plane: frame of `tables.va_plane`.
        aligned: on [-1, 1]² as the emotional similarity sees it; else both on their own scales,
            each stretched over the whole plane.
    """
    figure, axes = _figure(_WIDTH, 4.4)
    axes.axhline(0, color=_light("line"), linewidth=0.8, zorder=0)
    axes.axvline(0, color=_light("line"), linewidth=0.8, zorder=0)
    labels = plane.filter(pl.col("role") == "label")
    letters, tags = (labels.filter(pl.col("kind") == kind) for kind in ("music", "image"))
    letter_places, tag_places = _on_plane(letters, "music", aligned), _on_plane(tags, "image", aligned)
    for kind in ("image", "music"):
        items = plane.filter(role="item", kind=kind)
        points = _on_plane(items, kind, aligned)
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=4 * np.sqrt(items["items"].to_numpy()),
            color=_light(kind),
            alpha=0.45,
            linewidths=0,
            rasterized=items.height > _RASTER_ABOVE,
            zorder=2,
        )
    for (x, y), letter, used in zip(letter_places, letters["name"], letters["items"], strict=True):
        _mark(axes, x, y, "music", used, marker="o", markersize=10.5, zorder=4)
        axes.text(
            x, y, letter, ha="center", va="center_baseline", fontsize=7, zorder=5,
            color=_light("onaccent") if used else _light("music"),
        )  # fmt: skip
    for (x, y), used in zip(tag_places, tags["items"], strict=True):
        _mark(axes, x, y, "image", used, marker="D", markersize=5, zorder=3)
    for text, (x, y, side) in zip(
        tags["name"], _text_places(tag_places, tags["name"].to_list(), letter_places), strict=True
    ):
        axes.text(x, y, text, ha=side, va="center_baseline", color=_light("image"), zorder=5)
    ticks = [-1.0, -0.5, 0.0, 0.5, 1.0]
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
    if aligned:
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set(xlabel="valence, aligned", ylabel="arousal, aligned", title="Aligned: as E sees them")
    else:
        axes.set_xticks(ticks, ["1", "3", "5", "7", "9"])
        axes.set_yticks(ticks, ["1", "3", "5", "7", "9"])
        axes.set(xlabel="valence", ylabel="arousal", title="Own scales: music 1 to 9, images 0 to 1")
        for secondary in (axes.secondary_xaxis("top"), axes.secondary_yaxis("right")):
            secondary.set_ticks(ticks, labels=["0", ".25", ".5", ".75", "1"])
            secondary.tick_params(length=2, labelcolor=_light("image"))
        axes.tick_params(labelcolor=_light("music"))
    axes.spines[:].set_visible(True)
    axes.tick_params(length=2)
    return figure


@_styled
def loss_figure(network: str, history: pl.DataFrame, best_epoch: int) -> Figure:
    """Training loss of each epoch (figure 4 of the paper).

    Args:
        network: its name, for the title.
        history: columns `epoch`, `loss` and the validation metrics of TRAINED_ADAPTER.history.
        best_epoch: the epoch whose weights were kept.
    """
    figure, axes = _figure(_WIDTH, 3.1)
    axes.plot(history["epoch"].to_numpy(), history["loss"].to_numpy(), color=_light("accent"))
    axes.set(ylabel="training loss", title=f"{network}: loss")
    _epochs(axes, best_epoch)
    return figure


@_styled
def metrics_figure(network: str, history: pl.DataFrame, best_epoch: int) -> Figure:
    """Validation metrics @10 of each epoch; arguments as `loss_figure`."""
    figure, axes = _figure(_WIDTH, 3.1)
    names = [name for name in history.columns if name not in ("epoch", "loss")]
    for place, name in enumerate(names):
        axes.plot(
            history["epoch"].to_numpy(),
            history[name].to_numpy(),
            color=_light(f"series-{place % _SERIES}"),
            linestyle=_DASHES[place % len(_DASHES)],
            label=metric_title(name),
        )
    axes.set(ylabel="validation", title=f"{network}: metrics @10", ylim=(0, None))
    _epochs(axes, best_epoch)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@_styled
def retrieval_figure(table: pl.DataFrame) -> Figure:
    """Each system's value of each metric where higher is better.

    Args:
        table: frame of `tables.metric_table`.
    """
    rows = table.filter(pl.col("better") == "higher")
    systems = [name for name in rows.columns[2:] if name != "ceiling"]
    apart = 0.75 / max(len(systems), 1)
    figure, axes = _figure(
        _WIDTH, 1 + rows.height * max(0.3, 0.08 * len(systems)) + 0.17 * -(-len(systems) // 3)
    )
    places = np.arange(rows.height)
    axes.barh(places, 1, height=0.9, color=_light("ground"), zorder=0)
    for order, system in enumerate(systems):
        axes.scatter(
            rows[system].to_numpy().astype(np.float64),
            places + (order - (len(systems) - 1) / 2) * apart,
            s=26,
            marker=_MARKERS[order % len(_MARKERS)],
            color=_light(f"series-{order % _SERIES}"),
            linewidths=0,
            label=system,
            zorder=2,
        )
    axes.set_yticks(places, [metric_title(name) for name in rows["metric"]])
    axes.set(xlim=(-0.02, 1.02), ylim=(rows.height - 0.4, -0.6), xlabel="value, 0 to 1")
    axes.tick_params(axis="y", length=0, labelcolor=_light("ink"))
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@_styled
def overlap_figure(rows: pl.DataFrame, alpha: float) -> Figure:
    """Which term alone would have chosen the chosen pairs: one stacked bar of shares.

    Args:
        rows: frame of `evaluation.pair_statistics.overlaps`, not empty.
        alpha: weight of the semantic term, for the title.
    """
    shares = dict(rows.filter(pl.col("system") == "pairs").select("metric", "value").rows())
    figure, axes = _figure(_WIDTH, 1.75)
    left = 0.0
    for name, colour, label in (
        ("only_semantic", "semantic", "S alone would, E not"),
        ("both", "accent", "each alone would"),
        ("only_emotional", "emotional", "E alone would, S not"),
        ("neither", "muted", "neither alone, only their sum"),
    ):
        width = shares[name]
        axes.barh(
            0, width, left=left, height=0.9, color=_light(colour), edgecolor=_light("paper"), label=label
        )
        if width >= 0.07:
            axes.text(
                left + width / 2,
                0,
                f"{100 * width:.0f} %",
                ha="center",
                va="center",
                color=_light("onaccent"),
            )
        left += width
    axes.set(xlim=(0, 1), ylim=(-0.55, 0.55), title=f"Chosen pairs (α = {alpha:g})")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def agreement_figure(by_alpha: pl.DataFrame, comparable: int, alpha: float) -> Figure:
    """Share of the published pairs that are ours too, at every alpha: one line for each S̃.

    Args:
        by_alpha: `rescaling`, `alpha`, `agree`, in the order of alpha.
        comparable: number of published pairs that could agree.
        alpha: the one in use.
    """
    figure, axes = _figure(_WIDTH, 2.7)
    for place, ((rescaling,), rows) in enumerate(by_alpha.group_by("rescaling", maintain_order=True)):
        axes.plot(
            rows["alpha"].to_numpy(),
            rows["agree"].to_numpy() / comparable,
            color=_light(f"series-{place}"),
            linestyle=_DASHES[place],
            label=f"S̃: {rescaling}",
        )
    axes.axvline(alpha, color=_light("muted"), linewidth=0.8, linestyle=":")
    axes.set(xlabel="α", ylabel="published pairs among ours", xlim=(0, 1), ylim=(0, None))
    axes.grid(True)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def times_figure(times: pl.DataFrame) -> Figure:
    """Seconds of each asset over its last builds: a dot for the newest, a tick for each earlier one.

    Args:
        times: `asset`, `build` (0 is the newest, -1 the one before) and `seconds`, all partitions together.
    """
    assets = times["asset"].unique(maintain_order=True).to_list()
    figure, axes = _figure(_WIDTH, 0.8 + 0.28 * max(len(assets), 1))
    for place, asset in enumerate(assets):
        of_asset = times.filter(pl.col("asset") == asset)
        seconds = np.maximum(of_asset["seconds"].to_numpy(), 1e-3)
        is_newest = of_asset["build"].to_numpy() == 0
        earlier = seconds[~is_newest]
        axes.plot(earlier, [place] * len(earlier), "|", color=_light("muted"), markersize=8, alpha=0.7)
        for value in seconds[is_newest]:
            axes.plot(value, place, "o", color=_light("accent"), markersize=5)
            axes.annotate(
                f"{value:.2g} s", (value, place), xytext=(5, 0), textcoords="offset points",
                va="center_baseline", fontsize=7.5,
            )  # fmt: skip
    axes.set_yticks(range(len(assets)), assets)
    axes.set(xscale="log", ylim=(len(assets) - 0.5, -0.5), xlabel="seconds of computing, all partitions")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.margins(x=0.15)
    axes.grid(axis="x")
    return figure


@_styled
def sweep_figure(sweep: pl.DataFrame, alpha: float) -> Figure:
    """How the picks' labels fit at every point of the grid: a panel for each m, a line for each K.

    Args:
        sweep: ALPHA_SWEEP of one S̃, not empty.
        alpha: the one in use, which is marked.
    """
    counts = sweep["images_per_clip"].unique().sort().to_list()
    figure, panels = _panels(len(counts), 1.45)
    for panel, m in zip(panels, counts, strict=True):
        of_m = sweep.filter(pl.col("images_per_clip") == m)
        _lines(panel, of_m, "label_precision", "accent", "")
        panel.set(title=f"m = {m}", ylabel="label precision")
        panel.axvline(alpha, color=_light("muted"), linewidth=0.8, linestyle=":")
    panels[-1].set_xlabel("α")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_styled
def sweep_overlap_figure(sweep: pl.DataFrame, alpha: float) -> Figure:
    """The share of the picks that E alone, and S alone, would make too, as α goes from 0 to 1.

    Args:
        sweep: ALPHA_SWEEP of one S̃ and one m, not empty.
        alpha: the one in use, which is marked.
    """
    figure, axes = _figure(_WIDTH, 3.1)
    _lines(axes, sweep, "same_as_semantic", "semantic", "S alone, ")
    _lines(axes, sweep, "same_as_emotional", "emotional", "E alone, ")
    axes.axvline(alpha, color=_light("muted"), linewidth=0.8, linestyle=":")
    axes.set(xlabel="α", ylabel="share of picks in common", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def tuning_figure(network: str, trials: pl.DataFrame) -> Figure:
    """The result of each trial of a study, and the running best.

    Args:
        network: its name, for the title.
        trials: TUNING_TRIALS rows of one network.
    """
    figure, axes = _figure(_WIDTH, 3.1)
    for state, marker, colour in (("complete", "o", "accent"), ("pruned", "x", "muted")):
        of_state = trials.filter((pl.col("state") == state) & pl.col("ndcg_at_10").is_not_null())
        if of_state.height:
            axes.scatter(
                of_state["trial"].to_numpy(),
                of_state["ndcg_at_10"].to_numpy(),
                s=22,
                marker=marker,
                color=_light(colour),
                label="given up early" if state == "pruned" else "complete",
            )
    best = trials.filter(pl.col("state") == "complete").sort("trial")
    axes.step(
        best["trial"].to_numpy(),
        np.maximum.accumulate(best["ndcg_at_10"].to_numpy()),
        where="post",
        color=_light("series-2"),
        label="best so far",
    )
    axes.set(xlabel="trial", ylabel="NDCG@10, validation", title=network)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def metric_title(name: str) -> str:
    """A metric's name as people write it: `ndcg_at_10` → `NDCG@10`."""
    words = name.replace("_at_", "@").replace("_", " ")
    return re.sub(r"\b(map|ndcg|mrr|auc|va)\b", lambda found: found.group().upper(), words)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Stacked panels that share one x axis."""
    figure = Figure(figsize=(_WIDTH, 0.9 + count * height), layout="constrained")
    return figure, list(figure.subplots(count, sharex=True, squeeze=False)[:, 0])


def _lines(axes: Axes, sweep: pl.DataFrame, column: str, colour: str, prefix: str) -> None:
    """`column` against α, a line for each K."""
    for place, (count, points) in enumerate(sorted(sweep.group_by("candidates"), key=lambda group: group[0])):
        points = points.sort("alpha")
        axes.plot(
            points["alpha"].to_numpy(),
            points[column].to_numpy(),
            color=_light(colour),
            linestyle=_DASHES[place % len(_DASHES)],
            label=f"{prefix}K = {count[0]}",
        )


def _epochs(axes: Axes, best_epoch: int) -> None:
    axes.axvline(best_epoch, color=_light("muted"), linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"epoch (dotted: {best_epoch}, the one kept)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y")


def _mark(axes: Axes, x: float, y: float, kind: str, used: int, **how: Any) -> None:
    """A label's mark: filled in its kind's colour, hollow where no item has the label."""
    fill = _light(kind) if used else _light("paper")
    axes.plot(x, y, linestyle="none", color=_light(kind), markerfacecolor=fill, markeredgewidth=0.8, **how)


def _on_plane(rows: pl.DataFrame, kind: str, aligned: bool) -> Floats:
    """(n, 2) places on [-1, 1]²; unaligned, each scale is stretched over the whole range."""
    if aligned:
        return rows.select("aligned_valence", "aligned_arousal").to_numpy()
    low, high = MUSIC_SCALE if kind == "music" else IMAGE_SCALE
    return 2.0 * (rows.select("valence", "arousal").to_numpy() - low) / (high - low) - 1.0


def _text_places(
    points: Floats, texts: Sequence[str], obstacles: Floats
) -> list[tuple[float, float, Literal["left", "right"]]]:
    """Where to write `texts` beside `points` on the plane: (x, y, horizontal alignment) of each.

    Each text takes the one of six positions around its point that overlaps least with `obstacles`,
    the points and the texts placed before it, and that sticks out of the plane least.
    """
    height = 0.085
    taken = [_box(x, y, 0.075) for x, y in obstacles] + [_box(x, y, 0.04) for x, y in points]
    places = []
    for (x, y), text in zip(points, texts, strict=True):
        width = 0.046 * len(text)
        best: tuple[float, float, float, Literal["left", "right"], Floats] | None = None
        for side in (1, -1):
            for up in (0, 1, -1):
                left = x + side * 0.05 if up == 0 else x - width * (side < 0)
                if up == 0 and side < 0:
                    left -= width
                middle = y + up * 0.09
                box = np.array([left, left + width, middle - height / 2, middle + height / 2])
                outside = max(0.0, box[1] - 1.06) + max(0.0, -1.06 - box[0])
                cost = sum(_common_area(box, other) for other in taken) + height * outside
                if best is None or cost < best[0] - 1e-9:
                    best = (
                        (cost, left, middle, "left", box)
                        if side > 0
                        else (cost, left + width, middle, "right", box)
                    )
        assert best is not None
        places.append(best[1:4])
        taken.append(best[4])
    return places


def _box(x: float, y: float, reach: float) -> Floats:
    return np.array([x - reach, x + reach, y - reach, y + reach])


def _common_area(a: Floats, b: Floats) -> float:
    across = min(a[1], b[1]) - max(a[0], b[0])
    along = min(a[3], b[3]) - max(a[2], b[2])
    return float(max(0.0, across) * max(0.0, along))
