"""Gaussian process regression of valence and arousal on blocks of features, with its validation.

Belongs here: fitting with hyperparameters chosen by leave-one-group-out error, predictions with their own
uncertainty, groups held out, and the figures of that. Which features: `image_head`. No network, no files.

There are few rated media (hundreds) and many features (thousands). A kernel on the features suits that,
gives each prediction its own uncertainty, and its leave-one-group-out errors need no refitting
(Rasmussen and Williams 2006, section 5.4.2, for single points; here for groups).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

AXES = ("valence", "arousal")
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
NOISES = tuple(float(noise) for noise in 10 ** np.linspace(-3, 1.5, 10))
FOLDS = 20
MIN_GROUPS = 5
PREDICTED_AT_ONCE = 1024
"""Media that are compared with the training media at once: bounds the memory to about 150 MB."""
NOMINAL = (0.5, 0.68, 0.8, 0.9, 0.95)
"""Nominal probabilities of the intervals whose calibration is reported."""


@dataclass(frozen=True)
class GaussianProcess:
    """A trained regression, one process for each axis.

    A block of a medium's features may be unknown: NaN. It is then like no other medium's, so that what the
    block would have told counts as uncertainty.

    Attributes:
        blocks: (b,) lengths of the blocks of features, such as one layer's; their sum is d.
        centre: (d,) mean of the features.
        unit: (d,) divisor of a feature: its standard deviation times the square root of its block's length.
        support: (n, d) features of the rated media, centred and scaled; NaN where unknown.
        bandwidth: (2,) of the kernel, the mean over the blocks of exp(-|x - y|² bandwidth / 2).
        noise: (2,) variance of the noise, relative to the kernel's.
        scale: (2,) variance of the kernel, set so that predicted deviations match errors of held-out groups.
        level: (2,) mean rating.
        weights: (2, n) of the support.
        covariance: (2, n, n) inverse of kernel plus noise.
    """

    blocks: NDArray[np.int64]
    centre: Floats
    unit: Floats
    support: Floats
    bandwidth: Floats
    noise: Floats
    scale: Floats
    level: Floats
    weights: Floats
    covariance: Floats

    def predict(self, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Means (n, 2), and standard deviations (n, 2) that include the ratings' noise.

        Args:
            features: (n, d) float32.
        """
        found = [self._predict(features[:0])]
        for start in range(0, len(features), PREDICTED_AT_ONCE):
            found.append(self._predict(features[start : start + PREDICTED_AT_ONCE]))
        mean, sd = (np.concatenate(part) for part in zip(*found, strict=True))
        return mean, sd

    def _predict(self, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        scaled = (features.astype(np.float64) - self.centre) / self.unit
        mean, sd = np.empty((len(scaled), 2)), np.empty((len(scaled), 2))
        distances = _square_distances(scaled, self.support, self.blocks)
        for axis in range(2):
            kernel = _kernel(distances, float(self.bandwidth[axis]))
            mean[:, axis] = self.level[axis] + kernel @ self.weights[axis]
            explained = np.einsum("ij,jk,ik->i", kernel, self.covariance[axis], kernel, optimize=True)
            sd[:, axis] = np.sqrt(self.scale[axis] * np.maximum(1 + self.noise[axis] - explained, 1e-12))
        return mean, sd


def fit_process(
    features: NDArray[np.float32], ratings: Floats, groups: Sequence[str], blocks: Sequence[int]
) -> tuple[GaussianProcess, Floats]:
    """Fit a process; bandwidth and noise of each axis are those with the least error on held-out groups.

    Args:
        features: (n, d); a block that is unknown for a medium is NaN there, and known for some.
        ratings: (n, 2) valence and arousal.
        groups: n names; media of one group are held out together.
        blocks: lengths of the blocks of features; all blocks have the same weight.

    Returns:
        The process, and the errors (n, 2) of each medium predicted without its group.
    """
    # Use one memory layout, whatever the caller's: the layout changes the order of sums in products.
    columns, ratings = np.ascontiguousarray(features, np.float64), np.ascontiguousarray(ratings, np.float64)
    centre, spread = np.nanmean(columns, axis=0), np.nanstd(columns, axis=0)
    # A constant feature has no information, and must not blow up on a medium where it differs.
    sizes = np.array(blocks, dtype=np.int64)
    unit = np.where(spread > 1e-6, spread, 1.0) * np.sqrt(np.repeat(sizes, sizes))
    support = (columns - centre) / unit
    distances = _square_distances(support, support, sizes)
    for of_block in distances:
        np.fill_diagonal(of_block, 0.0)  # a medium is like itself, in blocks that are unknown too
    level = ratings.mean(axis=0)
    members = members_by_size(groups)
    least = [(np.inf, 0.0, 0.0, 0.0)] * 2
    left_out = np.empty_like(ratings)
    for bandwidth in BANDWIDTHS:
        values, vectors = np.linalg.eigh(_kernel(distances, bandwidth))
        for noise in NOISES:
            errors, variances = left_out_errors(
                np.maximum(values, 0) + noise, vectors, ratings - level, members
            )
            for axis in range(2):
                loss = float(np.mean(errors[:, axis] ** 2))
                if loss < least[axis][0]:
                    scale = float(np.mean(errors[:, axis] ** 2 / variances))
                    least[axis] = (loss, bandwidth, noise, scale)
                    left_out[:, axis] = errors[:, axis]
    _, bandwidths, noises, scales = (np.array(column) for column in zip(*least, strict=True))
    covariance = np.stack(
        [
            np.linalg.inv(_kernel(distances, bandwidths[axis]) + noises[axis] * np.eye(len(support)))
            for axis in range(2)
        ]
    )
    weights = np.einsum("aij,ja->ai", covariance, ratings - level)
    process = GaussianProcess(
        sizes, centre, unit, support, bandwidths, noises, scales, level, weights, covariance
    )
    return process, left_out


def left_out_errors(
    values: Floats, vectors: Floats, ratings: Floats, members: Sequence[Places]
) -> tuple[Floats, Floats]:
    """Errors (n, 2) of each medium predicted without its group, and their unscaled variances (n,).

    With C the inverse of the kernel with its noise, and G a group: errors C[G, G]⁻¹ (C y)[G], covariance
    C[G, G]⁻¹. C itself is never needed, only its blocks.

    Args:
        values: (n,) eigenvalues of the kernel with its noise.
        vectors: (n, n) its eigenvectors, as columns.
        ratings: (n, 2), y.
        members: places of the media of the groups, an array (groups, size) for each size of a group.
    """
    errors, variances = np.empty_like(ratings), np.empty(len(ratings))
    solved = vectors @ ((vectors.T @ ratings) / values[:, None])
    for of_size in members:
        rows = vectors[of_size]
        blocks = np.linalg.inv((rows / values) @ rows.transpose(0, 2, 1))
        errors[of_size] = blocks @ solved[of_size]
        variances[of_size] = np.diagonal(blocks, axis1=1, axis2=2)
    return errors, variances


@dataclass(frozen=True)
class Validation:
    """Cross-validated predictions.

    Attributes:
        va: (n, 2) of each medium, from a head that saw none of its group.
        sd: (n, 2) standard deviations predicted by this head.
        groups: number of groups.
        singly: whether there were too few groups, so that each medium was its own.
    """

    va: Floats
    sd: Floats
    groups: int
    singly: bool


def cross_validate(
    predict: Callable[[Places, Sequence[str], Places], tuple[Floats, Floats]],
    groups: Sequence[str],
    seed: int,
    folds: int = FOLDS,
) -> Validation:
    """Predict every medium with a head fitted without its group, hyperparameters included.

    Args:
        predict: fits a head on the media at some places, with their groups, and predicts those at others:
            valence and arousal (m, 2), standard deviations (m, 2).
        groups: n names. If there are fewer than five, every medium is its own group.
        seed: of the assignment of groups to folds.
        folds: largest number of folds; groups are distributed to make folds of about equal size.
    """
    singly = len(set(groups)) < MIN_GROUPS
    if singly:
        groups = [str(place) for place in range(len(groups))]
    fold = folds_of(groups, min(folds, len(set(groups))), seed)
    va, sd = np.empty((len(groups), 2)), np.empty((len(groups), 2))
    for held_out in range(fold.max() + 1):
        test, kept = np.flatnonzero(fold == held_out), np.flatnonzero(fold != held_out)
        va[test], sd[test] = predict(kept, [groups[place] for place in kept.tolist()], test)
    return Validation(va, sd, len(set(groups)), singly)


def figures_of(va: Floats, ratings: Floats) -> dict[str, float]:
    """r, R² and root mean square error of each axis, such as `valence_r`.

    R² is 1 - Σ(prediction - rating)² / Σ(rating - mean)²: unlike r², it penalises a wrong scale or offset.
    """
    found = {}
    for place, axis in enumerate(AXES):
        error = va[:, place] - ratings[:, place]
        found[f"{axis}_r"] = float(np.corrcoef(va[:, place], ratings[:, place])[0, 1])
        found[f"{axis}_r2"] = float(1 - np.mean(error**2) / np.var(ratings[:, place]))
        found[f"{axis}_rmse"] = float(np.sqrt(np.mean(error**2)))
    return found


def calibration(va: Floats, sd: Floats, ratings: Floats) -> list[dict[str, str | float]]:
    """For each axis and nominal probability, the share of ratings within the prediction's interval."""
    away = np.abs(va - ratings) / sd
    return [
        {
            "axis": axis,
            "nominal": nominal,
            "observed": float(np.mean(away[:, place] <= NormalDist().inv_cdf((1 + nominal) / 2))),
        }
        for place, axis in enumerate(AXES)
        for nominal in NOMINAL
    ]


def folds_of(groups: Sequence[str], folds: int, seed: int) -> Places:
    """The fold of each medium: groups in random order, each assigned to the fold with the fewest media."""
    names = sorted(set(groups))
    sizes = dict.fromkeys(names, 0)
    for group in groups:
        sizes[group] += 1
    load = np.zeros(folds, dtype=np.int64)
    fold_of = {}
    for place in np.random.default_rng(seed).permutation(len(names)):
        name = names[place]
        fold_of[name] = int(load.argmin())
        load[fold_of[name]] += sizes[name]
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def members_by_size(groups: Sequence[str]) -> list[Places]:
    """Places of the media of the groups, an array (groups, size) for each size of a group."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    of_size: dict[int, list[list[int]]] = {}
    for _, members in sorted(places.items()):
        of_size.setdefault(len(members), []).append(members)
    return [np.array(members) for _, members in sorted(of_size.items())]


def _square_distances(a: Floats, b: Floats, blocks: NDArray[np.int64]) -> list[Floats]:
    """Squared distances (n, m) between rows, one array for each block; infinite where one is unknown."""
    ends = np.cumsum(blocks)[:-1]
    found = []
    for x, y in zip(np.split(a, ends, axis=1), np.split(b, ends, axis=1), strict=True):
        squares = np.maximum((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T, 0.0)
        found.append(np.where(np.isnan(squares), np.inf, squares))
    return found


def _kernel(distances: list[Floats], bandwidth: float) -> Floats:
    mean: Floats = np.mean([np.exp(-of_block * bandwidth / 2) for of_block in distances], axis=0)
    return mean
