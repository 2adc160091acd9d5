"""Chance; the formula's order is tested with the frames."""

import numpy as np

from emid_assets.evaluation.baselines import random_scores


def test_random_scores_are_the_same_for_the_same_seed_and_query_only() -> None:
    first = random_scores(0, 50)(np.array([3, 4]))
    np.testing.assert_array_equal(first[1:], random_scores(0, 50)(np.array([4])))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1:], random_scores(1, 50)(np.array([4])))
