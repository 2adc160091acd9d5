"""BMF: matrix factorisation with biases over content.

Koren, Bell, Volinsky 2009, "Matrix factorization techniques for recommender systems":
r(u, i) = μ + b_u + b_i + p_u · q_i, here with p, q, b from content (see `content_tower.ContentTower`)
and, for known items, additional free factors.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from emid_assets.adapters.networks.content_tower import ContentTower
from emid_assets.adapters.networks.interface import Batch, Items, Known, binary_cross_entropy, with_biases
from emid_assets.adapters.networks.linear import product


@dataclass(frozen=True)
class BMFConfig:
    """Hyperparameters of BMF.

    Attributes:
        hidden: width of the tower's hidden layer.
        id_dropout: share of known items that a batch treats as unseen.
        negatives: images sampled for a batch, shared by its clips.
        negative_weight: weight of an average negative against one positive.
        scale: initial factor on p · q, since inner products of centred unit vectors are small.
        learning_rate: Adam's initial learning rate.
        weight_decay: AdamW's; it keeps free factors from memorising the pairs.
        batch_clips: clips in a batch.
    """

    hidden: int = 128
    id_dropout: float = 0.2
    negatives: int = 512
    negative_weight: float = 32.0
    scale: float = 10.0
    learning_rate: float = 0.01
    weight_decay: float = 1.0
    batch_clips: int = 512


class BMF(nn.Module):
    """μ + b_u + b_i + p_u · q_i."""

    Config: type[BMFConfig] = BMFConfig
    learns_from_formula = False

    def __init__(self, config: BMFConfig, known: Known) -> None:
        super().__init__()
        self.config = config
        self.music_tower = ContentTower(known.learned, config.hidden, known.clips, config.id_dropout)
        self.image_tower = ContentTower(known.learned, config.hidden, known.images, config.id_dropout)
        # Both parameters start at zero, so that weight decay pulls the scale to its initial value and μ to
        # the prior: the logit of an unknown pair, given the weight of negatives against a positive.
        self.log_rescale = nn.Parameter(torch.tensor(0.0))
        self.prior = -math.log(config.negative_weight)
        self.mu = nn.Parameter(torch.tensor(0.0))

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of the batch's pairs against sampled images."""
        p, b_u = self._music(batch.clips)
        sampled = batch.sample(self.config.negatives)
        q, b_i = self._images(sampled.images)
        wanted, negatives = sampled.positives, sampled.negatives
        positive = (p[:, None, :] * embedding(wanted, q)).sum(-1) + b_i[wanted] + b_u[:, None]
        negative = product(p, embedding(negatives, q)) + b_i[negatives] + b_u[:, None]
        return binary_cross_entropy(
            batch.present, positive, sampled.own, negative, self.config.negative_weight
        )

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """[p, μ + b_u, 1] and [q, 1, b_i]: their inner product is the logit."""
        p, b_u = self._music(music)
        q, b_i = self._images(images)
        return with_biases(p, b_u, q, b_i)

    def _music(self, clips: Items) -> tuple[Tensor, Tensor]:
        """P with the frozen features, and μ + b_u."""
        p, b_u = self.music_tower(clips)
        scale = self.config.scale * self.log_rescale.exp()
        return torch.cat([p, self.music_tower.frozen(clips)], dim=1) * scale, self.prior + self.mu + b_u

    def _images(self, images: Items) -> tuple[Tensor, Tensor]:
        q, b_i = self.image_tower(images)
        return torch.cat([q, self.image_tower.frozen(images)], dim=1), b_i
