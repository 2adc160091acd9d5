"""The candidates by E, and the pairs chosen from them, against a float64 brute force over all images."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad

from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.emotional_candidates import emotional_candidates
from emid_assets.matching.frames import (
    candidate_pairs,
    candidate_rows,
    fused_pairs_frame,
    similarity_frame,
    unproven,
    va_distance_frame,
)
from emid_assets.matching.fusion import Formula
from emid_assets.store.schemas import FUSED_PAIRS, VA_DISTANCES
from emid_assets_tests.small_lake import embeddings

CALIBRATED = Formula(0.1, 5, 3, "candidate_minmax", "gaussian", 0.5, 1.0, "calibrated")
PLACES = [(0.0, 0.0), (0.4, -0.2), (-0.6, 0.8), (0.4, 0.2)]
SPREADS = [0.0, 0.0, 0.2, 0.5]
LOOKS = np.array([(4, 1, 0), (1, 4, 0), (0, 3, 3), (-2, 1, 5), (3, 3, 1)], dtype=float)


def drawn_media(seed: int, clips: int, images: int, tags_only: bool) -> dict[str, pl.DataFrame]:
    """Media of few looks and few places, so that S, E and T tie; images of tags have one spread."""
    rng = np.random.default_rng(seed)

    def plane(key: str, ids: list[str]) -> pl.DataFrame:
        places = np.array(PLACES)[rng.integers(len(PLACES), size=len(ids))]
        if not tags_only and key == "image_id":
            places = places + rng.integers(-3, 4, places.shape) / 10
        spreads = np.array(SPREADS)[rng.integers(len(SPREADS), size=(len(ids), 2))]
        if tags_only and key == "image_id":
            spreads[:] = 0.3
        return pl.DataFrame(
            {
                key: ids, "valence": places[:, 0], "arousal": places[:, 1],
                "valence_sd": spreads[:, 0], "arousal_sd": spreads[:, 1],
            }
        )  # fmt: skip

    clip_ids = [f"clip {i:02d}" for i in rng.permutation(clips)]
    image_ids = [f"image {i:03d}" for i in rng.permutation(images)]
    music, pictures = (LOOKS[rng.integers(len(LOOKS), size=n)] for n in (clips, images))
    return {
        "music": embeddings("clip_id", clip_ids, music, 2.0),
        "images": embeddings("image_id", image_ids, pictures, 1.0),
        "music_va": plane("clip_id", clip_ids),
        "image_va": plane("image_id", image_ids),
    }


def matched(media: dict[str, pl.DataFrame], formula: Formula) -> tuple[pl.DataFrame, pl.DataFrame]:
    """S, and the rows of all candidates."""
    similarity = similarity_frame(media["music"], media["images"], formula.candidates)
    va = media["music_va"], media["image_va"]
    pairs = candidate_pairs(similarity, *va, formula, media["music"], media["images"])
    return similarity, VA_DISTANCES.check(va_distance_frame(pairs, *va, formula))


def expected_similarity(clip: dict[str, float], image: dict[str, float], formula: Formula) -> float:
    """E by the formula of the method, in plain Python."""
    E = 1.0
    for axis in ("valence", "arousal"):
        s2 = formula.uncertainty_weight * (clip[f"{axis}_sd"] ** 2 + image[f"{axis}_sd"] ** 2)
        widened = formula.sigma**2 + s2
        E *= formula.sigma / math.sqrt(widened) * math.exp(-((clip[axis] - image[axis]) ** 2) / 2 / widened)
    return E


def brute_force(media: dict[str, pl.DataFrame], formula: Formula) -> list[tuple[str, str, float]]:
    """The pairs by T over every image, written out: clip, image, T."""
    images = media["images"].sort("image_id")
    positions = {row["image_id"]: row for row in media["image_va"].iter_rows(named=True)}
    Y = images["embedding"].to_numpy().astype(np.float64)
    pairs = []
    for clip, x in zip(media["music"]["clip_id"], media["music"]["embedding"].to_numpy(), strict=True):
        scores = [round(float(2.0 * x.astype(np.float64) @ y), 5) for y in Y]
        by_s = sorted(range(len(Y)), key=lambda i: (-scores[i], i))[: formula.candidates]
        S = {i: math.exp(scores[i]) for i in by_s}
        low, high = min(S.values()), max(S.values())
        here = media["music_va"].row(by_predicate=pl.col("clip_id") == clip, named=True)

        T = {}
        for i, name in enumerate(images["image_id"]):
            of_s = 0.0 if i not in S else (S[i] - low) / (high - low) if high > low else 1.0
            E = expected_similarity(here, positions[name], formula)
            T[i] = formula.alpha * of_s + (1 - formula.alpha) * E
        ordered_by = {i: 0.0 if formula.alpha == 1 else -round(T[i], 9) for i in T}
        every = by_s if formula.alpha == 1 else list(T)
        order = sorted(every, key=lambda i: (ordered_by[i], -scores[i], i))
        pairs += [(clip, images["image_id"][i], T[i]) for i in order[: formula.images_per_clip]]
    return pairs


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.9, 1.0]),
    k=st.integers(1, 40),
    m=st.integers(1, 8),
    images=st.sampled_from([1, 2, 9, 33]),
    tags_only=st.booleans(),
    weight=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_pairs_are_those_of_a_brute_force_over_every_image(
    seed: int, alpha: float, k: int, m: int, images: int, tags_only: bool, weight: float
) -> None:
    formula = replace(CALIBRATED, alpha=alpha, candidates=k, images_per_clip=m, uncertainty_weight=weight)
    media = drawn_media(seed, 7, images, tags_only)
    similarity, distances = matched(media, formula)
    pairs = FUSED_PAIRS.check(fused_pairs_frame(similarity, distances, formula))
    expected = brute_force(media, formula)
    assert pairs.select("clip_id", "image_id").rows() == [pair[:2] for pair in expected]
    assert pairs["fused_score"].to_list() == pytest.approx([pair[2] for pair in expected], abs=5e-5)
    assert distances.height <= 7 * 2 * max(k, m)
    assert unproven(pairs, candidate_rows(similarity, distances, formula), formula) == []
    shuffled = distances.sample(fraction=1.0, shuffle=True, seed=1)
    assert fused_pairs_frame(similarity, shuffled, formula).equals(pairs)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 30),
    tags_only=st.booleans(),
    part=st.sampled_from([3, 10, 100]),
)
def test_candidates_by_e_are_the_first_of_all_images_however_these_come(
    seed: int, k: int, tags_only: bool, part: int
) -> None:
    formula = replace(CALIBRATED, candidates=k)
    media = drawn_media(seed, 6, 29, tags_only)
    points = [
        media[name].select("valence", "arousal", "valence_sd", "arousal_sd").to_numpy()
        for name in ("music_va", "image_va")
    ]
    X, Y = (media[name]["embedding"].to_numpy() for name in ("music", "images"))
    ids = media["images"]["image_id"].rank("ordinal").to_numpy().astype(np.int64)
    parts = [Y[start : start + part] for start in range(0, len(Y), part)]
    found = emotional_candidates(formula, *points, X, parts, ids)
    for clip, place in enumerate(media["music_va"].iter_rows(named=True)):
        E = [
            round(expected_similarity(place, row, formula), 9)
            for row in media["image_va"].iter_rows(named=True)
        ]
        scores = np.round(X[clip].astype(np.float64) @ Y.astype(np.float64).T, 6)
        order = sorted(range(len(Y)), key=lambda i: (-E[i], -scores[i], ids[i]))[: max(k, 3)]
        assert found.images[found.clips == clip].tolist() == sorted(order)


def test_an_image_that_is_no_candidate_but_should_be_is_found_by_the_check() -> None:
    media = drawn_media(5, 7, 33, tags_only=False)
    similarity, distances = matched(media, CALIBRATED)
    pairs = fused_pairs_frame(similarity, distances, CALIBRATED)
    worse = pairs.with_columns(
        fused_score=pl.col("fused_score") * pl.when(pl.col("rank") == 3).then(0.0).otherwise(1.0)
    )
    rows = candidate_rows(similarity, distances, CALIBRATED)
    assert unproven(worse, rows, CALIBRATED) == sorted(media["music"]["clip_id"])
    assert unproven(worse, rows, replace(CALIBRATED, method="paper")) == []


def test_the_uncertain_gaussian_is_the_expectation_of_the_certain_one() -> None:
    u, v, s, t, sigma = np.array([0.3, -0.4]), np.array([-0.1, 0.2]), (0.2, 0.4), (0.1, 0.3), 0.5
    expectation = 1.0
    for axis in range(2):

        def weighted(b: float, a: float, axis: int = axis) -> float:
            density = math.exp(
                -((a - u[axis]) ** 2) / 2 / s[axis] ** 2 - (b - v[axis]) ** 2 / 2 / t[axis] ** 2
            )
            return density / (2 * math.pi * s[axis] * t[axis]) * math.exp(-((a - b) ** 2) / 2 / sigma**2)

        expectation *= dblquad(weighted, -4, 4, -4, 4)[0]
    variance = np.square(s) + np.square(t)
    assert emotional_similarity(u, v, "gaussian", sigma, variance) == pytest.approx(expectation, rel=1e-6)
    assert emotional_similarity(u, v, "gaussian", sigma, 0.0 * variance) == pytest.approx(
        emotional_similarity(u, v, "gaussian", sigma)
    )
