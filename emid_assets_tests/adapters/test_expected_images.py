"""What the formula expects of a clip, against a loop over clips, errors and images in float64."""

import numpy as np
import pytest
import torch

from emid_assets.adapters.expected_images import BLOCK, DRAWS, Expectation
from emid_assets.adapters.formula import TaughtFormula
from emid_assets.matching.fusion import Formula, fuse
from emid_assets.settings import Kernel

CLIPS, IMAGES, FEATURES, CANDIDATES = BLOCK + 5, 40, 64, 12


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("sigma", [None, 0.7])
def test_the_vector_is_the_mean_of_the_expected_images_by_their_shares(sigma: float | None) -> None:
    features, va, images = drawn(0, IMAGES, FEATURES), drawn(1, CLIPS, 2), drawn(2, IMAGES, 2)
    errors = 0.5 * drawn(3, 30, 2)
    rng = np.random.default_rng(4)
    candidates = np.stack([rng.choice(IMAGES, CANDIDATES, replace=False) for _ in range(CLIPS)])
    semantic = 0.6 * rng.random((CLIPS, CANDIDATES)).astype(np.float32)
    kernel = "cosine" if sigma is None else "gaussian"
    expectation = Expectation.of(
        TaughtFormula(1.0, Formula(0.6, CANDIDATES, 3, "raw", kernel, sigma or 0.0)),
        errors.astype(np.float64),
        features,
    )
    teacher = expectation.teacher(candidates, semantic, expectation.plane(torch.from_numpy(images), None))
    chosen = expectation.expected(teacher, torch.from_numpy(va))
    found = expectation.vectors(chosen, torch.from_numpy(features)).numpy()

    taken = errors[np.random.default_rng(0).integers(len(errors), size=DRAWS)]
    weight = 1 / (FEATURES * features.astype(np.float64).var(axis=0))
    for clip in (0, 1, BLOCK - 1, BLOCK, CLIPS - 1):
        expected = np.zeros(FEATURES)
        for error in taken:
            u, v = (va[clip] + error).astype(np.float64), images[candidates[clip]].astype(np.float64)
            if sigma is None:
                E = (1 + v @ u / np.linalg.norm(v, axis=1) / np.linalg.norm(u)) / 2
            else:
                E = np.exp(-((v - u) ** 2).sum(axis=1) / (2 * sigma**2))
            best = np.argsort(-(semantic[clip] + 0.4 * E))[:3]
            expected += features[candidates[clip][best]].sum(axis=0) / (3 * DRAWS)
        np.testing.assert_allclose(found[clip], expected * weight, rtol=1e-3, atol=1e-5)


def test_no_clip_expects_nothing() -> None:
    features, va = drawn(0, 50, 8), torch.from_numpy(drawn(1, 50, 2))
    formula = TaughtFormula(1.0, Formula(0.1, 10, 3, "candidate_minmax", "gaussian", 0.3, 0.02, "calibrated"))
    expectation = Expectation.of(formula, np.zeros((1, 2)), features)
    teacher = expectation.teacher_of(features[:0], features, expectation.plane(va, None))
    chosen = expectation.expected(teacher, torch.zeros(0, 2))
    assert expectation.vectors(chosen, torch.from_numpy(features)).shape == (0, 8)


def test_the_inner_product_with_an_image_is_about_its_share() -> None:
    features = drawn(0, 500, 256) * np.linspace(0.1, 3.0, 256, dtype=np.float32)
    expectation = Expectation.of(
        TaughtFormula(1.0, Formula(0.6, 4, 1, "raw", "cosine", 0.0)), np.zeros((1, 2)), features
    )
    # Only S differs, so that the first candidate is the one pair of every draw.
    places = torch.ones(500, 2)
    teacher = expectation.teacher(
        np.array([[7, 8, 9, 10]]),
        np.array([[0.4, 0.3, 0.2, 0.1]], np.float32),
        expectation.plane(places, None),
    )
    chosen = expectation.expected(teacher, places[:1])
    (vector,) = expectation.vectors(chosen, torch.from_numpy(features)).numpy()
    shares = features @ vector
    assert shares[7] == pytest.approx(1.0, abs=0.35)
    assert np.abs(np.delete(shares, 7)).max() < 0.35


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kernel", ["cosine", "gaussian"])
def test_of_equal_candidates_the_teacher_takes_those_that_the_pairs_would_have(
    alpha: float, kernel: Kernel
) -> None:
    rng = np.random.default_rng(6)
    formula = TaughtFormula(1.0, Formula(alpha, 45, 3, "candidate_minmax", kernel, 0.5))
    semantic = -np.sort(-rng.integers(0, 3, (CLIPS, 45)) / 2, axis=1)
    candidates = np.stack([rng.permutation(60)[:45] for _ in range(CLIPS)])
    u, va = rng.integers(-1, 2, (CLIPS, 2)) / 2, rng.integers(-1, 2, (60, 2)) / 2
    E = formula.formula.emotional(u[:, None], va[candidates])
    slots = fuse(semantic, E, np.ones(E.shape, bool), alpha, 3).slots
    expectation = Expectation.of(formula, np.zeros((1, 2)), drawn(0, 60, 4))
    teacher = expectation.teacher(
        candidates,
        (alpha * semantic).astype(np.float32),
        expectation.plane(torch.from_numpy(va.astype(np.float32)), None),
    )
    chosen = teacher.chosen(torch.from_numpy(u.astype(np.float32))[:, None])[:, 0]
    np.testing.assert_array_equal(chosen, np.take_along_axis(candidates, slots, axis=1))


def everything_by_t(
    formula: TaughtFormula, X: np.ndarray, Y: np.ndarray, u: np.ndarray, va: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """(n, m) images by T, then score, then id, each T of all pairs in float64."""
    alpha, k, m = formula.formula.alpha, formula.formula.candidates, formula.formula.images_per_clip
    scores = formula.scale * X.astype(np.float64) @ Y.T.astype(np.float64)
    chosen = []
    for clip, row in enumerate(scores):
        S, among = np.exp(row - row.max()), np.argsort(-row, kind="stable")[:k]
        rescaled = np.zeros(len(Y))
        rescaled[among] = (S[among] - S[among].min()) / (S[among].max() - S[among].min())
        if formula.formula.kernel == "cosine":
            E = (1 + va @ u[clip] / np.linalg.norm(va, axis=1) / np.linalg.norm(u[clip])) / 2
        else:
            q = formula.formula.sigma**2 + formula.formula.uncertainty_weight * variance
            E = formula.formula.sigma**2 / np.sqrt(q.prod(axis=1))
            E = E * np.exp(-((va - u[clip]) ** 2 / (2 * q)).sum(axis=1))
        # Images of one place have the same E, which rounding must not tell apart.
        T = np.round(alpha * rescaled + (1 - alpha) * E, 12)
        chosen.append(np.lexsort((np.arange(len(Y)), -row, -T))[:m])
    return np.array(chosen)


@pytest.mark.parametrize("kernel", ["cosine", "gaussian"])
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.6])
def test_where_all_images_can_be_chosen_the_teacher_takes_the_best_of_all(
    alpha: float, kernel: Kernel
) -> None:
    """Some images have a place of their own, many have that of a tag, and a few share a place."""
    rng = np.random.default_rng(7)
    X, Y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (drawn(1, 30, 8), drawn(2, 90, 8)))
    va = rng.uniform(-1, 1, (90, 2)).astype(np.float32)
    va[:40] = va[np.arange(40) % 4]
    va[40:42] = va[42]
    sd = rng.uniform(0, 0.5, (90, 2))
    sd[:40], sd[40:43] = 0.3, 0.1
    clip_sd = np.array([[0.1, 0.2], [0.3, 0.4]])
    formula = TaughtFormula(20.0, Formula(alpha, 12, 3, "candidate_minmax", kernel, 0.3, 0.5, "calibrated"))
    expectation = Expectation.of(formula, np.zeros((1, 2)), Y, clip_sd)
    plane = expectation.plane(torch.from_numpy(va), sd)
    teacher = expectation.teacher_of(X, Y, plane)
    u = plane.rounded(torch.from_numpy(rng.uniform(-1.2, 1.2, (30, 5, 2)).astype(np.float32)))
    chosen = teacher.chosen(u).numpy()
    variance = sd**2 + (clip_sd**2).mean(axis=0)
    for place in range(5):
        at = u[:, place].numpy().astype(np.float64)
        expected = everything_by_t(formula, X, Y, at, va.astype(np.float64), variance)
        np.testing.assert_array_equal(chosen[:, place], expected)
    for clip in (0, 17):
        ranked, semantic = formula.semantic_of((20 * X[clip] @ Y.T).astype(np.float32))
        alone = expectation.teacher(ranked[None], semantic[None], plane)
        np.testing.assert_array_equal(alone.chosen(u[clip : clip + 1])[0], chosen[clip])


def test_a_target_counts_how_often_an_image_was_chosen() -> None:
    features, va = drawn(0, 50, 8), drawn(1, 50, 2)
    formula = TaughtFormula(1.0, Formula(0.1, 10, 3, "candidate_minmax", "gaussian", 0.3, 0.02, "calibrated"))
    expectation = Expectation.of(formula, 0.3 * drawn(3, 20, 2).astype(np.float64), features)
    teacher = expectation.teacher_of(drawn(4, 6, 8), features, expectation.plane(torch.from_numpy(va), None))
    teacher.generator.manual_seed(5)
    taught = teacher.target(torch.zeros(6, 2), 16)
    drawn_errors = torch.randint(20, (6, 16), generator=torch.Generator().manual_seed(5))
    chosen = teacher.chosen(teacher.errors[drawn_errors]).flatten(1).numpy()
    np.testing.assert_array_equal(taught.images, chosen)
    for clip in range(6):
        counts = np.bincount(chosen[clip], minlength=50)
        np.testing.assert_array_equal(taught.repeats[clip], counts[chosen[clip]])
        np.testing.assert_allclose(taught.share[clip], counts[chosen[clip]] / 48)
