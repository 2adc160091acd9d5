"""The images that the formula expects for a clip, as one vector: an input of some networks.

Belongs here: the errors of predicted valence and arousal, and the images that the formula would pair
with a clip if its prediction were off by them. The network decides how it uses the vector.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emid_assets.adapters.formula import TaughtFormula
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
    """

    formula: TaughtFormula
    errors: Floats
    precision: Floats

    @classmethod
    def of(cls, formula: TaughtFormula, errors: NDArray[np.float64], image_features: Floats) -> "Expectation":
        """From (n, 2) prediction errors and (M, f) features of images."""
        variance = image_features.var(axis=0, dtype=np.float64)
        precision = 1 / (len(variance) * np.maximum(variance, 1e-4 * variance.mean() + 1e-12))
        return cls(formula, errors.astype(np.float32), precision.astype(np.float32))

    def teacher(self, candidates: Ids, semantic: Floats, device: str) -> Teacher:
        """The formula for some clips, from the result of `TaughtFormula.semantic`."""
        ids, weighted = torch.from_numpy(candidates).to(device), torch.from_numpy(semantic).to(device)
        return Teacher(
            candidates=ids,
            semantic=weighted.masked_fill(ids < 0, -torch.inf),
            emotional_weight=1 - self.formula.formula.alpha,
            sigma=self.formula.sigma,
            pairs=self.formula.formula.images_per_clip,
            errors=torch.from_numpy(self.errors).to(device),
            generator=torch.Generator(),
        )

    def vectors(self, teacher: Teacher, clip_va: Tensor, image_features: Tensor, image_va: Tensor) -> Tensor:
        """(n, f): the mean features of the images that the formula expects, weighted by their shares.

        A feature is divided by its variance among images, so that the vector's inner product with an
        image's features is roughly that image's share: features that distinguish images count, not those
        that many images have in common.

        Args:
            teacher: of the n clips.
            clip_va: (n, 2) predicted valence and arousal.
            image_features: (M, f).
            image_va: (M, 2).
        """
        drawn = np.random.default_rng(0).integers(len(self.errors), size=DRAWS)
        errors = teacher.errors[torch.from_numpy(drawn).to(clip_va.device)]
        coded = image_features * torch.from_numpy(self.precision).to(clip_va.device)
        blocks = [image_features[:0]]
        for start in range(0, len(clip_va), BLOCK):
            rows = torch.arange(start, min(start + BLOCK, len(clip_va)), device=clip_va.device)
            some = teacher.take(rows)
            shares = some.shares(clip_va[rows][:, None] + errors, image_va)
            blocks.append(torch.bmm(shares[:, None], coded[some.candidates.clamp(min=0)])[:, 0])
        return torch.cat(blocks)
