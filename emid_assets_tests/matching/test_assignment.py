"""Pairs as a set, against the exact optimum of a linear program (SciPy's HiGHS)."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity, vstack

from emid_assets.matching.assignment import assign, pairs_as_a_set, passed_over
from emid_assets.matching.top_k_softmax import MatchingError
from emid_assets.store.schemas import FUSED_PAIRS

ONE_PAIR_MORE = 1000.0
"""Above every sum of T below."""


class Candidates(NamedTuple):
    clips: np.ndarray
    images: np.ndarray
    fused_score: np.ndarray


def candidates(clips: list[int], images: list[int], fused_score: list[float]) -> Candidates:
    """In the order that `assign` wants."""
    order = np.lexsort(np.array([images, -np.array(fused_score), clips]))
    return Candidates(np.array(clips)[order], np.array(images)[order], np.array(fused_score)[order])


def optimum(given: Candidates, m: int, limit: int) -> tuple[list[int], float]:
    """How many clips have at least 1, … m pairs, and the sum of T, by a linear program.

    The matrix is that of a network, so its optimum is a set of whole pairs. A clip's c-th pair is worth more
    than every (c + 1)-th pair and every T together.
    """
    edges, clips, images = len(given.clips), int(given.clips.max()) + 1, int(given.images.max()) + 1
    ones, number = np.ones(edges), np.arange(edges)
    of_clip = csr_matrix((ones, (given.clips, number)), shape=(clips, edges))
    of_image = csr_matrix((ones, (given.images, number)), shape=(images, edges))
    levels = hstack([-identity(clips)] * m)
    worth = np.repeat([ONE_PAIR_MORE ** (m - c) for c in range(m)], clips)
    found = linprog(
        -np.concatenate([given.fused_score, worth]),
        A_ub=vstack([hstack([of_image, csr_matrix((images, clips * m))])]),
        b_ub=np.full(images, limit),
        A_eq=hstack([of_clip, levels]),
        b_eq=np.zeros(clips),
        bounds=(0, 1),
        method="highs-ds",
    )
    assert found.status == 0, found.message
    whole = np.rint(found.x)
    np.testing.assert_allclose(found.x, whole, atol=1e-6)
    at_least = whole[edges:].reshape(m, clips).sum(axis=1).astype(int).tolist()
    return at_least, float(whole[:edges] @ given.fused_score)


def result(given: Candidates, m: int, limit: int) -> tuple[list[int], float]:
    taken = assign(given.clips, given.images, given.fused_score, m, limit)
    pairs = np.bincount(given.clips[taken], minlength=int(given.clips.max()) + 1)
    assert pairs.max() <= m
    assert np.bincount(given.images[taken]).max() <= limit
    return [int((pairs >= c).sum()) for c in range(1, m + 1)], float(given.fused_score[taken].sum())


@st.composite
def small_sets(draw: st.DrawFn) -> Candidates:
    clips, images = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    chosen = [
        (clip, image)
        for clip in range(clips)
        for image in draw(st.lists(st.integers(0, images - 1), unique=True, min_size=1))
    ]
    scores = st.integers(0, 8).map(lambda eighths: eighths / 8)
    fused = draw(st.lists(scores, min_size=len(chosen), max_size=len(chosen)))
    return candidates([clip for clip, _ in chosen], [image for _, image in chosen], fused)


@settings(deadline=None, max_examples=150)
@given(small=small_sets(), m=st.integers(1, 3), limit=st.integers(1, 4))
def test_the_set_has_the_most_pairs_and_of_these_the_largest_sum(
    small: Candidates, m: int, limit: int
) -> None:
    assert result(small, m, limit) == optimum(small, m, limit)


def crowd(clips: int, images: int, width: int, seed: int = 0) -> Candidates:
    """Clips in groups that want the same images, some of which every clip likes."""
    rng = np.random.default_rng(seed)
    liked = rng.normal(size=(clips // 6 + 1, images))[np.arange(clips) // 6] + 2 * rng.normal(size=images)
    liked += 0.3 * rng.normal(size=(clips, images))
    best = np.argsort(-liked, axis=1)[:, :width]
    scores = np.take_along_axis(liked, best, axis=1)
    scaled = (scores - scores.min()) / np.ptp(scores)
    return candidates(np.repeat(np.arange(clips), width).tolist(), best.ravel().tolist(), scaled.ravel())


@pytest.mark.parametrize("limit", [2, 6, 9, 30])
def test_a_crowd_that_wants_the_same_images_is_assigned_as_well_as_possible(limit: int) -> None:
    given = crowd(150, 60, 25)
    at_least, total = result(given, 3, limit)
    wanted, best = optimum(given, 3, limit)
    assert at_least == wanted
    assert total == pytest.approx(best, abs=1e-6)


def frame(given: Candidates) -> pl.DataFrame:
    """As FUSED_PAIRS rows of all candidates."""
    return pl.DataFrame(
        {
            "clip_id": [f"clip {clip:04d}" for clip in given.clips],
            "image_id": [f"image {image:04d}" for image in given.images],
            "fused_score": given.fused_score,
        }
    ).select(
        "clip_id",
        "image_id",
        (pl.int_range(pl.len(), dtype=pl.Int32).over("clip_id") + 1).alias("rank"),
        *(pl.lit(0.5).alias(name) for name in FUSED_PAIRS.columns if name.endswith("_similarity")),
        "fused_score",
    )


def test_a_limit_that_no_image_reaches_leaves_each_clip_its_own_best() -> None:
    given = crowd(80, 40, 20)
    given = given._replace(fused_score=np.round(given.fused_score, 1))  # many ties, in the order of rank
    ranked = frame(given)
    assert_frame_equal(pairs_as_a_set(ranked, 3, 80), ranked.filter(pl.col("rank") <= 3))


def test_the_set_depends_on_the_rows_and_not_on_their_order() -> None:
    given = crowd(80, 40, 20)
    ranked = frame(given._replace(fused_score=np.round(given.fused_score, 1)))
    pairs = pairs_as_a_set(ranked, 3, 12)
    for seed in range(3):
        shuffled = ranked.sample(fraction=1.0, shuffle=True, seed=seed)
        assert_frame_equal(pairs_as_a_set(shuffled, 3, 12), pairs)
    assert pairs["image_id"].value_counts()["count"].max() == 12
    places = pairs.group_by("clip_id", maintain_order=True).agg("rank")["rank"].to_list()
    assert places == [[1, 2, 3]] * 80


def test_where_the_images_do_not_suffice_no_clip_has_two_while_another_could_have_one() -> None:
    ranked = frame(crowd(90, 10, 10))
    pairs = pairs_as_a_set(ranked, 3, 10)
    found = pairs.group_by("clip_id").len()["len"].value_counts().sort("len").rows()
    assert found == [(1, 80), (2, 10)]
    assert passed_over(ranked, pairs, 3, 10).is_empty()
    lacking = pairs.filter(pl.col("image_id") != "image 0003")
    left = passed_over(ranked, lacking, 3, 10)
    assert left.height
    assert set(left["image_id"]) == {"image 0003"}


def test_what_is_no_set_of_candidates_is_refused() -> None:
    one = np.array([0, 0])
    with pytest.raises(MatchingError, match=r"not in \[0, 1\]"):
        assign(one, np.array([0, 1]), np.array([1.5, 0.5]), 1, 1)
    with pytest.raises(ValueError, match="not ordered"):
        assign(one, np.array([0, 1]), np.array([0.2, 0.5]), 1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        assign(one, np.array([0, 1]), np.array([0.5, 0.2]), 1, 0)
    assert pairs_as_a_set(FUSED_PAIRS.empty(), 3, 1).is_empty()
