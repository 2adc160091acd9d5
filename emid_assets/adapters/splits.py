"""The split into training, validation and test.

Two protocols. *Cold*: clips of unseen sources. Split by source clip, never by clip: expanded clips
have the labels of their source, so a random split leaks. *Warm*: every clip is known, and one of
its pairs is held out.
"""

import hashlib
from collections.abc import Sequence

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def split_by_source(
    source_ids: Sequence[str], seed: int, validation: float = 0.15, test: float = 0.15
) -> list[str]:
    """The part of each clip: `train`, `validation` or `test`, the same for all clips of a source.

    Sources are sorted by sha256(seed, source id) and cut by share, so the split does not depend on
    the order of the rows and changes little when sources are added. With three or more sources, each
    part has at least one; two sources give train and validation; a single source is all train, since
    no unseen source is left to measure with.

    Args:
        source_ids: (N,) the source of each clip.
        seed: another seed gives another split.
        validation: share of the sources used to choose the epoch.
        test: share of the sources used once, at the end.

    Raises:
        ValueError: the shares are negative or leave nothing to train on.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"shares of validation ({validation}) and test ({test}) must not be negative and must sum below 1"
        )
    sources = sorted(set(source_ids), key=lambda source: hashlib.sha256(f"{seed}:{source}".encode()).digest())
    n = len(sources)
    n_validation = min(max(1, round(n * validation)), n - 1) if n >= 2 and validation else 0
    n_test = min(max(1, round(n * test)), n - n_validation - 1) if n >= 3 and test else 0
    part = dict.fromkeys(sources, TRAIN)
    part.update(dict.fromkeys(sources[:n_validation], VALIDATION))
    part.update(dict.fromkeys(sources[n_validation : n_validation + n_test], TEST))
    return [part[source] for source in source_ids]
