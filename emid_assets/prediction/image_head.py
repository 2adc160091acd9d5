"""The head that predicts valence and arousal from an image's features: training, validation, prediction.

Belongs here: Gaussian process regression with hyperparameters chosen by leave-one-group-out error, its
cross-validation, and its file. No network, no reading of images.

There are few rated images (hundreds) and many features (thousands). A kernel on the features suits that,
gives each prediction its own uncertainty, and its leave-one-group-out errors need no refitting
(Rasmussen and Williams 2006, section 5.4.2, for single points; here for groups).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import make_folder, put_in_place
from emid_assets.store.schemas import IMAGE_EMOTION_HEAD

Floats = NDArray[np.float64]

HEAD_VERSION = "1"
AXES = ("valence", "arousal")
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
NOISES = tuple(float(noise) for noise in 10 ** np.linspace(-3, 1.5, 10))
FOLDS = 20
MIN_GROUPS = 5
MOST_IMAGES = 1500
"""Largest number of rated images to train on: the cost grows with its cube."""
PREDICTED_AT_ONCE = 1024
"""Images that are compared with the training images at once: bounds the memory to about 150 MB."""
NOMINAL = (0.5, 0.68, 0.8, 0.9, 0.95)
"""Nominal probabilities of the intervals whose calibration is reported."""


@dataclass(frozen=True)
class ImageEmotionHead:
    """A trained head, one Gaussian process for each axis.

    Attributes:
        blocks: (b,) lengths of the blocks of features, such as one layer's; their sum is d.
        centre: (d,) mean of the features.
        unit: (d,) divisor of a feature: its standard deviation times the square root of its block's length.
        support: (n, d) features of the rated images, centred and scaled.
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
        """Valence and arousal (n, 2), 0 to 1, and standard deviations (n, 2) that include the ratings' noise.

        Args:
            features: (n, d) float32.
        """
        found = [self._predict(features[:0])]
        for start in range(0, len(features), PREDICTED_AT_ONCE):
            found.append(self._predict(features[start : start + PREDICTED_AT_ONCE]))
        va, sd = (np.concatenate(part) for part in zip(*found, strict=True))
        return va, sd

    def _predict(self, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        scaled = (features.astype(np.float64) - self.centre) / self.unit
        va, sd = np.empty((len(scaled), 2)), np.empty((len(scaled), 2))
        distances = _square_distances(scaled, self.support, self.blocks)
        for axis in range(2):
            kernel = _kernel(distances, float(self.bandwidth[axis]))
            va[:, axis] = self.level[axis] + kernel @ self.weights[axis]
            explained = np.einsum("ij,jk,ik->i", kernel, self.covariance[axis], kernel, optimize=True)
            sd[:, axis] = np.sqrt(self.scale[axis] * np.maximum(1 + self.noise[axis] - explained, 1e-12))
        return np.clip(va, 0.0, 1.0), sd

    def save(self, path: Path) -> str:
        """Write the head as safetensors; the same head gives the same bytes. Returns their sha256."""
        make_folder(path.parent)
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @staticmethod
    def load(path: Path) -> "ImageEmotionHead":
        """A head written by `save`."""
        return ImageEmotionHead(**load_file(path))


@dataclass(frozen=True)
class Validation:
    """Cross-validated predictions.

    Attributes:
        va: (n, 2) of each image, from a head that saw no image of its group.
        sd: (n, 2) standard deviations predicted by this head.
        groups: number of groups.
        grouped_by: `series`, or `image` if there are too few series.
    """

    va: Floats
    sd: Floats
    groups: int
    grouped_by: str


def fit_head(
    features: NDArray[np.float32], ratings: Floats, groups: Sequence[str], blocks: Sequence[int]
) -> ImageEmotionHead:
    """Fit a head; bandwidth and noise of each axis are those with the least error on held-out groups.

    Args:
        features: (n, d).
        ratings: (n, 2) valence and arousal, 0 to 1.
        groups: n names; images of one group are held out together.
        blocks: lengths of the blocks of features; all blocks have the same weight.
    """
    # Use one memory layout, whatever the caller's: the layout changes the order of sums in products.
    columns, ratings = np.ascontiguousarray(features, np.float64), np.ascontiguousarray(ratings, np.float64)
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    # A constant feature has no information, and must not blow up on an image where it differs.
    sizes = np.array(blocks, dtype=np.int64)
    unit = np.where(spread > 1e-6, spread, 1.0) * np.sqrt(np.repeat(sizes, sizes))
    support = (columns - centre) / unit
    distances = _square_distances(support, support, sizes)
    level = ratings.mean(axis=0)
    members = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
    best: list[tuple[float, float, float, float]] = [(np.inf, 0.0, 0.0, 0.0)] * 2
    for bandwidth in BANDWIDTHS:
        values, vectors = np.linalg.eigh(_kernel(distances, bandwidth))
        for noise in NOISES:
            inverse = (vectors / (np.maximum(values, 0) + noise)) @ vectors.T
            errors, variances = left_out_errors(inverse, inverse @ (ratings - level), members)
            for axis in range(2):
                loss = float(np.mean(errors[:, axis] ** 2))
                if loss < best[axis][0]:
                    scale = float(np.mean(errors[:, axis] ** 2 / variances))
                    best[axis] = (loss, bandwidth, noise, scale)
    _, bandwidths, noises, scales = (np.array(column) for column in zip(*best, strict=True))
    covariance = np.stack(
        [
            np.linalg.inv(_kernel(distances, bandwidths[axis]) + noises[axis] * np.eye(len(support)))
            for axis in range(2)
        ]
    )
    weights = np.einsum("aij,ja->ai", covariance, ratings - level)
    return ImageEmotionHead(
        sizes, centre, unit, support, bandwidths, noises, scales, level, weights, covariance
    )


def cross_validate(
    features: NDArray[np.float32],
    ratings: Floats,
    groups: Sequence[str],
    blocks: Sequence[int],
    seed: int,
    folds: int = FOLDS,
) -> Validation:
    """Predict every image with a head fitted without its group, hyperparameters included.

    Args:
        features: (n, d).
        ratings: (n, 2).
        groups: n names. If there are fewer than five, every image is its own group.
        blocks: as in `fit_head`.
        seed: of the assignment of groups to folds.
        folds: largest number of folds; groups are distributed to make folds of about equal size.
    """
    grouped_by = "series"
    if len(set(groups)) < MIN_GROUPS:
        groups, grouped_by = [str(place) for place in range(len(groups))], "image"
    fold = folds_of(groups, min(folds, len(set(groups))), seed)
    va, sd = np.empty_like(ratings), np.empty_like(ratings)
    for held_out in range(fold.max() + 1):
        test = fold == held_out
        kept = [group for group, out in zip(groups, test, strict=True) if not out]
        va[test], sd[test] = fit_head(features[~test], ratings[~test], kept, blocks).predict(features[test])
    return Validation(va, sd, len(set(groups)), grouped_by)


def head_frame(
    rated: pl.DataFrame,
    features: pl.DataFrame,
    fingerprint: str,
    blocks: Sequence[int],
    seed: int,
    folder: Path,
    previous: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Train, validate and store a head: a row of IMAGE_EMOTION_HEAD, and its file in `folder`.

    If the stored head was trained on the same data, it is kept. Files of earlier heads are removed, except
    the one that `previous` names.

    Args:
        rated: rows of MEDIA_INVENTORY: item_id, source_id, valence and arousal are read.
        features: frame IMAGE_FEATURES.
        fingerprint: of the features.
        blocks: lengths of their blocks.
        seed: of the folds, and of the sample if more images are rated than used for training.
        folder: of the heads, in the lake's folder.
        previous: the table's stored version.

    Returns:
        The row; no row if fewer than two rated images have features.
    """
    joined = rated.select("item_id", "source_id", "valence", "arousal").join(
        features.drop_nulls("features").select(
            pl.col("image_id").alias("item_id"), "content_hash", "features"
        ),
        on="item_id",
    )
    joined = joined.sort("item_id")
    if joined.height > MOST_IMAGES:
        joined = joined.sample(MOST_IMAGES, seed=seed).sort("item_id")
    if joined.height < 2:
        return IMAGE_EMOTION_HEAD.empty()
    learnt_from = frame_digest(joined.drop("features"), HEAD_VERSION, fingerprint, str(seed))
    kept = folder.parent / previous["weights_file"][0] if previous is not None and previous.height else None
    if (
        kept is not None
        and previous is not None
        and previous["learnt_from"][0] == learnt_from
        and kept.exists()
    ):
        return previous
    matrix = joined["features"].to_numpy()
    ratings = joined.select("valence", "arousal").to_numpy().astype(np.float64)
    groups = joined["source_id"].to_list()
    validation = cross_validate(matrix, ratings, groups, blocks, seed)
    unnamed = folder / "image_emotion_head.safetensors"
    sha256 = fit_head(matrix, ratings, groups, blocks).save(unnamed)
    weights = unnamed.with_name(f"image_emotion_head-{sha256[:12]}.safetensors")
    put_in_place(unnamed, weights)
    for old in folder.glob("image_emotion_head-*.safetensors"):
        if old not in (weights, kept):
            old.unlink()
    row = {
        "weights_file": weights.relative_to(folder.parent).as_posix(),
        "weights_sha256": sha256,
        "learnt_from": learnt_from,
        "images": len(ratings),
        "groups": validation.groups,
        "grouped_by": validation.grouped_by,
        **figures_of(validation.va, ratings),
        "calibration": calibration(validation.va, validation.sd, ratings),
    }
    return IMAGE_EMOTION_HEAD.check(pl.DataFrame([row], schema=IMAGE_EMOTION_HEAD.empty().schema))


def figures_of(va: Floats, ratings: Floats) -> dict[str, float]:
    """r, R² and root mean square error of each axis, under the names of IMAGE_EMOTION_HEAD.

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


def left_out_errors(
    inverse: Floats, solved: Floats, members: list[NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """Errors (n, 2) of each image predicted without its group, and their unscaled variances (n,).

    With C the inverse of the kernel with its noise, and G a group: errors C[G, G]⁻¹ (C y)[G], covariance
    C[G, G]⁻¹.
    """
    errors, variances = np.empty_like(solved), np.empty(len(solved))
    for group in members:
        block = np.linalg.inv(inverse[np.ix_(group, group)])
        errors[group] = block @ solved[group]
        variances[group] = np.diag(block)
    return errors, variances


def folds_of(groups: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image: groups in random order, each assigned to the fold with the fewest images."""
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


def _square_distances(a: Floats, b: Floats, blocks: NDArray[np.int64]) -> list[Floats]:
    """Squared distances (n, m) between rows, one array for each block of columns."""
    ends = np.cumsum(blocks)[:-1]
    return [
        np.maximum((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T, 0.0)
        for x, y in zip(np.split(a, ends, axis=1), np.split(b, ends, axis=1), strict=True)
    ]


def _kernel(distances: list[Floats], bandwidth: float) -> Floats:
    mean: Floats = np.mean([np.exp(-of_block * bandwidth / 2) for of_block in distances], axis=0)
    return mean
