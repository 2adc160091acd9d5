"""Which of Mikels' tags uncertain points get: the shares, and one tag for each image."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, IMAGE_EMOTIONS
from emid_assets.affect.nearest import nearest_image_emotions
from emid_assets.affect.tag_shares import assigned_tags, image_tag_shares

Floats = NDArray[np.float64]
PLACES = np.array([(emotion.valence, emotion.arousal) for emotion in IMAGE_EMOTIONS])
CENTRE, SPREAD = PLACES.mean(axis=0), PLACES.std(axis=0)


def shares_of(points: Floats, sd: float, labelled: dict[str, int] | None = None) -> Floats:
    """Shares of standardized points with one uncertainty."""
    return image_tag_shares(
        CENTRE + SPREAD * points, np.full_like(points, sd) * SPREAD, CENTRE, SPREAD, labelled or {}
    )


def counts_of(tags: list[str]) -> list[int]:
    return [tags.count(key) for key in IMAGE_EMOTION_KEYS]


def test_shares_are_those_of_bayes_rule_over_many_drawn_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 2))
    labelled = {"fear": 30, "awe": 4}
    standard = (PLACES - CENTRE) / SPREAD
    gaps = [min(np.hypot(*(a - b)) for b in standard if (a != b).any()) for a in standard]
    width = np.median(gaps)
    prior = np.array([labelled.get(key, 0) + 1.0 for key in IMAGE_EMOTION_KEYS])
    drawn = points[:, None] + 0.6 * rng.normal(size=(5, 200_000, 2))
    posterior = np.stack(
        [
            weight * np.exp(-((drawn - place * np.sqrt(1 - width**2)) ** 2).sum(axis=2) / 2 / width**2)
            for weight, place in zip(prior, standard, strict=True)
        ],
        axis=2,
    )
    posterior /= posterior.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(shares_of(points, 0.6, labelled), posterior.mean(axis=1), atol=0.01)


def test_a_sure_point_at_the_place_of_a_far_tag_is_that_tag() -> None:
    sad = IMAGE_EMOTION_KEYS.index("sadness")
    assert shares_of((PLACES[sad : sad + 1] - CENTRE) / SPREAD, 0.01)[0, sad] > 0.99


def test_the_users_own_labels_raise_the_share_of_their_tags() -> None:
    point = np.array([[-0.95, 0.7]])  # between anger, disgust and fear
    anger = IMAGE_EMOTION_KEYS.index("anger")
    without, with_labels = shares_of(point, 0.3), shares_of(point, 0.3, {"anger": 50})
    assert with_labels[0, anger] > without[0, anger] + 0.2
    np.testing.assert_allclose(with_labels.sum(), 1)


@pytest.mark.parametrize("n", [1, 2, 30, 300])
def test_the_assignment_is_the_best_one_with_the_counts_of_the_shares(n: int) -> None:
    shares = shares_of(np.random.default_rng(n).normal(size=(n, 2)) * 0.6, 0.8)
    tags = assigned_tags(shares)
    counts = np.array(counts_of(tags))
    assert counts.sum() == n
    assert (np.abs(counts - shares.sum(axis=0)) < 1).all()
    seats = np.repeat(np.arange(8), counts)
    rows, columns = linear_sum_assignment(-np.log(shares)[:, seats])
    best = np.log(shares)[rows, seats[columns]].sum()
    found = sum(np.log(shares)[row, IMAGE_EMOTION_KEYS.index(tag)] for row, tag in enumerate(tags))
    assert found == pytest.approx(best, abs=1e-9)


def test_equal_images_get_equal_tags_and_no_image_gets_none() -> None:
    assert len(set(assigned_tags(shares_of(np.full((40, 2), 0.3), 0.8)))) == 1
    assert assigned_tags(np.empty((0, 8))) == []


def test_the_spread_of_tags_is_that_of_the_true_points_where_the_nearest_ones_collapse_on_awe() -> None:
    """Predictions that know a third of the variance, as the head's do."""
    rng = np.random.default_rng(1)
    predicted = np.sqrt(0.35) * rng.normal(size=(600, 2))
    true = predicted + np.sqrt(0.65) * rng.normal(size=(600, 2))
    rated = counts_of(nearest_image_emotions(true, (0, 0), (1, 1)))
    nearest = counts_of(nearest_image_emotions(predicted, (0, 0), (1, 1)))
    shares = shares_of(predicted, np.sqrt(0.65))
    found = counts_of(assigned_tags(shares))

    def misplaced(counts: list[int]) -> float:
        return float(np.abs(np.subtract(counts, rated)).sum() / 2 / 600)

    awe = IMAGE_EMOTION_KEYS.index("awe")
    assert nearest[awe] > 2 * rated[awe]
    assert misplaced(nearest) > 0.3
    assert misplaced(found) < 0.15
