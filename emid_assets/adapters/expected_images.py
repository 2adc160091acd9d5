"""The images that the formula expects for a clip, as one vector: an input of some networks.

Belongs here: the errors of predicted valence and arousal, and the images that the formula would pair
with a clip if its prediction were off by them. The network decides how it uses the vector.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from emid_assets.adapters.formula import TaughtFormula
from emid_assets.adapters.networks.image_plane import ImagePlane, NearestImages
from emid_assets.adapters.networks.interface import Teacher
from emid_assets.ranking.metrics import Floats, Ids

DRAWS = 48
"""Prediction errors that an expectation is averaged over; the same for every clip."""

BLOCK = 256
"""Clips per block."""


@dataclass(frozen=True)
class Expectation:
    """The formula, and the errors of predicted valence and arousal.

    Attributes:
        formula: its settings.
        errors: (n, 2) float32, ratings minus predictions for clips that the reader was not fitted on.
        precision: (f,) float32, 1 / (f × variance) of each image feature.
        clip_variance: (2,) float32, mean variance of the clips' own aligned VA, which widens the kernel.
    """

    formula: TaughtFormula
    errors: Floats
    precision: Floats
    clip_variance: Floats

    @classmethod
    def of(
        cls,
        formula: TaughtFormula,
        errors: NDArray[np.float64],
        image_features: Floats,
        clip_sd: NDArray[np.float64] | None = None,
    ) -> "Expectation":
        """From (n, 2) prediction errors, (M, f) features of images, and (N, 2) deviations of clips' VA.

        Without deviations the VA of clips are exact.
        """
        variance = image_features.var(axis=0, dtype=np.float64)
        precision = 1 / (len(variance) * np.maximum(variance, 1e-4 * variance.mean() + 1e-12))
        return cls(
            formula,
            errors.astype(np.float32),
            precision.astype(np.float32),
            np.zeros(2, np.float32) if clip_sd is None else (clip_sd**2).mean(axis=0).astype(np.float32),
        )

    def plane(self, image_va: Tensor, image_sd: NDArray[np.float64] | None) -> ImagePlane:
        """Images on the plane: (M, 2) VA and their standard deviations; (M, 0) or None if they are exact."""
        sigma, in_cells = self.formula.sigma, self.formula.formula.of_all_images
        if sigma is None:
            return ImagePlane(image_va, image_va[:0], 0.0, in_cells)
        variance = np.zeros(tuple(image_va.shape)) if image_sd is None or not image_sd.size else image_sd**2
        widths = sigma**2 + self.formula.formula.uncertainty_weight * (variance + self.clip_variance)
        return ImagePlane(
            image_va, torch.from_numpy(widths.astype(np.float32)).to(image_va.device), sigma, in_cells
        )

    def teacher_of(self, music: Floats, images: Floats, plane: ImagePlane) -> Teacher:
        """The formula for (n, d) unit clips among (M, d) unit images on the plane."""
        candidates, semantic = self.formula.semantic(music, images)
        if not self.formula.formula.of_all_images:
            return self.teacher(candidates, semantic, plane)
        elsewhere = NearestImages(plane, self.formula.formula.images_per_clip)
        crowds = [crowd.cpu().numpy() for crowd in elsewhere.crowds]
        ties = self.formula.first_by_score(music, images, crowds, elsewhere.images)
        return self.teacher(candidates, semantic, plane, elsewhere, ties)

    def teacher(
        self,
        candidates: Ids,
        semantic: Floats,
        plane: ImagePlane,
        elsewhere: NearestImages | None = None,
        ties: NDArray[np.int32] | None = None,
    ) -> Teacher:
        """The formula for some clips, from the result of `TaughtFormula.semantic`."""
        device = plane.va.device
        ids, weighted = torch.from_numpy(candidates).to(device), torch.from_numpy(semantic).to(device)
        return Teacher(
            candidates=ids,
            semantic=weighted.masked_fill(ids < 0, -torch.inf),
            plane=plane,
            elsewhere=elsewhere,
            ties=ids[:, :0].int() if ties is None else torch.from_numpy(ties).to(device),
            emotional_weight=1 - self.formula.formula.alpha,
            pairs=self.formula.formula.images_per_clip,
            errors=torch.from_numpy(self.errors).to(device),
            generator=torch.Generator(),
        )

    def expected(self, teacher: Teacher, clip_va: Tensor) -> Tensor:
        """(n, s) rows of the images that the formula chooses for each clip, for all errors together.

        Args:
            teacher: of the n clips.
            clip_va: (n, 2) predicted valence and arousal.
        """
        drawn = np.random.default_rng(0).integers(len(self.errors), size=DRAWS)
        errors = teacher.errors[torch.from_numpy(drawn).to(clip_va.device)]
        blocks = [teacher.candidates[:0, :1]]
        for start in range(0, len(clip_va), BLOCK):
            rows = torch.arange(start, min(start + BLOCK, len(clip_va)), device=clip_va.device)
            blocks.append(teacher.take(rows).chosen(clip_va[rows][:, None] + errors).flatten(1))
        return torch.cat(blocks[1:] or blocks)

    def vectors(self, chosen: Tensor, image_features: Tensor) -> Tensor:
        """(n, f): the mean features of the images that the formula expects, weighted by their shares.

        A feature is divided by its variance among images, so that the vector's inner product with an
        image's features is roughly that image's share: features that distinguish images count, not those
        that many images have in common.

        Args:
            chosen: (n, s) rows of images, from `expected`.
            image_features: (M, f).
        """
        coded = image_features * torch.from_numpy(self.precision).to(chosen.device)
        return embedding_bag(chosen, coded, mode="mean")
