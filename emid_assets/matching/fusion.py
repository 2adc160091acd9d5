"""The fused score T = alpha S̃ + (1 - alpha) E, and the m best candidates of each row.

Belongs here: formulas 2 and 3 of the method over blocks of candidates, and their settings. Does not belong
here: finding the candidates (`top_k_softmax.py`), the VA plane and E's kernels (`affect/valence_arousal.py`).
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.order import top_k
from emid_assets.matching.row_state import NO_COLUMN
from emid_assets.settings import Kernel, Method, Rescaling, Settings, in_use

RESCALINGS: tuple[Rescaling, ...] = get_args(Rescaling)


@dataclass(frozen=True)
class Formula:
    """The formula that chooses pairs: a clip's m best images by T = alpha S̃ + (1 - alpha) E.

    Attributes:
        alpha: weight of the semantic term, in [0, 1].
        candidates: K, how many images with the largest S may be chosen for their S.
        images_per_clip: m.
        rescaling: S̃, see `rescale`.
        kernel: of E, see `emotional_similarity`.
        sigma: width of the gaussian kernel.
        uncertainty_weight: weight of the variances in the gaussian kernel.
        method: `paper` chooses among the K images of largest S; `calibrated` among all images, where S̃ is
            0 for those that are not among the K.
    """

    alpha: float
    candidates: int
    images_per_clip: int
    rescaling: Rescaling
    kernel: Kernel
    sigma: float
    uncertainty_weight: float = 1.0
    method: Method = "paper"

    @classmethod
    def of(cls, settings: Settings) -> "Formula":
        """The formula of a build's settings, with what `auto` means for them."""
        return cls(
            alpha=in_use(settings, "alpha"),
            candidates=settings.candidates,
            images_per_clip=settings.images_per_clip,
            rescaling=settings.semantic_rescaling,
            kernel=in_use(settings, "emotion_kernel"),
            sigma=settings.gaussian_sigma,
            uncertainty_weight=settings.uncertainty_weight,
            method=settings.method,
        )

    @property
    def of_all_images(self) -> bool:
        """Whether a clip may be paired with an image that is not among its K of largest S."""
        return self.method == "calibrated"

    @property
    def emotional_candidates(self) -> int:
        """How many images of largest E a clip may be paired with whatever their S: K, and m at least."""
        return max(self.candidates, self.images_per_clip)

    def emotional(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """E of points in the aligned VA plane.

        With `calibrated` in steps of 1e-12: what differs by rounding is equal then, and (1 - alpha) E has
        the order of E, whatever alpha below 1.

        Args:
            u: (..., 2) valence and arousal, or (..., 4) with the standard deviations of both.
            v: the same, broadcast against `u`.
        """
        of_u, of_v = (point[..., 2:] ** 2 if point.shape[-1] == 4 else 0.0 for point in (u, v))
        variance = self.uncertainty_weight * (of_u + of_v)
        E = emotional_similarity(u[..., :2], v[..., :2], self.kernel, self.sigma, variance)
        return np.round(E, 12) if self.of_all_images else E


def fuse_terms(
    rescaled: NDArray[np.float64], emotional: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """T = alpha S̃ + (1 - alpha) E, of the same shape."""
    return alpha * rescaled + (1.0 - alpha) * emotional


def semantic_similarity(scores: NDArray[np.float32], log_sum_exp: NDArray[np.float64]) -> NDArray[np.float64]:
    """S = exp(score - log_sum_exp): (n, K) float64 from (n, K) scores and (n,) denominators."""
    similarity: NDArray[np.float64] = np.exp(scores.astype(np.float64) - log_sum_exp[:, None])
    return similarity


def rescale(
    scores: NDArray[np.float32], log_sum_exp: NDArray[np.float64], method: Rescaling
) -> NDArray[np.float64]:
    """S̃, which the fused score uses in place of S. **Choice** between three.

    - `candidate_minmax` (default of the settings): S scaled to [0, 1] over the row's candidates.
      If they are all equal, S̃ is 1 for each (every one is the row's best), and E alone orders the
      row, as with any constant.
    - `raw`: S itself, the paper's literal formula.
    - `candidate_softmax`: S divided by its sum over the row's candidates.

    Args:
        scores: (n, K) float32, -inf in empty slots.
        log_sum_exp: (n,) float64 of the whole row.
        method: one of `RESCALINGS`.

    Returns:
        (n, K) float64; 0 in empty slots.

    Raises:
        ValueError: the method is not one of `RESCALINGS`.
    """
    if method not in RESCALINGS:
        raise ValueError(f"rescaling {method!r} is not known: choose one of {', '.join(RESCALINGS)}")
    if scores.size == 0:
        return np.zeros(scores.shape)
    if method == "raw":
        return semantic_similarity(scores, log_sum_exp)
    # Both rescaled forms are ratios of S within the row: computed relative to the row's best candidate,
    # they stay exact where S itself would underflow.
    wide = scores.astype(np.float64)
    relative: NDArray[np.float64] = np.exp(wide - wide.max(axis=1, keepdims=True))
    if method == "candidate_softmax":
        relative /= relative.sum(axis=1, keepdims=True)
        return relative
    empty = np.isneginf(wide)
    lowest = np.where(empty, np.inf, relative).min(axis=1, keepdims=True)
    spread = 1.0 - lowest
    with np.errstate(divide="ignore", invalid="ignore"):
        rescaled = np.where(spread > 0.0, (relative - lowest) / spread, 1.0)
    rescaled[empty] = 0.0
    return rescaled


@dataclass(frozen=True)
class Fused:
    """The chosen candidates of n rows.

    Attributes:
        slots: (n, m) int64, which candidate of the row; `NO_COLUMN` where the row has fewer than m.
        fused_score: (n, m) float64, T of each, descending; NaN in empty slots.
    """

    slots: NDArray[np.int64]
    fused_score: NDArray[np.float64]


def fuse(
    rescaled: NDArray[np.float64],
    emotional: NDArray[np.float64],
    valid: NDArray[np.bool_],
    alpha: float,
    m: int,
) -> Fused:
    """T = alpha S̃ + (1 - alpha) E, and each row's m best by T, then by higher S, then by id.

    Candidates must be ordered by (S descending, id ascending), as the matching returns them, so that
    of equal T the earlier slot wins: alpha = 1 keeps the candidates' order, the semantic-only
    baseline, whatever S̃ is.

    Args:
        rescaled: (n, K) float64 S̃.
        emotional: (n, K) float64 E.
        valid: (n, K) False in empty slots.
        alpha: weight of the semantic term, in [0, 1].
        m: pairs per row, at least 1.

    Raises:
        ValueError: alpha or m out of range.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}: it must lie in [0, 1]")
    if m < 1:
        raise ValueError(f"m is {m}: at least one pair per clip is needed")
    # At alpha 1 T is S̃ alone, and rounding would cause ties and more among tiny S̃: all are equal, so that
    # the candidates' own order stays.
    T = rescaled if alpha == 1.0 else fuse_terms(rescaled, emotional, alpha)
    ordered_by = np.zeros_like(T) if alpha == 1.0 else T
    slots = top_k(np.where(valid, ordered_by, -np.inf), min(m, T.shape[1]))
    fused_score = np.where(slots == NO_COLUMN, np.nan, np.take_along_axis(T, slots.clip(min=0), axis=1))
    return Fused(slots, fused_score)
