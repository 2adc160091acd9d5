"""The study's statistics against published worked examples and plain re-computation."""

import math
from datetime import UTC, datetime
from itertools import product

import numpy as np
import polars as pl
import pytest
from scipy import optimize

from emid_assets.store.schemas import STUDY_RESULTS
from emid_assets.study import statistics
from emid_assets.study.statistics import Choices, analyse, exclude, lme4_rows
from emid_assets_tests.study.simulated import (
    CONDITIONS,
    DESIGN,
    answer,
    answers,
    check,
    design,
    simulate,
)


@pytest.fixture(scope="module")
def study() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Thirty participants of known preference, who failed no check, and their design."""
    given = simulate(participants=30, clips=36, trials=12, seed=1)
    return given, design(given["trial_id"].unique().sort().to_list())


@pytest.fixture(scope="module")
def results(study: tuple[pl.DataFrame, pl.DataFrame]) -> pl.DataFrame:
    return analyse(*study, replicates=400)


def figure(results: pl.DataFrame, **where: str) -> dict[str, float]:
    """The one row with these values."""
    found = results.filter(*(pl.col(name) == value for name, value in ({"scope": "all"} | where).items()))
    assert found.height == 1, where
    return found.row(0, named=True)


# --- published worked examples -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    found = statistics.wilson([successes], [trials])
    assert np.round(found, 4).ravel().tolist() == [low, high]


def test_the_exact_binomial_test_is_that_of_conover() -> None:
    # Conover 1971, Practical Nonparametric Statistics, p. 97 (Mendelian inheritance), as in R's binom.test.
    low, high, p_value = statistics.exact_binomial(682, 925, 0.75)
    assert round(p_value, 4) == 0.3825
    assert (round(low, 7), round(high, 7)) == (0.7076683, 0.7654066)


def test_mcnemar_is_the_exact_test_of_fay_and_of_the_binomial_by_hand() -> None:
    # Fay 2010, exact2x2: the table 21, 9, 2, 12 has p = .06543.
    assert round(statistics.exact_mcnemar(9, 2, 33), 5) == 0.06543
    for first, second in [(0, 5), (7, 7), (13, 4), (60, 41)]:
        total, fewer = first + second, min(first, second)
        tail = sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total
        assert statistics.exact_mcnemar(first, second, 3) == pytest.approx(min(1.0, 2 * tail))


def test_fleiss_kappa_is_that_of_fleiss() -> None:
    # Fleiss 1971, Psychological Bulletin 76:378-382, table 1: six psychiatrists, thirty patients.
    table = (
        "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444"
        " 224445 333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444"
        " 133333 555555"
    )
    patients = table.split()
    counts = np.array([[patient.count(diagnosis) for diagnosis in "12345"] for patient in patients])
    kappa = statistics.fleiss(counts)
    assert kappa is not None
    assert round(kappa, 3) == 0.430


def test_fleiss_kappa_is_that_of_the_encyclopedia() -> None:
    # Wikipedia, Fleiss' kappa, worked example: fourteen raters, ten subjects, five categories.
    rows = (
        "0 0 0 0 14,0 2 6 4 2,0 0 3 5 6,0 3 9 2 0,2 2 8 1 1,7 7 0 0 0,3 2 6 3 0,2 5 3 2 2,6 5 2 1 0,0 2 2 3 7"
    )
    kappa = statistics.fleiss(np.array([list(map(int, row.split())) for row in rows.split(",")]))
    assert kappa is not None
    assert round(kappa, 3) == 0.210


@pytest.mark.parametrize(
    ("raters", "alpha"),
    [
        # Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, examples B and C (some missing).
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
        # Wikipedia, Krippendorff's alpha, "A computational example".
        ((".....34121133.3", "1.213343.......", "..21344.21133.4"), 0.691),
    ],
)
def test_krippendorffs_alpha_is_that_of_the_worked_examples(raters: tuple[str, ...], alpha: float) -> None:
    values = sorted(set("".join(raters)) - {"."})
    units = ["".join(unit) for unit in zip(*raters, strict=True)]
    found = statistics.krippendorff_alpha(
        np.array([[unit.count(value) for value in values] for unit in units])
    )
    assert found is not None
    assert round(found, 3) == alpha


def test_effect_sizes_are_those_of_cohen_and_agresti() -> None:
    # Cohen 1988, table 6.2.2: φ = 2 arcsin √P is .644 for .10, 1.047 for .25, 1.571 for .50, 1.875 for .65.
    for share, phi in [(0.10, 0.644), (0.25, 1.047), (0.50, 1.571), (0.65, 1.875)]:
        assert statistics.cohens_h(np.array(share), np.array(0.0)) == pytest.approx(phi, abs=5e-4)
    # Agresti 2002, Categorical Data Analysis, 2.2: heart attacks under placebo and aspirin.
    placebo, aspirin = np.array(189 / 11034), np.array(104 / 11037)
    assert round(float(statistics.odds_ratio(placebo, aspirin)), 3) == 1.832
    assert round(float(statistics.risk_difference(placebo, aspirin)), 4) == 0.0077


# --- independent re-computation ------------------------------------------------------------------


def some_choices(seed: int, trials: int = 300) -> Choices:
    """Trials that show two to four conditions, with one choice each."""
    rng = np.random.default_rng(seed)
    shown = rng.random((trials, 4)) < 0.75
    shown[:, :2] |= (shown.sum(axis=1) < 2)[:, None]
    weights = np.exp([0.0, 0.3, 0.9, 0.6]) * shown
    chosen = np.zeros_like(shown)
    for row in range(trials):
        chosen[row, rng.choice(4, p=weights[row] / weights[row].sum())] = True
    participants, clips = rng.integers(0, 15, trials), rng.integers(0, 20, trials)
    participants[:15], clips[:20] = range(15), range(20)
    return Choices(("random", "semantic", "fused", "adapter"), participants, clips, clips, shown, chosen)


def test_the_conditional_logit_maximises_the_likelihood() -> None:
    choices = some_choices(seed=2)

    def loss(constants: np.ndarray) -> float:
        utilities = np.where(choices.shown, np.concatenate([[0.0], constants]), -np.inf)
        largest = utilities.max(axis=1, keepdims=True)
        denominator = largest[:, 0] + np.log(np.exp(utilities - largest).sum(axis=1))
        return float(denominator.sum() - utilities[choices.chosen].sum())

    best = optimize.minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    columns, constants, covariance = statistics.conditional_logit(choices)
    assert columns == [0, 1, 2, 3]
    assert constants[1:] == pytest.approx(best.x, abs=2e-4)
    step = 1e-3
    hessian = np.array(
        [
            [
                sum(
                    a * b * loss(best.x + step * (a * one + b * other)) for a, b in product((1, -1), repeat=2)
                )
                / (4 * step**2)
                for other in np.eye(3)
            ]
            for one in np.eye(3)
        ]
    )
    assert covariance[1:, 1:] == pytest.approx(np.linalg.inv(hessian), rel=1e-2)
    assert not covariance[0].any()


def test_the_conditional_logit_of_trials_that_show_every_condition_is_the_ratio_of_their_counts() -> None:
    rng = np.random.default_rng(3)
    chosen = rng.multinomial(1, [0.1, 0.2, 0.3, 0.4], 5000).astype(bool)
    who = np.arange(5000) % 50
    choices = Choices(("random", "semantic", "fused", "adapter"), who, who, who, np.ones_like(chosen), chosen)
    _, constants, covariance = statistics.conditional_logit(choices)
    counts = chosen.sum(axis=0)
    assert constants == pytest.approx(np.log(counts / counts[0]))
    assert np.diag(covariance)[1:] == pytest.approx(1 / counts[1:] + 1 / counts[0])


def test_a_condition_that_always_wins_against_another_has_no_finite_constant() -> None:
    # The second is chosen only where the first is not shown.
    shown = np.array([[True, True, False], [True, True, False], [False, True, True], [False, True, True]])
    chosen = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    who = np.arange(4)
    columns, _, _ = statistics.conditional_logit(Choices(("a", "b", "c"), who, who, who, shown, chosen))
    assert columns == []


def test_gee_gives_the_logits_of_the_shares_with_the_sandwich_written_out() -> None:
    choices = some_choices(seed=3)
    marginal = statistics.fit_marginal(choices)
    shares = choices.chosen.sum(axis=0) / choices.shown.sum(axis=0)
    assert marginal.log_odds == pytest.approx(np.log(shares / (1 - shares)), abs=1e-8)
    assert marginal.degrees_of_freedom == 14
    residuals = choices.shown * (choices.chosen - shares)
    bread = np.diag(1 / (choices.shown.sum(axis=0) * shares * (1 - shares)))
    pairs = choices.participants * 100 + choices.clips
    expected = []
    for groups in (choices.participants, choices.clips, pairs):
        members = np.unique(groups)
        sums = np.array([residuals[groups == member].sum(axis=0) for member in members])
        expected.append(bread @ sums.T @ sums @ bread * len(members) / (len(members) - 1))
    expected[2] = expected[0] + expected[1] - expected[2]
    for found, by_hand in zip(marginal.covariances, expected, strict=True):
        assert found == pytest.approx(by_hand, rel=1e-6, abs=1e-12)
    contrast = np.array([0.0, -1.0, 1.0, 0.0])
    estimate, low, high, p_value = marginal.contrast(contrast)
    error = max(contrast @ covariance @ contrast for covariance in expected) ** 0.5
    assert (high - low) / 2 == pytest.approx(2.144787 * error, rel=1e-5)  # t table, 14 degrees of freedom
    assert estimate == pytest.approx(math.log(shares[2] / (1 - shares[2]) * (1 - shares[1]) / shares[1]))
    assert 0 < p_value < 1


def test_the_two_way_bootstrap_is_resampling_of_participants_and_of_clips() -> None:
    choices = some_choices(seed=4, trials=120)
    found = statistics.two_way_shares(choices, 3000, [5])
    rng = np.random.default_rng(6)
    by_hand = []
    for _ in range(1500):
        people, clips = rng.integers(0, 15, 15).tolist(), rng.integers(0, 20, 20).tolist()
        rows = [
            row
            for row in range(120)
            for _ in range(people.count(choices.participants[row]) * clips.count(choices.clips[row]))
        ]
        by_hand.append(choices.chosen[rows].sum(axis=0) / choices.shown[rows].sum(axis=0))
    assert found.mean(axis=0) == pytest.approx(np.mean(by_hand, axis=0), abs=0.01)
    assert found.std(axis=0) == pytest.approx(np.std(by_hand, axis=0), rel=0.08)
    assert np.array_equal(found, statistics.two_way_shares(choices, 3000, [5]))
    assert not np.array_equal(found, statistics.two_way_shares(choices, 3000, [6]))


def test_percentile_intervals_are_order_statistics_without_what_is_not_finite() -> None:
    values = np.concatenate([np.arange(1.0, 1001.0), [np.nan] * 9])
    assert statistics.percentile_interval(values) == (26.0, 975.0)
    assert statistics.percentile_interval(np.array([1.0] * 90 + [np.inf] * 10)) == (1.0, None)
    assert statistics.percentile_interval(np.array([np.nan])) == (None, None)


# --- from answers to results ---------------------------------------------------------------------


def test_the_results_are_a_table_of_the_lake_and_the_same_in_whatever_order_answers_come(
    study: tuple[pl.DataFrame, pl.DataFrame], results: pl.DataFrame
) -> None:
    given, planned = study
    assert STUDY_RESULTS.differences(results) == []
    assert results.equals(analyse(given.sample(fraction=1, shuffle=True, seed=3), planned, replicates=400))
    assert not results.equals(analyse(given, planned, seed=1, replicates=400))


def test_shares_are_counted_and_add_up(
    study: tuple[pl.DataFrame, pl.DataFrame], results: pl.DataFrame
) -> None:
    given, _ = study
    for scope in ("all", "calm", "joyful", "sad"):
        of_scope = given if scope == "all" else given.filter(emotion=scope)
        total = 0.0
        for condition in CONDITIONS:
            row = figure(results, scope=scope, analysis="shares", measure="share", condition=condition)
            assert row["estimate"] == of_scope.filter(chosen_condition=condition).height / of_scope.height
            assert row["low"] < row["estimate"] < row["high"]
            assert (row["trials"], row["participants"]) == (
                of_scope.height,
                of_scope["participant_id"].n_unique(),
            )
            chance = figure(results, scope=scope, analysis="shares", measure="chance", condition=condition)
            assert chance["estimate"] == 0.25
            total += row["estimate"]
        assert total == pytest.approx(1.0)


def test_clusters_make_the_primary_intervals_wider_than_wilsons(results: pl.DataFrame) -> None:
    for condition in CONDITIONS:
        wilson = figure(results, analysis="shares", measure="share", condition=condition)
        clustered = figure(results, analysis="bootstrap", measure="share", condition=condition)
        assert clustered["high"] - clustered["low"] > wilson["high"] - wilson["low"]


def test_every_two_conditions_are_compared_by_every_method_and_labelled(results: pl.DataFrame) -> None:
    pairs = [
        ("semantic", "random"), ("fused", "random"), ("adapter", "random"),
        ("fused", "semantic"), ("adapter", "semantic"), ("adapter", "fused"),
    ]  # fmt: skip
    for analysis, role in [
        ("gee", "primary"), ("mcnemar", "secondary"), ("conditional_logit", "secondary")
    ]:  # fmt: skip
        rows = results.filter(pl.col("versus") != "chance", scope="all", analysis=analysis)
        assert list(rows.select("condition", "versus").iter_rows()) == pairs
        assert set(rows["role"]) == {role}
        # Holm: the smallest of six p-values six times, and never falling from there.
        ordered = rows.sort("p_value")
        steps = np.maximum.accumulate(np.minimum(ordered["p_value"].to_numpy() * np.arange(6, 0, -1), 1))
        assert ordered["p_adjusted"].to_numpy() == pytest.approx(steps)
    differences = results.filter(pl.col("versus") != "chance", scope="all", analysis="bootstrap")
    assert set(differences["measure"]) == {"risk_difference", "odds_ratio", "cohens_h"}
    assert differences.height == 3 * len(pairs)
    assert set(results.filter(analysis="binomial")["role"]) == {"secondary"}


def test_the_order_of_the_images_on_the_screen_does_not_matter(
    study: tuple[pl.DataFrame, pl.DataFrame], results: pl.DataFrame
) -> None:
    given, planned = study
    turned = given.with_columns(pl.col("conditions").list.reverse())
    assert results.equals(analyse(turned, planned, replicates=400))


def test_agreement_counts_the_trials_that_several_answered() -> None:
    trials = ["trial a", "trial b", "trial c"]
    rows = [
        answer(person, trial, "fused" if trial == "trial a" else "adapter")
        for person in "xyz"
        for trial in trials[:2]
    ]
    rows.append(answer("x", "trial c", "random"))
    results = analyse(answers(rows), design(trials), replicates=50)
    for measure in ("krippendorff_alpha", "fleiss_kappa"):
        assert figure(results, analysis="agreement", measure=measure)["estimate"] == pytest.approx(1.0)
    note = figure(results, analysis="agreement", measure="fleiss_kappa")["note"]
    assert note == "2 trials that every participant answered"


# --- what is left out ----------------------------------------------------------------------------


def test_exclusions_are_counted_with_their_reason() -> None:
    trials = ["trial a", "trial b"]
    rows = [
        answer(person, trial, "fused") for person in ("good", "careless", "unchecked") for trial in trials
    ]
    rows += [answer("good", "trial c", None)]
    rows += [check("good", 1, True), check("careless", 1, True), check("careless", 2, False)]
    planned = design([*trials, "trial c"], tied=["trial b"])
    kept, counted = exclude(answers(rows), planned)
    assert sorted(kept["participant_id"].unique()) == ["good", "unchecked"]
    assert {reason: (people, count) for reason, people, count in counted.rows()} == {
        "answered": (3, 7),
        "failed an attention check: participant left out": (1, 2),
        "made no choice: trial left out": (1, 1),
        "analysed": (2, 4),
        "of these, met no attention check": (1, 2),
        "of these, two conditions wanted the same image, and one of them showed its next": (2, 2),
    }
    results = analyse(answers(rows), planned, replicates=50)
    assert figure(results, analysis="exclusions", measure="participants",
                  note="failed an attention check: participant left out")["estimate"] == 1  # fmt: skip
    everyone = figure(
        results, scope="without_exclusions", analysis="shares", measure="share", condition="fused"
    )
    assert everyone["participants"] == 3


def test_trials_with_ties_and_clips_that_were_learnt_from_can_be_left_out() -> None:
    given = simulate(participants=8, clips=6, trials=6, seed=7)
    trials = given["trial_id"].unique().sort().to_list()
    planned = design(trials, tied=trials[:2]).with_columns(
        pl.when(pl.col("trial_id") == trials[5]).then(pl.lit("train")).otherwise("split").alias("split")
    )
    results = analyse(given, planned, replicates=50)
    sizes = {
        scope: figure(results, scope=scope, analysis="shares", measure="share", condition="fused")["trials"]
        for scope in ("all", "without_ties", "test_clips")
    }
    assert sizes == {"all": 48, "without_ties": 32, "test_clips": 40}


def test_each_design_is_analysed_by_itself_the_one_answered_last_first() -> None:
    trials = ["trial a", "trial b"]
    old = [answer(person, trial, "fused", design_hash="old") for person in "xyz" for trial in trials]
    new = [
        answer(person, trial, "random", answered_at=datetime(2026, 11, 2, tzinfo=UTC))
        for person in "xy"
        for trial in trials
    ]
    designs = pl.concat([design(trials), design(trials).with_columns(pl.lit("old").alias("design_hash"))])
    together = analyse(answers([*old, *new]), designs, replicates=50)
    assert together["design_hash"].unique(maintain_order=True).to_list() == [DESIGN, "old"]
    for given in (old, new):
        alone = analyse(answers(given), designs, replicates=50)
        assert together.filter(design_hash=alone["design_hash"][0]).equals(alone)
    assert lme4_rows(answers([*old, *new]), designs)["design"].value_counts(sort=True).rows() == [
        ("old", 24),
        (DESIGN, 16),
    ]


def test_no_answers_give_an_empty_table() -> None:
    results = analyse(answers([]), design(["trial a"]))
    assert results.is_empty()
    assert STUDY_RESULTS.differences(results) == []
    assert lme4_rows(answers([]), design(["trial a"])).is_empty()


def test_answers_that_are_all_left_out_give_the_reasons_and_nothing_else() -> None:
    given = answers([answer("x", "trial a", "fused"), check("x", 1, False)])
    results = analyse(given, design(["trial a"]))
    assert set(results["analysis"]) == {"exclusions", "shares", "bootstrap", "gee"}
    assert set(results.filter(pl.col("analysis") != "exclusions")["scope"]) == {"without_exclusions"}


@pytest.mark.parametrize(
    "rows",
    [
        [answer("x", "trial a", "fused")],
        [answer("x", "trial a", "fused"), answer("x", "trial b", "semantic")],
        [answer(person, trial, "fused") for person in "xyz" for trial in ("trial a", "trial b", "trial c")],
    ],
    ids=["one answer", "one participant", "one condition alone"],
)
def test_where_a_figure_cannot_be_had_a_note_says_why(rows: list[dict[str, object]]) -> None:
    results = analyse(answers(rows), design(["trial a", "trial b", "trial c"]), replicates=50)
    missing = results.filter(pl.col("estimate").is_null())
    assert missing.height
    assert missing["note"].null_count() == 0
    assert (
        results.select(pl.col("estimate", "low", "high", "p_value").is_infinite().any()).row(0)
        == (False,) * 4
    )
    fused = figure(results, analysis="shares", measure="share", condition="fused")
    assert fused["estimate"] == len([row for row in rows if row["chosen_condition"] == "fused"]) / len(rows)


def test_answers_that_cannot_be_are_refused_by_name() -> None:
    twice = answers([answer("x", "trial a", "fused"), answer("x", "trial a", "random")])
    with pytest.raises(statistics.AnswersError, match="participant x answered trial trial a more than once"):
        analyse(twice, design(["trial a"]))
    never_shown = answers([answer("x", "trial a", "other")])
    with pytest.raises(statistics.AnswersError, match="chose other, which is not among semantic, fused"):
        analyse(never_shown, design(["trial a"]))


def test_the_rows_for_lme4_have_one_choice_in_each_trial(study: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    given, _ = study
    trials = given["trial_id"].unique().sort().to_list()
    rows = lme4_rows(given, design(trials, tied=trials[:3]))
    assert rows.columns == [
        "design", "participant", "clip", "trial", "emotion", "split", "tied", "condition", "position",
        "chosen", "alternatives", "response_ms", "language",
    ]  # fmt: skip
    assert rows.height == 4 * given.height
    assert rows.filter(tied=1)["trial"].unique().sort().to_list() == trials[:3]
    of_trial = rows.group_by("participant", "trial").agg(pl.col("chosen").sum(), pl.col("position").sort())
    assert of_trial["chosen"].to_list() == [1] * given.height
    assert of_trial["position"].to_list() == [[1, 2, 3, 4]] * given.height
    chosen = rows.filter(chosen=1).select("participant", "trial", "condition", "position")
    expected = given.select("participant_id", "trial_id", "chosen_condition", "chosen_position")
    assert sorted(chosen.rows()) == sorted(expected.rows())


# --- do the intervals hold what they promise? ------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("participants", [12, 40])
def test_the_primary_intervals_hold_the_true_effect(participants: int) -> None:
    """Coverage over studies whose participants and clips are drawn anew; the truth by brute force."""
    utilities, spread = np.array([0.2, 0.5, 0.4, 0.0]), np.hypot(0.4, 0.5)
    drawn = np.random.default_rng(0).normal(utilities, spread, (2_000_000, 4))
    weights = np.exp(drawn)
    truth = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)  # semantic, fused, adapter, random
    log_odds = np.log(truth / (1 - truth))
    held = {"gee": 0, "bootstrap": 0, "independent": 0}
    studies = 200
    for seed in range(studies):
        given = simulate(participants, clips=40, trials=20, seed=seed, utilities=utilities)
        choices = Choices.of_answers(given)
        fused, semantic = choices.conditions.index("fused"), choices.conditions.index("semantic")
        contrast = np.zeros(4)
        contrast[[fused, semantic]] = 1, -1
        marginal = statistics.fit_marginal(choices)
        _, low, high, _ = marginal.contrast(contrast)
        held["gee"] += low <= log_odds[1] - log_odds[0] <= high
        shares = statistics.two_way_shares(choices, 1000, [seed])
        ends = statistics.percentile_interval(shares[:, fused] - shares[:, semantic])
        held["bootstrap"] += ends[0] <= truth[1] - truth[0] <= ends[1]
        # What the conditional logit gives where every trial shows every condition, in closed form.
        first, second = choices.chosen[:, [fused, semantic]].sum(axis=0)
        distance = abs(np.log(first / second) - np.log(truth[1] / truth[0]))
        held["independent"] += distance <= 1.96 * np.sqrt(1 / first + 1 / second)
    coverage = {name: count / studies for name, count in held.items()}
    assert coverage["gee"] >= 0.92, coverage
    assert coverage["bootstrap"] >= 0.93, coverage
    assert coverage["independent"] < coverage["gee"], coverage
