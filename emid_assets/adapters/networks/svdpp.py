"""SVD++ over content: BMF in which the images paired with a clip also describe the clip.

Koren 2008, "Factorization meets the neighborhood": r(u, i) = μ + b_u + b_i + q_i · (p_u +
|N(u)|^-½ Σ_{j ∈ N(u)} y_j), here with p, q, b from content (see `content_tower.ContentTower`) and y
from content and free factors. In training, a pair is excluded from its own clip's history, and some
histories are dropped, so that the same network serves clips that have none.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from emid_assets.adapters.networks.bmf import BMF, BMFConfig
from emid_assets.adapters.networks.interface import Batch, Items, Known, binary_cross_entropy, with_biases
from emid_assets.adapters.networks.linear import Linear, product


@dataclass(frozen=True)
class SVDPPConfig(BMFConfig):
    """Hyperparameters of SVD++: those of BMF with other defaults, and two more.

    Attributes:
        learned: largest number of leading features that it changes: a clip's images provide the rest.
        history_dropout: share of clips that a batch treats as without history.
    """

    hidden: int = 64
    id_dropout: float = 0.0
    negative_weight: float = 64.0
    batch_clips: int = 1024
    learned: int = 128
    history_dropout: float = 0.1


class SVDPP(BMF):
    """μ + b_u + b_i + q_i · (p_u + |N(u)|^-½ Σ y_j)."""

    Config = SVDPPConfig
    config: SVDPPConfig

    def __init__(self, config: SVDPPConfig, known: Known) -> None:
        known = replace(known, learned=min(known.learned, config.learned))
        super().__init__(config, known)
        self.history_content = Linear(known.learned, known.learned, bias=False)
        self.history_factors = nn.Embedding(known.images + 1, known.learned, padding_idx=0, sparse=True)
        nn.init.zeros_(self.history_content.weight)
        nn.init.zeros_(self.history_factors.weight)

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of the pairs against sampled images, each pair excluded from its history."""
        sampled = batch.sample(self.config.negatives)
        p, b_u = self._music(batch.clips)
        q, b_i = self._images(sampled.images)
        present = batch.present
        y = embedding(sampled.positives, self._y(sampled.images)) * present[:, :, None]
        others = (present.sum(1, keepdim=True) - 1).clamp(min=1)
        heard = torch.rand(len(p), 1, 1, device=p.device) >= self.config.history_dropout
        # One user vector for each pair, since its own image is not part of its history.
        history = heard * (y.sum(1, keepdim=True) - y) * others[:, :, None] ** -0.5
        clips, slots = present.nonzero(as_tuple=True)
        users = embedding(clips, p) + self._beside_frozen(history[clips, slots], p)
        wanted, bias = sampled.positives[clips, slots], b_u[clips]
        positive = (users * embedding(wanted, q)).sum(1) + b_i[wanted] + bias
        negative = product(users, embedding(sampled.negatives, q)) + b_i[sampled.negatives] + bias[:, None]
        every = torch.ones_like(positive, dtype=torch.bool)[:, None]
        return binary_cross_entropy(
            every, positive[:, None], sampled.own[clips], negative, self.config.negative_weight
        )

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """[p + |N|^-½ Σ y, μ + b_u, 1] and [q, 1, b_i]: their inner product is the logit."""
        p, b_u = self._music(music)
        q, b_i = self._images(images)
        rows = images.rows_of(music.history)
        present = rows >= 0
        distinct, places = torch.unique(rows.clamp(min=0), return_inverse=True)
        y = embedding(places, self._y(images.take(distinct))) * present[:, :, None]
        history = y.sum(1) * present.sum(1, keepdim=True).clamp(min=1) ** -0.5
        return with_biases(p + self._beside_frozen(history, p), b_u, q, b_i)

    def _y(self, images: Items) -> Tensor:
        content = self.history_content(images.features[:, : self.image_tower.learned])
        y: Tensor = content + self.history_factors(images.ids)
        return y

    def _beside_frozen(self, history: Tensor, p: Tensor) -> Tensor:
        """The history padded with zeros for the frozen features."""
        return pad(history, (0, p.shape[1] - history.shape[1]))
