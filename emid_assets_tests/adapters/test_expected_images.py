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
    found = expectation.vectors(
        expectation.teacher(candidates, semantic, "cpu"),
        torch.from_numpy(va), torch.from_numpy(features), torch.from_numpy(images),
    ).numpy()  # fmt: skip

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


def test_the_inner_product_with_an_image_is_about_its_share() -> None:
    features = drawn(0, 500, 256) * np.linspace(0.1, 3.0, 256, dtype=np.float32)
    expectation = Expectation.of(
        TaughtFormula(1.0, Formula(0.6, 4, 1, "raw", "cosine", 0.0)), np.zeros((1, 2)), features
    )
    # Only S differs, so that the first candidate is the one pair of every draw.
    teacher = expectation.teacher(
        np.array([[7, 8, 9, 10]]), np.array([[0.4, 0.3, 0.2, 0.1]], np.float32), "cpu"
    )
    plane = torch.ones(500, 2)
    (vector,) = expectation.vectors(teacher, plane[:1], torch.from_numpy(features), plane).numpy()
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
    expected = np.zeros(E.shape)
    np.put_along_axis(expected, slots, 1 / 3, axis=1)
    teacher = Expectation.of(formula, np.zeros((1, 2)), drawn(0, 60, 4)).teacher(
        candidates, (alpha * semantic).astype(np.float32), "cpu"
    )
    shares = teacher.shares(
        torch.from_numpy(u.astype(np.float32))[:, None], torch.from_numpy(va.astype(np.float32))
    )
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-7)
