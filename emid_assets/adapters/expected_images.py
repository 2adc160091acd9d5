"""What the formula expects of a clip, as one vector: for networks that read it.

Belongs here: the errors of reading valence and arousal, and the images that the formula would pair
with a clip were its feeling off by them. What a network does with the vector is its own.
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
"""Errors of reading that an expectation is averaged over: the same ones for every clip."""

BLOCK = 256
"""Clips at a time."""


@dataclass(frozen=True)
class Expectation:
    """The formula, and how far readings of valence and arousal are off.

    Attributes:
        formula: its settings.
        errors: (n, 2) float32, ratings less readings of clips that the reader did not learn from.
        precision: (f,) float32, 1 / (f × variance) of each of the images' features.
    """

    formula: TaughtFormula
    errors: Floats
    precision: Floats

    @classmethod
    def of(cls, formula: TaughtFormula, errors: NDArray[np.float64], image_features: Floats) -> "Expectation":
        """From (n, 2) errors of reading and (M, f) features of images."""
        variance = image_features.var(axis=0, dtype=np.float64)
        precision = 1 / (len(variance) * np.maximum(variance, 1e-4 * variance.mean() + 1e-12))
        return cls(formula, errors.astype(np.float32), precision.astype(np.float32))

    def teacher(self, candidates: Ids, semantic: Floats, device: str) -> Teacher:
        """The formula for some clips, from what `TaughtFormula.semantic` gives."""
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
        """(n, f): the mean features of the images that the formula expects, each by its share.

        A feature is divided by its variance among images, so that the vector's inner product with the
        features of an image is about that image's share: what sets images apart counts, and not what
        many have in common.

        Args:
            teacher: of the n clips.
            clip_va: (n, 2) valence and arousal as read.
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
