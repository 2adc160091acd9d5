"""The declared tables, and what a frame that is not as declared is told."""

import polars as pl
import pytest

from emid_assets.affect.emotions import RATINGS
from emid_assets.store.duckdb_types import check_storable
from emid_assets.store.schemas import (
    IMAGE_EMBEDDINGS,
    MUSIC_CLIPS,
    TABLES,
    VA_DISTANCES,
    SchemaError,
    TableSchema,
)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_every_table_says_what_a_row_and_each_column_means_and_its_empty_frame_is_valid(
    table: TableSchema,
) -> None:
    assert TABLES[table.name] is table
    assert table.row
    assert all(meaning for _, meaning in table.columns.values())
    assert table.check(table.empty()).is_empty()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_duckdb_keeps_every_declared_type_as_it_is(table: TableSchema) -> None:
    check_storable(table.empty(4))


def test_a_right_frame_is_returned_in_the_declared_order() -> None:
    frame = VA_DISTANCES.empty()
    assert VA_DISTANCES.check(frame.select(reversed(frame.columns))).columns == list(VA_DISTANCES.columns)


def test_every_difference_is_named_at_once() -> None:
    frame = VA_DISTANCES.empty().drop("cosine").cast({"euclidean": pl.Float32}).with_columns(extra=1)
    with pytest.raises(SchemaError) as caught:
        VA_DISTANCES.check(frame)
    message = str(caught.value)
    assert message.startswith("table va_distances: ")
    assert "column cosine is missing" in message
    assert "column extra is not declared" in message
    assert "column euclidean is Float32, declared Float64" in message


@pytest.mark.parametrize("dimension", [1, 3, 1024])
def test_embeddings_may_have_any_dimension(dimension: int) -> None:
    assert IMAGE_EMBEDDINGS.differences(IMAGE_EMBEDDINGS.empty(dimension)) == []


@pytest.mark.parametrize("wrong", [pl.List(pl.Float32), pl.Array(pl.Float64, 3), pl.Float32])
def test_embeddings_must_be_arrays_of_float32(wrong: pl.DataType) -> None:
    frame = IMAGE_EMBEDDINGS.empty().drop("embedding").with_columns(pl.lit(None, wrong).alias("embedding"))
    (line,) = IMAGE_EMBEDDINGS.differences(frame)
    assert line.startswith("column embedding is ")


def test_music_clips_carry_all_ratings_in_the_order_of_the_method() -> None:
    ratings = [name.removeprefix("rating_") for name in MUSIC_CLIPS.columns if name.startswith("rating_")]
    assert ratings == list(RATINGS)
