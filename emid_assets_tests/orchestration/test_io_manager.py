"""The IO manager in real runs: what reaches the lake, what the next asset and the web UI get."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest

from emid_assets.orchestration.io_manager import LakeIOManager, preview
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import ADAPTED_EMBEDDINGS, REJECTED_MEDIA, VA_DISTANCES

EMOTIONS = dg.StaticPartitionsDefinition(["calm", "sad-00", "sad-01"])


def distances(clip_id: str, rows: int = 2) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "clip_id": [clip_id] * rows,
            "image_id": [f"image {i}" for i in range(rows)],
            "score": [2.0] * rows,
            "emotional_similarity": [0.5] * rows,
            "cosine": [None] * rows,
            "euclidean": [1.25] * rows,
        },
        schema=VA_DISTANCES.empty().schema,
    )


@dg.asset(partitions_def=EMOTIONS)
def va_distances(context: dg.AssetExecutionContext) -> dg.MaterializeResult[pl.DataFrame]:
    return dg.MaterializeResult(
        value=distances(f"clip of {context.partition_key}"),
        metadata={
            "fingerprint": "bundled-1",
            "encoded": 7,
            "share": dg.MetadataValue.float(0.5),
            "figure": dg.MetadataValue.md("Markdown is for the web UI and not kept"),
            "table": dg.MetadataValue.json({"not": "kept"}),
            "data_version": "hash of all",
        },
        data_version=dg.DataVersion("hash of all"),
    )


@dg.asset(partitions_def=EMOTIONS, key=dg.AssetKey("fused_pairs"))
def one_partition(va_distances: pl.DataFrame) -> pl.DataFrame:
    return va_distances.select(
        "clip_id",
        "image_id",
        rank=pl.lit(1, pl.Int32),
        semantic_similarity=0.5,
        rescaled_similarity=0.5,
        emotional_similarity="emotional_similarity",
        fused_score=0.5,
    )


@dg.asset(
    key=dg.AssetKey("rejected_media"),
    ins={"va_distances": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
)
def all_partitions(va_distances: pl.DataFrame) -> pl.DataFrame:
    return va_distances.select(
        kind=pl.lit("music"), item_id="clip_id", file="image_id", reason=pl.lit(None, pl.String)
    )


@dg.asset(key=dg.AssetKey("evaluation_report"))
def from_unpartitioned(rejected_media: pl.DataFrame) -> pl.DataFrame:
    return rejected_media.select(
        section="kind", system="item_id", metric="file", value=pl.lit(float(len(rejected_media)))
    )


ASSETS = [va_distances, one_partition, all_partitions, from_unpartitioned]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialize(
    lake: Lake,
    instance: dg.DagsterInstance,
    asset: dg.AssetsDefinition,
    partition_key: str | None = None,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    others: list[Any] = [other.to_source_assets()[0] for other in ASSETS if other is not asset]
    return dg.materialize(
        [asset, *others],
        partition_key=partition_key,
        instance=instance,
        resources={"io_manager": LakeIOManager(settings=SettingsResource(lake=str(lake.root)))},
        raise_on_error=raise_on_error,
    )


def test_partitions_become_files_and_the_next_asset_gets_its_own_partition(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    for key in ("calm", "sad-00"):
        materialize(lake, instance, va_distances, key)
    result = materialize(lake, instance, one_partition, "sad-00")

    assert result.success
    assert lake.partitions("va_distances") == ["calm", "sad-00"]
    assert lake.read("fused_pairs")["clip_id"].unique().to_list() == ["clip of sad-00"]


def test_what_a_real_instance_remembers_of_a_run_can_be_read_by_the_next_process(
    lake: Lake, tmp_path: Path
) -> None:
    home = str(tmp_path)
    with dg.DagsterInstance.local_temp(home) as instance:
        materialize(lake, instance, va_distances, "calm")
    with dg.DagsterInstance.local_temp(home) as instance:
        (record,) = instance.fetch_materializations(dg.AssetKey("va_distances"), limit=5).records
        assert record.partition_key == "calm"
        assert record.asset_materialization is not None
        file = Path(str(record.asset_materialization.metadata["file"].value))
        version = lake.current("va_distances", "calm")
        assert version is not None
        assert version.path == file
        assert record.asset_materialization.tags is not None
        assert record.asset_materialization.tags["dagster/data_version"] == version.metadata["data_version"]


def test_all_partitions_are_joined_and_those_not_built_are_left_out(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    for key in ("calm", "sad-01"):
        materialize(lake, instance, va_distances, key)
    materialize(lake, instance, all_partitions)
    materialize(lake, instance, from_unpartitioned)

    assert lake.read("rejected_media", [WHOLE_TABLE])["item_id"].to_list() == [
        "clip of calm",
        "clip of calm",
        "clip of sad-01",
        "clip of sad-01",
    ]
    assert lake.read("evaluation_report")["value"].to_list() == [4.0] * 4


def test_a_single_missing_partition_is_an_error_that_says_what_to_build(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    result = materialize(lake, instance, one_partition, "sad-01", raise_on_error=False)
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    message = error.cause.message if error.cause else error.message
    assert "va_distances" in message
    assert "sad-01" in message
    assert "`emid build`" in message


def test_no_partition_at_all_and_a_missing_whole_table_are_errors_too(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    for asset, wanted in ((all_partitions, "calm, sad-00, sad-01"), (from_unpartitioned, "rejected_media")):
        result = materialize(lake, instance, asset, raise_on_error=False)
        error = result.get_step_failure_events()[0].step_failure_data.error
        assert error is not None
        assert error.cause is not None
        assert wanted in error.cause.message
        assert "`emid build`" in error.cause.message


def test_the_web_ui_gets_file_size_rows_columns_with_meanings_and_a_query_that_runs(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    result = materialize(lake, instance, va_distances, "calm")
    (event,) = result.asset_materializations_for_node("va_distances")
    version = lake.current("va_distances", "calm")
    assert version is not None

    shown = event.metadata
    assert Path(str(shown["file"].value)) == version.path
    assert shown["size_bytes"].value == version.path.stat().st_size
    assert shown["dagster/row_count"].value == 2
    assert shown["dagster/table_name"].value == "va_distances"
    schema = shown["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert [column.name for column in schema.columns] == list(VA_DISTANCES.columns)
    assert all(column.description for column in schema.columns)
    query = str(shown["query"].value)
    program, catalogue, sql = shlex.split(query.splitlines()[1])
    assert program == "duckdb"
    with duckdb.connect(catalogue, read_only=True) as connection:
        assert len(connection.sql(sql).fetchall()) == 2
    assert "clip of calm" in str(shown["preview"].value)
    assert "fingerprint" in shown  # what the asset said stays beside what the IO manager adds


def test_plain_metadata_and_the_data_version_are_there_for_a_later_run(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    materialize(lake, instance, va_distances, "calm")
    version = lake.current("va_distances", "calm")
    assert version is not None
    kept = dict(version.metadata)
    (entry,) = json.loads(str(kept.pop("history")))
    assert kept.pop("run_id")
    assert entry["rows"] == 2
    assert kept == {
        "fingerprint": "bundled-1",
        "encoded": 7,
        "share": 0.5,
        "data_version": "hash of all",
    }


def test_a_data_version_set_on_the_context_is_kept_too(lake: Lake) -> None:
    @dg.asset
    def rejected_media(context: dg.AssetExecutionContext) -> pl.DataFrame:
        context.set_data_version(context.asset_key, dg.DataVersion("set"))
        return REJECTED_MEDIA.empty()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [rejected_media],
            instance=instance,
            resources={"io_manager": LakeIOManager(settings=SettingsResource(lake=str(lake.root)))},
        )
    version = lake.current("rejected_media", WHOLE_TABLE)
    assert version is not None
    assert version.metadata["data_version"] == "set"
    (event,) = result.asset_materializations_for_node("rejected_media")
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == "set"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("rejected_media", REJECTED_MEDIA.empty().drop("reason"), "column reason is missing"),
        ("rejected_media", {"not": "a frame"}, "returned a dict"),
        ("no_such_table", REJECTED_MEDIA.empty(), "has no table"),
    ],
)
def test_a_wrong_output_is_refused_with_a_reason_and_nothing_is_written(
    lake: Lake, key: str, value: Any, wanted: str
) -> None:
    @dg.asset(key=dg.AssetKey(key))
    def wrong() -> Any:
        return value

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [wrong],
            instance=instance,
            resources={"io_manager": LakeIOManager(settings=SettingsResource(lake=str(lake.root)))},
            raise_on_error=False,
        )
    error = result.get_step_failure_events()[0].step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert wanted in error.cause.message
    assert not lake.root.exists()


def test_a_preview_escapes_markup_and_shortens_embeddings_and_long_text() -> None:
    frame = pl.DataFrame(
        {
            "item_id": ["a|b <script>alert(1)</script>", "*bold* `code`\nnext"] + ["x" * 500] * 5,
            "embedding": [[0.1] * 1024] * 7,
            "none": [None] * 7,
        },
        schema_overrides={"embedding": ADAPTED_EMBEDDINGS.empty(1024).schema["embedding"]},
    )
    text = preview(frame)
    lines = text.splitlines()
    assert len(lines) == 2 + 5 + 2
    assert all(line.count("|") == 4 for line in lines[:7])
    assert "<script>" not in text
    assert "*" not in text
    assert "`" not in text
    assert "1024 numbers: 0.1, 0.1, …" in text
    assert max(map(len, lines)) < 250
    assert lines[-1] == "… and 2 more"
