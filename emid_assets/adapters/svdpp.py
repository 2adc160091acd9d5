"""SVD++ over content: a clip is also the images that it is paired with.

Koren 2008, "Factorization meets the neighborhood": r(u, i) = μ + b_u + b_i + q_i · (p_u +
|N(u)|^-½ Σ_{j ∈ N(u)} y_j), here with p, q, b from content (see `content.ContentTower`) and y from
content and free factors alike. While a pair is learnt it is left out of its own clip's history,
and some histories are dropped, so that the same network serves clips that have none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emid_assets.adapters.content import ContentTower
from emid_assets.adapters.network import Batch, Items, Known, binary_cross_entropy, with_biases


@dataclass(frozen=True)
class SVDPPConfig:
    """Hyperparameters of SVD++.

    Attributes:
        hidden: width of the towers' hidden layer.
        id_dropout: share of known items that a batch treats as unseen.
        history_dropout: share of clips that a batch treats as without history.
        negatives: images sampled for a batch, shared by its clips.
        negative_weight: weight of an average negative against one positive.
        scale: first factor on p · q, since inner products of centred unit vectors are small.
        learning_rate: first step of Adam.
        weight_decay: AdamW's.
        batch_clips: clips in a batch.
    """

    hidden: int = 64
    id_dropout: float = 0.0
    history_dropout: float = 0.1
    negatives: int = 512
    negative_weight: float = 64.0
    scale: float = 10.0
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    batch_clips: int = 512


class SVDPP(nn.Module):
    """μ + b_u + b_i + q_i · (p_u + |N(u)|^-½ Σ y_j)."""

    Config = SVDPPConfig

    def __init__(self, config: SVDPPConfig, known: Known) -> None:
        super().__init__()
        self.config = config
        self.music_tower = ContentTower(known.learned, config.hidden, known.clips, config.id_dropout)
        self.image_tower = ContentTower(known.learned, config.hidden, known.images, config.id_dropout)
        self.history_content = nn.Linear(known.learned, known.learned, bias=False)
        self.history_factors = nn.Embedding(known.images + 1, known.learned, padding_idx=0)
        nn.init.zeros_(self.history_content.weight)
        nn.init.zeros_(self.history_factors.weight)
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.mu = nn.Parameter(torch.tensor(0.0))

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of the batch's pairs against sampled images, each pair without itself."""
        sampled = batch.sample(self.config.negatives)
        p, b_u = self.music_tower(batch.clips)
        q, b_i = self.image_tower(sampled.images)
        present = batch.present
        y = self._y(sampled.images)[sampled.positives] * present[:, :, None]
        others = (present.sum(1, keepdim=True) - 1).clamp(min=1)
        heard = torch.rand(len(p), 1, 1, device=p.device) >= self.config.history_dropout
        # One user vector for each pair, since its own image is no part of its history.
        history = heard * (y.sum(1, keepdim=True) - y) * others[:, :, None] ** -0.5
        scale = self.log_scale.exp()
        clips, slots = present.nonzero(as_tuple=True)
        users = torch.cat([p[:, None, :] * scale + history, self._frozen(batch.clips, y.shape[1])], dim=2)
        users = users[clips, slots]
        images = torch.cat([q, self.image_tower.frozen(sampled.images)], dim=1)
        wanted = sampled.positives[clips, slots]
        bias = (self.mu + b_u)[clips]
        positive = (users * images[wanted]).sum(1) + b_i[wanted] + bias
        negative = users @ images[sampled.negatives].T + b_i[sampled.negatives] + bias[:, None]
        every = torch.ones_like(positive, dtype=torch.bool)[:, None]
        return binary_cross_entropy(
            every, positive[:, None], sampled.own[clips], negative, self.config.negative_weight
        )

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """[p + |N|^-½ Σ y, μ + b_u, 1] and [q, 1, b_i]: their inner product is the logit."""
        p, b_u = self.music_tower(music)
        q, b_i = self.image_tower(images)
        rows = images.rows_of(music.history)
        present = rows >= 0
        y = self._y(images)[rows.clamp(min=0)] * present[:, :, None]
        p = p * self.log_scale.exp() + y.sum(1) * present.sum(1, keepdim=True).clamp(min=1) ** -0.5
        p = torch.cat([p, self._frozen(music, 1)[:, 0]], dim=1)
        q = torch.cat([q, self.image_tower.frozen(images)], dim=1)
        return with_biases(p, self.mu + b_u, q, b_i)

    def _y(self, images: Items) -> Tensor:
        content = self.history_content(images.features[:, : self.image_tower.learned])
        y: Tensor = content + self.history_factors(images.ids)
        return y

    def _frozen(self, clips: Items, pairs: int) -> Tensor:
        """(n, pairs, features - learned), scaled as p is."""
        return (self.music_tower.frozen(clips) * self.log_scale.exp())[:, None, :].expand(-1, pairs, -1)
