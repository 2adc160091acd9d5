"""Alignment and likeness on the VA plane, against arithmetic written out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import (
    SPREADS_TO_EDGE,
    emotional_similarity,
    fit_alignment,
    va_cosine,
    va_euclidean,
)

TAGS = [emotion.key for emotion in IMAGE_EMOTIONS]
TAG_VA = [(emotion.valence, emotion.arousal) for emotion in IMAGE_EMOTIONS]


def test_fixed_maps_the_ends_of_the_scale_to_the_ends_of_the_plane() -> None:
    alignment = fit_alignment([(5.0, 5.0)], ["K"], 1, 9, "fixed")
    assert alignment.apply([(1, 9), (5, 5), (9, 1), (7, 3)]).tolist() == [
        [-1, 1],
        [0, 0],
        [1, -1],
        [0.5, -0.5],
    ]


def test_standardize_puts_mean_and_spread_of_the_population_at_0_and_1_over_2_5() -> None:
    va = np.array([(2.0, 3.0), (4.0, 7.0), (6.0, 5.0)])
    aligned = fit_alignment(va, ["A", "B", "C"], 1, 9).apply(va)
    assert aligned.mean(axis=0) == pytest.approx([0, 0], abs=1e-12)
    assert aligned.std(axis=0) * SPREADS_TO_EDGE == pytest.approx([1, 1])


def test_a_large_class_weighs_no_more_than_a_small_one() -> None:
    small = fit_alignment([(2.0, 3.0), (6.0, 7.0)], ["A", "B"], 1, 9)
    lopsided = fit_alignment([(2.0, 3.0)] * 999 + [(6.0, 7.0)], ["A"] * 999 + ["B"], 1, 9)
    assert lopsided.centre == pytest.approx(small.centre)
    assert lopsided.unit == pytest.approx(small.unit)


def test_the_spread_within_a_label_counts_beside_that_between_labels() -> None:
    # A: 1 and 3 (weight 1/2 each), B: 6 (weight 1): mean 4, variance (9/2 + 1/2 + 4) / 2 = 4.5.
    alignment = fit_alignment([(1.0, 1.0), (3.0, 3.0), (6.0, 6.0)], ["A", "A", "B"], 1, 9)
    assert alignment.centre == pytest.approx((4, 4))
    assert alignment.unit == pytest.approx((SPREADS_TO_EDGE * math.sqrt(4.5),) * 2)


def test_no_image_tag_is_moved_by_the_edge_of_the_plane() -> None:
    aligned = fit_alignment(TAG_VA, TAGS, 0, 1).apply(TAG_VA)
    assert np.abs(aligned).max() < 1
    assert np.average(aligned, axis=0) == pytest.approx([0, 0], abs=1e-12)


def test_standardized_the_letters_of_music_spread_over_the_image_tags_which_raw_scales_do_not() -> None:
    letters = [emotion.letter for emotion in MUSIC_EMOTIONS]
    letter_va = [(emotion.valence, emotion.arousal) for emotion in MUSIC_EMOTIONS]

    def nearest(method: str) -> list[int]:
        music = fit_alignment(letter_va, letters, 1, 9, method).apply(letter_va)  # type: ignore[arg-type]
        images = fit_alignment(TAG_VA, TAGS, 0, 1, method).apply(TAG_VA)  # type: ignore[arg-type]
        return [int(tag) for tag in va_euclidean(music[:, None], images).argmin(axis=1)]

    assert nearest("fixed").count(TAGS.index("awe")) >= 8
    assert len(set(nearest("standardize"))) >= 5


def test_an_axis_without_spread_falls_back_to_the_ends_of_the_scale_and_says_so() -> None:
    alignment = fit_alignment([(2.0, 5.5), (6.0, 5.5)], ["A", "B"], 1, 9)
    assert alignment.fixed_axes == ("arousal",)
    assert alignment.apply((4.0, 9.0)).tolist() == [0, 1]
    assert fit_alignment(np.empty((0, 2)), [], 0, 1).fixed_axes == ("valence", "arousal")
    assert fit_alignment(TAG_VA, TAGS, 0, 1).fixed_axes == ()


@given(st.lists(st.tuples(*[st.floats(1, 9)] * 2, st.sampled_from("ABC")), min_size=1, max_size=20))
def test_aligned_points_lie_in_the_square_and_keep_their_direction(
    rows: list[tuple[float, float, str]],
) -> None:
    va = np.array([row[:2] for row in rows])
    alignment = fit_alignment(va, [row[2] for row in rows], 1, 9)
    aligned = alignment.apply(va)
    assert np.abs(aligned).max() <= 1
    unbounded = (va - alignment.centre) / alignment.unit
    cross = aligned[:, 0] * unbounded[:, 1] - aligned[:, 1] * unbounded[:, 0]
    assert np.abs(cross).max() <= 1e-12 * max(1, np.abs(unbounded).max())


def test_bad_populations_are_errors_that_say_what_is_bad() -> None:
    with pytest.raises(ValueError, match=r"item 1 \(label 'B'\) is not finite"):
        fit_alignment([(1.0, 2.0), (math.nan, 2.0)], ["A", "B"], 1, 9)
    with pytest.raises(ValueError, match="2 labels"):
        fit_alignment([(1.0, 2.0)], ["A", "B"], 1, 9)
    with pytest.raises(ValueError, match="last axis"):
        fit_alignment([1.0, 2.0, 3.0], ["A", "B", "C"], 1, 9)
    with pytest.raises(ValueError, match="lower end"):
        fit_alignment([(1.0, 2.0)], ["A"], 9, 1)
    with pytest.raises(ValueError, match="unknown alignment 'z'"):
        fit_alignment([(1.0, 2.0)], ["A"], 1, 9, "z")  # type: ignore[arg-type]


def test_the_cosine_kernel_is_1_ahead_a_half_across_and_0_behind() -> None:
    similarity = emotional_similarity((0.2, 0.1), [(0.6, 0.3), (-0.1, 0.2), (-0.02, -0.01)])
    assert similarity == pytest.approx([1, 0.5, 0], abs=1e-12)


def test_a_zero_vector_has_a_half_and_no_cosine() -> None:
    assert emotional_similarity((0, 0), [(1, 1), (0, 0)]).tolist() == [0.5, 0.5]
    assert np.isnan(va_cosine((0, 0), [(1, 1), (0, 0)])).all()


def test_the_gaussian_kernel_keeps_intensity() -> None:
    assert emotional_similarity((0.1, 0), (0.1, 0), "gaussian") == 1
    weak, strong = emotional_similarity((0.1, 0), [(0.2, 0), (1, 0)], "gaussian", sigma=0.5)
    assert weak == pytest.approx(math.exp(-0.01 / 0.5))
    assert strong == pytest.approx(math.exp(-0.81 / 0.5))


vectors = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).filter(lambda v: math.hypot(*v) > 1e-150)


@given(vectors, vectors)
def test_both_kernels_agree_with_the_formula_in_plain_python(
    u: tuple[float, float], v: tuple[float, float]
) -> None:
    angle = math.atan2(u[1], u[0]) - math.atan2(v[1], v[0])
    cosine, distance = math.cos(angle), math.dist(u, v)
    assert va_cosine(u, v) == pytest.approx(cosine, abs=1e-9)
    assert va_euclidean(u, v) == pytest.approx(distance)
    assert emotional_similarity(u, v) == pytest.approx((1 + cosine) / 2, abs=1e-9)
    assert emotional_similarity(u, v, "gaussian", 0.3) == pytest.approx(math.exp(-(distance**2) / 0.18))
    assert 0 <= emotional_similarity(u, v) <= 1


def test_points_broadcast_clips_by_candidates() -> None:
    clips, candidates = np.full((4, 1, 2), 0.5), np.full((4, 7, 2), 0.25)
    assert emotional_similarity(clips, candidates).shape == (4, 7)
    assert emotional_similarity(clips, candidates, "gaussian").shape == (4, 7)


def test_bad_kernels_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'linear'"):
        emotional_similarity((1, 0), (0, 1), "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma is 0"):
        emotional_similarity((1, 0), (0, 1), "gaussian", 0)
