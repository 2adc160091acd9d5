"""The interface between a network and the training loop.

Belongs here: items, batches with their sampled negatives, the formula as a teacher, the `Network`
protocol and the loss that several networks share. The training loop is in `training`; factors from
content are in `content_tower`.

A network is an `nn.Module` with a `Config` dataclass and `learns_from_formula` as class attributes, a
constructor `(config, known)` that keeps the config as `self.config`, and the two methods of `Network`. It
never sees files, frames or names.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from emid_assets.adapters.networks.image_plane import ImagePlane, NearestImages


class Items(NamedTuple):
    """Clips or images as a network sees them.

    Attributes:
        features: (n, f) float32, the projected embedding.
        ids: (n,) int64, 1 + the item's number among those known in training; 0 for an unseen one.
        va: (n, 2) float32 aligned valence and arousal: of images their own, of clips predicted from
            their embedding by a ridge that never saw their source.
        history: (n, m) int64 ids of the images that a clip is paired with in training, padded
            with 0; (n, 0) for images.
        expected: (n, f) float32, the images that the formula expects for a clip (`expected_images`);
            (n, 0) for images, and if there is no expectation.
    """

    features: Tensor
    ids: Tensor
    va: Tensor
    history: Tensor
    expected: Tensor

    def take(self, rows: Tensor) -> "Items":
        """The items in these rows."""
        return Items(*(part.index_select(0, rows) for part in self))

    def rows_of(self, ids: Tensor) -> Tensor:
        """The rows of these ids, of any shape; -1 if an id is 0 or not among the items."""
        largest = int(max(self.ids.max(), ids.max() if ids.numel() else 0))
        rows = torch.full((largest + 1,), -1, device=ids.device)
        rows[self.ids] = torch.arange(len(self.ids), device=ids.device)
        rows[0] = -1
        return rows[ids]


@dataclass(frozen=True)
class Known:
    """Sizes that a network is built from.

    Attributes:
        features: of an item.
        learned: leading features that a network may change; the others stay frozen.
        clips, images: number of known items.
    """

    features: int
    learned: int
    clips: int
    images: int


class Sampled(NamedTuple):
    """The images of a batch, each once: its positives and a shared sample.

    `positives` (B, m) and `negatives` (R,) are rows in `images`; `own` (B, R) is true where a
    sampled image is one of the clip's positives and therefore not a negative.
    """

    images: Items
    positives: Tensor
    negatives: Tensor
    own: Tensor


class Taught(NamedTuple):
    """The images chosen at several values of a clip's VA; one that was chosen r times stands r times.

    Attributes:
        images: (B, n) int64 rows of images.
        share: (B, n) float32, share of the image among the n.
        repeats: (B, n) float32, how often it stands here.
    """

    images: Tensor
    share: Tensor
    repeats: Tensor


class Teacher(NamedTuple):
    """T = α S̃ + (1 - α) E of each clip, at any valence and arousal of the clip.

    Attributes:
        candidates: (B, K) int64 rows of images, best S first, padded with -1.
        semantic: (B, K) float32 α S̃, -inf in the padding.
        plane: all images with the kernel of E.
        elsewhere: for a formula that chooses from all images, those of largest E; None if only the
            candidates can be chosen. S̃ of an image that is no candidate is 0.
        ties: (B, c) int32, of each crowd of `elsewhere` the images with the clip's largest scores, m at most.
        emotional_weight: 1 - α.
        pairs: m, the images that a clip is paired with.
        errors: (n, 2) float32, ratings of VA minus predictions.
        generator: source of the draws, on the CPU.
    """

    candidates: Tensor
    semantic: Tensor
    plane: ImagePlane
    elsewhere: NearestImages | None
    ties: Tensor
    emotional_weight: float
    pairs: int
    errors: Tensor
    generator: torch.Generator

    def take(self, rows: Tensor) -> "Teacher":
        """The teacher of the clips in these rows."""
        return self._replace(
            candidates=self.candidates[rows], semantic=self.semantic[rows], ties=self.ties[rows]
        )

    def target(self, clip_va: Tensor, draws: int) -> Taught:
        """The images in the pairs chosen at `draws` values of the clip's VA.

        Args:
            clip_va: (B, 2) VA predicted from the clips' embeddings.
            draws: number of draws; each adds a random prediction error.
        """
        drawn = torch.randint(len(self.errors), (len(clip_va), draws), generator=self.generator)
        images = self.chosen(clip_va[:, None, :] + self.errors[drawn.to(clip_va.device)]).flatten(1)
        counts = torch.zeros(len(images), len(self.plane.va), device=images.device)
        repeats = counts.scatter_add_(1, images, torch.ones_like(images, dtype=counts.dtype)).gather(
            1, images
        )
        return Taught(images, repeats / images.shape[1], repeats)

    def chosen(self, u: Tensor) -> Tensor:
        """(B, draws, m) rows of the images in the pairs chosen at each of (B, draws, 2) VA of the clips.

        Of equal T, images with larger scores are chosen first, as `matching.order` says. Where all images
        can be chosen, the best by T are among the candidates and the m images of largest E: an image that
        is neither has the T of its E alone, and the m have at least that of a larger E.
        """
        candidates = self.candidates.clamp(min=0)
        u = self.plane.rounded(u)
        of_candidates = self.plane.similarity(u[:, :, None], candidates[:, None])
        T = self.semantic[:, None] + self.emotional_weight * of_candidates
        images = candidates[:, None].expand(-1, u.shape[1], -1)
        if self.elsewhere is not None:
            others = self._rows_of(self.elsewhere.at(u))
            T_of_others = self.emotional_weight * self.plane.similarity(u[:, :, None], others)
            T = torch.cat([T, T_of_others.masked_fill(self._are_candidates(others), -torch.inf)], dim=2)
            images = torch.cat([images, others], dim=2)
        chosen = []
        for _ in range(min(self.pairs, T.shape[2])):
            # The first of equal ones; `topk` takes any of them.
            chosen.append(T.argmax(dim=2, keepdim=True))
            T = T.scatter(2, chosen[-1], -torch.inf)
        return images.gather(2, torch.cat(chosen, dim=2))

    def _rows_of(self, found: Tensor) -> Tensor:
        """What `NearestImages` found, with each clip's own images of a crowd."""
        if not self.ties.shape[1]:
            return found
        own = self.ties.gather(1, (-1 - found).clamp(min=0).flatten(1)).view_as(found)
        return torch.where(found < 0, own.long(), found)

    def _are_candidates(self, images: Tensor) -> Tensor:
        """(B, draws, n) bool: whether images are among the clip's candidates."""
        count = len(self.plane.va)
        marked = torch.zeros(len(images), count + 1, dtype=torch.bool, device=images.device)
        marked.scatter_(1, torch.where(self.candidates < 0, count, self.candidates), True)
        return marked.gather(1, images.flatten(1)).view_as(images)


@dataclass(frozen=True)
class Batch:
    """B clips with the images that they are paired with in training.

    Attributes:
        clips: the B clips.
        images: all M known images.
        positives: (B, m) int64 rows in `images`, padded with -1.
        teacher: the formula, for the networks that learn from it; None if it was not given.
        generator: source of the samples, on the CPU.
    """

    clips: Items
    images: Items
    positives: Tensor
    teacher: Teacher | None
    generator: torch.Generator

    @property
    def present(self) -> Tensor:
        """(B, m) bool: false in the padding of `positives`."""
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


@runtime_checkable
class PairScorer(Protocol):
    """A network whose score of a pair is more than the inner product of its embeddings."""

    def pair_logits(self, music: Items, images: Items, candidates: Tensor) -> Tensor:
        """Scores (n, k) of `candidates` (n, k), rows in `images`, for each of n clips."""
        ...


def binary_cross_entropy(
    present: Tensor, positive_logits: Tensor, own: Tensor, negative_logits: Tensor, negative_weight: float
) -> Tensor:
    """Mean over the pairs of BCE(positive) + weight × mean BCE(the clip's sampled negatives).

    Args:
        present: (B, m) bool, false where there is no pair.
        positive_logits: (B, m).
        own: (B, R) bool, samples that are not negatives.
        negative_logits: (B, R).
        negative_weight: weight of an average negative against one positive.
    """
    pairs = present.sum(1)
    positive = (softplus(-positive_logits) * present).sum()
    negative = (softplus(negative_logits) * ~own).sum(1) / (~own).sum(1).clamp(min=1)
    return (positive + negative_weight * (negative * pairs).sum()) / pairs.sum()


def with_biases(p: Tensor, b_u: Tensor, q: Tensor, b_i: Tensor) -> tuple[Tensor, Tensor]:
    """[p, b_u, 1] and [q, 1, b_i], whose inner product is p · q + b_u + b_i."""
    return (
        torch.cat([p, torch.stack([b_u, torch.ones_like(b_u)], dim=1)], dim=1),
        torch.cat([q, torch.stack([torch.ones_like(b_i), b_i], dim=1)], dim=1),
    )
