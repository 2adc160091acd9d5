"""Streaming top-K softmax against a float64 brute force."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emid_assets.matching import compiled, plain
from emid_assets.matching.device import shard_state_on_device
from emid_assets.matching.product import ProductName
from emid_assets.matching.row_state import RowState, empty_row_state, log_sum_exp, stack
from emid_assets.matching.top_k_softmax import (
    Backend,
    MatchingError,
    merge_shards,
    settle_shards,
    shard_state,
    top_k_softmax,
)
from emid_assets_tests.matching.brute_force import (
    brute_force_scores,
    brute_force_top_k,
    rounded,
    unit_rows,
)


@dataclass(frozen=True)
class Problem:
    X: NDArray[np.float32]
    Y: NDArray[np.float32]
    k: int
    scale: float


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m, d = (
        draw(st.integers(1, 6)),
        draw(st.sampled_from([1, 2, 30, 120, 1400])),
        draw(st.sampled_from([1, 2, 7, 64])),
    )
    scale = draw(st.sampled_from([1.0, 20.0, 100.0, 1000.0]))
    X, Y = unit_rows(rng, n, d, scale), unit_rows(rng, m, d)
    shape = draw(
        st.sampled_from(
            ["random", "duplicates", "all equal", "constant row", "zero row", "rising", "falling"]
        )
    )
    if shape == "duplicates":
        Y = Y[rng.integers(0, max(1, m // 5), m)]
    elif shape == "all equal":
        Y[:] = Y[0]
    elif shape == "constant row":
        X[0] = scale / np.sqrt(d)
        Y[:] = (rng.integers(1, 4, (m, 1)) / 4).astype(np.float32)
    elif shape == "zero row":
        X[0] = 0.0
    elif shape in ("rising", "falling"):
        order = np.argsort(Y @ X[0])
        Y = np.ascontiguousarray(Y[order if shape == "rising" else order[::-1]])
    return Problem(X, Y, draw(st.sampled_from([1, 3, 50, 130])), scale)


EQUAL_COLUMNS = Problem(
    np.array([[340.09497, -940.3911], [-166.81596, -985.98804]], dtype=np.float32),
    np.tile(np.array([0.84389555, 0.5365075], dtype=np.float32), (1400, 1)),
    1,
    1000.0,
)
"""Their scores have one error, so that it does not average out in the log-sum-exp."""


@pytest.mark.processor
@settings(deadline=None, max_examples=150)
@example(problem=EQUAL_COLUMNS, backend="numpy", product="numpy", threads=1, tile_rows=1, tile_columns=5)
@given(
    problem=problems(),
    backend=st.sampled_from(["numpy", "numba"]),
    product=st.sampled_from(["numpy", "torch", "onednn"]),
    threads=st.integers(1, 3),
    tile_rows=st.sampled_from([1, 2, 512]),
    tile_columns=st.sampled_from([5, 64, 700, 2048]),
)
def test_ids_scores_and_log_sum_exps_are_those_of_a_float64_brute_force(
    problem: Problem, backend: Backend, product: ProductName, threads: int, tile_rows: int, tile_columns: int
) -> None:
    X, Y, k = problem.X, problem.Y, problem.k
    state = top_k_softmax(
        X,
        Y,
        k,
        backend=backend,
        product=product,
        threads=threads,
        tile=(tile_rows, tile_columns),
    )
    scores = brute_force_scores(X, Y)
    ids, denominators = brute_force_top_k(scores, k)
    np.testing.assert_array_equal(state.ids, ids)
    best = np.take_along_axis(scores, ids, axis=1)
    # Two float64 sums of different orders may lie on two sides of the middle between two float32 numbers.
    np.testing.assert_allclose(state.scores, best.astype(np.float32), rtol=1.2e-7, atol=1e-13)
    np.testing.assert_array_equal(log_sum_exp(state), rounded(denominators))


def between_two_steps(X: NDArray[np.float32], Y: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows, each scaled so that its log-sum-exp is as near as can be to the middle between two steps."""
    rows = []
    for x in X:
        scores = brute_force_scores(x[None], Y)

        def value(scale: float, scores: NDArray[np.float64] = scores) -> float:
            return float(brute_force_top_k(scale * scores, 1)[1][0])

        middle = (np.floor(value(1.0) * 1024) + 0.5) / 1024
        low, high = 0.5, 2.0
        for _ in range(60):
            scale = (low + high) / 2
            low, high = (scale, high) if value(scale) < middle else (low, scale)
        rows.append((x.astype(np.float64) * low).astype(np.float32))
    return np.stack(rows)


@pytest.mark.processor
def test_threads_products_tiles_shards_and_loops_change_no_bit() -> None:
    rng = np.random.default_rng(2)
    Y = unit_rows(rng, 900, 48)
    Y[100:120] = Y[7]
    X = np.concatenate([unit_rows(rng, 70, 48, 20.0), between_two_steps(unit_rows(rng, 40, 48, 20.0), Y)])
    one = top_k_softmax(X, Y, 20, threads=1, backend="numpy", product="numpy")
    ways: list[RowState] = []
    for backend in ("numpy", "numba"):
        for product in ("numpy", "torch", "onednn"):
            for threads, tile in ((1, (512, 1024)), (2, (16, 300)), (5, (7, 64))):
                ways.append(
                    top_k_softmax(X, Y, 20, threads=threads, backend=backend, product=product, tile=tile)  # type: ignore[arg-type]
                )
    shards = [shard_state(X, Y[a:b], 20, first_column=a, product="onednn") for a, b in ((500, 900), (0, 500))]
    ways.append(settle_shards(merge_shards(shards), X, Y, 20))
    ways.append(stack([top_k_softmax(X[a:b], Y, 20, product="torch") for a, b in ((0, 31), (31, 110))]))
    device = shard_state_on_device(X, Y, 20, device="cpu", precision="float32", tile_columns=256)
    ways.append(settle_shards(device, X, Y, 20))
    for way in ways:
        for name in ("maximum", "sum_exp", "ids", "scores"):
            assert getattr(way, name).tobytes() == getattr(one, name).tobytes()
    _, denominators = brute_force_top_k(brute_force_scores(X, Y), 20)
    np.testing.assert_array_equal(log_sum_exp(one), rounded(denominators))
    middle = np.abs(denominators[70:] * 1024 % 1 - 0.5) / 1024
    assert middle.max() < 1e-5, "the test's rows must be those that float32 sums cannot decide"


@pytest.mark.processor
@pytest.mark.parametrize("d", [1, 7, 63, 64, 65, 200, 1024])
def test_exact_scores_have_the_same_bits_in_both_loops_and_those_of_the_stated_order(d: int) -> None:
    rng = np.random.default_rng(d)
    X, Y = unit_rows(rng, 9, d, 20.0), unit_rows(rng, 30, d)
    rows, columns = rng.integers(0, 9, 300), rng.integers(0, 30, 300)
    ours = plain.exact_scores(X, rows, Y, columns)
    assert ours.tobytes() == compiled.exact_scores(X, rows, Y, columns).tobytes()
    for pair in range(0, 300, 37):
        lanes = [0.0] * 64
        for j in range(d):
            lanes[j % 64] += float(X[rows[pair], j]) * float(Y[columns[pair], j])
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
        assert ours[pair] == lanes[0]


@pytest.mark.processor
def test_the_callers_thread_settings_are_put_back() -> None:
    import torch
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    before, pools = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    X = unit_rows(np.random.default_rng(0), 40, 16)
    top_k_softmax(X, X, 3, threads=2, product="onednn", tile=(16, 2048))
    assert torch.get_num_threads() == before
    assert [pool["num_threads"] for pool in threadpool_info()] == pools


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_column_shards_merged_in_any_order_settle_to_the_ids_of_the_whole(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    X, Y = unit_rows(rng, 20, 24, 20.0), unit_rows(rng, 700, 24)
    Y[600:640] = Y[3]
    edges = [0, 5, 300, 700]
    shards = [shard_state(X, Y[a:b], 30, first_column=a, backend=backend) for a, b in pairwise(edges)]
    ids, denominators = brute_force_top_k(brute_force_scores(X, Y), 30)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        state = settle_shards(merge_shards([shards[i] for i in order]), X, Y, 30, backend=backend)
        np.testing.assert_array_equal(state.ids, ids)
        np.testing.assert_array_equal(log_sum_exp(state), rounded(denominators))
    with pytest.raises(MatchingError, match="the shards hold 300 columns and Y 700"):
        settle_shards(merge_shards(shards[:2]), X, Y, 30)


def test_compiled_and_plain_loops_agree_block_by_block() -> None:
    rng = np.random.default_rng(6)
    ours, oracle = empty_row_state(30, 40), empty_row_state(30, 40)
    first = 0
    for columns in (1500, 3, 64, 257, 1000):
        block = (rng.integers(-300, 300, (30, columns)) / 16).astype(np.float32)
        compiled.absorb(block.copy(), first, ours)
        plain.absorb(block.copy(), first, oracle)
        first += columns
        np.testing.assert_array_equal(ours.ids, oracle.ids)
        np.testing.assert_array_equal(ours.scores, oracle.scores)
        np.testing.assert_array_equal(ours.maximum, oracle.maximum)
        np.testing.assert_allclose(ours.sum_exp, oracle.sum_exp, rtol=1e-6)


def test_ties_break_by_the_given_column_ids_and_not_by_position() -> None:
    rng = np.random.default_rng(0)
    Y = unit_rows(rng, 4, 8)[rng.integers(0, 4, 300)]
    X = unit_rows(rng, 5, 8, 20.0)
    names = rng.permutation(300)
    state = top_k_softmax(X, Y, 40, column_ids=names, tile=(512, 64))
    scores = brute_force_scores(X, Y)
    by_name = np.argsort(names)
    expected, _ = brute_force_top_k(scores[:, by_name], 40)
    np.testing.assert_array_equal(state.ids, expected)


def test_tiles_that_can_be_read_again_give_the_same_bits_as_one_array() -> None:
    rng = np.random.default_rng(1)
    X, Y = unit_rows(rng, 30, 32, 20.0), unit_rows(rng, 500, 32)
    whole = top_k_softmax(X, Y, 10, tile=(512, 100))
    tiles = top_k_softmax(X, [Y[:100], Y[100:100], Y[100:400], Y[400:]], 10, tile=(512, 100))
    for name in ("maximum", "sum_exp", "ids", "scores"):
        assert getattr(whole, name).tobytes() == getattr(tiles, name).tobytes()


def test_scores_that_rise_by_hundreds_from_tile_to_tile_do_not_break_the_denominator() -> None:
    direction = np.zeros((1, 4), dtype=np.float32)
    direction[0, 0] = 1000.0
    Y = np.zeros((64, 4), dtype=np.float32)
    Y[:, 0] = np.linspace(-1, 1, 64)
    state = top_k_softmax(direction, Y, 3, tile=(512, 8))
    _, denominators = brute_force_top_k(brute_force_scores(direction, Y), 3)
    np.testing.assert_array_equal(log_sum_exp(state), rounded(denominators))
    assert state.ids[0].tolist() == [63, 62, 61]


def test_no_rows_give_no_states() -> None:
    state = top_k_softmax(np.empty((0, 3), dtype=np.float32), np.ones((5, 3), dtype=np.float32), 2)
    assert state.ids.shape == (0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["X", "Y"])
def test_a_number_that_is_not_finite_is_an_error_that_names_its_row(side: str, value: float) -> None:
    arrays = {"X": np.ones((40, 6), dtype=np.float32), "Y": np.ones((70, 6), dtype=np.float32)}
    arrays[side][33, 2] = value
    with pytest.raises(MatchingError, match=f"row 33 of {side} holds a number that is not finite"):
        top_k_softmax(arrays["X"], arrays["Y"], 3, tile=(16, 16))


def test_finite_embeddings_whose_scores_overflow_are_an_error() -> None:
    X = np.full((2, 4), 1e25, dtype=np.float32)
    with pytest.raises(MatchingError, match="overflows float32"):
        top_k_softmax(X, X, 1)


@pytest.mark.parametrize(
    ("Y", "k", "message"),
    [
        (np.ones((0, 3), dtype=np.float32), 1, "no image embeddings"),
        ([], 1, "no image embeddings"),
        (np.ones((2, 4), dtype=np.float32), 1, "one encoder for both"),
        (np.ones((2, 3)), 1, "float32 matrix is needed"),
        (np.ones((2, 3), dtype=np.float32), 0, "k is 0"),
        (iter([np.ones((2, 3), dtype=np.float32)]), 1, "one-way iterator"),
    ],
)
def test_input_that_cannot_be_matched_is_refused_with_its_reason(Y: object, k: int, message: str) -> None:
    with pytest.raises(MatchingError, match=message):
        top_k_softmax(np.ones((2, 3), dtype=np.float32), Y, k)  # type: ignore[arg-type]
