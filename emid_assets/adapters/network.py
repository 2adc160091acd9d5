"""What a network sees and what the frame asks of it.

Belongs here: items, batches with their sampled negatives, the `Network` protocol and the loss that
several networks share. The frame itself is `training`; factors from content are `content`.

A network is an `nn.Module` with a `Config` dataclass as class attribute, a constructor
`(config, known)` that keeps the config as `self.config`, and the two methods of `Network`. It never
sees files, frames or names.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Items(NamedTuple):
    """Clips or images as a network sees them.

    `features` is (n, f) float32, the projected embedding; `ids` is (n,) int64, 1 + the item's
    number among those known in training, or 0 for an unseen one.
    """

    features: Tensor
    ids: Tensor

    def take(self, rows: Tensor) -> "Items":
        """The items in these rows."""
        return Items(self.features[rows], self.ids[rows])


@dataclass(frozen=True)
class Known:
    """Sizes that a network is built from: features, and how many clips and images are known."""

    features: int
    clips: int
    images: int


class Sampled(NamedTuple):
    """The images that a batch looks at, each once: its positives and a shared sample.

    `positives` (B, m) and `negatives` (R,) are rows in `images`; `own` (B, R) is true where a
    sampled image is one of the clip's positives, so no negative of it.
    """

    images: Items
    positives: Tensor
    negatives: Tensor
    own: Tensor


@dataclass(frozen=True)
class Batch:
    """B clips with the images that they are paired with in training.

    Attributes:
        clips: the B clips.
        images: all M known images.
        positives: (B, m) int64 rows in `images`; -1 fills rows with fewer than m.
        fused_scores: (B, m) float32 T of the pairs, 0 where there is none.
        generator: source of the samples, on the CPU.
    """

    clips: Items
    images: Items
    positives: Tensor
    fused_scores: Tensor
    generator: torch.Generator

    @property
    def present(self) -> Tensor:
        """(B, m) bool: false at the filling of `positives`."""
        return self.positives >= 0

    def sample(self, count: int) -> Sampled:
        """The positives with `count` images drawn uniformly, shared by all clips of the batch."""
        drawn = torch.randint(len(self.images.ids), (count,), generator=self.generator)
        drawn = drawn.to(self.positives.device)
        rows = torch.cat([self.positives.clamp(min=0).flatten(), drawn])
        distinct, places = torch.unique(rows, return_inverse=True)
        pairs = self.positives.numel()
        own = (self.positives[:, :, None] == drawn).any(dim=1)
        return Sampled(
            self.images.take(distinct), places[:pairs].view(self.positives.shape), places[pairs:], own
        )


class Network(Protocol):
    """The two methods of a network."""

    def loss(self, batch: Batch) -> Tensor:
        """Scalar to minimise."""
        ...

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """New embeddings (n, e) and (M, e) whose inner product ranks images for a clip."""
        ...


def binary_cross_entropy(
    present: Tensor, positive_logits: Tensor, own: Tensor, negative_logits: Tensor, negative_weight: float
) -> Tensor:
    """Mean over the pairs of BCE(positive) + weight × mean BCE(the clip's sampled negatives).

    Args:
        present: (B, m) bool, false where there is no pair.
        positive_logits: (B, m).
        own: (B, R) bool, samples that are no negatives.
        negative_logits: (B, R).
        negative_weight: weight of an average negative against one positive.
    """
    pairs = present.sum(1)
    positive = (softplus(-positive_logits) * present).sum()
    negative = (softplus(negative_logits) * ~own).sum(1) / (~own).sum(1).clamp(min=1)
    return (positive + negative_weight * (negative * pairs).sum()) / pairs.sum()
