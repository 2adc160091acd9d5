"""The published pairs on the page: the curve, the sentence, and nothing where nothing is published."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from emid_assets.release.published_pairs import compare
from emid_assets.report.figures import agreement_figure
from emid_assets.report.page import render_page
from emid_assets_tests.report.conftest import ALPHA
from emid_assets_tests.report.reading import read

Inputs = Callable[..., dict[str, Any]]


def test_the_page_says_how_many_published_pairs_agree_and_where_most_do(make_inputs: Inputs) -> None:
    inputs = make_inputs()
    ours = inputs["fused_pairs"]
    published = ours.filter(pl.col("rank") == 1).select("clip_id", "image_id", "rank")
    agreement = compare(
        published, ours, inputs["similarity_matrix"], inputs["va_distances"],
        inputs["images"]["image_id"], ["candidate_minmax", "raw"],
    )  # fmt: skip
    assert agreement is not None
    page = read(render_page(**inputs, agreement=agreement))
    [section] = [
        element for element in page.all("section") if element.attributes["aria-labelledby"] == "published"
    ]
    assert f"{published.height} pairs stand in the media folder's pairs.csv" in section.text
    assert f"{published.height} of these (100 %) are among the pairs chosen here" in section.text
    figure = agreement_figure(agreement.by_alpha, agreement.comparable, ALPHA)
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 21))
    shares = dict(zip(np.round(line.get_xdata(), 2), line.get_ydata(), strict=True))
    assert shares[ALPHA] == 1.0


def test_without_published_pairs_the_page_is_silent_about_them(make_inputs: Inputs) -> None:
    page = read(render_page(**make_inputs()))
    assert not [
        element for element in page.all("section") if element.attributes["aria-labelledby"] == "published"
    ]
