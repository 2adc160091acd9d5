"""Which emotion lies nearest a point."""

import numpy as np
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.nearest import nearest_image_emotions, nearest_music_emotions


def test_a_category_is_nearest_its_own_place() -> None:
    places = [(emotion.valence, emotion.arousal) for emotion in MUSIC_EMOTIONS]
    assert nearest_music_emotions(places) == [emotion.key for emotion in MUSIC_EMOTIONS]


def test_a_tag_is_nearest_its_own_place_in_a_population_of_tags() -> None:
    places = np.array([(emotion.valence, emotion.arousal) for emotion in IMAGE_EMOTIONS])
    found = nearest_image_emotions(places, places.mean(axis=0), places.std(axis=0))
    assert found == [emotion.key for emotion in IMAGE_EMOTIONS]


def test_the_scale_of_the_rated_population_does_not_matter() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    one = nearest_image_emotions(points, (0.0, 0.0), (1.0, 1.0))
    other = nearest_image_emotions(0.4 + 0.1 * points, (0.4, 0.4), (0.1, 0.1))
    assert one == other
    assert len(set(one)) >= 6


def test_the_nearest_category_is_that_of_a_search_by_hand() -> None:
    points = np.random.default_rng(1).uniform(2, 8, size=(200, 2))
    spread_v = np.std([emotion.valence for emotion in MUSIC_EMOTIONS])
    spread_a = np.std([emotion.arousal for emotion in MUSIC_EMOTIONS])
    for (valence, arousal), key in zip(points, nearest_music_emotions(points), strict=True):
        by_hand = min(
            MUSIC_EMOTIONS,
            key=lambda emotion: (
                ((valence - emotion.valence) / spread_v) ** 2 + ((arousal - emotion.arousal) / spread_a) ** 2
            ),
        )
        assert key == by_hand.key


@pytest.mark.parametrize(
    "find", [nearest_music_emotions, lambda va: nearest_image_emotions(va, (0.5, 0.5), (1, 1))]
)
def test_no_point_has_no_emotion(find: object) -> None:
    assert find(np.empty((0, 2))) == []  # type: ignore[operator]
