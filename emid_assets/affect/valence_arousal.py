"""The valence-arousal (VA) plane: mapping both modalities onto it, and similarity on it.

Belongs here: arithmetic on arrays whose last axis is (valence, arousal). `media.inventory` determines the
VA of a clip or an image.

Music is rated from 1 to 9, images from 0 to 1, and neither fills its scale, so equal numbers do not
mean equal emotion. An alignment maps each modality to the centred plane [-1, 1]², on which E,
the emotional similarity of a pair, is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from emid_assets.settings import Kernel

Floats = npt.NDArray[np.float64]

AXES = ("valence", "arousal")

SPREADS_TO_EDGE = 2.5
"""Standard deviations from the centre to the plane's edge under `standardize`.

A choice. One number for both modalities, so that one spread of music is as long as one spread of
images; large enough that none of the eight image tags is moved (sadness, the farthest, is 2.4 spreads
below the mean arousal).
"""


@dataclass(frozen=True)
class VaAlignment:
    """A map from one modality's VA scale to the plane [-1, 1]².

    Attributes:
        method: `standardize` or `fixed`, as requested.
        centre: (valence, arousal) that maps to 0, on the modality's own scale.
        unit: (valence, arousal) distance on the modality's own scale that maps to 1.
        fixed_axes: axes that were mapped by the ends of the scale although `standardize` was
            requested, since the population has no spread there. Empty otherwise.
    """

    method: str
    centre: tuple[float, float]
    unit: tuple[float, float]
    fixed_axes: tuple[str, ...] = ()

    def apply(self, va: npt.ArrayLike) -> Floats:
        """Map VA points of shape (..., 2) to the plane, as float64 of the same shape.

        A point beyond the edge is pulled in along its own direction, which leaves the cosine between
        two points unchanged (a choice; clipping each axis separately would rotate the vector).
        """
        points = (_points(va) - np.array(self.centre)) / np.array(self.unit)
        reach = np.abs(points).max(axis=-1, keepdims=True, initial=0.0)
        inside: Floats = points / np.maximum(reach, 1.0)
        # Division rounds: the last bit may exceed the square.
        return np.clip(inside, -1.0, 1.0)


def fit_alignment(
    va: npt.ArrayLike,
    labels: Sequence[str],
    low: float,
    high: float,
    method: Literal["standardize", "fixed"] = "standardize",
) -> VaAlignment:
    """Fit the map of one modality to the plane.

    `standardize` (a choice, and the default) centres by the population's mean and scales by its
    standard deviation, per axis; every label has the same total weight, whatever the number of its items.
    An axis without spread (for example, with a single label) falls back to `fixed`. `fixed` maps `low` to
    -1 and `high` to 1.

    Args:
        va: (N, 2) valence and arousal on the modality's own scale.
        labels: N labels: the letter or key of a clip, the tag of an image.
        low: lower end of the scale (music 1, images 0).
        high: upper end (music 9, images 1).
        method: `standardize` or `fixed`.

    Raises:
        ValueError: shapes that do not match, values that are not finite, ends in the wrong
            order, or an unknown method.
    """
    points = _points(va)
    if points.ndim != 2 or len(points) != len(labels):
        raise ValueError(f"va has shape {points.shape} for {len(labels)} labels: expected (N, 2), N labels")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"va of item {row} (label {labels[row]!r}) is not finite: {points[row].tolist()}")
    if not low < high:
        raise ValueError(f"the scale's lower end {low} is not below its upper end {high}")
    if method not in ("standardize", "fixed"):
        raise ValueError(f"unknown alignment {method!r}: use standardize or fixed")

    centre = np.full(2, (low + high) / 2)
    unit = np.full(2, (high - low) / 2)
    if method == "fixed":
        return _alignment(method, centre, unit)
    if len(points) == 0:
        return _alignment(method, centre, unit, AXES)

    _, label_of_item, items_of_label = np.unique(
        np.asarray(labels, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    weights = 1.0 / items_of_label[label_of_item]
    mean = np.average(points, axis=0, weights=weights)
    spread = np.sqrt(np.average((points - mean) ** 2, axis=0, weights=weights))
    spreads = spread > 1e-9 * (high - low)
    return _alignment(
        method,
        np.where(spreads, mean, centre),
        np.where(spreads, spread * SPREADS_TO_EDGE, unit),
        tuple(axis for axis, has_spread in zip(AXES, spreads, strict=True) if not has_spread),
    )


def va_cosine(u: npt.ArrayLike, v: npt.ArrayLike) -> Floats:
    """Cosine between VA vectors of shape (..., 2), broadcast; NaN where one of them is zero."""
    a, b = _points(u), _points(v)
    with np.errstate(invalid="ignore"):
        cosine: Floats = np.sum(
            a / np.hypot(a[..., 0], a[..., 1])[..., None] * (b / np.hypot(b[..., 0], b[..., 1])[..., None]),
            axis=-1,
        )
    return np.clip(cosine, -1.0, 1.0)


def va_euclidean(u: npt.ArrayLike, v: npt.ArrayLike) -> Floats:
    """Euclidean distance between VA points of shape (..., 2), broadcast."""
    difference = _points(u) - _points(v)
    distance: Floats = np.hypot(difference[..., 0], difference[..., 1])
    return distance


def emotional_similarity(
    u: npt.ArrayLike,
    v: npt.ArrayLike,
    kernel: Kernel = "cosine",
    sigma: float = 0.5,
    variance: npt.ArrayLike = 0.0,
) -> Floats:
    """E: the similarity of two points on the aligned VA plane, in [0, 1]; 1 is most alike.

    `cosine`: (1 + cos(u, v)) / 2, direction only; .5 where a vector is zero. The paper (arXiv
    2308.07622) mentions the cosine distance; the fused score needs the larger-is-closer form (a
    choice). `gaussian`: exp(-|u - v|² / 2 sigma²), which includes intensity too. Where u and v are known
    with errors, it is the expectation of that. For a ~ N(u, s²) and b ~ N(v, t²) the difference of an axis is
    normal with variance s² + t², and the integral of a gaussian against a normal density is a gaussian of
    the sum of their variances: per axis, sigma / √q · exp(-(u - v)² / 2q) with q = sigma² + s² + t²; E is the
    product over both axes. An error makes E flatter and lower, so that of two points at the same place the
    one that is known better comes first, and far away the one that may yet be near.

    Args:
        u: aligned points, shape (..., 2).
        v: aligned points, shape (..., 2), broadcast against `u`.
        kernel: `cosine` or `gaussian`.
        sigma: width of the gaussian on the plane [-1, 1]²; above 0.
        variance: s² + t² of each axis, shape (..., 2) or a number, for the gaussian.

    Raises:
        ValueError: unknown kernel, or sigma not above 0.
    """
    if kernel == "cosine":
        cosine = va_cosine(u, v)
        return np.where(np.isnan(cosine), 0.5, (1.0 + cosine) / 2.0)
    if kernel != "gaussian":
        raise ValueError(f"unknown kernel {kernel!r}: use cosine or gaussian")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be above 0")
    # One exponential for both axes: with many points it is what takes the time.
    widened = sigma**2 + np.asarray(variance, dtype=np.float64)
    exponent = (_points(u) - _points(v)) ** 2 / widened
    E: Floats = np.exp(-0.5 * (exponent[..., 0] + exponent[..., 1]))
    if np.ndim(widened):
        E *= sigma**2 / np.sqrt(widened[..., 0] * widened[..., 1])
    return E


def _points(va: npt.ArrayLike) -> Floats:
    points = np.asarray(va, dtype=np.float64)
    if points.ndim == 0 or points.shape[-1] != 2:
        raise ValueError(f"VA points have shape {points.shape}: the last axis must be (valence, arousal)")
    return points


def _alignment(method: str, centre: Floats, unit: Floats, fixed_axes: tuple[str, ...] = ()) -> VaAlignment:
    return VaAlignment(
        method, (float(centre[0]), float(centre[1])), (float(unit[0]), float(unit[1])), fixed_axes
    )
