"""The ridge that reads valence and arousal, against its normal equations and by what it may not see."""

import numpy as np
import pytest

from emid_assets.adapters.va_ridge import fit_va_reader


def data(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    return X, X[:, :2] @ np.array([[1.0, 0.2], [0.1, -1.0]]) + 0.1 * rng.normal(size=(n, 2)) + 3.0


@pytest.mark.parametrize(("n", "d"), [(200, 6), (12, 50)])
def test_the_reader_solves_the_ridges_normal_equations_for_one_of_its_penalties(n: int, d: int) -> None:
    X, va = data(n, d)
    reader, _ = fit_va_reader(X, va, [str(i) for i in range(n)])
    residual = va - X.astype(np.float64) @ reader.weights - reader.intercept
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-4)
    gradient = X.T.astype(np.float64) @ residual
    penalty = (gradient * reader.weights).sum() / (reader.weights.astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(gradient, penalty * reader.weights, atol=2e-3 * max(1.0, penalty))
    assert np.isclose(np.log10(penalty), np.round(np.log10(penalty)), atol=0.1)


def test_a_rows_cross_fitted_reading_does_not_depend_on_the_ratings_of_its_own_source() -> None:
    X, va = data(60, 4)
    sources = [f"source {i // 3}" for i in range(60)]
    _, readings = fit_va_reader(X, va, sources)
    spoiled = va.copy()
    spoiled[:3] += 0.01
    _, again = fit_va_reader(X, spoiled, sources)
    np.testing.assert_allclose(again[:3], readings[:3], atol=1e-7)
    assert not np.allclose(again[3:], readings[3:], atol=1e-7)


def test_windows_of_one_source_do_not_flatter_the_readings() -> None:
    """Sixty sources of eight equal windows in fifty dimensions, with ratings that nothing tells."""
    rng = np.random.default_rng(1)
    X = np.repeat(rng.normal(size=(60, 50)), 8, axis=0).astype(np.float32)
    va = np.repeat(rng.normal(size=(60, 2)), 8, axis=0)
    _, by_source = fit_va_reader(X, va, [f"source {i // 8}" for i in range(480)])
    _, by_window = fit_va_reader(X, va, [f"window {i}" for i in range(480)])
    error = {"source": ((by_source - va) ** 2).mean(), "window": ((by_window - va) ** 2).mean()}
    assert error["source"] > 0.9 * va.var()
    assert error["window"] < 0.5 * va.var()


def test_a_single_source_is_read_by_what_was_learnt_from_it() -> None:
    X, va = data(30, 4)
    reader, readings = fit_va_reader(X, va, ["one"] * 30)
    np.testing.assert_allclose(reader.read(X), readings, atol=1e-5)
