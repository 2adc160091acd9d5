"""Sizes of studies: exact figures without clustering, and the simulation against one written out plainly."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from scipy import integrate, stats

from emid_assets.cli.study import power_command
from emid_assets.study.power import (
    Question,
    central_log_odds,
    independent_trials,
    participants_needed,
    power_table,
    simulated_power,
    two_sided_p_values,
)
from emid_assets.study.statistics import analyse
from emid_assets_tests.study.simulated import answer, answers, design


def exact_power(trials: int, share: Fraction, comparisons: int) -> Fraction:
    """Power of the two-sided exact test against one half at 5 % over the comparisons, in whole numbers."""
    tail, critical = 0, trials + 1
    while 40 * comparisons * (tail + math.comb(trials, critical - 1)) <= 2**trials:
        critical -= 1
        tail += math.comb(trials, critical)
    a, b = share.numerator, share.denominator
    extreme = [*range(trials - critical + 1), *range(critical, trials + 1)]
    chosen = sum(math.comb(trials, k) * a**k * (b - a) ** (trials - k) for k in extreme)
    return Fraction(chosen, b**trials)


@pytest.mark.parametrize(
    ("share", "comparisons", "fewest", "always", "looked_at"),
    [
        (Fraction(3, 5), 1, 199, 210, range(100, 240)),
        (Fraction(3, 5), 6, 303, 312, range(200, 340)),
        (Fraction(11, 20), 6, 1213, 1245, range(1211, 1247)),
    ],
)
def test_independent_trials_are_those_of_the_exact_test_in_whole_numbers(
    share: Fraction, comparisons: int, fewest: int, always: int, looked_at: range
) -> None:
    assert independent_trials(Question(float(share), 0.5, comparisons=comparisons)) == (fewest, always)
    reached = [trials for trials in looked_at if exact_power(trials, share, comparisons) >= Fraction(4, 5)]
    assert reached[0] == fewest
    assert [trials for trials in looked_at if trials not in reached][-1] == always - 1


def test_a_difference_in_either_direction_needs_as_many_trials() -> None:
    question = Question(0.4, 0.5)
    assert independent_trials(question) == independent_trials(replace(question, share=0.6))


def test_a_share_that_almost_no_trial_can_miss_has_a_figure_too() -> None:
    fewest, always = independent_trials(Question(0.9, 0.04))
    assert fewest <= always
    for trials in (fewest - 1, fewest):
        reached = [k for k in range(trials + 1) if stats.binom.sf(k - 1, trials, 0.04) <= 0.05 / 12]
        power = stats.binom.sf(reached[0] - 1, trials, 0.9) if reached else 0.0
        assert (power >= 0.8) == (trials == fewest)


def test_equal_or_almost_equal_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ from"):
        independent_trials(Question(0.5, 0.5))
    with pytest.raises(ValueError, match="too close to"):
        independent_trials(Question(0.5001, 0.5))


def test_two_conditions_are_told_apart_by_the_trials_that_chose_one_of_them() -> None:
    question = Question(0.36, 0.24, head_to_head=True)
    assert question.decided == pytest.approx(0.6)
    assert question.among_decided == pytest.approx((0.6, 0.5))


@pytest.mark.parametrize(("share", "spread"), [(0.6, 0.0), (0.6, 0.7), (0.25, 1.5)])
def test_log_odds_are_centred_so_that_the_share_comes_out(share: float, spread: float) -> None:
    centre = central_log_odds(share, spread)

    def weighted(deviation: float) -> float:
        return float(stats.norm.pdf(deviation) / (1 + math.exp(-centre - spread * deviation)))

    assert integrate.quad(weighted, -12, 12)[0] == pytest.approx(share, abs=1e-6)


def drawn_study(question: Question, participants: int, trials: int, seed: int) -> pl.DataFrame:
    """The answers of one study, drawn choice by choice; four conditions, the two others as they come."""
    rng = np.random.default_rng(seed)
    share, _ = question.among_decided
    centre = central_log_odds(share, math.hypot(question.participant_sd, question.clip_sd))
    people = rng.normal(0, question.participant_sd, participants)
    clips = rng.normal(0, question.clip_sd, question.clips)
    rows = []
    for number in range(participants * trials):
        person, clip = number // trials, number % question.clips
        first = rng.random() < 1 / (1 + math.exp(-centre - people[person] - clips[clip]))
        chosen = ("fused" if first else "semantic") if question.head_to_head else ("fused" if first else None)
        if chosen is None or rng.random() >= question.decided:
            chosen = str(rng.choice(["adapter", "random"]))
        rows.append(answer(f"person {person:03}", f"trial {clip:03}", chosen))
    return answers(rows)


def reported(given: pl.DataFrame, versus: str) -> dict[str, float]:
    """What the analysis reports of the condition `fused`."""
    trials = design(given["trial_id"].unique().sort().to_list())
    found = analyse(given, trials, replicates=2).filter(
        scope="all", analysis="gee", condition="fused", versus=versus
    )
    return found.row(0, named=True)


def planned(given: pl.DataFrame, question: Question, participants: int, trials: int) -> float:
    """The p-value of the planning on the same answers."""
    chosen = given["chosen_condition"].to_numpy().reshape(1, participants, trials)
    clip = given["clip_id"].str.slice(5).cast(pl.Int64).to_numpy().reshape(participants, trials)
    against = chosen == "semantic" if question.head_to_head else question.against
    return float(two_sided_p_values(chosen == "fused", against, clip)[0])


@pytest.mark.parametrize("head_to_head", [True, False])
@pytest.mark.parametrize(("participants", "trials", "clips"), [(9, 12, 31), (30, 5, 8)])
def test_planning_tests_what_the_analysis_reports(
    participants: int, trials: int, clips: int, head_to_head: bool
) -> None:
    question = Question(0.4, 0.25, head_to_head, clips=clips)
    given = drawn_study(question, participants, trials, seed=clips)
    p_value = planned(given, question, participants, trials)
    assert p_value == pytest.approx(reported(given, "semantic" if head_to_head else "chance")["p_value"])
    assert 1e-6 < p_value < 0.9


@pytest.mark.heavy
@pytest.mark.parametrize("head_to_head", [True, False])
def test_the_planned_power_is_that_of_the_analysis_in_500_studies(head_to_head: bool) -> None:
    question = Question(0.38, 0.25, head_to_head, comparisons=6 if head_to_head else 4)
    trials = 12
    participants, power = participants_needed(question, trials)
    assert participants is not None
    studies = [drawn_study(question, participants, trials, seed) for seed in range(500)]
    rows = [reported(given, "semantic" if head_to_head else "chance") for given in studies]
    at_the_strictest_step = np.mean([row["p_value"] <= question.strictest for row in rows])
    after_holm = np.mean([row["p_adjusted"] <= question.significance for row in rows])
    assert at_the_strictest_step == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / 500))
    assert after_holm >= at_the_strictest_step


def test_the_planned_power_is_that_of_studies_drawn_choice_by_choice() -> None:
    question = Question(0.42, 0.25, True, clips=20)
    participants, trials, studies = 20, 10, 150
    found = sum(
        planned(drawn_study(question, participants, trials, seed), question, participants, trials)
        <= question.strictest
        for seed in range(studies)
    )
    power = simulated_power(question, participants, trials, simulations=4000)
    assert found / studies == pytest.approx(power, abs=4 * math.sqrt(0.25 / studies))


def test_the_example_needs_54_participants_and_24_would_find_it_in_two_studies_of_five() -> None:
    question = Question(0.6, 0.5)
    assert participants_needed(question, 12)[0] == 54
    assert simulated_power(question, 24, 12) == pytest.approx(0.39, abs=0.03)
    assert simulated_power(replace(question, comparisons=1), 24, 12) == pytest.approx(0.69, abs=0.03)


def test_without_clustering_the_simulation_needs_little_more_than_the_exact_test() -> None:
    alone = Question(0.6, 0.5, participant_sd=0.0, clip_sd=0.0)
    table = power_table(alone, [12, 24])
    assert (table["times_independent"] > 1).all()
    assert (table["times_independent"] < 1.45).all()


def test_clustering_costs_trials_and_no_difference_is_found_as_seldom_as_promised() -> None:
    needed = {
        (people, clips): participants_needed(
            Question(0.6, 0.5, participant_sd=people, clip_sd=clips, clips=24), 12, simulations=1000
        )[0]
        for people, clips in [(0.0, 0.0), (0.8, 0.0), (0.0, 0.5), (0.8, 0.5)]
    }
    assert needed[0.0, 0.0] < min(needed[0.8, 0.0], needed[0.0, 0.5])  # type: ignore[type-var]
    assert max(needed[0.8, 0.0], needed[0.0, 0.5]) < needed[0.8, 0.5]  # type: ignore[type-var,operator]
    none = Question(0.5, 0.5, participant_sd=0.5, clip_sd=0.5, clips=40, comparisons=1)
    assert simulated_power(none, 30, 20, simulations=4000) == pytest.approx(0.05, abs=0.015)


def test_where_clips_are_too_few_no_number_of_participants_is_enough() -> None:
    question = Question(0.6, 0.5, clip_sd=1.0, clips=8)
    participants, power = participants_needed(question, 8, simulations=500, most=200)
    assert participants is None
    assert power < 0.8


def test_the_same_seed_gives_the_same_study_and_another_one_another() -> None:
    question = Question(0.6, 0.5)
    assert simulated_power(question, 15, 12, seed=1) == simulated_power(question, 15, 12, seed=1)
    assert len({simulated_power(question, 15, 12, seed=seed) for seed in range(5)}) > 1


def test_the_command_tells_the_exact_figure_and_the_simulated_ones() -> None:
    with CliRunner().isolated_filesystem():
        done = CliRunner().invoke(power_command, ["--trials", "10,20", "--csv", "power.csv"])
        written = pl.read_csv("power.csv")
    assert done.exit_code == 0, done.output
    assert "two-sided 0.05 over 6 comparisons (Holm's strictest step: 0.00833)" in done.output
    assert "303 such trials; from 312 on" in done.output
    assert written.equals(power_table(Question(0.6, 0.5), [10, 20]))
    for row in written.rows(named=True):
        assert str(row["participants"]) in done.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--share", "0.5"], "must differ from"),
        (["--share", "0.7", "--versus", "0.4"], "add up to more than 1"),
        (["--trials", "80"], "needs at least 80 clips"),
        (["--trials", "ten"], "not a list of numbers"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_one_line(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(power_command, arguments)
    assert done.exit_code == 2
    assert complaint in done.output
    assert "Traceback" not in done.output


def test_a_share_that_no_trial_misses_is_planned_without_a_traceback() -> None:
    done = CliRunner().invoke(
        power_command, ["--share", "0.9", "--chance", "0.04", "--trials", "12", "--simulations", "200"]
    )
    assert done.exit_code == 0, done.output
    assert done.exception is None
