"""Statistics of the listening study: from answers to shares, effects, tests and agreement.

Belongs here: what is computed from a frame STUDY_ANSWERS, as frames. The page that asks is
elsewhere in `study`, what the report shows is `report.study`, sample sizes are `power`. scipy,
statsmodels and krippendorff (extra `experiment`) are imported here, so Dagster imports this module
inside functions.

A trial is one choice among k images, one from each condition; chance is 1/k. Trials of one
participant resemble each other, and so do trials with one clip. What allows for both is called
primary: the two-way bootstrap and the GEE with two-way clustered errors. What takes trials as
independent is called secondary, and its p-values are too small wherever trials do cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import krippendorff
import numpy as np
import numpy.typing as npt
import polars as pl
import statsmodels.api as sm
from scipy import sparse, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import fleiss_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from emid_assets.store.schemas import STUDY_RESULTS

CONDITION_ORDER = ("random", "semantic", "fused", "adapter")
"""Of two conditions that are compared, the earlier one is the reference."""
CHANCE = "chance"
CONFIDENCE = 0.95
REPLICATES = 4000
NEWTON_STEPS = 50
_CHUNK = 500
"""Replicates of the bootstrap at once: bounds its memory to this many numbers for each clip."""

ALL, EVERYONE, UNTIED, UNSEEN = "all", "without_exclusions", "without_ties", "test_clips"
"""Scopes of a figure beside the emotions' keys: see `analyse`."""

Role = Literal["primary", "secondary", "descriptive"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class AnswersError(ValueError):
    """Answers that cannot be analysed; names the trial."""


@dataclass(frozen=True)
class Choices:
    """n answered trials as arrays.

    Attributes:
        conditions: names of the k columns below, in `CONDITION_ORDER`.
        participants: (n,) number of the participant, from 0 without gaps.
        clips: (n,) number of the clip, from 0 without gaps.
        trials: (n,) number of the trial of the design, from 0 without gaps: a clip and its images.
        shown: (n, k) whether the condition had an image in the trial.
        chosen: (n, k) whether that image was chosen; one in each row.
    """

    conditions: tuple[str, ...]
    participants: Ints
    clips: Ints
    trials: Ints
    shown: Bools
    chosen: Bools

    @classmethod
    def of_answers(cls, answers: pl.DataFrame) -> "Choices":
        """The trials of a frame STUDY_ANSWERS that holds real choices only (see `exclude`).

        Raises:
            AnswersError: a participant answered a trial twice, or chose what the trial did not show.
        """
        twice = answers.filter(pl.struct("participant_id", "trial_id").is_duplicated())
        if twice.height:
            first = twice.sort("participant_id", "trial_id").row(0, named=True)
            raise AnswersError(
                f"participant {first['participant_id']} answered trial {first['trial_id']} more than once"
            )
        not_shown = answers.filter(~pl.col("conditions").list.contains(pl.col("chosen_condition")))
        if not_shown.height:
            first = not_shown.row(0, named=True)
            raise AnswersError(
                f"participant {first['participant_id']}, trial {first['trial_id']}: chose "
                f"{first['chosen_condition']}, which is not among {', '.join(first['conditions'])}"
            )
        # Sorted, so that equal answers give equal bits, whatever order they came in.
        answers = answers.sort("participant_id", "trial_id")
        names = in_order({name for row in answers["conditions"] for name in row})
        participants, clips, trials = (
            np.unique(answers[name].to_numpy(), return_inverse=True)[1].astype(np.int64)
            for name in ("participant_id", "clip_id", "trial_id")
        )
        shown = answers.select(pl.col("conditions").list.contains(name).alias(name) for name in names)
        chosen = answers.select((pl.col("chosen_condition") == name).alias(name) for name in names)
        return cls(tuple(names), participants, clips, trials, shown.to_numpy(), chosen.to_numpy())

    @property
    def sizes(self) -> dict[str, int]:
        """How many trials, participants and clips there are."""
        return {
            "trials": len(self.participants),
            "participants": len(np.unique(self.participants)),
            "clips": len(np.unique(self.clips)),
        }

    @property
    def chance(self) -> Floats:
        """(k,) mean of 1/k over the trials that showed the condition."""
        alternatives = self.shown.sum(axis=1, keepdims=True)
        return np.asarray((self.shown / alternatives).sum(axis=0) / self.shown.sum(axis=0))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Columns to compare: (condition, its reference)."""
        return [(later, earlier) for earlier, later in combinations(range(len(self.conditions)), 2)]


def in_order(conditions: set[str]) -> list[str]:
    """Names in `CONDITION_ORDER`; others after them, alphabetically."""
    return [name for name in CONDITION_ORDER if name in conditions] + sorted(
        conditions - set(CONDITION_ORDER)
    )


# --- what is left out ----------------------------------------------------------------------------


INATTENTIVE = "failed an attention check: participant left out"
NO_CHOICE = "made no choice: trial left out"
ANALYSED, UNCHECKED = "analysed", "of these, met no attention check"
TIED = "of these, two conditions wanted the same image, and one of them showed its next"


def exclude(answers: pl.DataFrame, design: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The choices that count, and how many were left out for which reason.

    **Choice**: one failed attention check excludes the participant with all trials. `analyse` also
    gives the figures of everyone, so that what the rule does can be seen.

    Args:
        answers: frame STUDY_ANSWERS, of one design.
        design: frame LISTENING_STUDY, for its ties.

    Returns:
        The rows of `answers` that are choices of participants who failed no check; and columns
        `reason`, `participants`, `trials` (Int64), where trials are choices, not checks.
    """
    checks = answers.filter("is_attention_check")
    failed = checks.filter(~pl.col("attention_passed").fill_null(False))
    choices = answers.filter(~pl.col("is_attention_check"))
    attentive = choices.join(failed, on="participant_id", how="anti")
    kept = attentive.drop_nulls("chosen_condition")
    counted = {
        "answered": choices,
        INATTENTIVE: choices.join(failed, on="participant_id", how="semi"),
        NO_CHOICE: attentive.filter(pl.col("chosen_condition").is_null()),
        ANALYSED: kept,
        UNCHECKED: kept.join(checks, on="participant_id", how="anti"),
        TIED: kept.join(_tied(design), on="trial_id", how="semi"),
    }
    return kept, pl.DataFrame(
        [(reason, rows["participant_id"].n_unique(), rows.height) for reason, rows in counted.items()],
        schema={"reason": pl.String, "participants": pl.Int64, "trials": pl.Int64},
        orient="row",
    )


def _tied(design: pl.DataFrame) -> pl.DataFrame:
    return design.filter(pl.col("tied_with").list.len() > 0)


# --- shares --------------------------------------------------------------------------------------


def wilson(successes: npt.ArrayLike, trials: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's score interval of a share at `CONFIDENCE` (Wilson 1927, JASA 22:209-212).

    It takes trials as independent.

    Args:
        successes: counts, of any shape.
        trials: how many they are out of, at least 1; the same shape.

    Returns:
        Lower and upper ends, in [0, 1].
    """
    low, high = proportion_confint(
        np.asarray(successes), np.asarray(trials), alpha=1 - CONFIDENCE, method="wilson"
    )
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def two_way_shares(choices: Choices, replicates: int, seed: Sequence[int]) -> Floats:
    """Shares of the conditions in bootstrap samples of participants and, apart from them, of clips.

    Each replicate draws as many participants as there are, with replacement, and as many clips; a
    trial counts as often as its participant was drawn times its clip (the pigeonhole bootstrap,
    Owen 2007, Annals of Applied Statistics 1:386-411). It never understates the spread on
    average: the part that belongs to neither participants nor clips counts up to three times.

    Args:
        choices: n trials.
        replicates: B.
        seed: of the random numbers.

    Returns:
        (B, k) float64; not a number where a replicate has no trial with the condition.
    """
    rng = np.random.default_rng(list(seed))
    people, clips = int(choices.participants.max()) + 1, int(choices.clips.max()) + 1
    where = (choices.clips, choices.participants)
    chosen, shown = (
        [sparse.csr_array((column.astype(np.float64), where), shape=(clips, people)) for column in marks.T]
        for marks in (choices.chosen, choices.shown)
    )
    shares = np.empty((replicates, len(choices.conditions)))
    for start in range(0, replicates, _CHUNK):
        size = min(_CHUNK, replicates - start)
        of_people = rng.multinomial(people, np.full(people, 1 / people), size).T.astype(np.float64)
        of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), size).T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares[start : start + size] = _drawn(chosen, of_people, of_clips) / _drawn(
                shown, of_people, of_clips
            )
    return shares


def _drawn(counts: Sequence[sparse.csr_array], of_people: Floats, of_clips: Floats) -> Floats:
    """(size, k) sums of the conditions' (clips, people) counts, weighted by how often each was drawn."""
    return np.stack([((count @ of_people) * of_clips).sum(axis=0) for count in counts], axis=1)


def percentile_interval(replicates: Floats) -> tuple[float | None, float | None]:
    """The middle `CONFIDENCE` of bootstrap values, by order statistics; None where an end is not finite."""
    values = np.sort(replicates[~np.isnan(replicates)])
    if not len(values):
        return None, None
    outside = round(len(values) * (1 - CONFIDENCE) / 2)
    return _finite(values[outside]), _finite(values[-1 - outside])


# --- effect sizes --------------------------------------------------------------------------------


def risk_difference(share: Floats, against: Floats) -> Floats:
    """Difference of two shares."""
    return share - against


def odds_ratio(share: Floats, against: Floats) -> Floats:
    """Ratio of the odds of two shares; infinite or not a number where one is 0 or 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(share * (1 - against) / ((1 - share) * against))


def cohens_h(share: Floats, against: Floats) -> Floats:
    """Difference of two shares after 2 arcsin √p: .2 is small, .5 medium, .8 large.

    Source: Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., ch. 6.
    """
    return np.asarray(2 * np.arcsin(np.sqrt(share)) - 2 * np.arcsin(np.sqrt(against)))


EFFECT_SIZES = {"risk_difference": risk_difference, "odds_ratio": odds_ratio, "cohens_h": cohens_h}


# --- primary: allowing for participants and clips ------------------------------------------------


@dataclass(frozen=True)
class Marginal:
    """Log-odds of being chosen, with errors that allow for participants and for clips.

    Attributes:
        columns: of the k conditions, those that have finite log-odds.
        log_odds: one for each of `columns`.
        covariances: by participants, by clips, and two-way.
        degrees_of_freedom: of the t distribution.
    """

    columns: list[int]
    log_odds: Floats
    covariances: tuple[Floats, Floats, Floats]
    degrees_of_freedom: int

    def contrast(self, weights: Floats, against: float = 0.0) -> tuple[float, float, float, float]:
        """Weighted sum of the log-odds less `against`: estimate, low, high, two-sided p-value.

        The two-way variance is a difference of matrices and can come out too small, even negative:
        the largest of the three is taken.
        """
        estimate = float(weights @ self.log_odds) - against
        error = max(float(weights @ covariance @ weights) for covariance in self.covariances) ** 0.5
        if error == 0.0:
            return estimate, estimate, estimate, float(estimate == 0.0)
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees_of_freedom)) * error
        p_value = 2 * float(stats.t.sf(abs(estimate) / error, self.degrees_of_freedom))
        return estimate, estimate - reach, estimate + reach, p_value


def fit_marginal(choices: Choices) -> Marginal | None:
    """Generalised estimating equations for "the condition's image was chosen", over all trials.

    A logit for each condition, working independence (Liang, Zeger 1986, Biometrika 73:13-22), and
    sandwich errors clustered by participants and by clips: V = V_participants + V_clips - V_both,
    each times G / (G - 1) for its G clusters, with t of min(G) - 1 degrees of freedom (Cameron,
    Gelbach, Miller 2011, Journal of Business & Economic Statistics 29:238-249). That images of one
    trial exclude each other is within both kinds of cluster, so the errors allow for it too.

    Args:
        choices: of at least two participants and two clips.

    Returns:
        None where no condition has finite log-odds: each was chosen never or always.
    """
    chosen = choices.chosen.sum(axis=0)
    columns = [
        column
        for column in range(len(choices.conditions))
        if 0 < chosen[column] < choices.shown[:, column].sum()
    ]
    if not columns:
        return None
    row, column = np.nonzero(choices.shown[:, columns])
    design = np.eye(len(columns))[column]
    outcome = choices.chosen[:, columns][row, column].astype(np.float64)
    both = choices.participants * (int(choices.clips.max()) + 1) + choices.clips
    log_odds, covariances, clusters = np.empty(0), [], []
    for groups in (choices.participants, choices.clips, both):
        number = len(np.unique(groups))
        fitted = sm.GEE(
            outcome,
            design,
            groups=groups[row],
            family=sm.families.Binomial(),
            cov_struct=sm.cov_struct.Independence(),
        ).fit()
        log_odds = np.asarray(fitted.params)
        covariances.append(np.asarray(fitted.cov_params()) * number / (number - 1))
        clusters.append(number)
    by_participants, by_clips, by_both = covariances
    return Marginal(
        columns,
        log_odds,
        (by_participants, by_clips, by_participants + by_clips - by_both),
        min(clusters) - 1,
    )


# --- secondary: as if trials were independent ----------------------------------------------------


def exact_binomial(successes: int, trials: int, chance: float) -> tuple[float, float, float]:
    """Two-sided exact test of a share against chance: Clopper-Pearson interval and p-value."""
    test = stats.binomtest(successes, trials, chance)
    interval = test.proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high), float(test.pvalue)


def exact_mcnemar(first_only: int, second_only: int, neither: int) -> float:
    """Two-sided p-value of McNemar's exact test on trials that showed both conditions.

    No trial can choose both. Trials that chose neither say nothing.
    """
    table = [[0, first_only], [second_only, neither]]
    return float(mcnemar(table, exact=True).pvalue)


def conditional_logit(choices: Choices) -> tuple[list[int], Floats, Floats]:
    """McFadden's choice model with a constant for each condition, by conditional likelihood.

    By Newton's method; the likelihood is concave.

    Args:
        choices: n trials; a condition that was never or always chosen has no finite constant.

    Returns:
        Columns of the conditions that have one, their constants with the first at 0, and the
        covariance of the constants, with zeros for the first. No columns where fewer than two have.
    """
    chosen = choices.chosen.sum(axis=0)
    columns = np.flatnonzero(chosen).tolist()
    # A trial that chose a dropped condition, or has no alternative left, holds no comparison.
    shown, picked = choices.shown[:, columns], choices.chosen[:, columns]
    useful = picked.any(axis=1) & (shown.sum(axis=1) > 1)
    if len(columns) < 2 or not useful.any():
        return [], np.empty(0), np.empty((0, 0))
    # Trials that show the same conditions have the same likelihood: one row for each kind.
    kinds, kind = np.unique(shown[useful], axis=0, return_inverse=True)
    counts = np.zeros(kinds.shape)
    np.add.at(counts, kind.ravel(), picked[useful])
    constants = np.zeros(len(columns))
    for _ in range(NEWTON_STEPS):
        weights = np.where(kinds, np.exp(constants - constants.max()), 0.0)
        p = weights / weights.sum(axis=1, keepdims=True)
        expected = counts.sum(axis=1, keepdims=True) * p
        information = (np.diag(expected.sum(axis=0)) - expected.T @ p)[1:, 1:]
        try:
            step = np.linalg.solve(information, (counts - expected).sum(axis=0)[1:])
        except np.linalg.LinAlgError:
            break
        constants[1:] += step
        if np.abs(step).max() < 1e-10:
            covariance = np.zeros((len(columns), len(columns)))
            covariance[1:, 1:] = np.linalg.inv(information)
            return columns, constants, covariance
    # No finite constants: some condition was chosen always or never where another was shown.
    return [], np.empty(0), np.empty((0, 0))


# --- agreement -----------------------------------------------------------------------------------


def krippendorff_alpha(counts: npt.NDArray[np.integer]) -> float | None:
    """Krippendorff's α for nominal values; raters may be missing.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.

    Args:
        counts: (units, values) how many raters gave the unit the value.

    Returns:
        1 where all agree, 0 where they agree as by chance; None where no unit has two raters or
        there is one value only.
    """
    pairable = counts[counts.sum(axis=1) > 1]
    if np.count_nonzero(pairable.sum(axis=0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=pairable, level_of_measurement="nominal"))


def fleiss(counts: npt.NDArray[np.integer]) -> float | None:
    """Fleiss' κ (Fleiss 1971, Psychological Bulletin 76:378-382).

    Args:
        counts: (units, values) how many raters gave the unit the value; each unit as many raters.

    Returns:
        1 where all agree; None where there are no two units, no two raters or one value only.
    """
    if len(counts) < 2 or counts[0].sum() < 2 or np.count_nonzero(counts.sum(axis=0)) < 2:
        return None
    return float(fleiss_kappa(counts, method="fleiss"))


# --- all of it -----------------------------------------------------------------------------------


def analyse(
    answers: pl.DataFrame, designs: pl.DataFrame, seed: int = 0, replicates: int = REPLICATES
) -> pl.DataFrame:
    """Every figure of the study, each design by itself: another design has other clips and images.

    Scopes: `all` is the analysis proper; an emotion's key, its clips. `without_exclusions`,
    `without_ties` (trials in which no two conditions wanted the same image) and `test_clips` (clips
    that no adapter learnt from) show whether the result depends on those choices; each is there
    only if its trials are not those of `all`.

    Args:
        answers: frame STUDY_ANSWERS.
        designs: frames LISTENING_STUDY of the designs, one after the other.
        seed: of the bootstrap.
        replicates: of the bootstrap.

    Returns:
        Frame STUDY_RESULTS, the design that was answered last first; empty where there are no answers.

    Raises:
        AnswersError: an answer contradicts its trial; names it.
    """
    last = answers.group_by("design_hash").agg(pl.col("answered_at").max())
    rows = [
        {"design_hash": design_hash, **row}
        for design_hash in last.sort("answered_at", "design_hash", descending=True)["design_hash"]
        for row in _analyse_design(
            answers.filter(design_hash=design_hash), designs.filter(design_hash=design_hash), seed, replicates
        )
    ]
    return pl.DataFrame(rows, schema=STUDY_RESULTS.empty().schema)


def _analyse_design(
    answers: pl.DataFrame, design: pl.DataFrame, seed: int, replicates: int
) -> list[dict[str, Any]]:
    kept, excluded = exclude(answers, design)
    rows = [
        _row("exclusions", "descriptive", ALL, measure=unit, estimate=count, note=reason)
        for reason, participants, trials in excluded.rows()
        for unit, count in (("participants", participants), ("trials", trials))
    ]
    scopes = {
        ALL: kept,
        EVERYONE: answers.filter(~pl.col("is_attention_check")).drop_nulls("chosen_condition"),
        UNTIED: kept.join(_tied(design), on="trial_id", how="anti"),
        UNSEEN: kept.join(design.filter(split="test"), on="trial_id", how="semi"),
    }
    scopes = {scope: rows for scope, rows in scopes.items() if scope == ALL or rows.height != kept.height}
    scopes |= {key: kept.filter(emotion=key) for key in kept["emotion"].unique().sort()}
    for scope, of_scope in scopes.items():
        if of_scope.is_empty():
            continue
        choices = Choices.of_answers(of_scope)
        shares = two_way_shares(choices, replicates, [seed, *scope.encode()])
        rows += _share_rows(choices, shares, scope)
        if scope in (ALL, EVERYONE, UNTIED, UNSEEN):
            rows += _difference_rows(choices, shares, scope)
            rows += _gee_rows(choices, scope)
        if scope == ALL:
            rows += _binomial_rows(choices) + _mcnemar_rows(choices) + _conditional_logit_rows(choices)
            rows += _agreement_rows(choices)
    return rows


def lme4_rows(answers: pl.DataFrame, designs: pl.DataFrame) -> pl.DataFrame:
    """A row for each image of each analysed trial, as R's `lme4::glmer` takes them.

    Args:
        answers: frame STUDY_ANSWERS.
        designs: frames LISTENING_STUDY of the designs, one after the other.

    Returns:
        Columns `design`, `participant`, `clip`, `trial`, `emotion`, `split`, `tied` (0 or 1: two
        conditions wanted the same image), `condition`, `position` (from 1), `chosen` (0 or 1),
        `alternatives` (k), `response_ms`, `language`.
    """
    trial = ["design_hash", "trial_id"]
    kept = [exclude(of_design, designs)[0] for _, of_design in answers.group_by("design_hash")]
    return (
        pl.concat(kept or [answers])
        .sort("design_hash", "participant_id", "trial_id")
        .join(designs.select(*trial, "split").unique(trial), on=trial, how="left", maintain_order="left")
        .with_columns(
            pl.col("trial_id").is_in(_tied(designs)["trial_id"].implode()).cast(pl.Int8).alias("tied"),
            pl.col("conditions").list.len().alias("alternatives"),
            pl.int_ranges(1, pl.col("conditions").list.len() + 1).alias("position"),
            pl.col("conditions").alias("condition"),
        )
        .explode("condition", "position")
        .select(
            pl.col("design_hash").alias("design"),
            pl.col("participant_id").alias("participant"),
            pl.col("clip_id").alias("clip"),
            pl.col("trial_id").alias("trial"),
            "emotion",
            "split",
            "tied",
            "condition",
            "position",
            (pl.col("condition") == pl.col("chosen_condition")).cast(pl.Int8).alias("chosen"),
            "alternatives",
            "response_ms",
            "language",
        )
    )


def _row(analysis: str, role: Role, scope: str, **figures: Any) -> dict[str, Any]:
    columns = [name for name in STUDY_RESULTS.columns if name != "design_hash"]
    return dict.fromkeys(columns) | {
        "analysis": analysis,
        "role": role,
        "scope": scope,
        **figures,
    }


def _share_rows(choices: Choices, replicates: Floats, scope: str) -> list[dict[str, Any]]:
    chosen, shown = choices.chosen.sum(axis=0), choices.shown.sum(axis=0)
    low, high = wilson(chosen, shown)
    too_few = _too_few(choices)
    rows = []
    for column, condition in enumerate(choices.conditions):
        common: dict[str, Any] = {"condition": condition, **choices.sizes}
        common |= {"trials": int(shown[column])}
        share = chosen[column] / shown[column]
        rows += [
            _row("shares", "descriptive", scope, measure="chance", estimate=choices.chance[column], **common),
            _row("shares", "descriptive", scope, measure="share", estimate=share, low=low[column],
                 high=high[column], **common),
        ]  # fmt: skip
        ends = (None, None) if too_few else percentile_interval(replicates[:, column])
        rows.append(
            _row("bootstrap", "primary", scope, measure="share", estimate=share, low=ends[0], high=ends[1],
                 note=too_few, **common)
        )  # fmt: skip
    return rows


def _difference_rows(choices: Choices, replicates: Floats, scope: str) -> list[dict[str, Any]]:
    shares = choices.chosen.sum(axis=0) / choices.shown.sum(axis=0)
    too_few = _too_few(choices)
    compared = [
        (choices.conditions[one], choices.conditions[other], (shares[one], shares[other]),
         (replicates[:, one], replicates[:, other]))
        for one, other in choices.pairs
    ] + [
        (name, CHANCE, (shares[column], choices.chance[column]),
         (replicates[:, column], np.full(len(replicates), choices.chance[column])))
        for column, name in enumerate(choices.conditions)
    ]  # fmt: skip
    rows = []
    for condition, versus, pair, pair_replicates in compared:
        for measure, effect in EFFECT_SIZES.items():
            estimate = _finite(float(effect(*map(np.asarray, pair))))
            low, high = (None, None) if too_few else percentile_interval(effect(*pair_replicates))
            rows.append(
                _row("bootstrap", "primary", scope, condition=condition, versus=versus, measure=measure,
                     estimate=estimate, low=low, high=high, **choices.sizes,
                     note=too_few or (None if estimate is not None else "a share is 0 or 1"))
            )  # fmt: skip
    return rows


def _gee_rows(choices: Choices, scope: str) -> list[dict[str, Any]]:
    compared = [(choices.conditions[one], choices.conditions[other]) for one, other in choices.pairs]
    against_chance = [(name, CHANCE) for name in choices.conditions]
    too_few = _too_few(choices)
    marginal = None if too_few else fit_marginal(choices)
    place = (
        {choices.conditions[column]: row for row, column in enumerate(marginal.columns)} if marginal else {}
    )
    chance = dict(zip(choices.conditions, choices.chance, strict=True))
    rows = []
    for family in (compared, against_chance):
        of_family = []
        for condition, versus in family:
            row = _row("gee", "primary", scope, condition=condition, versus=versus, measure="odds_ratio",
                       note=too_few, **choices.sizes)  # fmt: skip
            of_family.append(row)
            if too_few:
                continue
            if marginal is None or condition not in place or versus not in (*place, CHANCE):
                row["note"] = "chosen never or always: no finite odds"
                continue
            weights = np.zeros(len(place))
            weights[place[condition]] = 1.0
            offset = 0.0
            if versus == CHANCE:
                offset = float(np.log(chance[condition] / (1 - chance[condition])))
            else:
                weights[place[versus]] = -1.0
            estimate, low, high, p_value = marginal.contrast(weights, offset)
            row |= {"p_value": p_value}
            row |= {"estimate": np.exp(estimate), "low": _finite(np.exp(low)), "high": _finite(np.exp(high))}
        rows += _adjusted(of_family)
    return rows


def _binomial_rows(choices: Choices) -> list[dict[str, Any]]:
    rows = []
    for column, condition in enumerate(choices.conditions):
        shown = choices.shown[:, column]
        alternatives = np.unique(choices.shown[shown].sum(axis=1))
        chosen, trials = int(choices.chosen[:, column].sum()), int(shown.sum())
        row = _row("binomial", "secondary", ALL, condition=condition, versus=CHANCE, measure="share",
                   estimate=chosen / trials, **(choices.sizes | {"trials": trials}))  # fmt: skip
        if len(alternatives) == 1:
            low, high, p_value = exact_binomial(chosen, trials, 1 / int(alternatives[0]))
            row |= {"low": low, "high": high, "p_value": p_value}
        else:
            row["note"] = "trials differ in their number of images: no one chance"
        rows.append(row)
    return _adjusted(rows)


def _mcnemar_rows(choices: Choices) -> list[dict[str, Any]]:
    rows = []
    for one, other in choices.pairs:
        both = choices.shown[:, one] & choices.shown[:, other]
        first, second = (int((choices.chosen[:, column] & both).sum()) for column in (one, other))
        row = _row("mcnemar", "secondary", ALL, condition=choices.conditions[one],
                   versus=choices.conditions[other], measure="odds_ratio",
                   **(choices.sizes | {"trials": first + second}))  # fmt: skip
        rows.append(row)
        if first + second == 0:
            row["note"] = "neither was ever chosen"
            continue
        low, high, _ = exact_binomial(first, first + second, 0.5)
        with np.errstate(divide="ignore"):
            ends = np.array([low, first / (first + second), high])
            low_odds, odds, high_odds = map(_finite, ends / (1 - ends))
        row |= {
            "estimate": odds,
            "low": low_odds,
            "high": high_odds,
            "p_value": exact_mcnemar(first, second, int(both.sum()) - first - second),
            "note": None if second else f"{choices.conditions[other]} was never chosen: infinite odds",
        }
    return _adjusted(rows)


def _conditional_logit_rows(choices: Choices) -> list[dict[str, Any]]:
    columns, constants, covariance = conditional_logit(choices)
    place = {column: number for number, column in enumerate(columns)}
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    rows = []
    for one, other in choices.pairs:
        row = _row("conditional_logit", "secondary", ALL, condition=choices.conditions[one],
                   versus=choices.conditions[other], measure="odds_ratio", **choices.sizes)  # fmt: skip
        rows.append(row)
        if one not in place or other not in place:
            row["note"] = "never chosen: no finite odds"
            continue
        a, b = place[one], place[other]
        estimate = float(constants[a] - constants[b])
        error = float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]) ** 0.5
        row |= {
            "estimate": np.exp(estimate),
            "low": np.exp(estimate - reach * error),
            "high": np.exp(estimate + reach * error),
            "p_value": 2 * float(stats.norm.sf(abs(estimate) / error)),
        }
    return _adjusted(rows)


def _agreement_rows(choices: Choices) -> list[dict[str, Any]]:
    counts = np.zeros((int(choices.trials.max()) + 1, len(choices.conditions)), dtype=np.int64)
    np.add.at(counts, choices.trials, choices.chosen.astype(np.int64))
    participants = choices.sizes["participants"]
    complete = counts[counts.sum(axis=1) == participants]
    alpha, kappa = krippendorff_alpha(counts), fleiss(complete)
    pairable = counts[counts.sum(axis=1) > 1]
    return [
        _row("agreement", "descriptive", ALL, measure="krippendorff_alpha", estimate=alpha,
             **(choices.sizes | {"trials": int(pairable.sum())}),
             note=f"{len(pairable)} trials with two participants or more"
             + ("" if alpha is not None else ": too few, or one condition alone was chosen")),
        _row("agreement", "descriptive", ALL, measure="fleiss_kappa", estimate=kappa,
             **(choices.sizes | {"trials": int(complete.sum())}),
             note=f"{len(complete)} trials that every participant answered"
             + ("" if kappa is not None else ": too few, or one condition alone was chosen")),
    ]  # fmt: skip


def _adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with Holm's p-values over those that have one (Holm 1979, Scand. J. Statist. 6:65-70)."""
    tested = [row for row in rows if row["p_value"] is not None]
    if tested:
        adjusted = multipletests([row["p_value"] for row in tested], method="holm")[1]
        for row, p_value in zip(tested, adjusted, strict=True):
            row["p_adjusted"] = float(p_value)
    return rows


def _too_few(choices: Choices) -> str | None:
    """Why nothing can be said about the spread between participants and clips."""
    sizes = choices.sizes
    few = [name for name in ("participants", "clips") if sizes[name] < 2]
    return f"needs two {' and two '.join(few)}" if few else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
