"""The fused score against the formula, one clip at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.matching.fusion import RESCALINGS, fuse, rescale, semantic_similarity
from emid_assets.settings import Rescaling


def _formula(
    scores: list[float], denominator: float, E: list[float], alpha: float, m: int, method: str
) -> list[int]:
    """METHOD's formula 3 for one row, in Python floats; candidates by (score descending, id ascending)."""
    S = [math.exp(score - denominator) for score in scores]
    low, high = min(S), max(S)
    rescaled = {
        "raw": S,
        "candidate_softmax": [s / sum(S) for s in S],
        "candidate_minmax": [(s - low) / (high - low) if high > low else 1.0 for s in S],
    }[method]
    T = [alpha * s + (1 - alpha) * e for s, e in zip(rescaled, E, strict=True)]
    # Eleven digits: the two sides round differently in the last bits.
    return sorted(range(len(S)), key=lambda j: (-round(T[j], 11), -S[j], j))[:m]


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    k=st.integers(1, 12),
    m=st.integers(1, 14),
    alpha=st.sampled_from([0.0, 0.25, 0.6, 1.0]),
    method=st.sampled_from(RESCALINGS),
    levels=st.sampled_from([1, 2, 5]),
)
def test_chosen_candidates_are_those_of_the_formula_with_ties_by_s_then_by_id(
    seed: int, n: int, k: int, m: int, alpha: float, method: Rescaling, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.integers(0, levels, (n, k)).astype(np.float32), axis=1)
    denominators = scores.max(axis=1).astype(np.float64) + rng.uniform(1, 4, n)
    E = rng.integers(0, levels, (n, k)) / 8
    fused = fuse(rescale(scores, denominators, method), E, np.isfinite(scores), alpha, m)
    for row in range(n):
        expected = _formula(scores[row].tolist(), denominators[row], E[row].tolist(), alpha, m, method)
        assert fused.slots[row].tolist() == expected


@pytest.mark.parametrize("method", RESCALINGS)
def test_alpha_one_is_the_semantic_order_even_where_s_underflows(method: Rescaling) -> None:
    scores = np.array([[0.0, -900.0, -901.0, -902.0]], dtype=np.float32)
    E = np.array([[0.0, 0.1, 0.2, 1.0]])
    fused = fuse(rescale(scores, np.array([0.5]), method), E, np.isfinite(scores), 1.0, 4)
    assert fused.slots.tolist() == [[0, 1, 2, 3]]


def test_rescaled_similarity_is_bounded_and_sums_to_one_where_it_is_a_softmax() -> None:
    scores = np.array([[3.0, 1.0, -2.0], [500.0, 500.0, 500.0]], dtype=np.float32)
    denominators = np.array([4.0, 503.0])
    minmax = rescale(scores, denominators, "candidate_minmax")
    assert minmax[0, 0] == 1.0
    assert minmax[0, 2] == 0.0
    assert (minmax[1] == 1.0).all()
    np.testing.assert_allclose(rescale(scores, denominators, "candidate_softmax").sum(axis=1), 1.0)
    np.testing.assert_allclose(
        rescale(scores, denominators, "raw"), semantic_similarity(scores, denominators), rtol=1e-15
    )


def test_rows_with_fewer_candidates_than_others_keep_only_their_own() -> None:
    scores = np.array([[2.0, 1.0, 0.0], [1.0, -np.inf, -np.inf]], dtype=np.float32)
    valid = np.isfinite(scores)
    for method in RESCALINGS:
        assert rescale(scores, np.zeros(2) + 3, method)[1, 1:].tolist() == [0.0, 0.0]
    for alpha in (0.0, 0.6, 1.0):
        fused = fuse(rescale(scores, np.zeros(2) + 3, "candidate_minmax"), np.ones((2, 3)), valid, alpha, 2)
        assert fused.slots.tolist() == [[0, 1], [0, -1]]
        assert np.isnan(fused.fused_score[1, 1])
        assert np.isfinite(fused.fused_score[:, 0]).all()


def test_settings_out_of_range_are_refused() -> None:
    square = np.ones((1, 1))
    with pytest.raises(ValueError, match=r"alpha is 1.5.*\[0, 1\]"):
        fuse(square, square, square > 0, 1.5, 1)
    with pytest.raises(ValueError, match="m is 0"):
        fuse(square, square, square > 0, 0.5, 0)
    with pytest.raises(ValueError, match="'max' is not known: choose one of candidate_minmax, raw"):
        rescale(square.astype(np.float32), np.ones(1), "max")  # type: ignore[arg-type]
