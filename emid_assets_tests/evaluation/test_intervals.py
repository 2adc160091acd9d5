"""The bootstrap over sources, against one written out in loops."""

import numpy as np
import pytest

from emid_assets.evaluation.intervals import intervals

RNG = np.random.default_rng(0)


def test_the_interval_is_that_of_means_over_sources_drawn_again() -> None:
    sources = RNG.integers(0, 12, 80)
    values = RNG.random((80, 2)) + sources[:, None] / 10
    values[::7, 1] = np.nan
    low, high = intervals(values, sources, seed=0)
    rng = np.random.default_rng(5)
    means = []
    for _ in range(4000):
        drawn = [values[sources == source] for source in rng.choice(np.unique(sources), 12)]
        means.append(np.nanmean(np.concatenate(drawn), axis=0))
    np.testing.assert_allclose(low, np.quantile(means, 0.025, axis=0), atol=0.03)
    np.testing.assert_allclose(high, np.quantile(means, 0.975, axis=0), atol=0.03)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for study in range(200):
        rng = np.random.default_rng(study)
        sources = np.repeat(np.arange(30), 4)
        values = rng.normal(size=30)[sources] + rng.normal(size=120)
        low, high = intervals(values[:, None], sources, seed=study)
        held += int(low[0] <= 0 <= high[0])
    assert 0.88 <= held / 200 <= 0.99


def test_copies_of_a_clip_make_nothing_surer_and_few_sources_look_like_few() -> None:
    values, sources = RNG.random((60, 1)), np.arange(60)
    low, high = intervals(values, sources, seed=0)
    copied = intervals(np.repeat(values, 9, axis=0), np.repeat(sources, 9), seed=0)
    np.testing.assert_allclose(np.concatenate(copied), np.concatenate([low, high]))
    three = intervals(values[:3], sources[:3], seed=0)
    assert three[0][0] == pytest.approx(values[:3].min())
    assert three[1][0] == pytest.approx(values[:3].max())


def test_one_source_and_what_is_nowhere_defined_have_no_interval() -> None:
    low, high = intervals(RNG.random((5, 1)), np.zeros(5, np.int64), seed=0)
    assert np.isnan([low[0], high[0]]).all()
    low, _ = intervals(np.full((5, 1), np.nan), np.arange(5), seed=0)
    assert np.isnan(low[0])
