"""The embedding and alignment assets on a lake of made-up frames: their checks, and what stops them."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.trained_adapter import TrainedAdapter, TrainingSettings
from emid_assets.adapters.tuning import study_name, tunable
from emid_assets.definitions import build_definitions
from emid_assets.defs.embeddings import embedding_failures
from emid_assets.matching.product import Product, ProductName, find_product, refusal
from emid_assets.matching.row_sums import row_sums
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import (
    EXPANSION_WINDOWS,
    IMAGE_EMBEDDINGS,
    IMAGES,
    MUSIC_CLIPS,
    MUSIC_EMBEDDINGS,
    TUNING_TRIALS,
    TableSchema,
)

DIMENSION = 16
CLIPS = {"calm": 5, "sad": 4}
TAGS = {"awe": 30, "fear": 20}


def embeddings(schema: TableSchema, ids: list[str], seed: int, scale: float) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    frame = pl.DataFrame(
        {
            next(iter(schema.columns)): ids,
            "content_hash": ids,
            "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, DIMENSION)),
            "scale": pl.Series([scale] * len(ids), dtype=pl.Float32),
        }
    )
    return schema.check(frame)


def manifest(schema: TableSchema, **values: Any) -> pl.DataFrame:
    """Rows of a table with these values, and null in every other column."""
    rows = pl.DataFrame(values)
    missing = [name for name in schema.columns if name not in values]
    empty = schema.empty()
    return schema.check(
        rows.with_columns(pl.lit(None, dtype=empty.schema[name]).alias(name) for name in missing).cast(
            {name: empty.schema[name] for name in values}
        )
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    facts = {"fingerprint": "encoder-1"}
    for seed, (emotion, count) in enumerate(CLIPS.items()):
        ids = [f"{emotion}/{number}.ogg" for number in range(count)]
        va = [[3.0 + seed, 4.0 + number] for number in range(count)]
        lake.write("music_embeddings", emotion, embeddings(MUSIC_EMBEDDINGS, ids, seed, 20.0), facts)
        valence, arousal = map(list, zip(*va, strict=True))
        clips = manifest(
            MUSIC_CLIPS, clip_id=ids, source_id=ids, content_hash=ids, emotion=[emotion] * count,
            start_s=[0.0] * count, duration_s=[5.0] * count, valence=valence, arousal=arousal,
        )  # fmt: skip
        lake.write("music_clips", emotion, clips)
        lake.write("expansion_windows", emotion, EXPANSION_WINDOWS.empty(DIMENSION), facts)
    for seed, (tag, count) in enumerate(TAGS.items(), start=10):
        ids = [f"{tag}/{number}.jpg" for number in range(count)]
        lake.write("image_embeddings", tag, embeddings(IMAGE_EMBEDDINGS, ids, seed, 1.0), facts)
        values = np.linspace(0.1, 0.9, count)
        images = manifest(IMAGES, image_id=ids, tag=[tag] * count, valence=values, arousal=values[::-1] ** 2)
        lake.write("images", tag, images)
    return lake


def align(lake: Lake, partition: str, **settings: Any) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(lake=str(lake.root), **settings)
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("align").execute_in_process(
            partition_key=partition, instance=instance, raise_on_error=False
        )


def errors(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(
        str(event.step_failure_data.error) for event in result.all_events if event.is_step_failure
    )


def test_pairs_are_made_and_all_checks_pass(lake: Lake) -> None:
    result = align(lake, "sad", candidates=10)
    assert result.success
    assert lake.read("fused_pairs", ["sad"]).height == 3 * CLIPS["sad"]
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())


def test_a_clip_has_no_more_pairs_than_candidates(lake: Lake) -> None:
    assert align(lake, "sad", method="paper", candidates=2, images_per_clip=5).success
    assert lake.read("fused_pairs", ["sad"]).height == 2 * CLIPS["sad"]


def test_little_memory_and_one_thread_give_the_same_pairs(lake: Lake) -> None:
    assert align(lake, "calm").success
    plain = lake.read("fused_pairs", ["calm"])
    assert align(lake, "calm", matching_memory_mb=64, matching_threads=1).success
    assert lake.read("fused_pairs", ["calm"]).equals(plain)


def test_the_devices_product_gives_the_same_pairs(lake: Lake) -> None:
    assert align(lake, "calm").success
    plain = lake.read("fused_pairs", ["calm"])
    assert align(lake, "calm", matching_product="device").success
    assert lake.read("fused_pairs", ["calm"]).equals(plain)


@pytest.mark.processor
def test_the_fast_mode_keeps_its_measured_error_with_the_asset(lake: Lake) -> None:
    result = align(lake, "calm", matching_product="int8", candidates=10)
    if why := refusal("int8", DIMENSION):
        assert why in errors(result)
        return
    assert result.success
    version = lake.current("similarity_matrix", "calm")
    assert version is not None
    assert 0 <= float(str(version.metadata["fast_mode_log_sum_exp"])) <= 0.01
    assert version.metadata["fast_mode_rows"] == CLIPS["calm"]


def test_embeddings_of_two_encoders_stop_the_alignment_and_are_named(lake: Lake) -> None:
    lake.write(
        "image_embeddings", "fear", lake.read("image_embeddings", ["fear"]), {"fingerprint": "encoder-2"}
    )
    result = align(lake, "sad")
    assert not result.success
    assert "encoder-2: image_embeddings[fear]" in errors(result)


def test_without_images_the_error_says_what_to_build(lake: Lake) -> None:
    for tag in TAGS:
        lake.remove("image_embeddings", tag)
    result = align(lake, "sad")
    assert not result.success
    assert "image_embeddings" in errors(result)
    assert "build it first" in errors(result)


def test_an_image_without_a_manifest_row_is_named(lake: Lake) -> None:
    lake.write("images", "fear", lake.read("images", ["fear"]).head(1))
    result = align(lake, "sad")
    assert not result.success
    assert "fear/" in errors(result)


def test_a_wrong_log_sum_exp_is_seen_in_the_rows_sum(lake: Lake) -> None:
    assert align(lake, "sad").success
    similarity = lake.read("similarity_matrix", ["sad"])
    music, images = lake.read("music_embeddings", ["sad"]), lake.read("image_embeddings")
    sums = row_sums(similarity, music, [images])["row_sum"]
    assert np.allclose(sums, 1.0, atol=5e-4)
    parts = [images.head(7), images.slice(7)]
    assert np.allclose(row_sums(similarity, music, parts)["row_sum"], sums, atol=1e-12)
    shifted = similarity.with_columns(pl.col("log_sum_exp") + 0.01)
    assert np.allclose(row_sums(shifted, music, [images])["row_sum"], sums * np.exp(-0.01), atol=1e-12)


def test_embeddings_that_are_missing_not_finite_or_not_unit_are_named() -> None:
    vectors = [[1.0, 0.0], None, [float("nan"), 1.0], [2.0, 0.0]]
    frame = pl.DataFrame(
        {"clip_id": ["a", "b", "c", "d"], "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, 2))}
    )
    not_finite, not_unit = embedding_failures(frame, "clip_id")
    assert not_finite == ["b: no embedding", "c: not finite"]
    assert not_unit == ["d: norm 2.000000"]
    assert embedding_failures(frame.clear(), "clip_id") == ([], [])


def test_shards_of_the_images_give_the_same_bits_as_one_piece_by_the_product_that_was_asked_for(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert align(lake, "sad", candidates=20).success
    whole = lake.read("similarity_matrix", ["sad"])
    products = []

    def recorded(name: ProductName, *others: int) -> Product:
        products.append(name)
        return find_product(name, *others)

    monkeypatch.setattr("emid_assets.matching.top_k_softmax.find_product", recorded)
    monkeypatch.setenv("EMID_MATCHING_PRODUCT", "torch")
    definitions = build_definitions(lake=str(lake.root), candidates=20, image_shards=3)
    with dg.DagsterInstance.ephemeral() as instance:
        expansion = definitions.resolve_job_def("expand")
        assert expansion.execute_in_process(partition_key="sad", instance=instance).success
        shards = definitions.resolve_job_def("match_shards")
        assert shards.partitions_def is not None
        for key in shards.partitions_def.get_partition_keys():
            if "sad" in key:
                assert shards.execute_in_process(partition_key=key, instance=instance).success
        merge = definitions.resolve_job_def("align")
        assert merge.execute_in_process(partition_key="sad", instance=instance).success
    merged = lake.read("similarity_matrix", ["sad"])
    assert merged.equals(whole)
    assert set(products) == {"torch"}
    assert lake.partitions("similarity_shards") == ["0--sad", "1--sad", "2--sad"]


def test_a_training_uses_the_values_of_its_own_study_only_and_says_which(lake: Lake) -> None:
    for emotion in CLIPS:
        assert align(lake, emotion, candidates=10).success
    definitions = build_definitions(lake=str(lake.root), candidates=10, epochs=2)
    tables = LakeTables.read(lake, "standardize", "music_embeddings", "image_embeddings", "fused_pairs")
    name = study_name("bmf", pair_data(tables, 0), TrainingSettings(epochs=2))
    said = {}
    for study in (name.replace("-2x", "-50x"), name):
        trial = {
            "network": "bmf", "study": study, "trial": 4, "state": "complete", "ndcg_at_10": 0.5, "epochs": 2,
            "hyperparameters": json.dumps(tunable("bmf") | {"hidden": 64}),
        }  # fmt: skip
        lake.write("tuning_trials", "bmf", pl.DataFrame([trial], schema=TUNING_TRIALS.empty().schema))
        with dg.DagsterInstance.ephemeral() as instance:
            job = definitions.resolve_job_def("train_adapter")
            assert job.execute_in_process(partition_key="bmf", instance=instance).success
        version = lake.current("trained_adapter", "bmf")
        assert version is not None
        weights = TrainedAdapter.load(lake.root / str(version.metadata["weights_file"]))
        said[study] = (str(version.metadata["hyperparameters"]), weights.config["hidden"])
    others, ours = said.values()
    assert others[0].startswith("the network's own: `emid tune bmf` was run on other pairs, or with another")
    assert others[1] == tunable("bmf")["hidden"] != 64
    assert ours == (f"of trial 4 of the study {name}", 64)


def test_stages_that_compute_on_the_device_ask_a_cluster_for_it_and_those_that_feed_actors_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMID_RUN_GPUS", "1")

    def asked(**options: Any) -> dict[str, dict[str, float]]:
        definitions = build_definitions(image_shards=2, **options)
        tags = {job.name: job.run_tags for job in definitions.resolve_all_job_defs()}
        key = "dagster-ray/config"
        return {name: json.loads(tags[name][key]) for name in tags if key in tags[name]}

    gpu, sliver = {"num_gpus": 1.0}, {"num_cpus": 0.01}
    embedding, others = ["embed_music", "embed_images"], ["train_adapter"]
    matching = ["match_shards", "align"]
    assert asked() == dict.fromkeys(embedding + others, gpu)
    assert asked(matching_product="device") == dict.fromkeys(embedding + others + matching, gpu)
    assert asked(embedding_actors=2) == dict.fromkeys(embedding, sliver) | dict.fromkeys(others, gpu)
