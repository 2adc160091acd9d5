"""The alignment stage as frames, against the method's formulas pair by pair."""

import io
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
import pytest

from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.matching.frames import (
    embedding_matrix,
    fused_pairs_frame,
    measure_fast_mode,
    merge_similarity_shards,
    similarity_frame,
    similarity_shard_frame,
    va_distance_frame,
)
from emid_assets.matching.fusion import Formula
from emid_assets.matching.product import ProductUnavailableError, refusal
from emid_assets.matching.top_k_softmax import MatchingError
from emid_assets.store.schemas import FUSED_PAIRS, SIMILARITY_MATRIX, VA_DISTANCES
from emid_assets_tests.matching.brute_force import brute_force_scores, unit_rows

FORMULA = Formula(0.6, 20, 3, "candidate_minmax", "cosine", 0.5)


def _embeddings(key: str, names: list[str], unit: np.ndarray, scale: float) -> pl.DataFrame:
    return pl.DataFrame(
        {
            key: names,
            "content_hash": names,
            "embedding": pl.Series(unit, dtype=pl.Array(pl.Float32, unit.shape[1])),
            "scale": np.full(len(names), scale, dtype=np.float32),
        }
    )


def _world(n: int = 5, m: int = 60, d: int = 8) -> dict[str, pl.DataFrame]:
    """Clips and images; images in no order of their names, a third of them with equal embeddings."""
    rng = np.random.default_rng(7)
    Y = unit_rows(rng, m, d)
    Y[m // 2 : m // 2 + m // 3] = Y[0]
    clips, images = [f"clip {i}" for i in range(n)], [f"image {i:03d}" for i in rng.permutation(m)]
    va = rng.integers(-2, 3, (n + m, 2)) / 2
    return {
        "music": _embeddings("clip_id", clips, unit_rows(rng, n, d), 20.0),
        "images": _embeddings("image_id", images, Y, 1.0),
        "music_va": pl.DataFrame({"clip_id": clips, "valence": va[:n, 0], "arousal": va[:n, 1]}),
        "image_va": pl.DataFrame({"image_id": images, "valence": va[n:, 0], "arousal": va[n:, 1]}),
    }


def test_similarity_frame_holds_each_clips_largest_entries_of_s_with_ties_by_image_id() -> None:
    world = _world()
    frame = SIMILARITY_MATRIX.check(similarity_frame(world["music"], world["images"], 12))
    by_name = world["images"].sort("image_id")
    scores = brute_force_scores(embedding_matrix(world["music"]), embedding_matrix(by_name))
    S = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for i, clip in enumerate(world["music"]["clip_id"]):
        rows = frame.filter(pl.col("clip_id") == clip)
        order = np.argsort(-scores[i], kind="stable")[:12]
        assert rows["image_id"].to_list() == by_name["image_id"].gather(order).to_list()
        assert rows["rank"].to_list() == list(range(1, 13))
        np.testing.assert_allclose(rows["semantic_similarity"], S[i, order], rtol=5e-4)
        assert set(rows["log_sum_exp"]) == {round(float(np.log(np.exp(scores[i]).sum())) * 1024) / 1024}


def test_images_from_a_stream_of_partitions_give_the_same_frame_as_one_frame() -> None:
    world = _world()

    def partitions() -> Iterator[pl.DataFrame]:
        yield world["images"][40:]
        yield world["images"][:0]
        yield world["images"][:40]

    streamed = similarity_frame(world["music"], partitions, 12)
    whole = similarity_frame(world["music"], world["images"], 12)
    assert streamed.equals(whole)


def test_va_distances_are_those_of_the_two_points_of_each_pair() -> None:
    world = _world()
    similarity = similarity_frame(world["music"], world["images"], 9)
    kernels: list[Literal["cosine", "gaussian"]] = ["cosine", "gaussian"]
    for kernel in kernels:
        frame = VA_DISTANCES.check(
            va_distance_frame(
                similarity, world["music_va"], world["image_va"], replace(FORMULA, kernel=kernel)
            )
        )
        music = {row[0]: row[1:] for row in world["music_va"].rows()}
        images = {row[0]: row[1:] for row in world["image_va"].rows()}
        assert frame.select("clip_id", "image_id").equals(similarity.select("clip_id", "image_id"))
        assert frame["score"].equals(similarity["score"])
        for clip, image, _, E, cosine, euclidean in frame.rows():
            u, v = np.array(music[clip]), np.array(images[image])
            assert pytest.approx(float(emotional_similarity(u, v, kernel=kernel, sigma=0.5))) == E
            assert euclidean == pytest.approx(float(np.linalg.norm(u - v)))
            length = np.linalg.norm(u) * np.linalg.norm(v)
            assert cosine is None if length == 0 else cosine == pytest.approx(float(u @ v / length))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_fused_pairs_are_the_best_by_the_formula_whatever_the_order_of_the_va_rows(alpha: float) -> None:
    world = _world()
    similarity = similarity_frame(world["music"], world["images"], 20)
    distances = va_distance_frame(similarity, world["music_va"], world["image_va"], FORMULA)
    pairs = FUSED_PAIRS.check(fused_pairs_frame(similarity, distances, replace(FORMULA, alpha=alpha)))
    shuffled = distances.sample(fraction=1.0, shuffle=True, seed=1)
    assert pairs.equals(fused_pairs_frame(similarity, shuffled, replace(FORMULA, alpha=alpha)))
    joined = similarity.join(distances, on=["clip_id", "image_id"])
    for clip in world["music"]["clip_id"]:
        rows = joined.filter(pl.col("clip_id") == clip).to_dicts()
        S = [row["semantic_similarity"] for row in rows]
        for row in rows:
            rescaled = (row["semantic_similarity"] - min(S)) / (max(S) - min(S))
            row["T"] = alpha * rescaled + (1 - alpha) * row["emotional_similarity"]
        best = sorted(
            rows, key=lambda row: (-round(row["T"], 9), -row["semantic_similarity"], row["image_id"])
        )[:3]
        ours = pairs.filter(pl.col("clip_id") == clip)
        assert ours["image_id"].to_list() == [row["image_id"] for row in best]
        np.testing.assert_allclose(ours["fused_score"], [row["T"] for row in best], atol=1e-12)
        assert ours["rank"].to_list() == [1, 2, 3]


def test_every_clip_has_m_pairs_or_as_many_as_there_are_images() -> None:
    world = _world(m=2)
    similarity = similarity_frame(world["music"], world["images"], 50)
    distances = va_distance_frame(similarity, world["music_va"], world["image_va"], FORMULA)
    pairs = fused_pairs_frame(similarity, distances, replace(FORMULA, rescaling="raw"))
    assert pairs.group_by("clip_id").len()["len"].to_list() == [2] * 5


def test_clips_with_unequal_numbers_of_candidates_keep_their_own() -> None:
    world = _world()
    similarity = similarity_frame(world["music"], world["images"], 5)
    similarity = similarity.filter((pl.col("clip_id") != "clip 1") | (pl.col("rank") <= 2))
    distances = va_distance_frame(similarity, world["music_va"], world["image_va"], FORMULA)
    pairs = fused_pairs_frame(similarity, distances, replace(FORMULA, rescaling="candidate_softmax"))
    counts = dict(pairs.group_by("clip_id").len().rows())
    assert counts == {"clip 0": 3, "clip 1": 2, "clip 2": 3, "clip 3": 3, "clip 4": 3}


def test_no_clips_give_empty_frames_of_the_declared_columns() -> None:
    world = _world()
    similarity = similarity_frame(world["music"][:0], world["images"], 5)
    distances = va_distance_frame(similarity, world["music_va"], world["image_va"], FORMULA)
    pairs = fused_pairs_frame(similarity, distances, replace(FORMULA, rescaling="raw"))
    assert similarity.is_empty()
    assert distances.is_empty()
    assert pairs.is_empty()
    assert FUSED_PAIRS.check(pairs).columns == list(FUSED_PAIRS.columns)


def test_two_runs_give_the_same_bits() -> None:
    world = _world(n=40, m=300, d=16)
    first, second = (similarity_frame(world["music"], world["images"], 20) for _ in range(2))
    assert first["log_sum_exp"].to_numpy().tobytes() == second["log_sum_exp"].to_numpy().tobytes()
    assert first.equals(second)


def test_missing_or_doubled_input_is_an_error_that_names_it() -> None:
    world = _world()
    with pytest.raises(MatchingError, match="no image embeddings"):
        similarity_frame(world["music"], world["images"][:0], 5)
    with pytest.raises(MatchingError, match="occurs more than once"):
        similarity_frame(world["music"], pl.concat([world["images"], world["images"][3:4]]), 5)
    similarity = similarity_frame(world["music"], world["images"], 5)
    with pytest.raises(MatchingError, match="clip_id 'clip 0' has no valence and arousal"):
        va_distance_frame(similarity, world["music_va"][1:], world["image_va"], FORMULA)
    distances = va_distance_frame(similarity, world["music_va"], world["image_va"], FORMULA)
    with pytest.raises(MatchingError, match="has no row in va_distances"):
        fused_pairs_frame(similarity, distances[1:], replace(FORMULA, rescaling="raw"))
    with pytest.raises(MatchingError, match="'clip 0' are not contiguous"):
        fused_pairs_frame(
            pl.concat([similarity, similarity[:1]]), distances, replace(FORMULA, rescaling="raw")
        )


def _shard_in_a_process(job: tuple[bytes, bytes, int]) -> bytes:
    music, images, k = pl.read_ipc(io.BytesIO(job[0])), pl.read_ipc(io.BytesIO(job[1])), job[2]
    return _as_bytes(similarity_shard_frame(music, images, k))


def _as_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def test_four_by_three_shards_from_separate_processes_merge_to_the_frame_of_one() -> None:
    world = _world(n=22, m=190, d=16)
    clips = [world["music"][i : i + 6] for i in range(0, 22, 6)]
    images = [world["images"][i : i + 64] for i in range(0, 190, 64)]
    jobs = [(_as_bytes(row), _as_bytes(column), 12) for row in clips for column in images]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        shards = [pl.read_ipc(io.BytesIO(done)) for done in pool.map(_shard_in_a_process, jobs)]
    rows = [
        merge_similarity_shards(shards[3 * i + 2 : 3 * i - 1 if i else None : -1], row, world["images"], 12)
        for i, row in enumerate(clips)
    ]
    merged, whole = pl.concat(rows), similarity_frame(world["music"], world["images"], 12)
    assert merged.equals(whole)


def test_shards_computed_on_a_device_merge_to_the_same_ids() -> None:
    world = _world(n=9, m=600, d=32)
    shards = [
        similarity_shard_frame(world["music"], part, 12, product="device", device="cpu")
        for part in world["images"].iter_slices(200)
    ]
    merged = merge_similarity_shards(shards, world["music"], world["images"], 12)
    whole = similarity_frame(world["music"], world["images"], 12)
    assert merged.equals(whole)


def test_shards_of_other_clips_or_of_too_few_images_are_refused() -> None:
    world = _world()
    first, second = (
        similarity_shard_frame(world["music"], part, 5) for part in world["images"].iter_slices(30)
    )
    with pytest.raises(MatchingError, match="hold 30 columns and Y 60"):
        merge_similarity_shards([first], world["music"], world["images"], 5)
    with pytest.raises(MatchingError, match="has other clips"):
        merge_similarity_shards([first, second], world["music"].reverse(), world["images"], 5)
    with pytest.raises(MatchingError, match="has no embedding: recompute"):
        merge_similarity_shards([first, second], world["music"], world["images"][1:], 5)


@pytest.mark.processor
def test_the_fast_modes_error_is_measured_on_a_sample_of_clips() -> None:
    world = _world(n=40, m=300, d=64)
    if why := refusal("int8", 64):
        with pytest.raises(ProductUnavailableError, match=re.escape(why)):
            similarity_frame(world["music"], world["images"], 10, product="int8")
        return
    fast = similarity_frame(world["music"], world["images"], 10, product="int8")
    error = measure_fast_mode(world["music"], world["images"], fast, 10, rows=20)
    assert error.rows == 20
    assert error.equal_sets > 0.9
    assert 0.0 < error.log_sum_exp < 0.05
    others = world["images"]["image_id"].sort(descending=True)[:10]
    wrong = fast.with_columns(image_id=pl.concat([others] * 40), log_sum_exp=pl.col("log_sum_exp") + 0.5)
    error = measure_fast_mode(world["music"], world["images"], wrong, 10, rows=20)
    assert error.equal_sets == 0.0
    assert error.log_sum_exp == pytest.approx(0.5, abs=0.05)
