"""Our own network: a full softmax over all images, distilled from the formula, with an emotion channel.

It differs from the paper's networks in four ways:

- It is trained with the softmax over **all** images, not over samples.
- In addition to the pairs it learns from the formula itself (distillation: Hinton et al. 2015, arXiv
  1503.02531). A clip's valence and arousal are only predicted from its embedding, with errors of known
  size; so the teacher draws them many times, chooses the pairs of each draw by T = α S̃ + (1 - α) E,
  and the target is how often an image is among them. This uses neither ratings nor pairs of the clip.
- In addition to a clip's content it reads the images that the formula expects for the clip in the
  current catalogue, as one vector (`expected_images`): as in pseudo-relevance feedback (Rocchio 1971),
  the query moves towards the results of a first search. So even clips without images have some.
- Its score has a term for how well the image's emotion fits the clip's. E by direction is an inner
  product, cos(a - b) = cos a cos b + sin a sin b, and so is any kernel of the angle by its
  harmonics cos k(a - b); so the whole score remains an inner product.

A known clip has its images as input, as in SVD++; in most batches they are the target instead, so that
the same network serves clips without images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, log_softmax, normalize

from emid_assets.adapters.networks.content_tower import ContentTower
from emid_assets.adapters.networks.interface import Batch, Items, Known
from emid_assets.adapters.networks.linear import Linear, product


@dataclass(frozen=True)
class DistilledConfig:
    """Hyperparameters of the distilled softmax.

    Attributes:
        hidden: width of the hidden layer of the music tower.
        image_hidden: the same for the image tower, which also has free factors.
        id_dropout: share of known images that a batch treats as unseen.
        history_dropout: share of clips that a batch treats as without history.
        harmonics: number of harmonics of the angle in the valence-arousal plane.
        feeling: initial weight of the first harmonic.
        scale: initial factor on p · q.
        sharpness: exponent on the teacher's shares, before they are normalised to a sum of 1 again.
        draws: draws of a clip's valence and arousal by the teacher, in each batch.
        expectation: initial weight of the images that the formula expects.
        dropout: on the music features.
        learning_rate: Adam's initial learning rate.
        weight_decay: AdamW's.
        batch_clips: clips in a batch.
    """

    hidden: int = 512
    image_hidden: int = 128
    id_dropout: float = 0.0
    history_dropout: float = 0.75
    harmonics: int = 8
    feeling: float = 4.0
    scale: float = 20.0
    sharpness: float = 2.0
    draws: int = 16
    expectation: float = 20.0
    dropout: float = 0.1
    learning_rate: float = 0.003
    weight_decay: float = 0.3
    batch_clips: int = 512


class Distilled(nn.Module):
    """p · q + Σ_k λ_k cos k(û - v) + b_i."""

    Config = DistilledConfig
    learns_from_formula = True

    def __init__(self, config: DistilledConfig, known: Known) -> None:
        super().__init__()
        self.config = config
        waves = 2 * config.harmonics
        self.learned = known.learned
        # Clips have no free factors: beyond its content, only a clip's history is known.
        # Which images fit depends on content and emotion together, so one tower reads both.
        self.music_hidden = Linear(known.learned + waves + 1, config.hidden)
        self.music_residual = Linear(config.hidden, known.learned + waves)
        self.image_tower = ContentTower(
            known.learned, config.image_hidden, known.images, config.id_dropout, all_at_once=True
        )
        self.expectation = Linear(known.learned, known.learned + waves, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.log_frozen_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.dropout = nn.Dropout(config.dropout)
        self.wave_weights = nn.Parameter(torch.tensor([config.feeling] * 2 + [0.0] * (waves - 2)))
        self.image_feeling = Linear(waves + 1, config.image_hidden)
        self.image_feeling_residual = Linear(config.image_hidden, known.learned + 1)
        # Where in the plane an image wins depends on its rivals there, which its content does not show.
        self.image_waves = nn.Embedding(known.images + 1, waves, padding_idx=0)
        nn.init.zeros_(self.image_waves.weight)
        self.history_content = Linear(known.learned + waves + 1, known.learned + waves, bias=False)
        self.history_factors = nn.Embedding(
            known.images + 1, known.learned + waves, padding_idx=0, sparse=True
        )
        for last in (self.music_residual, self.image_feeling_residual):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        with torch.no_grad():
            nn.init.eye_(self.expectation.weight).mul_(config.expectation)
        nn.init.zeros_(self.history_content.weight)
        nn.init.zeros_(self.history_factors.weight)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the softmax over all images.

        If a clip has some of its images as input, the target is the others; if it has none, the target
        is the teacher's, or its pairs if there is no teacher.
        """
        present = batch.present
        given = self._given_images(present)
        clips = batch.clips._replace(history=batch.clips.history * given)
        p, q = self._learned(clips, batch.images)
        scores = product(p, q)
        if (frozen := self._frozen(clips)).shape[1]:
            beside = product(frozen, self.image_tower.frozen(batch.images))
            scores = scores + self.log_frozen_scale.exp() * beside
        # The given images are input, so they are neither targets nor rivals.
        rows = batch.positives.clamp(min=0)
        log_probabilities = log_softmax(scores.scatter_add_(1, rows, given * -1e4), dim=1)
        wanted = present & ~given
        loss = -(log_probabilities.gather(1, rows) * wanted).sum(1) / wanted.sum(1)
        if batch.teacher is not None:
            target = batch.teacher.target(clips.va, self.config.draws)
            weights = normalize(target.share**self.config.sharpness / target.repeats, p=1.0)
            taught = -(log_probabilities.gather(1, target.images) * weights).sum(1)
            loss = torch.where(given.any(1), loss, taught)
        return loss.mean()

    def embeddings(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        """[p, λ · waves of û, 1] and [q, waves of v, b_i], with the frozen features in front."""
        p, q = self._learned(music, images)
        frozen = self._frozen(music) * self.log_frozen_scale.exp()
        return torch.cat([frozen, p], dim=1), torch.cat([self.image_tower.frozen(images), q], dim=1)

    def _learned(self, music: Items, images: Items) -> tuple[Tensor, Tensor]:
        u, v = waves(music.va, self.config.harmonics), waves(images.va, self.config.harmonics)
        features = self.dropout(music.features[:, : self.learned])
        residual = self.music_residual(gelu(self.music_hidden(torch.cat([features, u], dim=1))))
        scale = self.log_scale.exp()
        p = torch.cat([features * scale, u[:, :-1] * self.wave_weights], dim=1)
        residual = torch.cat([residual[:, : self.learned] * scale, residual[:, self.learned :]], dim=1)
        p = p + residual + self._history(music, images, v)
        if music.expected.shape[1]:
            p = p + self.expectation(music.expected[:, : self.learned])

        q, b_i = self.image_tower(images)
        residual = self.image_feeling_residual(gelu(self.image_feeling(v)))
        q, b_i = q + residual[:, :-1], b_i + residual[:, -1]
        return (
            torch.cat([p, torch.ones_like(p[:, :1])], dim=1),
            torch.cat([q, v[:, :-1] + self.image_waves(images.ids), b_i[:, None]], dim=1),
        )

    def _frozen(self, music: Items) -> Tensor:
        return music.features[:, self.learned :]

    def _given_images(self, present: Tensor) -> Tensor:
        """(B, m) bool: the images given as input; the others, at least one, are targets."""
        given = present & (torch.rand(present.shape, device=present.device) < 0.5)
        dropped = torch.rand(len(present), 1, device=present.device) < self.config.history_dropout
        all_given = (given == present).all(1, keepdim=True)
        return given & ~dropped & ~all_given

    def _history(self, music: Items, images: Items, v: Tensor) -> Tensor:
        """|N|^-½ Σ y of each clip's given images that are among `images`."""
        rows = images.rows_of(music.history)
        present = rows >= 0
        distinct, places = torch.unique(rows.clamp(min=0), return_inverse=True)
        content = torch.cat([images.features[distinct, : self.learned], v[distinct]], dim=1)
        y = self.history_content(content) + self.history_factors(images.ids[distinct])
        total = (y[places] * present[:, :, None]).sum(1)
        mean: Tensor = total * present.sum(1, keepdim=True).clamp(min=1) ** -0.5
        return mean


def waves(va: Tensor, count: int) -> Tensor:
    """(n, 2) aligned VA → (n, 2 · count + 1): cos kθ, sin kθ for k = 1 … count, and the radius.

    The zero vector has no direction: all its waves are zero.
    """
    radius = va.norm(dim=1, keepdim=True)
    angle = torch.atan2(va[:, 1], va[:, 0])[:, None] * torch.arange(1, count + 1, device=va.device)
    both = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1) * (radius > 0)
    return torch.cat([both, radius], dim=1)
