"""What makes the pairs, for networks that learn from it.

Belongs here: the settings of the formula, and its semantic half. Its emotional half, at any valence
and arousal of a clip, is `network.Teacher`; what it expects of a clip is `expectation`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Rescaling, rescale
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.top_k_softmax import top_k_softmax
from emid_assets.ranking.metrics import top_k

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Formula:
    """T = α S̃ + (1 - α) E with its settings.

    Attributes:
        scale: norm that the encoder gives a clip, times that of an image.
        candidates: K.
        images_per_clip: m.
        alpha: weight of S̃ in T.
        rescaling: S̃.
        sigma: width of the gaussian kernel of E; None for the cosine.
    """

    scale: float
    candidates: int
    images_per_clip: int
    alpha: float
    rescaling: Rescaling
    sigma: float | None

    def semantic(self, X: Floats, Y: Floats) -> tuple[Ids, Floats]:
        """The candidates of (n, d) unit clips among (M, d) unit images, and α S̃: (n, K), best first."""
        state = top_k_softmax(X * np.float32(self.scale), Y, self.candidates)
        return state.ids, self._weighted(state.scores, log_sum_exp(state))

    def semantic_of(self, scores: Floats) -> tuple[Ids, Floats]:
        """The same from (M,) inner products of one clip that are there already: (K,)."""
        candidates = top_k(scores[None], min(self.candidates, len(scores)))
        wide = scores.astype(np.float64)
        log_sum = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        return candidates[0], self._weighted(scores[candidates], np.array([log_sum]))[0]

    def _weighted(self, scores: Floats, log_sums: NDArray[np.float64]) -> Floats:
        return (self.alpha * rescale(scores, log_sums, self.rescaling)).astype(np.float32)
