"""Predicts a clip's valence and arousal from its tags.

Belongs here: the tags of the two networks, which of them count for and against valence and arousal, and
the arithmetic from log-odds to ratings with their uncertainty. No network.

The rule is not trained: it is a signed sum of log-odds, scaled to the ratings. On 356 clips of MUSIFEAST-17,
with human ratings, none of which influenced it, it correlates .59 with valence and .84 with arousal.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emid_assets.encoders.interface import Float32Array

RULE_VERSION = "1"

TAGS = {
    "MTT": (
        "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano",
        "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing",
        "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal",
        "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice",
        "female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal", "female voice",
        "choral",
    ),
    "MSD": (
        "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s",
        "alternative rock", "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock",
        "soul", "indie rock", "Mellow", "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk",
        "oldies", "blues", "hard rock", "ambient", "acoustic", "experimental", "female vocalist", "guitar",
        "Hip-Hop", "70s", "party", "country", "easy listening", "sexy", "catchy", "funk", "electro",
        "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad", "House", "happy",
    ),
}  # fmt: skip
"""The 50 tags of each network, in the order of its outputs (MagnaTagATune, Million Song Dataset)."""

ALL_TAGS = tuple(f"{network} {tag}" for network, tags in TAGS.items() for tag in tags)

RULE: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "valence": {
        "MSD": (
            ("happy", "party", "dance", "catchy", "funk", "soul", "pop", "country", "60s", "oldies"),
            ("sad", "ambient", "experimental", "metal", "heavy metal", "Progressive rock"),
        ),
    },
    "arousal": {
        "MTT": (
            ("loud", "fast", "techno", "drums", "beat", "rock", "metal", "dance"),
            ("slow", "quiet", "soft", "ambient", "new age", "classical"),
        ),
        "MSD": (
            ("rock", "dance", "metal", "punk", "hard rock", "party", "heavy metal", "electro", "House"),
            ("Mellow", "chillout", "chill", "ambient", "acoustic", "easy listening", "sad", "folk"),
        ),
    },
}
"""Axis → network → the tags that count for it and those that count against it, each with weight one."""

CORRELATION = {"valence": 0.59, "arousal": 0.84}
"""Of the rule with the mean human rating, on 356 clips of MUSIFEAST-17."""

RATING_MEAN = {"valence": 5.31, "arousal": 5.28}
RATING_SPREAD = {"valence": 1.04, "arousal": 0.92}
"""Mean and standard deviation of the published ratings, 1 to 9, over 1,473 clips (Cowen et al. 2020)."""

RULE_SD = {"valence": 0.84, "arousal": 0.94}
"""Standard deviation of a rating around the rule's value, 1 to 9, the larger of two figures for each axis.

Derived: spread · sqrt(1 - r²) is .84 and .50. Measured: the root mean square error on 167 clips of
MUSIFEAST-17, whose ratings from 1 to 5 were mapped to 1 to 9, is .74 and .94. People there used more of
the scale of arousal than the published ratings do.
"""

REFERENCE_FILE = Path(__file__).with_name("music_reference.json")


@dataclass(frozen=True)
class Reference:
    """Mean and standard deviation of each axis's signed sum over the reference population of music."""

    mean: tuple[float, float]
    spread: tuple[float, float]


def shipped_reference() -> Reference:
    """The reference made by `tools/make_music_reference.py`."""
    stored = json.loads(REFERENCE_FILE.read_text(encoding="utf-8"))
    return Reference(tuple(stored["mean"]), tuple(stored["spread"]))


def signed_sums(log_odds: Float32Array) -> NDArray[np.float64]:
    """(n, 2) float64: for valence and arousal, the sum of log-odds for it minus those against it.

    Args:
        log_odds: (n, 100) in the order of `ALL_TAGS`.
    """
    weights = np.zeros((len(ALL_TAGS), len(RULE)))
    for axis, networks in enumerate(RULE.values()):
        for network, signs in networks.items():
            for sign, tags in zip((1.0, -1.0), signs, strict=True):
                weights[[ALL_TAGS.index(f"{network} {tag}") for tag in tags], axis] = sign
    sums: NDArray[np.float64] = log_odds.astype(np.float64) @ weights
    return sums


def predict_music(
    log_odds: Float32Array, reference: Reference
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Valence and arousal (n, 2) on the scale 1 to 9, and their standard deviations (n, 2).

    z, the signed sum standardised by the reference population, is shrunk towards the mean by the rule's
    correlation r with ratings: mean + r · spread · z. This is the regression of ratings on z, so a prediction
    is never more extreme than the rule's accuracy justifies. The standard deviation is the rule's, RULE_SD,
    and therefore the same for every clip.

    Args:
        log_odds: (n, 100) in the order of `ALL_TAGS`.
        reference: of the signed sums.
    """
    z = (signed_sums(log_odds) - np.array(reference.mean)) / np.array(reference.spread)
    r = np.array(list(CORRELATION.values()))
    mean, spread = np.array(list(RATING_MEAN.values())), np.array(list(RATING_SPREAD.values()))
    va = np.clip(mean + r * spread * z, 1.0, 9.0)
    return va, np.broadcast_to(list(RULE_SD.values()), va.shape).copy()
