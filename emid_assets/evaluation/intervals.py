"""How sure a mean over clips is: its interval if other recordings had been in the test part.

Belongs here: a bootstrap over sources. Clips of one source resemble each other, so that sources are drawn,
not clips: a test part of three recordings has the interval of three, however many clips they were cut into.
"""

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


def intervals(values: Floats, sources: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Percentile intervals of means over clips, by sources drawn with replacement.

    Every column uses the same draws, and so does every system with the same clips and seed.

    Args:
        values: (n, q) a value of each clip in each column; NaN where it is not defined.
        sources: (n,) number of each clip's source.
        seed: of the draws.

    Returns:
        (q,) lower and upper ends; NaN with fewer than two sources, or where nothing is defined.
    """
    names, number = np.unique(sources, return_inverse=True)
    ends = np.full((2, values.shape[1]), np.nan)
    if len(names) < 2:
        return ends[0], ends[1]
    defined = np.isfinite(values)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, number, np.where(defined, values, 0.0))
    np.add.at(counts, number, defined)
    draws = np.random.default_rng([seed, len(names)])
    drawn = draws.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    with np.errstate(invalid="ignore"):
        means = (drawn @ sums) / (drawn @ counts)
    outside = (1 - CONFIDENCE) / 2
    some = np.isfinite(means).any(axis=0)
    ends[:, some] = np.nanquantile(means[:, some], [outside, 1 - outside], axis=0)
    return ends[0], ends[1]
