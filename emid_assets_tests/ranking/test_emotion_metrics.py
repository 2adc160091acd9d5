"""Metrics by feeling on rankings small enough to count by hand."""

import math

import numpy as np
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.ranking.emotion_metrics import MUSIC_TO_IMAGE_EMOTION, emotion_metrics_at_k

TAGS = ["sadness", "awe", "sadness"]
IMAGE_VA = np.array([[-0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def test_the_map_covers_all_thirteen_categories_and_names_only_the_eight() -> None:
    assert set(MUSIC_TO_IMAGE_EMOTION) == set(MUSIC_EMOTION_KEYS)
    assert set(MUSIC_TO_IMAGE_EMOTION.values()) <= set(IMAGE_EMOTION_KEYS)


def test_values_are_those_counted_by_hand() -> None:
    metrics = emotion_metrics_at_k(np.array([[1, 0]]), ["sad"], np.array([[-0.5, -0.3]]), TAGS, IMAGE_VA)
    assert metrics["label_precision"][0] == 0.5
    assert metrics["label_mrr"][0] == 0.5
    # The centre of sadness is (-.5, 0), .3 away; awe's is farther.
    assert metrics["nearest_tag"][0] == 0.5
    assert metrics["va_distance"][0] == pytest.approx((math.hypot(1.0, 0.8) + 0.2) / 2)
    # The two images lie opposite each other: their cosines cancel.
    assert metrics["va_cosine"][0] == pytest.approx(0.0, abs=1e-12)
    assert metrics["quadrant"][0] == 0.5


def test_places_without_an_image_are_wrong_labels_and_left_out_of_the_means() -> None:
    metrics = emotion_metrics_at_k(np.array([[0, -1]]), ["sad"], np.array([[-0.5, -0.5]]), TAGS, IMAGE_VA)
    assert metrics["label_precision"][0] == 0.5
    assert metrics["va_distance"][0] == 0.0
    assert metrics["va_cosine"][0] == pytest.approx(1.0)
    assert metrics["quadrant"][0] == 1.0


def test_a_clip_without_direction_has_no_cosine() -> None:
    metrics = emotion_metrics_at_k(np.array([[0, 1]]), ["sad"], np.zeros((1, 2)), TAGS, IMAGE_VA)
    assert math.isnan(metrics["va_cosine"][0])
