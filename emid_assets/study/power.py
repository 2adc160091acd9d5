"""How many participants and trials a difference needs, before anyone is asked.

Belongs here: the exact answer for independent trials, and a simulation for trials that cluster by
participant and by clip. What is computed from answers is `statistics`. scipy is imported here, so
the command line imports this module inside functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, sparse, special, stats

MOST_TRIALS = 1_000_000
SIMULATIONS = 2000
MOST_PARTICIPANTS = 2000
_CHUNK = 2_000_000
"""Answers that are simulated at once: bounds the memory to about 100 MB."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """What is to be shown, and how trials cluster.

    The test is the one that `study_results` reports as `gee`: two-sided, with Holm's correction over all
    comparisons. Power is that at Holm's strictest step, `significance / comparisons`: it is reached whatever
    the other comparisons show, and exceeded if some of them are significant too.

    Attributes:
        share: of the trials that choose the condition, over all participants and clips, in (0, 1).
        against: the share to tell it from: that of chance, or of another condition in the same trials.
        head_to_head: whether `against` is another condition's share.
        participant_sd: how much participants differ in the log-odds of their choice.
        clip_sd: how much clips do.
        clips: clips in the whole study.
        significance: probability of finding any difference where there is none.
        power: probability of finding this one.
        comparisons: how many comparisons the study reports beside each other; four conditions have six.
    """

    share: float
    against: float
    head_to_head: bool = False
    participant_sd: float = 0.5
    clip_sd: float = 0.5
    clips: int = 60
    significance: float = 0.05
    power: float = 0.8
    comparisons: int = 6

    @property
    def strictest(self) -> float:
        """The significance level of one comparison at Holm's strictest step."""
        return self.significance / self.comparisons

    @property
    def decided(self) -> float:
        """Share of the trials that count: head to head, those that chose one of the two conditions."""
        return self.share + self.against if self.head_to_head else 1.0

    @property
    def among_decided(self) -> tuple[float, float]:
        """The share of the condition in trials that count, and the share without a difference."""
        return (self.share / self.decided, 0.5) if self.head_to_head else (self.share, self.against)


def independent_trials(question: Question) -> tuple[int, int]:
    """How many counting trials the exact two-sided binomial test needs if trials are independent.

    The power of an exact test goes up and down with its critical number of successes.

    Returns:
        The fewest trials with the requested power, and the number from which on it never falls
        short (.60 against .50, one comparison at 5 %, power 80 %: 199 and 210).

    Raises:
        ValueError: the two shares are equal, or so close that `MOST_TRIALS` are not enough.
    """
    share, chance = question.among_decided
    if question.share == question.against:
        raise ValueError(f"the share {question.share} must differ from {question.against}")
    spread = (chance * (1 - chance)) ** 0.5
    tail = question.strictest / 2
    reach = float(stats.norm.isf(tail) + stats.norm.isf(1 - question.power))
    enough = (reach * spread / abs(share - chance)) ** 2  # by the normal distribution
    if enough > MOST_TRIALS:
        raise ValueError(
            f"{share:.4g} is too close to {chance:.4g}: it needs more than {MOST_TRIALS:,} trials"
        )
    trials = np.arange(1, int(3 * enough) + 200)
    critical = stats.binom.isf(tail, trials, chance) + 1
    power = stats.binom.sf(critical - 1, trials, share)
    critical = stats.binom.isf(tail, trials, 1 - chance) + 1
    power = power + stats.binom.sf(critical - 1, trials, 1 - share)
    reached = power >= question.power
    falls_short = np.flatnonzero(~reached)
    always = int(trials[falls_short[-1]]) + 1 if falls_short.size else int(trials[0])
    return int(trials[np.argmax(reached)]), always


def simulated_power(
    question: Question, participants: int, trials: int, seed: int = 0, simulations: int = SIMULATIONS
) -> float:
    """Probability that the analysis of a study of this size finds the difference.

    Each simulation draws a log-odds for every participant and every clip (normal, about the one that
    gives the share on average) and then every choice. Clips are assigned evenly.

    Args:
        question: what is to be shown.
        participants: at least 2.
        trials: of each participant; no more than there are clips.
        seed: of the random numbers.
        simulations: studies to simulate; the result is off by about 1 / (2 √simulations).
    """
    rng = np.random.default_rng([seed, participants, trials])
    answers = participants * trials
    clip = (np.arange(answers) % question.clips).reshape(participants, trials)
    share, _ = question.among_decided
    centre = central_log_odds(share, np.hypot(question.participant_sd, question.clip_sd))
    found = 0
    size = max(1, _CHUNK // answers)
    for start in range(0, simulations, size):
        studies = min(size, simulations - start)
        of_participant = rng.normal(0, question.participant_sd, (studies, participants, 1))
        of_clip = rng.normal(0, question.clip_sd, (studies, question.clips))
        probability = special.expit(centre + of_participant + of_clip[:, clip])
        counts = rng.random(probability.shape) < question.decided if question.decided < 1 else np.True_
        first = rng.random(probability.shape) < probability
        chosen, other = first & counts, ~first & counts
        p_values = two_sided_p_values(chosen, other if question.head_to_head else question.against, clip)
        found += int((p_values <= question.strictest).sum())
    return found / simulations


def two_sided_p_values(chosen: Bools, against: Bools | float, clip: Ints) -> Floats:
    """The p-value that the analysis reports as `gee`, before Holm's correction, for many studies at once.

    `statistics.fit_marginal` in closed form: the difference in log-odds over its error, clustered by
    participants and by clips, in t with one degree of freedom fewer than there are of the fewer.

    Args:
        chosen: (studies, participants, trials) whether a trial chose the condition.
        against: the same for the other condition; or a share by chance.
        clip: (participants, trials) number of the clip; no participant hears one twice.

    Returns:
        (studies,) p-values; 1 where a share is 0 or 1, since its odds are not finite.
    """
    studies, participants, trials = chosen.shape
    answers = participants * trials
    used, number = np.unique(clip, return_inverse=True)
    estimate, influence = _log_odds(chosen)
    if isinstance(against, float):
        estimate = estimate - special.logit(against)
    else:
        other, of_other = _log_odds(against)
        estimate, influence = estimate - other, influence - of_other
    by_participant = (influence.sum(axis=2) ** 2).sum(axis=1) * participants / (participants - 1)
    of_clips = sparse.csr_array(
        (np.ones(answers), (number.ravel(), np.arange(answers))), shape=(len(used), answers)
    )
    clip_sums = of_clips @ influence.reshape(studies, answers).T
    by_clip = (clip_sums**2).sum(axis=0) * len(used) / (len(used) - 1)
    both = by_participant + by_clip - (influence**2).sum(axis=(1, 2)) * answers / (answers - 1)
    error = np.sqrt(np.maximum(both, np.maximum(by_participant, by_clip))) / answers
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = 2 * stats.t.sf(np.abs(estimate) / error, min(participants, len(used)) - 1)
    return np.where(np.isfinite(estimate) & (error > 0), p_values, 1.0)


def _log_odds(chosen: Bools) -> tuple[Floats, Floats]:
    """(studies,) log-odds of the share of each study, and how far each answer moves them."""
    share = chosen.mean(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        influence = (chosen - share[:, None, None]) / (share * (1 - share))[:, None, None]
        return np.asarray(special.logit(share)), influence


def participants_needed(
    question: Question,
    trials: int,
    seed: int = 0,
    simulations: int = SIMULATIONS,
    most: int = MOST_PARTICIPANTS,
    on_study: Callable[[int], None] = lambda participants: None,
) -> tuple[int | None, float]:
    """The fewest participants of `trials` trials each that give the requested power, and that power.

    Found by doubling and bisection, so it is as exact as the simulation.

    Args:
        question: what is to be shown.
        trials: of each participant.
        seed: of the random numbers.
        simulations: for each number of participants that is tried.
        most: participants to try.
        on_study: called with each number of participants, before it is tried.

    Returns:
        None where `most` are not enough, with the power of `most`: only more clips help then.
    """

    @cache
    def power(participants: int) -> float:
        on_study(participants)
        return simulated_power(question, participants, trials, seed, simulations)

    enough = 4
    while power(enough) < question.power:
        if enough == most:
            return None, power(most)
        enough = min(2 * enough, most)
    too_few = enough // 2 if enough > 4 else 1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power(middle) >= question.power:
            enough = middle
        else:
            too_few = middle
    return enough, power(enough)


def power_table(
    question: Question,
    trials: Sequence[int],
    seed: int = 0,
    simulations: int = SIMULATIONS,
    most: int = MOST_PARTICIPANTS,
    on_study: Callable[[int, int], None] = lambda trials, participants: None,
) -> pl.DataFrame:
    """Participants needed for each number of trials.

    Args:
        question: what is to be shown.
        trials: of a participant, to compare.
        seed: of the random numbers.
        simulations: for each size of study that is tried.
        most: participants to try.
        on_study: called with trials of a participant and participants, before each size is tried.

    Returns:
        Columns `trials_each`, `participants` (null where `most` are not enough), `trials` in all,
        `power`, and `times_independent`: trials over those that independent ones would need.
    """
    independent = independent_trials(question)[0] / question.decided
    rows = []
    for each in trials:
        participants, power = participants_needed(
            question, each, seed, simulations, most, partial(on_study, each)
        )
        total = None if participants is None else participants * each
        rows.append((each, participants, total, power, None if total is None else total / independent))
    return pl.DataFrame(
        rows,
        schema={
            "trials_each": pl.Int64,
            "participants": pl.Int64,
            "trials": pl.Int64,
            "power": pl.Float64,
            "times_independent": pl.Float64,
        },
        orient="row",
    )


def central_log_odds(share: float, spread: float) -> float:
    """The mean of normal log-odds of standard deviation `spread` whose probabilities average `share`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def excess(centre: float) -> float:
        return float(weights @ special.expit(centre + spread * nodes)) - share

    return float(optimize.brentq(excess, -40.0, 40.0))
