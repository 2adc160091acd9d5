"""`emid build` after each kind of change: what it builds again, and that nothing is missing.

What was built is read from the store: the partitions whose current version is another one than before.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from emid_assets.build.stage_by_stage import planned_build
from emid_assets.encoders import load
from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.health.verdict import DATA_VERSION
from emid_assets.settings import EARNED_ALPHA
from emid_assets.store.lake import Lake
from emid_assets_tests.defs.tiny_media import write_clip, write_image
from emid_assets_tests.failures import tiny
from emid_assets_tests.failures.tiny import PLACES, Pipeline, WithSettings, make_media

pytestmark = pytest.mark.slow

MUSIC = {partition for stage, partition in PLACES if stage == "embed_music"}
IMAGES = {partition for stage, partition in PLACES if stage == "embed_images"}
ALPHA = EARNED_ALPHA["bundled"]
EVALUATED = {"pair_statistics", "retrieval_metrics", "alpha_sweep", "published_agreement"}
ADAPTERS = {"trained_adapter", "adapted_embeddings"}


def use_another_encoder() -> None:
    """From now on, this process embeds with an encoder whose vectors are shorter."""
    tiny.DIMENSION = tiny.HashEncoder.dimension = 12
    tiny.HashEncoder.fingerprint = "hash-2"
    load.encoder_identity = lambda _: "hash-2"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("built")
    pipeline = Pipeline(make_media(folder / "media"), folder / "lake")
    table = "file,emotion,caption\n" + "".join(
        f"{path.relative_to(pipeline.media / 'images')},{path.parent.name},before\n"
        for path in sorted((pipeline.media / "images").rglob("*.*"))
    )
    (pipeline.media / "images.csv").write_text(table)
    assert pipeline.build() == ""
    return pipeline


@pytest.fixture
def pipeline(built: Pipeline, tmp_path: Path) -> Pipeline:
    return built.copy(tmp_path)


def files(lake: Lake) -> dict[tuple[str, str], Path]:
    tables = sorted(path.name for path in (lake.root / "tables").iterdir())
    return {(table, one): path for table in tables for one, path in lake.current_files(table).items()}


def rebuilt(pipeline: Pipeline, prepare: Callable[[], None] | None = None) -> dict[str, set[str]]:
    """Table → the partitions that a build writes; without `pipeline_health`, which every build writes."""
    before = files(pipeline.lake)
    assert pipeline.build(prepare) == ""
    found: dict[str, set[str]] = {}
    for (table, partition), path in files(pipeline.lake).items():
        if before.get((table, partition)) != path and table != "pipeline_health":
            found.setdefault(table, set()).add(partition)
    return found


def encoded(pipeline: Pipeline, table: str) -> dict[str, int]:
    return {v.partition: int(str(v.metadata["encoded"])) for v in pipeline.lake.versions(table)}


def test_nothing_changed_builds_nothing_and_starts_no_run(pipeline: Pipeline) -> None:
    with pipeline.instance() as instance:
        runs = instance.get_runs_count()
    assert rebuilt(pipeline) == {}
    with pipeline.instance() as instance:
        assert instance.get_runs_count() == runs


def test_a_dry_run_says_what_a_build_would_do_and_writes_nothing(pipeline: Pipeline) -> None:
    version = pipeline.lake.current("fused_pairs", "sad")
    assert version is not None
    version.path.chmod(0o644)
    version.path.write_bytes(b"damaged")

    def found() -> dict[Path, tuple[int, int]]:
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in (pipeline.root, *pipeline.root.rglob("*"))
        }

    before = found()
    options = {**pipeline.options, "epochs": 2}
    planned = {(asset, why) for asset, _, why in planned_build(options).iter_rows()}
    assert found() == before
    assert ("trained_adapter", "setting changed: epochs (1 → 2); input changed: fused_pairs") in planned
    assert any(asset == "fused_pairs" and why.startswith("damaged: ") for asset, why in planned)


def load_no_encoder() -> None:
    """From now on, this process cannot load an encoder."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("the encoder was loaded")

    load.load_encoder = refuse


def test_another_alpha_picks_the_pairs_again_and_computes_neither_s_nor_e_nor_loads_an_encoder(
    pipeline: Pipeline,
) -> None:
    found = rebuilt(WithSettings(pipeline.media, pipeline.root, {"alpha": 0.2}), load_no_encoder)
    assert found["fused_pairs"] == MUSIC
    assert found.keys() >= EVALUATED | ADAPTERS
    assert not found.keys() & {
        "media_inventory", "music_clips", "images", "music_embeddings", "image_embeddings",
        "similarity_matrix", "va_distances",
    }  # fmt: skip


def test_a_partition_of_other_settings_is_named_and_its_release_is_refused_until_all_are_the_same(
    pipeline: Pipeline,
) -> None:
    other = WithSettings(pipeline.media, pipeline.root, {"alpha": 1.0, "images_per_clip": 1})
    assert other.run("align", "sad") == ""
    mixed = f"{ALPHA} in fused_pairs [calm]; 1.0 in fused_pairs [sad]"
    notes = [note for note in pipeline.health().notes if note.startswith("Built with different settings")]
    assert any("alpha" in note and "1.0 in fused_pairs [sad]" in note for note in notes)
    said = pipeline.run("release")
    assert "set mixed_settings to release them as they are" in said
    assert mixed in said
    card = pipeline.root / "release" / "README.md"
    assert f"| alpha | {ALPHA} |" in card.read_text()
    asked_for = WithSettings(pipeline.media, pipeline.root, {"mixed_settings": True})
    assert asked_for.run("release") == ""
    assert f"| alpha | {mixed} |" in card.read_text()
    assert pipeline.run("evaluate") == ""
    report = (pipeline.root / "report.html").read_text()
    assert "Mixed settings." in report
    assert "1.0 in fused_pairs [sad]" in report

    assert pipeline.build() == ""
    assert not [note for note in pipeline.health().notes if "different settings" in note]
    assert f"| alpha | {ALPHA} |" in card.read_text()
    assert "Mixed settings." not in (pipeline.root / "report.html").read_text()


def test_other_epochs_train_the_adapters_and_pick_no_pairs(pipeline: Pipeline) -> None:
    found = rebuilt(WithSettings(pipeline.media, pipeline.root, {"epochs": 2}))
    assert ADAPTERS | {"retrieval_metrics", "evaluation_report"} <= found.keys()
    assert not found.keys() & {"fused_pairs", "similarity_matrix", "emid_release", "pair_statistics"}


def test_one_new_image_is_encoded_alone(pipeline: Pipeline) -> None:
    write_image(pipeline.media / "images" / "awe" / "new.png", 7)
    found = rebuilt(pipeline)
    assert found["image_embeddings"] == {"awe"}
    assert encoded(pipeline, "image_embeddings")["awe"] == 1
    assert "music_embeddings" not in found
    assert found["similarity_matrix"] == MUSIC


def test_a_caption_touches_no_embedding_and_no_pair(pipeline: Pipeline) -> None:
    table = pipeline.media / "images.csv"
    table.write_text(table.read_text().replace("before", "after", 1))
    found = rebuilt(pipeline)
    assert {"images", "emid_release", "evaluation_report"} <= found.keys()
    assert not found.keys() & {"image_embeddings", "similarity_matrix", "va_distances", "fused_pairs"}
    assert not found.keys() & ADAPTERS
    assert "after" in pipeline.lake.read("images")["caption"].to_list()


def test_a_lake_without_recipes_is_built_once_more(pipeline: Pipeline) -> None:
    version = pipeline.lake.current("fused_pairs", "sad")
    assert version is not None
    kept = {DATA_VERSION: version.metadata[DATA_VERSION]}
    pipeline.lake.write("fused_pairs", "sad", pipeline.lake.read("fused_pairs", ["sad"]), kept)
    waits = pipeline.health().states.filter(asset="fused_pairs", partition="sad")
    assert waits.select("state", "message").rows() == [("stale", "built by a version that kept no recipe")]
    assert rebuilt(pipeline) == {"fused_pairs": {"sad"}}


def test_a_file_that_is_gone_is_written_again(pipeline: Pipeline) -> None:
    (pipeline.root / "report.html").unlink()
    shutil.rmtree(pipeline.root / "weights")
    waits = pipeline.health().states.filter(state="stale")
    assert set(waits["asset"]) == {"trained_adapter", "evaluation_report"}
    assert rebuilt(pipeline).keys() == {"trained_adapter", "evaluation_report"}
    assert (pipeline.root / "report.html").is_file()
    assert list((pipeline.root / "weights").glob("*.safetensors"))


def test_a_table_that_was_edited_with_its_size_and_time_kept_is_read_again(pipeline: Pipeline) -> None:
    table = pipeline.media / "images.csv"
    status = table.stat()
    table.write_text(table.read_text().replace("before", "became", 1))
    os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert {"images", "emid_release"} <= rebuilt(pipeline).keys()


def test_a_file_that_could_not_be_read_is_tried_again(pipeline: Pipeline) -> None:
    version = pipeline.lake.current("media_inventory", "all")
    assert version is not None
    unread = {**version.metadata, CHANGED_MEDIA: 1}
    pipeline.lake.write("media_inventory", "all", pipeline.lake.read("media_inventory"), unread)
    assert rebuilt(pipeline).keys() == {"media_inventory"}
    assert rebuilt(pipeline) == {}


def test_other_shards_leave_no_row_twice_and_none_of_another_number(pipeline: Pipeline) -> None:
    tables = ("images", "image_embeddings", "similarity_matrix", "fused_pairs", "rejected_media")
    before = {table: pipeline.lake.read(table) for table in tables}
    for shards in ({"image_shards": 2}, {"image_shards": 3}, {"shards_per_emotion": 2}):
        rebuilt(WithSettings(pipeline.media, pipeline.root, shards))
        for table, rows in before.items():
            columns = sorted({"image_id", "clip_id", "rank", "item_id"} & {*rows.columns})
            found = pipeline.lake.read(table).select(columns).sort(columns)
            assert_frame_equal(found, rows.select(columns).sort(columns))
            with duckdb.connect(pipeline.lake.catalogue_path, read_only=True) as catalogue:
                assert len(catalogue.table(table)) == rows.height
        of_shards = pipeline.lake.partitions("similarity_shards")
        assert len(of_shards) == shards.get("image_shards", 0) * len(pipeline.lake.partitions("fused_pairs"))
    assert pipeline.lake.partitions("image_embeddings") == ["awe-00", "awe-01", "fear-00", "fear-01"]
    for table in ("music_embeddings", "image_embeddings", "expansion_windows"):
        assert set(encoded(pipeline, table).values()) == {0}


def test_a_limit_of_reuse_makes_the_pairs_of_all_emotions_one_table(pipeline: Pipeline) -> None:
    before = pipeline.lake.read("fused_pairs")
    limited = WithSettings(pipeline.media, pipeline.root, {"image_reuse_limit": 2})
    assert rebuilt(limited)["fused_pairs"] == {"all"}
    assert limited.lake.partitions("fused_pairs") == ["all"]
    pairs = limited.lake.read("fused_pairs")
    assert pairs["image_id"].value_counts()["count"].to_list() == [2] * 4
    assert before["image_id"].value_counts()["count"].max() > 2  # type: ignore[operator]
    assert rebuilt(limited) == {}

    other = WithSettings(pipeline.media, pipeline.root, {**limited.given, "emotion_kernel": "cosine"})
    assert [other.run("align", emotion) for emotion in ("calm", "sad")] == ["", ""]
    assert "unknown in va_distances [calm, sad]" in limited.run("release")

    clip = pipeline.media / "music" / "calm" / "new.wav"
    write_clip(clip, 5)
    changed = rebuilt(limited)
    assert (changed["similarity_matrix"], changed["fused_pairs"]) == ({"calm"}, {"all"})
    assert limited.lake.read("fused_pairs")["image_id"].value_counts()["count"].max() == 2
    clip.unlink()

    assert rebuilt(pipeline)["fused_pairs"] == MUSIC - {None}
    assert_frame_equal(pipeline.lake.read("fused_pairs"), before)
    with duckdb.connect(pipeline.lake.catalogue_path, read_only=True) as catalogue:
        assert len(catalogue.table("fused_pairs")) == before.height


def test_another_encoder_replaces_every_embedding(pipeline: Pipeline) -> None:
    assert pipeline.build(before=use_another_encoder) == ""
    tables = ("music_embeddings", "image_embeddings", "expansion_windows", "expanded_clips")
    made_by = {v.metadata["fingerprint"] for table in tables for v in pipeline.lake.versions(table)}
    assert made_by == {"hash-2"}


# What a user may do to a folder, each drawn with numbers that select files and contents.

Change = tuple[Callable[[WithSettings, int], WithSettings | None], int]


def _media(pipeline: Pipeline, kind: str) -> list[Path]:
    return sorted(path for path in (pipeline.media / kind).rglob("*.*") if path.parent.name != kind)


def add_image(pipeline: WithSettings, number: int) -> None:
    write_image(
        pipeline.media / "images" / sorted(filter(None, IMAGES))[number % 2] / f"new{number}.png", number
    )


def add_clip(pipeline: WithSettings, number: int) -> None:
    write_clip(
        pipeline.media / "music" / sorted(filter(None, MUSIC))[number % 2] / f"new{number}.wav", number
    )


def edit_image(pipeline: WithSettings, number: int) -> None:
    files = _media(pipeline, "images")
    path = files[number % len(files)]
    path.unlink()
    write_image(path.with_suffix(".png"), 100 + number)


def remove_image(pipeline: WithSettings, number: int) -> None:
    of_label: dict[str, list[Path]] = {}
    for path in _media(pipeline, "images"):
        of_label.setdefault(path.parent.name, []).append(path)
    files = max(of_label.values(), key=len)
    if len(files) > 1:
        files[number % len(files)].unlink()


def relabel_image(pipeline: WithSettings, number: int) -> None:
    files = _media(pipeline, "images")
    path = files[number % len(files)]
    labels = sorted(filter(None, IMAGES))
    other = labels[1 - labels.index(path.parent.name)]
    if len([file for file in files if file.parent == path.parent]) > 1:
        path.rename(pipeline.media / "images" / other / path.name)


def touch(pipeline: WithSettings, number: int) -> None:
    for path in _media(pipeline, "music"):
        os.utime(path, ns=(time.time_ns(), time.time_ns() + number))


def other_setting(pipeline: WithSettings, number: int) -> WithSettings:
    others = [{"alpha": 0.2}, {"epochs": 2}, {"images_per_clip": 2}, {"va_alignment": "fixed"}, {"seed": 3}]
    return WithSettings(pipeline.media, pipeline.root, {**pipeline.given, **others[number % len(others)]})


CHANGES = (add_image, add_clip, edit_image, remove_image, relabel_image, touch, other_setting)


def incremental_equals_full(built: Pipeline, folder: Path, changes: list[Change]) -> None:
    copied = built.copy(folder)
    pipeline = WithSettings(copied.media, copied.root)
    for change, number in changes:
        pipeline = change(pipeline, number) or pipeline
        assert pipeline.build() == ""
    whole = WithSettings(pipeline.media, folder / "whole", pipeline.given)
    assert whole.build() == ""
    assert files(pipeline.lake).keys() == files(whole.lake).keys()
    for table in sorted({table for table, _ in files(whole.lake)} - {"pipeline_health"}):
        assert_frame_equal(pipeline.lake.read(table), whole.lake.read(table), check_exact=True)


drawn = st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 11)), min_size=1, max_size=3)
relaxed = settings(
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@seed(0)
@settings(relaxed, max_examples=1)
@given(changes=drawn)
def test_an_incremental_build_equals_a_full_one(
    built: Pipeline, tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    incremental_equals_full(built, tmp_path_factory.mktemp("changed"), changes)


@pytest.mark.heavy
@settings(relaxed, max_examples=25)
@given(changes=drawn)
def test_incremental_builds_equal_full_ones(
    built: Pipeline, tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    incremental_equals_full(built, tmp_path_factory.mktemp("changed"), changes)
