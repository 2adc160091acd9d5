"""What each system shows first, against plain loops in float64."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters import AdapterError
from emid_assets.evaluation.top_images import best_network, top_images
from emid_assets.matching.frames import similarity_frame, va_distance_frame
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.schemas import TRAINED_ADAPTER
from emid_assets_tests.small_lake import UNCHANGED

CLIPS, IMAGES, K, TOP, ALPHA = 7, 15, 6, 3, 0.6
RNG = np.random.default_rng(11)


def unit(rows: int, length: int) -> np.ndarray:
    vectors = RNG.standard_normal((rows, length)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


X, Y = 5 * unit(CLIPS, 8), unit(IMAGES, 8)
P, Q = unit(CLIPS, 4), unit(IMAGES, 4)
U, V = RNG.uniform(-1, 1, (CLIPS, 2)), RNG.uniform(-1, 1, (IMAGES, 2))
CLIP_IDS, IMAGE_IDS = [f"c{n}" for n in range(CLIPS)], [f"i{n:02}" for n in range(IMAGES)]


def embeddings(key: str, ids: list[str], vectors: np.ndarray) -> pl.DataFrame:
    norms = np.linalg.norm(vectors, axis=1)
    unit_rows = (vectors / norms[:, None]).astype(np.float32)
    return pl.DataFrame(
        {
            key: ids,
            "embedding": pl.Series(unit_rows, dtype=pl.Array(pl.Float32, vectors.shape[1])),
            "scale": pl.Series(norms, dtype=pl.Float32),
        }
    )


def plane(key: str, ids: list[str], va: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({key: ids, "valence": va[:, 0], "arousal": va[:, 1]})


FORMULA = Formula(ALPHA, K, TOP, "candidate_minmax", "cosine", 0.5)
TABLES = LakeTables(UNCHANGED, plane("clip_id", CLIP_IDS, U), plane("image_id", IMAGE_IDS, V))


def adapted() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "network": ["bmf"] * (CLIPS + IMAGES),
            "kind": ["music"] * CLIPS + ["image"] * IMAGES,
            "item_id": CLIP_IDS + IMAGE_IDS,
            "embedding": pl.Series(np.concatenate([P, Q]), dtype=pl.Array(pl.Float32, 4)),
        }
    ).sample(fraction=1.0, shuffle=True, seed=3)  # in whatever order it lies


def choices(top: int = TOP) -> pl.DataFrame:
    music, images = embeddings("clip_id", CLIP_IDS, X), embeddings("image_id", IMAGE_IDS, Y)
    similarity = similarity_frame(music, images, K)
    distances = va_distance_frame(similarity, TABLES.music_va, TABLES.image_va, FORMULA)
    tables = replace(
        TABLES, similarity_matrix=similarity, va_distances=distances, adapted_embeddings=adapted(),
        music_embeddings=music, image_embeddings=images,
    )  # fmt: skip
    return top_images(tables, "bmf", FORMULA, top)


def test_every_system_shows_what_plain_loops_find_with_their_s_e_and_t() -> None:
    found = choices()
    assert found.height == CLIPS * 3 * TOP
    scores = X.astype(np.float64) @ Y.astype(np.float64).T
    S = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for row in range(CLIPS):
        E = np.array(
            [(1 + U[row] @ v / np.linalg.norm(U[row]) / np.linalg.norm(v)) / 2 for v in V], dtype=np.float64
        )
        candidates = sorted(range(IMAGES), key=lambda image: -S[row, image])[:K]
        low, high = min(S[row, candidates]), max(S[row, candidates])
        T = ALPHA * np.clip((S[row] - low) / (high - low), 0, None) + (1 - ALPHA) * E
        wanted = {
            "semantic": candidates[:TOP],
            "fused": sorted(candidates, key=lambda image: -T[image])[:TOP],
            "adapter": sorted(range(IMAGES), key=lambda image: -float(P[row] @ Q[image]))[:TOP],
        }
        for system, images in wanted.items():
            shown = found.filter(clip_id=CLIP_IDS[row], system=system)
            assert shown["rank"].to_list() == [1, 2, 3]
            assert shown["image_id"].to_list() == [IMAGE_IDS[image] for image in images]
            # S has the precision of the rounded log-sum-exp.
            np.testing.assert_allclose(shown["semantic_similarity"], S[row, images], rtol=5e-4)
            np.testing.assert_allclose(shown["emotional_similarity"], E[images], atol=1e-9)
            np.testing.assert_allclose(shown["fused_score"], T[images], atol=1e-6)


def test_more_images_than_there_are_candidates_give_what_there_is() -> None:
    counts = choices(top=10).group_by("system").len().sort("system")
    assert dict(counts.iter_rows()) == {"adapter": CLIPS * 10, "fused": CLIPS * K, "semantic": CLIPS * K}


def test_without_clips_there_are_no_choices() -> None:
    assert top_images(TABLES, "bmf", FORMULA, 3).is_empty()


def trained(**ndcg: float | None) -> pl.DataFrame:
    rows = [
        {
            "network": network,
            "best_epoch": 2,
            "history": [{"epoch": 1, "ndcg_at_10": 0.9}, {"epoch": 2, "ndcg_at_10": value}],
        }
        for network, value in ndcg.items()
    ]
    schema = {name: TRAINED_ADAPTER.empty().schema[name] for name in ("network", "best_epoch", "history")}
    return pl.DataFrame(rows, schema=schema)


@pytest.mark.parametrize(
    ("ndcg", "best"),
    [
        ({"bmf": 0.1, "ncf": 0.3}, "ncf"),
        ({"ncf": 0.2, "bmf": 0.2}, "bmf"),
        ({"bmf": None, "ncf": 0.0}, "ncf"),
    ],
)
def test_the_best_network_is_that_of_the_epoch_that_was_kept(ndcg: dict[str, float], best: str) -> None:
    assert best_network(trained(**ndcg)) == best


def test_without_a_network_the_error_says_what_to_do() -> None:
    with pytest.raises(AdapterError, match="trained_adapter"):
        best_network(trained())
