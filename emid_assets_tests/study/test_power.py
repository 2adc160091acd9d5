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
    head_to_head,
    independent_trials,
    participants_needed,
    power_table,
    simulated_power,
)


def exact_power(trials: int, share: Fraction) -> Fraction:
    """Power of the one-sided exact test against one half at 5 %, in whole numbers."""
    tail, critical = 0, trials + 1
    while 20 * (tail + math.comb(trials, critical - 1)) <= 2**trials:
        critical -= 1
        tail += math.comb(trials, critical)
    a, b = share.numerator, share.denominator
    chosen = sum(math.comb(trials, k) * a**k * (b - a) ** (trials - k) for k in range(critical, trials + 1))
    return Fraction(chosen, b**trials)


@pytest.mark.parametrize(
    ("share", "fewest", "always", "looked_at"),
    [(Fraction(3, 5), 158, 169, range(1, 200)), (Fraction(11, 20), 620, 654, range(600, 670))],
)
def test_independent_trials_are_158_for_60_and_620_for_55_percent(
    share: Fraction, fewest: int, always: int, looked_at: range
) -> None:
    assert independent_trials(Question(float(share), 0.5)) == (fewest, always)
    reached = [trials for trials in looked_at if exact_power(trials, share) >= Fraction(4, 5)]
    assert reached[0] == fewest
    assert [trials for trials in looked_at if trials not in reached][-1] == always - 1


def test_the_normal_approximation_lies_below_the_exact_figures() -> None:
    # Fleiss, Levin, Paik 2003, Statistical Methods for Rates and Proportions, chapter 2.
    for share, normal, exact in [(0.60, 153, 158), (0.55, 617, 620)]:
        reach = 1.644854 * 0.5 + 0.841621 * math.sqrt(share * (1 - share))
        assert math.ceil((reach / (share - 0.5)) ** 2) == normal
        assert independent_trials(Question(share, 0.5))[0] == exact


def test_a_two_sided_question_counts_both_tails() -> None:
    question = Question(0.4, 0.5, two_sided=True)
    fewest, _ = independent_trials(question)
    assert fewest == independent_trials(replace(question, share=0.6))[0] == 199
    powers = []
    for trials in (fewest - 1, fewest):
        low = max(k for k in range(trials) if stats.binom.cdf(k, trials, 0.5) <= 0.025)
        powers.append(stats.binom.cdf(low, trials, 0.4) + stats.binom.sf(trials - low - 1, trials, 0.4))
    assert powers[0] < 0.8 <= powers[1]


def test_a_share_on_the_wrong_side_or_too_near_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above"):
        independent_trials(Question(0.4, 0.5))
    with pytest.raises(ValueError, match="too close to"):
        independent_trials(Question(0.5001, 0.5))


def test_two_conditions_are_told_apart_by_the_trials_that_chose_one_of_them() -> None:
    assert head_to_head(0.36, 0.24) == pytest.approx((0.6, 0.5, 0.6))


@pytest.mark.parametrize(("share", "spread"), [(0.6, 0.0), (0.6, 0.7), (0.25, 1.5)])
def test_log_odds_are_centred_so_that_the_share_comes_out(share: float, spread: float) -> None:
    centre = central_log_odds(share, spread)

    def weighted(deviation: float) -> float:
        return float(stats.norm.pdf(deviation) / (1 + math.exp(-centre - spread * deviation)))

    assert integrate.quad(weighted, -12, 12)[0] == pytest.approx(share, abs=1e-6)


def test_the_simulation_finds_what_plain_loops_find() -> None:
    question = Question(0.62, 0.5, decided=0.8, participant_sd=0.6, clip_sd=0.4, clips=15)
    participants, trials, studies = 12, 10, 400
    rng = np.random.default_rng(3)
    centre = central_log_odds(0.62, math.hypot(0.6, 0.4))
    found = 0
    for _ in range(studies):
        people, clips = rng.normal(0, 0.6, participants), rng.normal(0, 0.4, 15)
        rows = []
        for number in range(participants * trials):
            person, clip = number // trials, number % 15
            if rng.random() < 0.8:
                probability = 1 / (1 + math.exp(-centre - people[person] - clips[clip]))
                rows.append((person, clip, rng.random() < probability))
        share = sum(chosen for _, _, chosen in rows) / len(rows)
        sums = [
            [sum(chosen - share for *key, chosen in rows if key[place] == member) for member in range(size)]
            for place, size in ((0, participants), (1, 15))
        ]
        variances = [sum(value**2 for value in group) * len(group) / (len(group) - 1) for group in sums]
        variances.append(sum(variances) - sum((chosen - share) ** 2 for _, _, chosen in rows))
        error = max(variances) ** 0.5 / len(rows)
        found += (share - 0.5) / error > stats.t.isf(0.05, 11)
    assert simulated_power(question, participants, trials, simulations=4000) == pytest.approx(
        found / studies, abs=4 * math.sqrt(0.25 / studies)
    )


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
    none = Question(0.5, 0.5, participant_sd=0.5, clip_sd=0.5, clips=40)
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
    assert "158 such trials; from 169 on" in done.output
    assert written.equals(power_table(Question(0.6, 0.5), [10, 20]))
    for row in written.rows(named=True):
        assert str(row["participants"]) in done.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--share", "0.4"], "must be above"),
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
