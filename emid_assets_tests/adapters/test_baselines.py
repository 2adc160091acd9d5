"""The ridge against its normal equations, and chance; the formula's order is tested with the frames."""

import numpy as np
import pytest

from emid_assets.adapters.baselines import predict_va, random_scores, ridge


@pytest.mark.parametrize(("n", "d"), [(50, 6), (6, 50)])
def test_the_ridge_solves_its_normal_equations_whichever_side_is_smaller(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    X, targets = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(n, 2))
    W, intercept = ridge(X, targets, 0.7)
    # The gradient of |targets - XW - b|² + .7 |W|² is zero.
    residual = targets - X @ W - intercept
    np.testing.assert_allclose(X.T.astype(np.float64) @ residual, 0.7 * W, atol=1e-5)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-5)


def test_predicted_va_never_reads_the_va_of_test_clips() -> None:
    rng = np.random.default_rng(1)
    X, va = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(30, 2))
    train, validation = [i < 20 for i in range(30)], [20 <= i < 25 for i in range(30)]
    spoiled = va.copy()
    spoiled[25:] = np.nan
    np.testing.assert_array_equal(
        predict_va(X, va, train, validation), predict_va(X, spoiled, train, validation)
    )


def test_predicted_va_takes_the_penalty_that_suits_validation() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 40)).astype(np.float32)
    va = rng.normal(size=(60, 2))  # nothing to learn: the strongest penalty is best
    predicted = predict_va(X, va, [i < 45 for i in range(60)], [i >= 45 for i in range(60)])
    weakest = X @ ridge(X[:45], va[:45], 1e-3)[0]
    assert predicted.std() < 0.5 * weakest.std()


def test_random_scores_are_the_same_for_the_same_seed_and_query_only() -> None:
    first = random_scores(0, 50)(np.array([3, 4]))
    np.testing.assert_array_equal(first[1:], random_scores(0, 50)(np.array([4])))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1:], random_scores(1, 50)(np.array([4])))
