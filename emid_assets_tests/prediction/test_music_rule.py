"""The rule from tags to valence and arousal: its lists, its arithmetic and its uncertainty."""

import json

import numpy as np
import pytest

from emid_assets.prediction.music_rule import (
    ALL_TAGS,
    CORRELATION,
    RATING_MEAN,
    RATING_SPREAD,
    REFERENCE_FILE,
    RULE,
    TAGS,
    Reference,
    predict_music,
    shipped_reference,
    signed_sums,
)

PUBLISHED = {
    ("arousal", "MTT"): "+loud fast techno drums beat rock metal dance "
    "-slow quiet soft ambient new_age classical",
    ("arousal", "MSD"): "+rock dance metal punk hard_rock party heavy_metal electro House "
    "-Mellow chillout chill ambient acoustic easy_listening sad folk",
    ("valence", "MSD"): "+happy party dance catchy funk soul pop country 60s oldies "
    "-sad ambient experimental metal heavy_metal Progressive_rock",
}


def test_the_lists_of_tags_are_those_that_were_measured() -> None:
    written = {
        (axis, network): "+" + " ".join(tag.replace(" ", "_") for tag in plus)
        + " -" + " ".join(tag.replace(" ", "_") for tag in minus)
        for axis, networks in RULE.items()
        for network, (plus, minus) in networks.items()
    }  # fmt: skip
    assert written == PUBLISHED


def test_every_tag_of_the_rule_is_one_that_its_network_knows() -> None:
    assert [len(tags) for tags in TAGS.values()] == [50, 50]
    assert len(set(ALL_TAGS)) == 100
    for networks in RULE.values():
        for network, signs in networks.items():
            for tags in signs:
                assert set(tags) <= set(TAGS[network])


@pytest.mark.parametrize("axis", RULE)
def test_a_tag_moves_its_axis_by_its_own_log_odds(axis: str) -> None:
    place = list(RULE).index(axis)
    rng = np.random.default_rng(0)
    log_odds = rng.standard_normal((1, 100)).astype(np.float32)
    expected = 0.0
    for (of_axis, network), text in PUBLISHED.items():
        if of_axis == axis:
            for sign, tags in zip((1, -1), text.removeprefix("+").split(" -"), strict=True):
                for tag in tags.split():
                    column = ALL_TAGS.index(f"{network} {tag.replace('_', ' ')}")
                    expected += sign * float(log_odds[0, column])
    assert signed_sums(log_odds)[0, place] == pytest.approx(expected, abs=1e-5)


def test_a_prediction_is_the_regression_of_ratings_on_the_sum() -> None:
    """Ratings drawn with the rule's correlation are predicted without bias, within the deviation told."""
    rng = np.random.default_rng(1)
    n = 20_000
    reference = Reference((3.0, -2.0), (5.0, 7.0))
    log_odds = np.zeros((n, 100), np.float32)
    z = rng.standard_normal((n, 2))
    log_odds[:, ALL_TAGS.index("MSD happy")] = 3.0 + 5.0 * z[:, 0]
    log_odds[:, ALL_TAGS.index("MTT loud")] = -2.0 + 7.0 * z[:, 1]
    va, sd = predict_music(log_odds, reference)
    for place, axis in enumerate(RULE):
        r = CORRELATION[axis]
        noise = rng.standard_normal(n) * np.sqrt(1 - r**2)
        ratings = RATING_MEAN[axis] + RATING_SPREAD[axis] * (r * z[:, place] + noise)
        errors = ratings - va[:, place]
        assert abs(errors.mean()) < 0.02
        assert errors.std() == pytest.approx(RATING_SPREAD[axis] * np.sqrt(1 - r**2), rel=0.02)
        assert errors.std() < 1.02 * sd[0, place]
        assert np.corrcoef(ratings, va[:, place])[0, 1] == pytest.approx(r, abs=0.01)


def test_no_prediction_leaves_the_scale() -> None:
    va, sd = predict_music(
        np.full((1, 100), 1e4, np.float32) * np.eye(100, dtype=np.float32), shipped_reference()
    )
    assert va.min() >= 1.0
    assert va.max() <= 9.0
    assert (sd > 0).all()


def test_the_reference_says_how_it_was_made() -> None:
    stored = json.loads(REFERENCE_FILE.read_text())
    assert stored["axes"] == list(RULE)
    assert "make_music_reference" in stored["made_by"]
    assert int(stored["population"].split()[0]) > 300
    assert min(stored["spread"]) > 1
