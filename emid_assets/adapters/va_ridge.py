"""Valence and arousal predicted from embeddings, for clips and images without ratings.

Belongs here: the ridge regression and its cross-fitting by source. The plane itself is in
`affect.valence_arousal`; networks and baselines use the predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PENALTIES = tuple(10.0**power for power in range(-3, 4))
FOLDS = 5


@dataclass(frozen=True)
class VaReader:
    """A linear map from embeddings to the aligned plane.

    Attributes:
        weights: (d, 2) float32.
        intercept: (2,) float32.
    """

    weights: NDArray[np.float32]
    intercept: NDArray[np.float32]

    def read(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) embeddings → (n, 2) valence and arousal."""
        return np.asarray(X @ self.weights + self.intercept, dtype=np.float32)


def fit_va_reader(
    X: NDArray[np.float32], va: NDArray[np.float64], sources: Sequence[str]
) -> tuple[VaReader, NDArray[np.float32]]:
    """Fit a ridge from embeddings to VA; also predict each row with a ridge not fitted on its source.

    The penalty is the one with the least error on held-out sources; with a single source it is 1 and
    nothing is held out.

    Args:
        X: (n, d) embeddings to fit on.
        va: (n, 2) their aligned VA.
        sources: (n,) source of each; expanded clips share their source's ratings, so folds that
            split a source would make the error look too small.

    Returns:
        The reader fitted on all rows, and (n, 2) cross-fitted predictions of the rows themselves. Their
        errors are as large as those for unseen sources, so a model trained on them is not misled.
    """
    _, group = np.unique(np.asarray(sources, dtype=np.str_), return_inverse=True)
    folds = min(FOLDS, int(group.max()) + 1)
    fold = group % folds
    Xd = np.column_stack([X.astype(np.float64), np.ones(len(X))])
    squares = np.stack([Xd[fold == f].T @ Xd[fold == f] for f in range(folds)])
    products = np.stack([Xd[fold == f].T @ va[fold == f] for f in range(folds)])
    if folds == 1:
        weights = _solve(squares[0], products[0], 1.0)
        return _reader(weights), np.asarray(Xd @ weights, dtype=np.float32)
    best_error, penalty, cross_fitted = np.inf, 1.0, np.zeros(va.shape)
    for candidate in PENALTIES:
        readings = np.zeros(va.shape)
        for f in range(folds):
            weights = _solve(squares.sum(0) - squares[f], products.sum(0) - products[f], candidate)
            readings[fold == f] = Xd[fold == f] @ weights
        error = float(((readings - va) ** 2).mean())
        if error < best_error:
            best_error, penalty, cross_fitted = error, candidate, readings
    return _reader(_solve(squares.sum(0), products.sum(0), penalty)), cross_fitted.astype(np.float32)


def _solve(
    squares: NDArray[np.float64], products: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """Weights of a ridge from its normal equations; the last row is the unpenalised intercept."""
    penalties = np.full(len(squares), penalty)
    penalties[-1] = 0.0
    return np.asarray(np.linalg.solve(squares + np.diag(penalties), products), dtype=np.float64)


def _reader(weights: NDArray[np.float64]) -> VaReader:
    return VaReader(weights[:-1].astype(np.float32), weights[-1].astype(np.float32))
