"""The formula that chose the pairs, for networks that learn from it.

Belongs here: the semantic half of the formula over unit embeddings. Its emotional half, at any valence
and arousal of a clip, is in `networks.interface.Teacher`; the images that it expects for a clip are in
`expected_images`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Formula, rescale
from emid_assets.matching.order import top_k
from emid_assets.matching.row_state import in_steps, log_sum_exp
from emid_assets.matching.top_k_softmax import top_k_softmax
from emid_assets.ranking.metrics import Floats, Ids


@dataclass(frozen=True)
class TaughtFormula:
    """The formula over unit embeddings, with the norms of the encoder's output.

    Attributes:
        scale: norm of a clip's embedding from the encoder, times that of an image's.
        formula: the settings that chose the pairs.
    """

    scale: float
    formula: Formula

    @property
    def sigma(self) -> float | None:
        """Width of the gaussian kernel of E; None for the cosine."""
        return self.formula.sigma if self.formula.kernel == "gaussian" else None

    def semantic(self, X: Floats, Y: Floats) -> tuple[Ids, Floats]:
        """The candidates of (n, d) unit clips among (M, d) unit images, and α S̃: (n, K), best first."""
        state = top_k_softmax(X * np.float32(self.scale), Y, self.formula.candidates)
        return state.ids, self._weighted(state.scores, log_sum_exp(state))

    def first_by_score(self, X: Floats, Y: Floats, groups: Sequence[Ids], m: int) -> NDArray[np.int32]:
        """Of each group of images the m, or all, with the largest scores of each clip: (n, c)."""
        scaled = X * np.float32(self.scale)
        found = [rows[top_k_softmax(scaled, Y[rows], m).ids].astype(np.int32) for rows in groups]
        return np.concatenate(found, axis=1) if found else np.empty((len(X), 0), dtype=np.int32)

    def semantic_of(self, scores: Floats) -> tuple[Ids, Floats]:
        """The same as `semantic` for one clip, from its (M,) inner products: (K,).

        Where the formula chooses from all images, all are candidates: (M,), and α S̃ of those beyond K is 0.
        """
        candidates = top_k(scores[None], min(self.formula.candidates, len(scores)))
        wide = scores.astype(np.float64)
        log_sum = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        weighted = self._weighted(scores[candidates], in_steps(np.array([log_sum])))[0]
        if not self.formula.of_all_images:
            return candidates[0], weighted
        ranked = np.argsort(-scores, kind="stable")
        return ranked, np.concatenate([weighted, np.zeros(len(ranked) - len(weighted), np.float32)])

    def _weighted(self, scores: Floats, log_sums: NDArray[np.float64]) -> Floats:
        return (self.formula.alpha * rescale(scores, log_sums, self.formula.rescaling)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The description that a weights file stores."""
        return {
            "scale": self.scale,
            "candidates": self.formula.candidates,
            "images_per_clip": self.formula.images_per_clip,
            "alpha": self.formula.alpha,
            "rescaling": self.formula.rescaling,
            "sigma": self.sigma,
            "uncertainty_weight": self.formula.uncertainty_weight,
            "method": self.formula.method,
        }

    @classmethod
    def of_json(cls, description: dict[str, Any]) -> "TaughtFormula":
        """From a description written by `to_json`.

        Raises:
            KeyError, TypeError: another version wrote it.
        """
        values = dict(description)
        scale, sigma = values.pop("scale"), values.pop("sigma")
        kernel = (
            {"kernel": "cosine", "sigma": 0.0} if sigma is None else {"kernel": "gaussian", "sigma": sigma}
        )
        return cls(scale, Formula(**values, **kernel))
