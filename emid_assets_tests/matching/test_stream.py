"""Streaming top-K softmax against a float64 brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.stream import MatchingError, top_k_softmax
from emid_assets_tests.matching.brute_force import brute_force_scores, brute_force_top_k, unit_rows


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, float, int, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m, d = draw(st.integers(1, 12)), draw(st.integers(1, 120)), draw(st.sampled_from([1, 2, 7, 64]))
    scale = draw(st.sampled_from([1.0, 20.0, 100.0, 1000.0]))
    X, Y = unit_rows(rng, n, d, scale), unit_rows(rng, m, d)
    shape = draw(st.sampled_from(["random", "duplicates", "all equal", "constant row", "rising", "falling"]))
    if shape == "duplicates":
        Y = Y[rng.integers(0, max(1, m // 5), m)]
    elif shape == "all equal":
        Y[:] = Y[0]
    elif shape == "constant row":
        X[0] = scale / np.sqrt(d)
        Y[:] = (rng.integers(1, 4, (m, 1)) / 4).astype(np.float32)
    elif shape in ("rising", "falling"):
        order = np.argsort(Y @ X[0])
        Y = np.ascontiguousarray(Y[order if shape == "rising" else order[::-1]])
    k = draw(st.integers(1, 130))
    return X, Y, k, scale, draw(st.integers(1, 8)), draw(st.integers(1, 64))


@settings(deadline=None, max_examples=150)
@given(problems())
def test_ids_are_those_of_a_float64_brute_force_and_probabilities_within_the_stated_error(
    problem: tuple[np.ndarray, np.ndarray, int, float, int, int],
) -> None:
    X, Y, k, scale, tile_rows, tile_columns = problem
    state = top_k_softmax(X, Y, k, tile_rows=tile_rows, tile_columns=tile_columns)
    scores = brute_force_scores(X, Y)
    ids, denominators = brute_force_top_k(scores, k)
    np.testing.assert_array_equal(state.ids, ids)
    expected = np.exp(np.take_along_axis(scores, ids, axis=1) - denominators[:, None])
    ours = np.exp(state.scores.astype(np.float64) - log_sum_exp(state)[:, None])
    np.testing.assert_allclose(ours, expected, rtol=1e-6 + 5e-7 * scale, atol=0)


def test_ties_break_by_the_given_column_ids_and_not_by_position() -> None:
    rng = np.random.default_rng(0)
    Y = unit_rows(rng, 4, 8)[rng.integers(0, 4, 300)]
    X = unit_rows(rng, 5, 8, 20.0)
    names = rng.permutation(300)
    state = top_k_softmax(X, Y, 40, column_ids=names, tile_columns=64)
    scores = brute_force_scores(X, Y)
    by_name = np.argsort(names)
    expected, _ = brute_force_top_k(scores[:, by_name], 40)
    np.testing.assert_array_equal(state.ids, expected)


def test_tiles_that_can_be_read_again_give_the_same_bits_as_one_array() -> None:
    rng = np.random.default_rng(1)
    X, Y = unit_rows(rng, 30, 32, 20.0), unit_rows(rng, 500, 32)
    whole = top_k_softmax(X, Y, 10, tile_columns=100)
    tiles = top_k_softmax(X, [Y[:100], Y[100:100], Y[100:400], Y[400:]], 10, tile_columns=100)
    for name in ("maximum", "sum_exp", "ids", "scores"):
        assert getattr(whole, name).tobytes() == getattr(tiles, name).tobytes()


def test_scores_that_rise_by_hundreds_from_tile_to_tile_do_not_break_the_denominator() -> None:
    direction = np.zeros((1, 4), dtype=np.float32)
    direction[0, 0] = 1000.0
    Y = np.zeros((64, 4), dtype=np.float32)
    Y[:, 0] = np.linspace(-1, 1, 64)
    state = top_k_softmax(direction, Y, 3, tile_columns=8)
    _, denominators = brute_force_top_k(brute_force_scores(direction, Y), 3)
    np.testing.assert_allclose(log_sum_exp(state), denominators, atol=1e-4)
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
        top_k_softmax(arrays["X"], arrays["Y"], 3, tile_rows=16, tile_columns=16)


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
