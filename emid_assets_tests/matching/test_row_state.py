"""Row states: the merge is the same whatever the order and grouping of the shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.matching.row_state import (
    RowState,
    empty_row_state,
    log_sum_exp,
    merge,
    stack,
    unrounded_log_sum_exp,
)


@st.composite
def three_shards(draw: st.DrawFn) -> list[RowState]:
    """States of the same rows over three disjoint column shards, with many equal scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from([1.0, 100.0, 1000.0]))
    states, first = [], 0
    for _ in range(3):
        columns = draw(st.integers(0, 9))
        scores = (rng.integers(-4, 5, (rows, columns)) / 4 * scale).astype(np.float32)
        states.append(_state_of(scores, first, width))
        first += columns
    return states


def _state_of(scores: np.ndarray, first: int, width: int) -> RowState:
    rows, columns = scores.shape
    state = empty_row_state(rows, width)
    if columns == 0:
        return state
    ids = np.broadcast_to(np.arange(first, first + columns), scores.shape)
    order = np.lexsort((ids, -scores), axis=1)[:, :width]
    state.ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    state.scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    top = scores.max(axis=1).astype(np.float64)
    return RowState(top, np.exp(scores - top[:, None]).sum(axis=1, dtype=np.float64), state.ids, state.scores)


def _assert_same(a: RowState, b: RowState) -> None:
    np.testing.assert_array_equal(a.maximum, b.maximum)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_allclose(a.sum_exp, b.sum_exp, rtol=1e-6)


@settings(deadline=None)
@given(three_shards())
def test_merge_is_associative_commutative_and_has_the_empty_state_as_neutral_element(
    shards: list[RowState],
) -> None:
    a, b, c = shards
    _assert_same(merge(a, b), merge(b, a))
    _assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    _assert_same(merge(a, empty_row_state(a.rows, a.width)), a)


@settings(deadline=None)
@given(three_shards())
def test_merged_shards_equal_the_state_of_all_columns_at_once(shards: list[RowState]) -> None:
    merged = merge(merge(shards[2], shards[0]), shards[1])
    kept = np.concatenate([s.ids for s in shards], axis=1), np.concatenate([s.scores for s in shards], axis=1)
    for row in range(merged.rows):
        pairs = sorted((-score, i) for i, score in zip(kept[0][row], kept[1][row], strict=True) if i >= 0)
        expected = pairs[: merged.width]
        assert [i for i in merged.ids[row] if i >= 0] == [i for _, i in expected]


def test_log_sum_exp_survives_scores_far_apart_and_is_minus_infinity_before_any_column() -> None:
    a = RowState(np.array([1000.0]), np.array([2.0]), np.array([[0]]), np.array([[1000.0]], dtype=np.float32))
    b = RowState(
        np.array([-1000.0]), np.array([5.0]), np.array([[1]]), np.array([[-1000.0]], dtype=np.float32)
    )
    np.testing.assert_allclose(unrounded_log_sum_exp(merge(a, b)), [1000.0 + np.log(2.0)], rtol=1e-15)
    assert log_sum_exp(merge(a, b)).tolist() == [1000.0 + 710 / 1024]
    assert np.isneginf(log_sum_exp(empty_row_state(2, 3))).all()


def test_states_of_other_rows_or_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\) cannot be merged"):
        merge(empty_row_state(2, 3), empty_row_state(2, 4))
    with pytest.raises(ValueError, match="different widths"):
        stack([empty_row_state(2, 3), empty_row_state(2, 4)])
    with pytest.raises(ValueError, match="at least one"):
        stack([])
    assert stack([empty_row_state(2, 3), empty_row_state(1, 3)]).rows == 3
