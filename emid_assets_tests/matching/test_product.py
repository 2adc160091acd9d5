"""Which product is used, what the fast mode gets wrong, and what loading the package costs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emid_assets.matching import product as products
from emid_assets.matching.product import (
    NumpyProduct,
    ProductName,
    ProductUnavailableError,
    find_product,
    measure_products,
    refusal,
)
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.top_k_softmax import top_k_softmax
from emid_assets_tests.matching.brute_force import brute_force_scores, brute_force_top_k, unit_rows


@pytest.mark.processor
def test_the_probe_measures_every_product_that_works_and_numpy_always_does() -> None:
    speeds = measure_products(64)
    assert speeds["numpy"] > 0
    assert set(speeds) <= {"numpy", "torch", "onednn"}


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """What was found by trying is found again, with what the test has changed."""
    for cached in (refusal, products.fastest_product):
        cached.cache_clear()
    yield
    for cached in (refusal, products.fastest_product):
        cached.cache_clear()


@pytest.mark.processor
@pytest.mark.parametrize("name", ["numpy", "torch", "onednn", "int8"])
@pytest.mark.parametrize("dimension", [1, 7, 64, 1000])
def test_a_product_is_refused_exactly_where_its_scores_are_not_those_of_float64(
    name: ProductName, dimension: int
) -> None:
    rng = np.random.default_rng(1)
    X = rng.choice([-1.0, 1.0], (33, dimension)).astype(np.float32)
    Y = rng.choice([-1.0, 1.0], (21, dimension)).astype(np.float32)
    X[5], Y[5] = 1.0, 1.0
    if refusal(name, dimension):
        with pytest.raises(ProductUnavailableError, match=rf"matching_product '{name}' cannot .* set match"):
            find_product(name, dimension)
        return
    product, scratch = find_product(name, dimension), np.empty(33 * 21, dtype=np.float32)
    for blocks in (1, 20):
        scores = product.multiply(product.prepare_rows(X), product.prepare_columns(Y, blocks), scratch)
        np.testing.assert_allclose(scores, X.astype(np.float64) @ Y.T.astype(np.float64), atol=1e-3)


@pytest.mark.processor
def test_an_operator_that_torch_no_longer_has_falls_out_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, tried_anew: None
) -> None:
    def gone(self: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(products.OneDnnProduct, "__init__", gone)
    assert "onednn" not in measure_products(32)
    assert "numpy" in measure_products(32)
    with pytest.raises(
        ProductUnavailableError, match=r"'onednn' .* no attribute '_reorder_linear_weight'; set"
    ):
        find_product("onednn", 32)


@pytest.mark.processor
@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("columns", [1, 5, 1024])
def test_a_product_that_refuses_one_size_of_block_is_no_candidate(
    monkeypatch: pytest.MonkeyPatch, tried_anew: None, rows: int, columns: int
) -> None:
    class Picky(NumpyProduct):
        def multiply(self, rows_: Any, columns_: Any, scratch: Any) -> Any:
            if (len(rows_), columns_.shape[1]) == (rows, columns):
                raise RuntimeError("could not create a primitive. Run workload with environment variable X")
            return super().multiply(rows_, columns_, scratch)

    monkeypatch.setattr(products, "OneDnnProduct", Picky)
    assert refusal("onednn", 16) == "could not create a primitive"
    assert "onednn" not in measure_products(16)
    with pytest.raises(ProductUnavailableError, match="at 16 dimensions: could not create a primitive; set"):
        top_k_softmax(np.eye(16, dtype=np.float32), np.eye(16, dtype=np.float32), 1, product="onednn")


@pytest.mark.processor
def test_a_product_whose_scores_are_wrong_is_no_candidate(
    monkeypatch: pytest.MonkeyPatch, tried_anew: None
) -> None:
    class Wrong(NumpyProduct):
        def multiply(self, rows: Any, columns: Any, scratch: Any) -> Any:
            scores = super().multiply(rows, columns, scratch)
            scores[-1, -1] += 0.01
            return scores

    monkeypatch.setattr(products, "TorchProduct", Wrong)
    assert "torch" not in measure_products(64)
    with pytest.raises(ProductUnavailableError, match=r"scores are wrong by up to 0\.01; set"):
        find_product("torch", 64)


def test_an_unknown_product_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'blas' is not known: choose one of auto, numpy, torch"):
        find_product("blas", 8)  # type: ignore[arg-type]


def test_fast_mode_keeps_the_top_k_sets_and_the_denominators_within_the_stated_error() -> None:
    why = refusal("int8", 1024)
    if why:
        pytest.skip(f"needs a processor with VNNI: {why}")
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, 1000, 1024, 20.0), unit_rows(rng, 3000, 1024)
    exact, fast = top_k_softmax(X, Y, 50), top_k_softmax(X, Y, 50, product="int8")
    same = (np.sort(exact.ids, axis=1) == np.sort(fast.ids, axis=1)).all(axis=1)
    assert same.mean() >= 0.999
    assert np.abs(log_sum_exp(exact) - log_sum_exp(fast)).max() <= 0.01


@pytest.mark.processor
def test_auto_computes_a_problem_that_is_not_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emid_assets.matching.top_k_softmax.SMALL_PROBLEM", 0.0)
    rng = np.random.default_rng(4)
    X, Y = unit_rows(rng, 600, 96, 20.0), unit_rows(rng, 1500, 96)
    ids, _ = brute_force_top_k(brute_force_scores(X, Y), 7)
    state = top_k_softmax(X, Y, 7)
    np.testing.assert_array_equal(state.ids, ids)
    assert not refusal(products.fastest_product(96), 96)
    # Whichever product the probe finds to be the fastest, the bits are the same.
    for name in ("numpy", "torch", "onednn"):
        monkeypatch.setattr("emid_assets.matching.product.fastest_product", lambda *_, name=name: name)
        chosen = top_k_softmax(X, Y, 7)
        for part in ("maximum", "sum_exp", "scores"):
            assert getattr(chosen, part).tobytes() == getattr(state, part).tobytes()


def test_without_numba_the_same_ids_come_from_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "emid_assets.matching.compiled", raising=False)
    monkeypatch.delattr("emid_assets.matching.compiled", raising=False)
    monkeypatch.setattr("emid_assets.matching.top_k_softmax.SMALL_PROBLEM", 0.0)
    rng = np.random.default_rng(3)
    X, Y = unit_rows(rng, 9, 16, 20.0), unit_rows(rng, 200, 16)
    ids, _ = brute_force_top_k(brute_force_scores(X, Y), 7)
    np.testing.assert_array_equal(top_k_softmax(X, Y, 7).ids, ids)
    with pytest.raises(ImportError):
        top_k_softmax(X, Y, 7, backend="numba")


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_frames_loads_neither_torch_nor_numba() -> None:
    heavy = _python(
        "import sys, emid_assets.matching.frames as a\n"
        "print([name for name in ('torch', 'numba', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_a_small_problem_loads_neither_torch_nor_numba() -> None:
    heavy = _python(
        "import sys, numpy as np\n"
        "from emid_assets.matching.top_k_softmax import top_k_softmax\n"
        "X = np.eye(20, dtype=np.float32)\n"
        "assert top_k_softmax(X, X, 1).ids.ravel().tolist() == list(range(20))\n"
        "print([name for name in ('torch', 'numba') if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_a_second_process_loads_the_compiled_loops_instead_of_compiling_them(tmp_path: Path) -> None:
    code = (
        f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}\n"
        "import numpy as np\n"
        "from emid_assets.matching import compiled\n"
        "compiled.sort_rows(np.zeros((2, 9)), np.zeros((2, 9), dtype=np.int64))\n"
        "print(sum(compiled._sort_rows.stats.cache_misses.values()))"
    )
    assert [_python(code).strip(), _python(code).strip()] == ["1", "0"]
