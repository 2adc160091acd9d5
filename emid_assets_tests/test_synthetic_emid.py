"""The generated data set: EMID's counts, labels that windows share, pairs by the formula."""

from collections import Counter

import numpy as np
import pytest

from emid_assets.affect.emotions import MUSIC_EMOTIONS
from emid_assets_tests.synthetic_emid import (
    EXPANDED,
    ORIGINALS,
    GeneratedData,
    Recipe,
    generate,
    pair_data,
    split_images,
)

SMALL = Recipe(shrink=40, images=160, dimension=48, candidates=20)


@pytest.fixture(scope="module")
def data() -> GeneratedData:
    return generate(0, SMALL)


def test_the_counts_are_those_of_the_published_data_set() -> None:
    assert sum(EXPANDED.values()) == 10_738
    assert sum(ORIGINALS.values()) == 1_836
    assert set(EXPANDED) == set(ORIGINALS) == {emotion.letter for emotion in MUSIC_EMOTIONS}


def test_every_category_has_its_share_of_sources_and_clips(data: GeneratedData) -> None:
    clips = Counter(data.clip_emotions)
    for emotion in MUSIC_EMOTIONS:
        originals = max(1, ORIGINALS[emotion.letter] // SMALL.shrink)
        assert clips[emotion.key] == max(originals, EXPANDED[emotion.letter] // SMALL.shrink)
        sources = {s for s, key in zip(data.sources, data.clip_emotions, strict=True) if key == emotion.key}
        assert len(sources) == originals


def test_windows_of_a_source_share_its_ratings_and_lie_close_to_each_other(data: GeneratedData) -> None:
    same = data.sources[:, None] == data.sources[None]
    np.fill_diagonal(same, False)
    first, second = np.nonzero(same)
    np.testing.assert_array_equal(data.music_va[first], data.music_va[second])
    cosine = data.music @ data.music.T
    assert cosine[same].mean() > cosine[~same].mean() + 0.1


def test_pairs_are_the_best_of_the_raw_formula(data: GeneratedData) -> None:
    X, Y = SMALL.scale * data.music.astype(np.float64), data.images.astype(np.float64)
    for clip in range(0, len(X), 17):
        scores = Y @ X[clip]
        S = np.exp(scores) / np.exp(scores).sum()
        u, v = data.music_va[clip], data.image_va
        E = (1 + v @ u / np.linalg.norm(u) / np.linalg.norm(v, axis=1)) / 2
        candidates = np.argsort(-scores)[: SMALL.candidates]
        T = 0.6 * S[candidates] + 0.4 * E[candidates]
        best = candidates[np.argsort(-T)[:3]]
        pairs = data.pair_clips == clip
        assert data.pair_images[pairs].tolist() == best.tolist()
        # S has the precision of the rounded log-sum-exp.
        np.testing.assert_allclose(data.fused_scores[pairs], np.sort(T)[::-1][:3], rtol=5e-4)


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(data: GeneratedData) -> None:
    again = generate(0, SMALL)
    np.testing.assert_array_equal(again.music, data.music)
    np.testing.assert_array_equal(again.pair_images, data.pair_images)
    assert not np.array_equal(generate(1, SMALL).music, data.music)


def test_cold_pairs_keep_sources_together_and_warm_pairs_hold_out_one_of_each_clip(
    data: GeneratedData,
) -> None:
    cold = pair_data(data, "cold", seed=0)
    for source in set(cold.source_ids):
        rows = [row for row, name in enumerate(cold.source_ids) if name == source]
        assert len({cold.clip_parts[row] for row in rows}) == 1
    warm = pair_data(data, "warm", seed=0)
    trained = warm.pair_parts == "train"
    np.testing.assert_array_equal(np.bincount(warm.pair_clips[trained]), 2)
    np.testing.assert_array_equal(np.bincount(warm.pair_clips[~trained]), 1)
    held_out = {part: set(warm.pair_clips[warm.pair_parts == part]) for part in ("validation", "test")}
    sources = {part: {warm.source_ids[clip] for clip in clips} for part, clips in held_out.items()}
    assert not sources["validation"] & sources["test"]
    assert sources["validation"]
    assert sources["test"]


def test_unseen_images_are_nowhere_in_what_is_learnt_from_and_all_that_is_ranked(
    data: GeneratedData,
) -> None:
    known, unseen = split_images(data, seed=3)
    assert sorted([*known.image_ids, *unseen.image_ids]) == sorted(data.image_ids)
    assert not set(known.image_ids) & set(unseen.image_ids)
    assert 0 < len(unseen.image_ids) < len(known.image_ids)
    pairs = {
        (clip, data.image_ids[image]) for clip, image in zip(data.pair_clips, data.pair_images, strict=True)
    }
    of_parts = [
        {(clip, part.image_ids[image]) for clip, image in zip(part.pair_clips, part.pair_images, strict=True)}
        for part in (known, unseen)
    ]
    assert of_parts[0] | of_parts[1] == pairs
    assert not of_parts[0] & of_parts[1]
    place = data.image_ids.index(unseen.image_ids[2])
    np.testing.assert_array_equal(unseen.images[2], data.images[place])
    np.testing.assert_array_equal(unseen.image_va[2], data.image_va[place])
    assert unseen.image_tags[2] == data.image_tags[place]
