"""NCF: the NeuMF network over content, generalised matrix factorisation plus an MLP.

He et al. 2017, "Neural collaborative filtering" (arXiv 1708.05031): logit(u, i) = h · (p_u ∘ q_i) +
MLP([p'_u, q'_i]), here with p, q from content (see `content_tower.ContentTower`). The MLP is not an
inner product, so no index can serve it: the GMF part is also trained to rank by itself and provides
the new embeddings, and `pair_logits` re-ranks what it retrieved.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, relu

from emid_assets.adapters.networks.content_tower import ContentTower
from emid_assets.adapters.networks.interface import Batch, Items, Known, binary_cross_entropy, with_biases
from emid_assets.adapters.networks.linear import Linear, product


@dataclass(frozen=True)
class NCFConfig:
    """Hyperparameters of NCF.

    Attributes:
        hidden: width of the towers' hidden layer.
        id_dropout: share of known items that a batch treats as unseen.
        mlp: width of the MLP's first layer; it halves twice.
        negatives: images sampled for a batch, shared by its clips.
        mlp_negatives: number of them that pass through the MLP, where a pair costs far more than in GMF.
        negative_weight: weight of an average negative against one positive.
        gmf_weight: weight of the GMF part's own loss against the whole network's.
        scale: initial value of h, since products of centred unit vectors are small.
        learning_rate: Adam's initial learning rate.
        weight_decay: AdamW's.
        batch_clips: clips in a batch.
    """

    hidden: int = 64
    id_dropout: float = 0.2
    mlp: int = 32
    negatives: int = 512
    mlp_negatives: int = 64
    negative_weight: float = 32.0
    gmf_weight: float = 1.0
    scale: float = 10.0
    learning_rate: float = 0.01
    weight_decay: float = 1.0
    batch_clips: int = 512


class NCF(nn.Module):
    """h · (p ∘ q) + MLP([p', q'])."""

    Config = NCFConfig
    learns_from_formula = False

    def __init__(self, config: NCFConfig, known: Known) -> None:
        super().__init__()
        self.config = config
        self.music_tower = ContentTower(known.learned, config.hidden, known.clips, config.id_dropout)
        self.image_tower = ContentTower(known.learned, config.hidden, known.images, config.id_dropout)
        # Offsets from `scale`, as μ is an offset from a prior (see BMF): weight decay pulls both to their
        # initial values.
        self.h_change = nn.Parameter(torch.zeros(known.learned))
        self.h_frozen_change = nn.Parameter(torch.tensor(0.0))
        # The first layer over [p', q'] is a sum of two layers, so each item passes through it once.
        self.music_layer = Linear(known.learned, config.mlp)
        self.image_layer = Linear(known.learned, config.mlp, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.mlp, config.mlp // 2), nn.ReLU(),
            nn.Linear(config.mlp // 2, config.mlp // 4), nn.ReLU(),
        )  # fmt: skip
        self.mlp_logit = nn.Linear(config.mlp // 4, 1, bias=False)
        nn.init.zeros_(self.mlp_logit.weight)
        self.prior = -math.log(config.negative_weight)
        self.mu = nn.Parameter(torch.tensor(0.0))

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of the whole network, plus that of its GMF part."""
        config = self.config
        sampled = batch.sample(config.negatives)
        p, b_u, first = self._music(batch.clips)
        q, b_i, second = self._images(sampled.images)
        wanted, negatives = sampled.positives, sampled.negatives
        positive = (p[:, None, :] * embedding(wanted, q)).sum(-1) + b_i[wanted] + b_u[:, None]
        negative = product(p, embedding(negatives, q)) + b_i[negatives] + b_u[:, None]
        gmf = binary_cross_entropy(batch.present, positive, sampled.own, negative, config.negative_weight)
        positive = positive + self._mlp(first[:, None, :] + second[wanted])
        few = config.mlp_negatives
        negative = negative[:, :few] + self._mlp(first[:, None, :] + second[negatives[:few]])
        own = sampled.own[:, :few]
        whole = binary_cross_entropy(batch.present, positive, own, negative, config.negative_weight)
        return whole + config.gmf_weight * gmf

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """[h ∘ p, μ + b_u, 1] and [q, 1, b_i]: their inner product is the GMF part's logit."""
        p, b_u, _ = self._music(music)
        q, b_i, _ = self._images(images)
        return with_biases(p, b_u, q, b_i)

    def pair_logits(self, music: Items, images: Items, candidates: Tensor) -> Tensor:
        """Logits (n, k) of the whole network for `candidates` (n, k), rows in `images`."""
        p, b_u, first = self._music(music)
        q, b_i, second = self._images(images)
        gmf = (p[:, None, :] * q[candidates]).sum(-1) + b_i[candidates] + b_u[:, None]
        return gmf + self._mlp(first[:, None, :] + second[candidates])

    def _music(self, clips: Items) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted h ∘ p, μ + b_u, and the clips' half of the MLP's first layer."""
        p, b_u = self.music_tower(clips)
        # The frozen features share one weight in h.
        scale = self.config.scale
        rest = self.music_tower.frozen(clips) * (scale + self.h_frozen_change)
        weighted = torch.cat([(scale + self.h_change) * p, rest], dim=1)
        return weighted, self.prior + self.mu + b_u, self.music_layer(p)

    def _images(self, images: Items) -> tuple[Tensor, Tensor, Tensor]:
        """q, b_i, and the images' half of the MLP's first layer."""
        q, b_i = self.image_tower(images)
        return torch.cat([q, self.image_tower.frozen(images)], dim=1), b_i, self.image_layer(q)

    def _mlp(self, first: Tensor) -> Tensor:
        logits: Tensor = self.mlp_logit(self.mlp(relu(first))).squeeze(-1)
        return logits
