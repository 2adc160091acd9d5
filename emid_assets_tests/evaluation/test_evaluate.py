"""The adapter stage on a small lake: frames in, frames out."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters import AdapterError
from emid_assets.adapters.adapted_embeddings import adapted_frame
from emid_assets.adapters.pair_data import PairData, pair_data
from emid_assets.adapters.trained_adapter import EXTRA_CHANNELS, TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.evaluation.evaluate import evaluate, evaluate_protocols, evaluate_public_tasks
from emid_assets.evaluation.protocols import HeldOut
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.schemas import ADAPTED_EMBEDDINGS, TRAINED_ADAPTER
from emid_assets_tests.small_lake import CLIPS, FORMULA, IMAGES, SETTINGS, make_lake


@pytest.fixture(scope="module")
def weights(lake: LakeTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "bmf.safetensors"
    train("bmf", pair_data(lake, seed=0), SETTINGS).save(path)
    return path


@pytest.fixture(scope="module")
def adapted(lake: LakeTables, weights: Path) -> pl.DataFrame:
    return adapted_frame(weights, lake.music_embeddings, lake.image_embeddings)


@pytest.fixture(scope="module")
def evaluation(lake: LakeTables, adapted: pl.DataFrame) -> pl.DataFrame:
    return evaluate(replace(lake, adapted_embeddings=adapted), FORMULA, seed=0)


def value(evaluation: pl.DataFrame, system: str, metric: str, split: str = "test") -> float:
    rows = evaluation.filter(system=system, metric=metric, split=split)
    assert len(rows) == 1
    return float(rows["value"][0])


def test_the_manifest_row_has_the_declared_columns(lake: LakeTables, weights: Path) -> None:
    adapter = TrainedAdapter.load(weights)
    frame = adapter.manifest_frame("adapters/bmf.safetensors", "0" * 64)
    assert TRAINED_ADAPTER.differences(frame) == []
    assert frame["dimension"][0] == SETTINGS.dimension + EXTRA_CHANNELS
    assert frame["history"].explode().struct.field("epoch").to_list() == [1, 2, 3, 4]


def test_every_clip_and_image_has_a_new_embedding_and_clips_their_part(
    lake: LakeTables, adapted: pl.DataFrame
) -> None:
    assert ADAPTED_EMBEDDINGS.differences(adapted) == []
    music = adapted.filter(kind="music")
    assert len(music) == CLIPS
    assert adapted.filter(kind="image").height == IMAGES
    assert adapted.filter(kind="image")["split"].null_count() == IMAGES
    by_source = music.join(lake.music_clips, left_on="item_id", right_on="clip_id")
    assert by_source.group_by("source_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(music["split"]) == {"train", "validation", "test"}


def test_clips_that_came_after_training_have_no_part(lake: LakeTables, weights: Path) -> None:
    renamed = lake.music_embeddings.with_columns(clip_id="new " + pl.col("clip_id"))
    frame = adapted_frame(weights, renamed, lake.image_embeddings)
    assert frame["split"].null_count() == len(frame)


def test_the_order_of_the_tables_changes_nothing(lake: LakeTables, weights: Path, tmp_path: Path) -> None:
    shuffled = replace(
        lake,
        **{
            entry.name: getattr(lake, entry.name).sample(fraction=1.0, shuffle=True, seed=3)
            for entry in fields(lake)
            if isinstance(getattr(lake, entry.name), pl.DataFrame)
        },
    )
    train("bmf", pair_data(shuffled, seed=0), SETTINGS).save(tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == weights.read_bytes()


def test_the_formula_with_true_va_finds_exactly_its_own_pairs(evaluation: pl.DataFrame) -> None:
    for split in ("validation", "test"):
        assert value(evaluation, "oracle", "ndcg_at_10", split) == pytest.approx(1.0)
        assert value(evaluation, "oracle", "auc", split) == 1.0


def test_all_systems_stand_beside_each_other_with_the_same_metrics(evaluation: pl.DataFrame) -> None:
    systems = evaluation.filter(pl.col("system") != "ceiling")
    per_system = systems.group_by("system").agg(pl.struct("split", "metric").sort())
    assert set(per_system["system"]) == {"bmf", "semantic", "structured", "random", "oracle"}
    assert per_system["split"].n_unique() == 1
    assert evaluation["value"].is_finite().all()
    means = systems.filter(~pl.col("metric").is_in(["queries", "coverage_at_10"]))
    assert means.filter(pl.col("low").is_null() | pl.col("high").is_null()).is_empty()
    assert means.filter((pl.col("low") > pl.col("value")) | (pl.col("value") > pl.col("high"))).is_empty()


def test_known_lines_come_in_the_order_they_must(evaluation: pl.DataFrame) -> None:
    ndcg = {system: value(evaluation, system, "ndcg_at_10") for system in ("random", "semantic", "oracle")}
    assert ndcg["random"] < ndcg["semantic"] < ndcg["oracle"]
    assert value(evaluation, "oracle", "va_distance_at_10") < value(evaluation, "random", "va_distance_at_10")


def test_the_semantic_line_is_the_order_of_the_inner_product(
    lake: LakeTables, evaluation: pl.DataFrame
) -> None:
    music, images = lake.music_embeddings.sort("clip_id"), lake.image_embeddings.sort("image_id")
    scores = music["embedding"].to_numpy() @ images["embedding"].to_numpy().T
    parts = dict(
        zip(
            pair_data(lake, seed=0).clip_ids,
            pair_data(lake, seed=0).clip_parts,
            strict=True,
        )
    )
    names = images["image_id"].to_list()
    wanted = {clip: set(rows["image_id"]) for (clip,), rows in lake.fused_pairs.group_by("clip_id")}
    hits = [
        any(names[item] in wanted[clip] for item in np.argsort(-scores[row])[:10])
        for row, clip in enumerate(music["clip_id"])
        if parts[clip] == "test"
    ]
    assert value(evaluation, "semantic", "hit_rate_at_10") == pytest.approx(np.mean(hits))


@pytest.fixture(scope="module")
def protocols(lake: LakeTables, adapted: pl.DataFrame, weights: Path) -> pl.DataFrame:
    trained = replace(lake, adapted_embeddings=adapted)
    return evaluate_protocols(trained, FORMULA, 0, {"bmf": weights}, fewest=2)


def test_the_second_training_knows_neither_what_it_is_asked_for_nor_the_unseen_images(
    lake: LakeTables,
) -> None:
    data = pair_data(lake, seed=0, formula=FORMULA)
    held = HeldOut.of(data, seed=0)
    learnt = held.learnt()
    unseen = {name for name, hidden in zip(data.image_ids, held.unseen, strict=True) if hidden}
    assert 0.05 * IMAGES < len(unseen) < 0.3 * IMAGES
    assert set(learnt.image_ids) == set(data.image_ids) - unseen
    assert set(learnt.pair_parts) == {"train", "validation"}

    def named(data: PairData, part: str) -> set[tuple[str, str]]:
        of_part = data.pair_parts == part
        pairs = zip(data.pair_clips[of_part], data.pair_images[of_part], strict=True)
        return {(data.clip_ids[clip], data.image_ids[image]) for clip, image in pairs}

    asked = {
        (data.clip_ids[row], data.image_ids[item])
        for row in held.pairs.queries()
        for item in held.pairs.of_query(int(row))
    }
    seen = {pair for pair in named(data, "train") if pair[1] not in unseen}
    assert named(learnt, "train") | asked == seen
    assert not named(learnt, "train") & asked
    of_clip = {clip: sum(other == clip for other, _ in seen) for clip, _ in seen}
    assert sorted(clip for clip, _ in asked) == sorted(clip for clip, n in of_clip.items() if n > 1)
    wanted = {
        (data.clip_ids[row], data.image_ids[item])
        for row in held.unseen_pairs.queries()
        for item in held.unseen_pairs.of_query(int(row))
    }
    assert wanted == {pair for pair in named(data, "test") if pair[1] in unseen}
    shuffled = replace(lake, fused_pairs=lake.fused_pairs.sample(fraction=1.0, shuffle=True, seed=1))
    again = HeldOut.of(pair_data(shuffled, seed=0, formula=FORMULA), seed=0)
    assert again.learnt().digest() == learnt.digest()


def test_known_clips_and_unseen_images_are_measured_for_every_network_and_baseline(
    protocols: pl.DataFrame,
) -> None:
    systems = protocols.filter(pl.col("system") != "ceiling")
    assert set(systems["split"]) == {"warm", "cold_images"}
    per_system = systems.group_by("system").agg(pl.struct("split", "metric").sort())
    assert set(per_system["system"]) == {"bmf", "semantic", "structured", "random", "oracle"}
    assert per_system["split"].n_unique() == 1
    # The oracle made the pairs: without the known ones and the other images, the wanted ones come first.
    for split in ("warm", "cold_images"):
        assert value(protocols, "oracle", "ndcg_at_10", split) == pytest.approx(1.0)
        assert value(protocols, "random", "ndcg_at_10", split) < 1.0


def test_unseen_images_are_ranked_among_themselves(lake: LakeTables, protocols: pl.DataFrame) -> None:
    data = pair_data(lake, seed=0)
    held = HeldOut.of(data, seed=0)
    music, images = lake.music_embeddings.sort("clip_id"), lake.image_embeddings.sort("image_id")
    scores = music["embedding"].to_numpy() @ images["embedding"].to_numpy().T
    hits = []
    for row in held.unseen_pairs.queries():
        first = np.argsort(-np.where(held.unseen, scores[row], -np.inf))[:10]
        hits.append(np.isin(first, held.unseen_pairs.of_query(int(row))).any())
    assert value(protocols, "semantic", "hit_rate_at_10", "cold_images") == pytest.approx(np.mean(hits))
    known = {int(row): held.known.of_query(int(row)) for row in held.pairs.queries()}
    hits = []
    for row, learnt in known.items():
        allowed = np.where(held.unseen, -np.inf, scores[row])
        allowed[learnt] = -np.inf
        hits.append(np.isin(np.argsort(-allowed)[:10], held.pairs.of_query(row)).any())
    assert value(protocols, "semantic", "hit_rate_at_10", "warm") == pytest.approx(np.mean(hits))


def test_a_protocol_with_too_few_clips_says_so_and_trains_nothing(
    lake: LakeTables, adapted: pl.DataFrame, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emid_assets.evaluation.protocols.train", None)
    trained = replace(lake, adapted_embeddings=adapted)
    found = evaluate_protocols(trained, FORMULA, 0, {"bmf": weights}, fewest=1000)
    assert set(found["system"]) == {"not measured"}
    held = HeldOut.of(pair_data(lake, seed=0), seed=0)
    assert dict(found.filter(metric="queries").select("split", "value").iter_rows()) == {
        "warm": len(held.pairs.queries()), "cold_images": len(held.unseen_pairs.queries())
    }  # fmt: skip
    assert set(found.filter(metric="queries_needed")["value"]) == {1000.0}


def test_with_one_source_the_evaluation_is_on_train_and_says_so(tmp_path: Path) -> None:
    lake = make_lake(sources=1)
    train("bmf", pair_data(lake, seed=0), SETTINGS).save(tmp_path / "w")
    adapted = adapted_frame(tmp_path / "w", lake.music_embeddings, lake.image_embeddings)
    evaluation = evaluate(replace(lake, adapted_embeddings=adapted), FORMULA, seed=0)
    assert set(evaluation["split"]) == {"train"}


def test_a_pair_of_an_unknown_clip_is_named(lake: LakeTables) -> None:
    pairs = lake.fused_pairs.with_columns(clip_id=pl.lit("ghost"))
    with pytest.raises(AdapterError, match="clip 'ghost' is in a pair but not in music_embeddings"):
        pair_data(replace(lake, fused_pairs=pairs), seed=0)


def test_an_embedding_without_a_manifest_row_is_named(lake: LakeTables) -> None:
    first = lake.music_clips.sort("clip_id")["clip_id"][0]
    without = replace(lake, music_clips=lake.music_clips.filter(pl.col("clip_id") != first))
    with pytest.raises(AdapterError, match=f"clip_id '{first}' has an embedding but no row in music_clips"):
        pair_data(without, seed=0)


def test_networks_of_different_splits_are_not_compared(lake: LakeTables, adapted: pl.DataFrame) -> None:
    other = adapted.with_columns(
        network=pl.lit("other"),
        split=pl.when(pl.col("split") == "test").then(pl.lit("train")).otherwise("split"),
    )
    with pytest.raises(AdapterError, match="networks bmf and other were trained on different splits"):
        evaluate(replace(lake, adapted_embeddings=pl.concat([adapted, other])), FORMULA, seed=0)


def test_no_pairs_is_an_error_that_says_what_to_do(lake: LakeTables) -> None:
    with pytest.raises(AdapterError, match="no pair to train on"):
        pair_data(replace(lake, fused_pairs=lake.fused_pairs.clear()), seed=0)


def test_no_system_is_above_the_ceiling(evaluation: pl.DataFrame) -> None:
    ceilings = evaluation.filter(system="ceiling").select("split", "metric", ceiling="value")
    assert value(evaluation, "ceiling", "precision_at_10") == pytest.approx(0.3)
    beside = evaluation.join(ceilings, on=["split", "metric"])
    assert (beside["value"] <= beside["ceiling"] + 1e-12).all()
    assert value(evaluation, "oracle", "recall_at_10") == value(evaluation, "ceiling", "recall_at_10")


def test_the_public_tasks_are_measured_for_the_frozen_space_and_each_network(
    lake: LakeTables, adapted: pl.DataFrame
) -> None:
    tasks = evaluate_public_tasks(replace(lake, adapted_embeddings=adapted), seed=0)
    assert set(tasks["system"]) == {"semantic", "bmf"}
    assert set(tasks["split"]) == {"test"}
    names = {metric.split("/")[0] for metric in tasks["metric"]}
    assert names == {"EMIDA2IRetrieval", "EMIDI2ARetrieval", "EMIDPairClassification"}
    assert tasks["value"].is_between(0, 1).all()


def test_clips_whose_emotion_was_given_have_figures_of_their_own_where_others_were_predicted(
    lake: LakeTables, adapted: pl.DataFrame, evaluation: pl.DataFrame
) -> None:
    music = adapted.filter(kind="music", network="bmf")
    test = music.filter(split="test")["item_id"].to_list()
    predicted = frozenset(test[: len(test) // 2])
    both = evaluate(replace(lake, adapted_embeddings=adapted), FORMULA, seed=0, predicted=predicted)
    assert both.filter(pl.col("split") != "test_given").equals(evaluation)
    assert value(both, "bmf", "queries", "test_given") == len(test) - len(predicted)
    assert "test_given" not in evaluation["split"].to_list()
    everyone = evaluate(replace(lake, adapted_embeddings=adapted), FORMULA, seed=0, predicted=frozenset(test))
    assert everyone.equals(evaluation)


def test_a_network_that_is_more_than_its_embeddings_stands_a_second_time_re_ranked_by_the_whole(
    lake: LakeTables, tmp_path: Path
) -> None:
    weights = tmp_path / "ncf.safetensors"
    train("ncf", pair_data(lake, seed=0), replace(SETTINGS, epochs=8)).save(weights)
    adapted = adapted_frame(weights, lake.music_embeddings, lake.image_embeddings, image_va=lake.image_va)
    result = evaluate(replace(lake, adapted_embeddings=adapted), FORMULA, seed=0, weights={"ncf": weights})

    adapter = TrainedAdapter.load(weights)
    music, images = lake.music_embeddings.sort("clip_id"), lake.image_embeddings.sort("image_id")
    clips = adapter.music_items(music["clip_id"].to_list(), music["embedding"].to_numpy())
    pictures = adapter.image_items(images["image_id"].to_list(), images["embedding"].to_numpy())
    parts = adapter.part_of()
    rows = [row for row, clip in enumerate(music["clip_id"]) if parts[clip] == "test"]
    # There are fewer images than are retrieved: the whole network ranks them all.
    every = np.tile(np.arange(IMAGES), (len(rows), 1))
    scores = adapter.pair_scores(clips, pictures)(np.asarray(rows), every)
    found = []
    for row, line in zip(rows, scores, strict=True):
        best = {images["image_id"][int(image)] for image in np.argsort(-line)[:10]}
        paired = set(lake.fused_pairs.filter(clip_id=music["clip_id"][row])["image_id"])
        found.append(len(best & paired) / len(paired))
    assert value(result, "ncf_reranked", "recall_at_10") == pytest.approx(np.mean(found))
    assert "bmf_reranked" not in result["system"].to_list()
