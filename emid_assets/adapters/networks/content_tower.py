"""From frozen embeddings to factors: the part that all networks share.

Belongs here: the projection of the encoder's space (centre, PCA), the residual tower over it and
the free factors of known items. Each network defines how factors become a score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn, rand
from torch.nn.functional import gelu

from emid_assets.adapters.networks.interface import Items
from emid_assets.adapters.networks.linear import Linear

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Centre each modality by its own mean, then project both onto one basis.

    One basis for both preserves inner products, so scores before training are those of the centred
    frozen space. Centring by modality removes the gap between modalities.

    Attributes:
        music_mean, image_mean: (d,) float32.
        basis: (d, f) float32, orthonormal columns.
    """

    music_mean: Floats
    image_mean: Floats
    basis: Floats

    def music(self, X: Floats) -> Floats:
        """(N, d) embeddings → (N, f) features."""
        return np.ascontiguousarray((X - self.music_mean) @ self.basis, dtype=np.float32)

    def images(self, Y: Floats) -> Floats:
        """(M, d) embeddings → (M, f) features."""
        return np.ascontiguousarray((Y - self.image_mean) @ self.basis, dtype=np.float32)


def fit_projection(X: Floats, Y: Floats, components: int) -> Projection:
    """The `components` directions with the most variance of both modalities, equally weighted.

    Fewer if the items span fewer. If d ≤ components, the space is only centred.

    Args:
        X: (N, d) music embeddings to fit on.
        Y: (M, d) images.
        components: largest number of features.
    """
    music_mean, image_mean = X.mean(axis=0), Y.mean(axis=0)
    dimension = X.shape[1]
    if dimension <= components:
        return Projection(music_mean, image_mean, np.eye(dimension, dtype=np.float32))
    Xc, Yc = X - music_mean, Y - image_mean
    covariance = (Xc.T @ Xc).astype(np.float64) / len(X) + (Yc.T @ Yc).astype(np.float64) / len(Y)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    spanned = max(1, int((eigenvalues > 1e-7 * eigenvalues[-1]).sum()))
    basis = eigenvectors[:, ::-1][:, : min(components, spanned)]
    return Projection(music_mean, image_mean, np.ascontiguousarray(basis, dtype=np.float32))


class ContentTower(nn.Module):
    """Features → factors and a bias: x + MLP(x) + free factors, and w·x + free bias.

    The last layers start at zero, so before training the factors are the features and the biases
    are zero. Only the leading `learned` features are changed: they have the most variance, and the
    rest keeps the frozen space's detail without training cost. Free factors exist only for known
    items: an unseen item (id 0) has none.
    """

    def __init__(
        self, learned: int, hidden: int, known: int, id_dropout: float, all_at_once: bool = False
    ) -> None:
        """`known` is the number of items with free factors; with 0 the tower has none.

        `all_at_once`: batches hold all items instead of a few, so the factors' gradients are dense.
        """
        super().__init__()
        self.learned = learned
        self.hidden = Linear(learned, hidden)
        self.residual = Linear(hidden, learned)
        self.bias = nn.Linear(learned, 1, bias=False)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        nn.init.zeros_(self.bias.weight)
        self.id_dropout = id_dropout
        self.id_factors: nn.Embedding | None = None
        if known:
            self.id_factors = nn.Embedding(known + 1, learned + 1, padding_idx=0, sparse=not all_at_once)
            nn.init.zeros_(self.id_factors.weight)

    def forward(self, items: Items) -> tuple[Tensor, Tensor]:
        """Learned factors (n, learned) and biases (n,). In training, some known items count as unseen."""
        x = items.features[:, : self.learned]
        factors = x + self.residual(gelu(self.hidden(x)))
        biases = self.bias(x).squeeze(1)
        if self.id_factors is not None:
            ids = items.ids
            if self.training and self.id_dropout > 0:
                ids = ids * (rand(ids.shape, device=ids.device) >= self.id_dropout)
            free = self.id_factors(ids)
            factors = factors + free[:, :-1]
            biases = biases + free[:, -1]
        return factors, biases

    def frozen(self, items: Items) -> Tensor:
        """The features that are not learned, (n, features - learned)."""
        return items.features[:, self.learned :]
