"""The names of the emotion model, against the published rows."""

import csv
from pathlib import Path

import pytest

from emid_assets.affect.emotions import (
    FEELINGS,
    IMAGE_EMOTION_KEYS,
    IMAGE_EMOTIONS,
    MUSIC_EMOTION_KEYS,
    MUSIC_EMOTIONS,
    RATINGS,
    UnknownLabelError,
    find_image_emotion,
    find_music_emotion,
)


def test_there_are_13_categories_by_letter_28_feelings_11_ratings_and_8_image_emotions() -> None:
    assert [emotion.letter for emotion in MUSIC_EMOTIONS] == list("ABCDEFGHIJKLM")
    assert len(set(MUSIC_EMOTION_KEYS)) == 13
    assert len(set(FEELINGS)) == 28
    assert len(set(RATINGS)) == 11
    assert IMAGE_EMOTION_KEYS == (
        "amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness",
    )  # fmt: skip


def test_every_category_of_music_is_also_a_feeling() -> None:
    assert {emotion.name for emotion in MUSIC_EMOTIONS} <= set(FEELINGS)


def test_the_places_of_all_emotions_lie_on_their_scales() -> None:
    assert all(1 < place < 9 for e in MUSIC_EMOTIONS for place in (e.valence, e.arousal))
    assert all(0 < place < 1 for e in IMAGE_EMOTIONS for place in (e.valence, e.arousal))


@pytest.mark.parametrize("label", ["K", "k", "sad", "SAD", "Sad, depressing", " sad,  depressing "])
def test_a_category_is_found_by_letter_key_or_name_in_any_case(label: str) -> None:
    assert find_music_emotion(label).key == "sad"


@pytest.mark.parametrize("label", ["", "N", "depressing", "Rock", "sad\0", "悲しい"])
def test_an_unknown_category_is_an_error_that_names_it_and_the_allowed_ones(label: str) -> None:
    with pytest.raises(UnknownLabelError) as raised:
        find_music_emotion(label)
    message = str(raised.value)
    assert repr(label) in message
    assert all(key in message for key in MUSIC_EMOTION_KEYS)
    assert "\n" not in message


def test_an_unknown_image_emotion_is_an_error_that_names_it_and_the_allowed_ones() -> None:
    assert find_image_emotion(" Awe ").key == "awe"
    with pytest.raises(UnknownLabelError, match=r"'joy'.*amusement, anger, awe.*sadness"):
        find_image_emotion("joy")


def test_the_means_of_the_published_ratings_are_near_those_of_each_category(shared_data: Path) -> None:
    # 1,473 of the 1,841 rows that the constants were computed from: near, not equal.
    rows = list(csv.DictReader((shared_data / "cowen_dev.csv").open(encoding="utf-8", newline="")))
    arousal, valence = RATINGS.index("arousal"), RATINGS.index("valence")
    for emotion in MUSIC_EMOTIONS:
        ratings = [[float(x) for x in r["emotion"].split(",")] for r in rows if r["genre"] == emotion.letter]
        assert len(ratings) > 20
        assert sum(r[valence] for r in ratings) / len(ratings) == pytest.approx(emotion.valence, abs=0.15)
        assert sum(r[arousal] for r in ratings) / len(ratings) == pytest.approx(emotion.arousal, abs=0.15)
