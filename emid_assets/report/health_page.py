"""The health page: one self-contained HTML file that says what is broken now, and how the pipeline is doing.

Belongs here: what the page says and in which order. The verdict comes from `health.verdict`; markup
and style are in `health.html.j2` beside this file.
"""

from pathlib import Path

import polars as pl
from markupsafe import Markup

from emid_assets.health.verdict import Health, assets_at_a_glance, iso_time, readable_bytes
from emid_assets.report import figures, style
from emid_assets.report.self_contained import templates

MOST_SHIFTS = 20


def health_page(health: Health) -> str:
    """The page as HTML, to be written as UTF-8."""
    environment = templates(Path(__file__).parent)
    environment.filters["bytes"] = readable_bytes
    times = builds_of_assets(health.times)
    figure = None
    if times.height:
        figure = Markup(
            style.svg(figures.times_figure(times), "times", "Seconds of each asset over its last builds")
        )
    return environment.get_template("health.html.j2").render(
        theme=style.THEME,
        health=health,
        at=iso_time(health.at),
        broken=health.broken.to_dicts(),
        to_rebuild=health.states.filter(pl.col("state").is_in(["missing", "stale"])).to_dicts(),
        assets=assets_at_a_glance(health.states),
        partitions=health.states.to_dicts(),
        rejected=health.rejected.to_dicts(),
        drift=health.drift.filter(pl.col("shift") != 0.0).head(MOST_SHIFTS).to_dicts(),
        disk=health.disk.to_dicts(),
        lake_bytes=int(health.disk["bytes"].sum()),
        times=figure,
    )


def time_figures(health: Health) -> dict[str, str]:
    """The page's figure as a Markdown image, for the web UI's metadata; none before the first build."""
    times = builds_of_assets(health.times)
    if times.is_empty():
        return {}
    return {"times": style.markdown_image(figures.times_figure(times), "Seconds of each asset")}


def builds_of_assets(times: pl.DataFrame) -> pl.DataFrame:
    """Seconds of each asset's builds, summed over its partitions: `asset`, `build`, `seconds`."""
    return (
        times.group_by("asset", "build", maintain_order=True)
        .agg(pl.col("seconds").sum())
        .sort("build", maintain_order=True)
        .sort("asset", maintain_order=True)
    )
