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
from scipy import optimize, special, stats

MOST_TRIALS = 1_000_000
SIMULATIONS = 2000
MOST_PARTICIPANTS = 2000
_CHUNK = 2_000_000
"""Answers that are simulated at once: bounds the memory to about 100 MB."""


@dataclass(frozen=True)
class Question:
    """What is to be shown, and how trials cluster.

    Attributes:
        share: of the trials that choose the condition, over all participants and clips, in (0, 1).
        chance: the share to tell it from.
        decided: share of the trials that count, in (0, 1].
        participant_sd: how much participants differ in the log-odds of their choice.
        clip_sd: how much clips do.
        clips: clips in the whole study.
        significance: probability of finding a difference where there is none.
        power: probability of finding this one.
        two_sided: whether a difference in the other direction would be one too.
    """

    share: float
    chance: float
    decided: float = 1.0
    participant_sd: float = 0.5
    clip_sd: float = 0.5
    clips: int = 60
    significance: float = 0.05
    power: float = 0.8
    two_sided: bool = False


def head_to_head(share: float, other: float) -> tuple[float, float, float]:
    """The question whether one condition is chosen more often than another, in the same trials.

    Only trials that chose one of the two count; without a difference, each is chosen in half of them.

    Returns:
        `share`, `chance` and `decided` of the `Question`.
    """
    return share / (share + other), 0.5, share + other


def independent_trials(question: Question) -> tuple[int, int]:
    """How many counting trials the exact binomial test needs if trials are independent.

    The power of an exact test goes up and down with its critical number of successes.

    Returns:
        The fewest trials with the requested power, and the number from which on it never falls
        short (.60 against .50, one-sided 5 %, power 80 %: 158 and 169).

    Raises:
        ValueError: `share` is not on the tested side of `chance`, or so close to it that
            `MOST_TRIALS` are not enough.
    """
    if question.share == question.chance or (question.share < question.chance and not question.two_sided):
        raise ValueError(f"the share {question.share} must be above the chance level {question.chance}")
    spread = (question.chance * (1 - question.chance)) ** 0.5
    tail = question.significance / (2 if question.two_sided else 1)
    reach = float(stats.norm.isf(tail) + stats.norm.isf(1 - question.power))
    enough = (reach * spread / abs(question.share - question.chance)) ** 2  # by the normal distribution
    if enough > MOST_TRIALS:
        raise ValueError(
            f"{question.share} is too close to {question.chance}: it needs more than {MOST_TRIALS:,} trials"
        )
    trials = np.arange(1, int(3 * enough) + 200)
    critical = stats.binom.isf(tail, trials, question.chance) + 1
    power = stats.binom.sf(critical - 1, trials, question.share)
    if question.two_sided:
        critical = stats.binom.isf(tail, trials, 1 - question.chance) + 1
        power = power + stats.binom.sf(critical - 1, trials, 1 - question.share)
    reached = power >= question.power
    return int(trials[np.argmax(reached)]), int(trials[np.flatnonzero(~reached)[-1]]) + 1


def simulated_power(
    question: Question, participants: int, trials: int, seed: int = 0, simulations: int = SIMULATIONS
) -> float:
    """Probability that a study of this size finds the difference.

    Each simulation draws a log-odds for every participant and every clip (normal, about the one that
    gives `share` on average) and then every choice. The test is that of `statistics`: the share's
    distance from chance over its standard error, clustered by participants and by clips, in t of
    min(participants, clips) - 1 degrees of freedom. Clips are assigned evenly.

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
    rounds = -(-answers // question.clips)
    centre = central_log_odds(question.share, np.hypot(question.participant_sd, question.clip_sd))
    tail = question.significance / (2 if question.two_sided else 1)
    clips_used = min(question.clips, answers)
    critical = stats.t.isf(tail, min(participants, clips_used) - 1)
    found = 0
    size = max(1, _CHUNK // answers)
    for start in range(0, simulations, size):
        studies = min(size, simulations - start)
        of_participant = rng.normal(0, question.participant_sd, (studies, participants, 1))
        of_clip = rng.normal(0, question.clip_sd, (studies, question.clips))
        probability = special.expit(centre + of_participant + of_clip[:, clip])
        counts = rng.random(probability.shape) < question.decided if question.decided < 1 else 1.0
        chosen = rng.random(probability.shape) < probability
        total = np.maximum(np.broadcast_to(counts, probability.shape).sum(axis=(1, 2)), 1)
        share = (chosen * counts).sum(axis=(1, 2)) / total
        residual = (chosen - share[:, None, None]) * counts
        by_participant = (residual.sum(axis=2) ** 2).sum(axis=1) * participants / (participants - 1)
        dealt = np.zeros((studies, rounds * question.clips))
        dealt[:, :answers] = residual.reshape(studies, answers)
        of_clips = dealt.reshape(studies, rounds, question.clips).sum(axis=1)
        by_clip = (of_clips**2).sum(axis=1) * clips_used / (clips_used - 1)
        both = by_participant + by_clip - (residual**2).sum(axis=(1, 2))
        error = np.sqrt(np.maximum(both, np.maximum(by_participant, by_clip))) / total
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (share - question.chance) / error
        found += int(((np.abs(statistic) if question.two_sided else statistic) > critical).sum())
    return found / simulations


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
