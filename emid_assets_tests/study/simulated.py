"""Answers of made-up participants with known preferences."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from emid_assets.store.schemas import LISTENING_STUDY, STUDY_ANSWERS

CONDITIONS = ("semantic", "fused", "adapter", "random")
EMOTIONS = ("calm", "joyful", "sad")
DESIGN = "design-1"


def answer(participant: str, trial: str, chosen: str | None, **other: Any) -> dict[str, Any]:
    """One answer; `other` replaces columns."""
    conditions = list(other.pop("conditions", CONDITIONS))
    return {
        "participant_id": participant,
        "trial_id": trial,
        "clip_id": trial.replace("trial", "clip"),
        "emotion": EMOTIONS[sum(map(ord, trial)) % len(EMOTIONS)],
        "conditions": conditions,
        "chosen_condition": chosen,
        "chosen_position": conditions.index(chosen) + 1 if chosen in conditions else None,
        "response_ms": 4000,
        "is_attention_check": False,
        "attention_passed": None,
        "language": "en",
        "answered_at": datetime(2026, 11, 1, tzinfo=UTC),
        "design_hash": DESIGN,
    } | other


def check(participant: str, number: int, passed: bool) -> dict[str, Any]:
    """The answer to an attention check."""
    return answer(
        participant, f"check {number}", None, conditions=[], is_attention_check=True,
        attention_passed=passed, chosen_position=1,
    )  # fmt: skip


def answers(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The frame STUDY_ANSWERS."""
    return pl.DataFrame(list(rows), schema=STUDY_ANSWERS.empty().schema)


def design(trials: Sequence[str], tied: Sequence[str] = (), split: str = "test") -> pl.DataFrame:
    """The frame LISTENING_STUDY of these trials."""
    rows = [
        {
            "trial_id": trial, "clip_id": trial.replace("trial", "clip"), "emotion": "sad", "split": split,
            "condition": condition, "option_id": f"{trial}-{condition}", "image_id": f"{condition}.jpg",
            "condition_rank": 1, "design_hash": DESIGN,
            "tied_with": ["fused"] if trial in tied and condition == "semantic" else [],
        }
        for trial in trials
        for condition in CONDITIONS
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=LISTENING_STUDY.empty().schema)


def simulate(
    participants: int,
    clips: int,
    trials: int,
    seed: int,
    utilities: Sequence[float] = (0.3, 0.6, 0.5, 0.0),
    participant_sd: float = 0.4,
    clip_sd: float = 0.5,
) -> pl.DataFrame:
    """Every participant hears `trials` clips by lot and picks by softmax of utilities that vary by both."""
    rng = np.random.default_rng(seed)
    of_participant = rng.normal(0, participant_sd, (participants, len(CONDITIONS)))
    of_clip = rng.normal(0, clip_sd, (clips, len(CONDITIONS)))
    rows = []
    for person in range(participants):
        for clip in rng.choice(clips, trials, replace=False):
            weights = np.exp(np.asarray(utilities) + of_participant[person] + of_clip[clip])
            chosen = rng.choice(len(CONDITIONS), p=weights / weights.sum())
            screen = [CONDITIONS[place] for place in rng.permutation(len(CONDITIONS))]
            rows.append(
                answer(f"person {person:03}", f"trial {clip:03}", CONDITIONS[chosen], conditions=screen)
            )
    return answers(rows)
