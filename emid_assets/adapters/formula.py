"""What makes the pairs, for networks that learn from it.

Belongs here: the settings of the formula, and its semantic half. Its emotional half, at any valence
and arousal of a clip, is `network.Teacher`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Rescaling, rescale
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.stream import top_k_softmax

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Formula:
    """T = α S̃ + (1 - α) E with its settings.

    Attributes:
        scales: (N,) float32, norm that the encoder gave each clip.
        images: (M, d) float32 as the encoder gives them.
        candidates: K.
        images_per_clip: m.
        alpha: weight of S̃ in T.
        rescaling: S̃.
        sigma: width of the gaussian kernel of E; None for the cosine.
    """

    scales: Floats
    images: Floats
    candidates: int
    images_per_clip: int
    alpha: float
    rescaling: Rescaling
    sigma: float | None

    def semantic(self, X: Floats) -> tuple[Ids, Floats]:
        """The candidates of (n, d) clips as the encoder gives them, and α S̃ of each: (n, K), best first."""
        state = top_k_softmax(X, self.images, self.candidates)
        rescaled = rescale(state.scores, log_sum_exp(state), self.rescaling)
        return state.ids, (self.alpha * rescaled).astype(np.float32)
