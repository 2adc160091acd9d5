"""The report's part on the listening study: what it says is what the statistics found."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.report import style
from emid_assets.report.page import BuildFacts, render_page
from emid_assets.report.study import (
    as_factor,
    as_interval,
    as_p_value,
    as_percent,
    as_points,
    study_section,
)
from emid_assets.store.schemas import TABLES
from emid_assets.study.statistics import analyse
from emid_assets_tests.report.conftest import emptied
from emid_assets_tests.report.reading import Page, read
from emid_assets_tests.study.simulated import answer, answers, check, design, simulate

PageOf = Callable[[pl.DataFrame], Page]


@pytest.fixture(scope="module")
def results() -> pl.DataFrame:
    """Figures of a study in which `fused` is liked best, and two participants were careless."""
    given = simulate(participants=14, clips=12, trials=10, seed=2, utilities=(0.2, 1.0, 0.5, -0.4))
    careless = answers([check(f"person {number:03}", 1, False) for number in (3, 8)])
    return analyse(pl.concat([given, careless]), design(given["trial_id"].unique().to_list()), replicates=300)


@pytest.fixture(scope="module")
def page_of(make_tables: Callable[..., LakeTables], build_facts: BuildFacts) -> PageOf:
    """The report on a study and on nothing else."""
    nothing = emptied(make_tables())
    return lambda results: read(render_page(replace(nothing, study_results=results), build_facts))


@pytest.fixture(scope="module")
def page(results: pl.DataFrame, page_of: PageOf) -> Page:
    return page_of(results)


def rows_of(page: Page, caption: str) -> list[list[str]]:
    """Cells of the table with this caption, row by row."""
    start = next(
        place for place, e in enumerate(page.elements) if e.tag == "caption" and e.text.startswith(caption)
    )
    rows: list[list[str]] = []
    for element in page.elements[start + 1 :]:
        if element.tag == "table":
            break
        if element.tag == "tr":
            rows.append([])
        elif element.tag in ("td", "th"):
            rows[-1].append(" ".join(element.text.split()))
    return rows[1:]


def test_shares_stand_on_the_page_with_both_intervals_the_most_chosen_first(
    page: Page, results: pl.DataFrame
) -> None:
    shown = rows_of(page, "How often each condition was chosen")
    assert [row[0] for row in shown] == ["fused", "adapter", "semantic", "random"]
    for condition, chosen, share, primary, wilson in shown:
        of_condition = results.filter(scope="all", condition=condition, measure="share")
        clustered = of_condition.filter(analysis="bootstrap").row(0, named=True)
        independent = of_condition.filter(analysis="shares").row(0, named=True)
        assert chosen == f"{round(clustered['estimate'] * 120)} of 120"
        assert share == as_percent(clustered["estimate"])
        assert (primary, wilson) == (as_interval(clustered), as_interval(independent))


def test_every_two_conditions_are_compared_with_effect_sizes_and_adjusted_p_values(
    page: Page, results: pl.DataFrame
) -> None:
    shown = {row[0]: row[1:] for row in rows_of(page, "Each two conditions")}
    assert len(shown) == 6
    pair = results.filter(scope="all", condition="fused", versus="semantic")
    gee = pair.filter(analysis="gee").row(0, named=True)
    difference = pair.filter(measure="risk_difference").row(0, named=True)
    h = pair.filter(measure="cohens_h")["estimate"][0]
    assert shown["fused − semantic"] == [
        as_points(difference["estimate"]), as_interval(difference, unit=""), as_factor(h),
        as_factor(gee["estimate"]), as_interval(gee, unit="times"), as_p_value(gee["p_adjusted"]),
    ]  # fmt: skip


def test_secondary_analyses_are_labelled_so(page: Page) -> None:
    for title in ("Exact binomial test against chance", "Exact McNemar test", "Conditional logit"):
        assert rows_of(page, f"{title} (secondary)")
    assert any("too small wherever participants or clips differ" in note.text for note in page.all("p"))


def test_what_was_left_out_is_said_with_its_reason(page: Page) -> None:
    assert rows_of(page, "Answers, and what was left out") == [
        ["answered", "14", "140"],
        ["failed an attention check: participant left out", "2", "20"],
        ["analysed", "12", "120"],
        ["of these, met no attention check", "12", "120"],
    ]
    [selection] = {row[0] for row in rows_of(page, "Shares of other selections")}
    assert selection == "with those who failed an attention check"


def test_ties_are_warned_of(page_of: PageOf, page: Page) -> None:
    assert "wanted the same image" not in page.all("main")[0].text
    trials = ["trial a", "trial b", "trial c"]
    given = answers([answer(person, trial, "fused") for person in "xy" for trial in trials])
    warned = page_of(analyse(given, design(trials, tied=["trial a"]), replicates=50))
    said = " ".join(warned.all("main")[0].text.split())
    assert "In 2 of the 6 trials two conditions wanted the same image" in said


def test_few_answers_are_called_few(page: Page) -> None:
    assert any("they say little about people" in strong.text for strong in page.all("strong"))


def test_figures_are_drawn_at_the_values(results: pl.DataFrame) -> None:
    section = study_section(results)
    forest = section["shares_figure"].axes[0]
    drawn = [list(map(float, line.get_xdata())) for line in forest.lines]
    for row in section["shares"]:
        for values in ([row["share"]], [row["low"], row["high"]], [row["wilson_low"], row["wilson_high"]]):
            assert values in drawn
    assert [0.25, 0.25] in drawn
    by_emotion = section["emotions_figure"].axes[0]
    clouds = {cloud.get_label(): cloud.get_offsets()[:, 0].tolist() for cloud in by_emotion.collections}
    for condition in ("fused", "random"):
        shares = [row["share"] for row in section["emotions"] if row["condition"] == condition]
        assert clouds[condition] == pytest.approx(shares)
    assert "difference of the shares" in style.svg(section["differences_figure"], "d", "D")


def test_a_study_without_an_answer_that_counts_says_why(page_of: PageOf) -> None:
    given = answers([answer("x", "trial a", "fused"), check("x", 1, False), answer("y", "trial a", None)])
    results = analyse(given, design(["trial a"])).filter(scope="all")
    page = page_of(results)
    assert "No answer could be analysed" in page.all("main")[0].text
    assert rows_of(page, "Answers, and what was left out") == [
        ["answered", "2", "2"],
        ["failed an attention check: participant left out", "1", "1"],
        ["made no choice: trial left out", "1", "1"],
        ["analysed", "0", "0"],
    ]


def test_the_design_that_was_answered_last_is_shown_and_others_are_mentioned(page_of: PageOf) -> None:
    given = [
        answer("x", "trial a", "fused", design_hash="older", answered_at=datetime(2026, 1, 1, tzinfo=UTC))
    ]
    given += [answer("x", "trial a", "random"), answer("y", "trial a", "random")]
    page = page_of(analyse(answers(given), design(["trial a"]), replicates=50))
    assert rows_of(page, "How often each condition was chosen")[0][:2] == ["random", "2 of 2"]
    assert "Another one is in the table study_results" in " ".join(page.all("main")[0].text.split())


@pytest.mark.parametrize("trials", [["trial a"], ["trial a", "trial b", "trial c"]])
def test_one_participant_gives_a_page_that_leaves_gaps_open(page_of: PageOf, trials: list[str]) -> None:
    given = answers([answer("x", trial, "fused") for trial in trials])
    results = analyse(given, design(trials), replicates=50)
    page = page_of(results)
    fused = rows_of(page, "How often each condition was chosen")[0]
    assert fused[:4] == ["fused", f"{len(trials)} of {len(trials)}", "100.0 %", "–"]
    assert any("needs two participants" in cell for row in rows_of(page, "Each two") for cell in row)


def test_names_that_try_to_be_markup_stand_as_text(results: pl.DataFrame, page_of: PageOf) -> None:
    hostile = results.with_columns(
        pl.col("condition", "versus").str.replace("fused", "<img src=x>"), pl.col("note") + "<img src=x>"
    )
    page = page_of(hostile)
    assert "<img src=x>" in page.all("main")[0].text
    assert not [image for image in page.all("img") if image.attributes.get("src") == "x"]


def test_no_results_give_no_section() -> None:
    assert study_section(TABLES["study_results"].empty()) == {}


def test_numbers_are_written_for_readers() -> None:
    assert as_percent(0.33749) == "33.7 %"
    assert as_percent(None) == as_p_value(None) == as_interval({"low": None, "high": None}) == "–"
    assert as_interval({"low": 0.2, "high": 0.305}) == "20.0 to 30.5 %"
    assert as_interval({"low": -0.2, "high": 0.031}, unit="") == "−20.0 to 3.1"
    assert as_interval({"low": 1.2, "high": None}, unit="times") == "1.20 to ∞"
    assert (as_points(-0.039), as_factor(-0.08)) == ("−3.9", "−0.08")
    assert [as_p_value(value) for value in (0.0004, 0.0123, 1.0)] == ["< .001", ".012", "1.000"]
