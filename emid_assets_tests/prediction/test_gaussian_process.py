"""The regression: against Gaussian processes written out, and honest about what it has not seen."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from emid_assets.prediction.gaussian_process import (
    GaussianProcess,
    Places,
    Validation,
    calibration,
    cross_validate,
    figures_of,
    fit_process,
    folds_of,
    left_out_errors,
)

Floats = NDArray[np.float64]
BLOCKS = (2, 4)


def rated(n: int, noise: float = 0.05, per_group: int = 1, seed: int = 0) -> tuple[Floats, Floats, list[str]]:
    """Features of which ratings are a smooth function, and noise; groups of alike images."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((-(-n // per_group), 6))
    features = np.repeat(centres, per_group, axis=0)[:n] + 0.1 * rng.standard_normal((n, 6))
    va = np.stack([np.tanh(features[:, 0] + 0.5 * features[:, 1]), np.sin(features[:, 2])], axis=1)
    ratings = 0.5 + 0.2 * va + noise * rng.standard_normal((n, 2))
    return features, ratings, [str(place // per_group) for place in range(n)]


def fitted(features: Floats, ratings: Floats, groups: Sequence[str]) -> GaussianProcess:
    return fit_process(features.astype(np.float32), ratings, groups, BLOCKS)[0]


def validated(
    features: Floats, ratings: Floats, groups: Sequence[str], blocks: Sequence[int] = BLOCKS
) -> Validation:
    columns = features.astype(np.float32)

    def predict(kept: Places, kept_groups: Sequence[str], asked: Places) -> tuple[Floats, Floats]:
        return fit_process(columns[kept], ratings[kept], kept_groups, blocks)[0].predict(columns[asked])

    return cross_validate(predict, groups, seed=0)


def test_predictions_are_gaussian_process_regression_written_out() -> None:
    features, ratings, groups = rated(60)
    head = fitted(features, ratings, groups)
    new, _, _ = rated(9, seed=1)
    va, sd = head.predict(new.astype(np.float32))
    x = features.astype(np.float32).astype(np.float64)
    scaled, asked = ((part - x.mean(0)) / x.std(0) for part in (x, new.astype(np.float32).astype(np.float64)))
    for axis in range(2):

        def kernel(a: Floats, b: Floats, axis: int = axis) -> Floats:
            apart = (a[:, None] - b[None]) ** 2
            short, long = apart[..., :2].mean(axis=2), apart[..., 2:].mean(axis=2)
            return (np.exp(-head.bandwidth[axis] * short / 2) + np.exp(-head.bandwidth[axis] * long / 2)) / 2

        noisy = kernel(scaled, scaled) + head.noise[axis] * np.eye(60)
        across = kernel(asked, scaled)
        mean = ratings[:, axis].mean()
        expected = mean + across @ np.linalg.solve(noisy, ratings[:, axis] - mean)
        variance = 1 + head.noise[axis] - np.diag(across @ np.linalg.solve(noisy, across.T))
        np.testing.assert_allclose(va[:, axis], expected, atol=1e-8)
        np.testing.assert_allclose(sd[:, axis], np.sqrt(head.scale[axis] * variance), rtol=1e-6)


def test_predictions_of_many_images_take_the_memory_of_few_and_are_the_same() -> None:
    features, ratings, groups = rated(200)
    head = fitted(features, ratings, groups)
    many = np.random.default_rng(3).normal(size=(100_000, 6)).astype(np.float32)
    tracemalloc.start()
    va, sd = head.predict(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # one array of images × training images takes 160 MB
    for start in (0, 1000, 99_000):
        some = slice(start, start + 40)
        alone = [head.predict(image[None]) for image in many[some]]
        np.testing.assert_allclose(va[some], np.concatenate([each for each, _ in alone]), atol=1e-12)
        np.testing.assert_allclose(sd[some], np.concatenate([each for _, each in alone]), atol=1e-9)


def test_errors_of_left_out_groups_are_those_of_fits_without_them() -> None:
    features, ratings, _ = rated(30)
    kernel = np.exp(-((features[:, None] - features[None]) ** 2).mean(axis=2)) + 0.1 * np.eye(30)
    members = [np.array([0, 5, 9, 2]), np.array([1, 3, 4, 6]), np.array([7]), np.r_[8, 10:30]]
    of_size = [np.stack(members[:2]), members[2][None], members[3][None]]
    errors, variances = left_out_errors(*np.linalg.eigh(kernel), ratings, of_size)
    for group in members:
        kept = np.setdiff1d(np.arange(30), group)
        solved = np.linalg.solve(
            kernel[np.ix_(kept, kept)], np.c_[ratings[kept], kernel[np.ix_(kept, group)]]
        )
        np.testing.assert_allclose(
            errors[group], ratings[group] - kernel[np.ix_(group, kept)] @ solved[:, :2], atol=1e-9
        )
        left = kernel[np.ix_(group, group)] - kernel[np.ix_(group, kept)] @ solved[:, 2:]
        np.testing.assert_allclose(variances[group], np.diag(left), atol=1e-9)


def test_folds_keep_groups_together_and_are_of_about_equal_size() -> None:
    groups = [str(place // 7) for place in range(203)]
    fold = folds_of(groups, 10, seed=3)
    for group in set(groups):
        assert len({int(fold[place]) for place in range(203) if groups[place] == group}) == 1
    sizes = np.bincount(fold)
    assert len(sizes) == 10
    assert sizes.max() - sizes.min() <= 7
    assert (fold == folds_of(groups, 10, seed=3)).all()
    assert (fold != folds_of(groups, 10, seed=4)).any()


def test_validation_sees_nothing_of_the_group_that_it_predicts() -> None:
    """Features that name the group and nothing else predict only where a group is in both parts."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(60), 3)
    features = rng.standard_normal((60, 40))[names].astype(np.float32)
    ratings = np.clip(0.5 + 0.15 * rng.standard_normal((60, 2))[names], 0, 1)
    grouped = validated(features, ratings, [str(name) for name in names], (40,))
    at_random = validated(features, ratings, [str(place) for place in range(180)], (40,))
    leaking = figures_of(at_random.va, ratings)
    honest = figures_of(grouped.va, ratings)
    assert min(leaking["valence_r"], leaking["arousal_r"]) > 0.9
    assert max(honest["valence_r2"], honest["arousal_r2"]) < 0.1


def test_validation_finds_what_can_be_learnt_and_tells_its_error() -> None:
    features, ratings, groups = rated(240, noise=0.08, per_group=2)
    validation = validated(features, ratings, groups)
    figures = figures_of(validation.va, ratings)
    assert figures["valence_r"] > 0.7
    assert figures["arousal_r"] > 0.6
    for line in calibration(validation.va, validation.sd, ratings):
        assert abs(float(line["observed"]) - float(line["nominal"])) < 0.09


def test_an_image_unlike_all_others_is_told_to_be_less_sure() -> None:
    features, ratings, groups = rated(120)
    head = fitted(features, ratings, groups)
    _, near = head.predict(features[:5].astype(np.float32))
    va, far = head.predict(np.full((1, 6), 30.0, np.float32))
    assert (far > near.max(axis=0)).all()
    np.testing.assert_allclose(va[0], ratings.mean(axis=0), atol=0.02)


def test_figures_are_those_of_their_definitions() -> None:
    ratings = np.array([[0.2, 0.5], [0.4, 0.1], [0.9, 0.3]])
    figures = figures_of(ratings + np.array([[0.1, 0.0], [0.1, 0.0], [0.1, 0.3]]), ratings)
    assert figures["valence_r"] == pytest.approx(1.0)
    assert figures["valence_rmse"] == pytest.approx(0.1)
    assert figures["valence_r2"] == pytest.approx(1 - 0.01 / np.var([0.2, 0.4, 0.9]))
    assert figures["arousal_r2"] == pytest.approx(1 - (0.09 / 3) / np.var([0.5, 0.1, 0.3]))


def test_calibration_counts_the_ratings_within_each_interval() -> None:
    away = np.linspace(-3, 3, 601)
    va, ratings = np.zeros((601, 2)), np.stack([away, 2 * away], axis=1)
    lines = calibration(va, np.ones((601, 2)), ratings)
    half = {(line["axis"], line["nominal"]): line["observed"] for line in lines}
    assert half["valence", 0.95] == pytest.approx(np.mean(np.abs(away) <= 1.95996))
    assert half["arousal", 0.5] == pytest.approx(np.mean(np.abs(2 * away) <= 0.67449))


def test_one_series_in_all_is_validated_by_image_and_says_so() -> None:
    features, ratings, _ = rated(40)
    validation = validated(features, ratings, ["IMG"] * 40)
    assert (validation.singly, validation.groups) == (True, 40)


def test_what_is_unknown_of_a_block_counts_as_unlike_everything() -> None:
    """Against the process written out, with zeros for unknown blocks and ones on the diagonal."""
    features, ratings, groups = rated(50)
    features[::3, 2:] = np.nan
    head = fitted(features, ratings, groups)
    new, _, _ = rated(6, seed=1)
    new[::2, 2:] = np.nan
    va, sd = head.predict(new.astype(np.float32))
    x = features.astype(np.float32).astype(np.float64)
    spread = np.nanstd(x, axis=0)
    for axis in range(2):

        def alike(one: Floats, other: Floats, axis: int = axis) -> float:
            apart = ((one - other) / spread) ** 2
            parts = [np.exp(-head.bandwidth[axis] * part.mean() / 2) for part in (apart[:2], apart[2:])]
            return float(np.nan_to_num(parts, nan=0.0).mean())

        noisy = np.array([[1.0 if a is b else alike(a, b) for b in list(x)] for a in list(x)])
        noisy[np.diag_indices(50)] = 1 + head.noise[axis]
        across = np.array([[alike(a, b) for b in x] for a in new.astype(np.float32).astype(np.float64)])
        level = ratings[:, axis].mean()
        expected = level + across @ np.linalg.solve(noisy, ratings[:, axis] - level)
        variance = 1 + head.noise[axis] - np.diag(across @ np.linalg.solve(noisy, across.T))
        np.testing.assert_allclose(va[:, axis], expected, atol=1e-8)
        np.testing.assert_allclose(sd[:, axis], np.sqrt(head.scale[axis] * variance), rtol=1e-6)


def test_the_errors_of_a_fit_are_those_of_fits_without_each_group() -> None:
    features, ratings, groups = rated(40, per_group=2)
    process, errors = fit_process(features.astype(np.float32), ratings, groups, (6,))
    apart = ((features[:, None] - features[None]) / features.std(axis=0)) ** 2
    for axis in range(2):
        kernel = np.exp(-process.bandwidth[axis] * apart.mean(axis=2) / 2)
        out, kept = np.arange(6, 8), np.delete(np.arange(40), [6, 7])
        noisy = kernel[np.ix_(kept, kept)] + process.noise[axis] * np.eye(38)
        level = ratings[:, axis].mean()
        predicted = level + kernel[np.ix_(out, kept)] @ np.linalg.solve(noisy, ratings[kept, axis] - level)
        np.testing.assert_allclose(errors[out, axis], ratings[out, axis] - predicted, atol=1e-5)
