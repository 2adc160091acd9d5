"""The published pairs on the page: the curve, the sentence, and nothing where nothing is published."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from emid_assets.media.lake_tables import LakeTables
from emid_assets.release.published_pairs import Agreement, compare
from emid_assets.report.figures import agreement_figure
from emid_assets.report.page import BuildFacts, render_page
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import ALPHA
from emid_assets_tests.report.reading import read

MakeTables = Callable[..., LakeTables]


def test_the_page_says_how_many_published_pairs_agree_and_where_most_do(
    make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    tables = make_tables()
    published = tables.fused_pairs.filter(pl.col("rank") == 1).select("clip_id", "image_id", "rank")
    agreement = compare(published, tables, ["candidate_minmax", "raw"])
    assert agreement is not None
    stored = agreement.frame()
    assert not TABLES["published_agreement"].differences(stored)
    assert Agreement.of_frame(stored).rows().equals(agreement.rows())  # type: ignore[union-attr]
    page = read(render_page(replace(tables, published_agreement=stored), build_facts))
    [section] = [
        element for element in page.all("section") if element.attributes["aria-labelledby"] == "published"
    ]
    assert f"{published.height} pairs are in the media folder's pairs.csv" in section.text
    assert f"{published.height} of these (100 %) are among the pairs chosen here" in section.text
    figure = agreement_figure(agreement.by_alpha, agreement.comparable, ALPHA)
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 21))
    shares = dict(zip(np.round(line.get_xdata(), 2), line.get_ydata(), strict=True))
    assert shares[ALPHA] == 1.0


def test_without_published_pairs_the_page_is_silent_about_them(
    make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    page = read(render_page(make_tables(), build_facts))
    assert not [
        element for element in page.all("section") if element.attributes["aria-labelledby"] == "published"
    ]
