"""The semantic half of the formula against brute force."""

import numpy as np
import pytest

from emid_assets.adapters.formula import TaughtFormula
from emid_assets.matching.fusion import Formula
from emid_assets.matching.row_state import LOG_SUM_EXP_STEP


def units(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("rescaling", ["raw", "candidate_minmax"])
def test_the_semantic_half_is_that_of_a_full_softmax(rescaling: str) -> None:
    Y, X = units(40, 0), units(5, 1)
    formula = TaughtFormula(20.0, Formula(0.6, 7, 3, rescaling, "cosine", 0.5))
    candidates, semantic = formula.semantic(X, Y)
    scores = 20 * X.astype(np.float64) @ Y.T.astype(np.float64)
    S = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1)[:, :7]
    np.testing.assert_array_equal(candidates, order)
    expected = np.take_along_axis(S, order, axis=1)
    if rescaling == "candidate_minmax":
        expected = (expected - expected[:, -1:]) / (expected[:, :1] - expected[:, -1:])
    # The log of the denominator is rounded to whole multiples of a step.
    np.testing.assert_allclose(semantic, 0.6 * expected, rtol=1e-4 + LOG_SUM_EXP_STEP / 2, atol=1e-7)
    of_one = formula.semantic_of(scores[0].astype(np.float32))
    np.testing.assert_array_equal(of_one[0], order[0])
    np.testing.assert_allclose(of_one[1], semantic[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernel", ["cosine", "gaussian"])
def test_a_weights_file_keeps_what_networks_read_of_it(kernel: str) -> None:
    formula = TaughtFormula(20.0, Formula(0.6, 7, 3, "raw", kernel, 0.4, 0.02, "calibrated"))
    kept = TaughtFormula.of_json(formula.to_json())
    assert kept.to_json() == formula.to_json()
    assert (kept.formula.method, kept.formula.uncertainty_weight) == ("calibrated", 0.02)
    assert (kept.sigma, kept.formula.kernel) == (None if kernel == "cosine" else 0.4, kernel)
