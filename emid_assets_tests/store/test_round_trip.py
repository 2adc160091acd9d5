"""Any frame of the types that tables declare goes into the lake and comes out equal: types, values, bits."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from polars.testing.parametric import column, dataframes

from emid_assets.store.duckdb_types import schema_from_text, schema_to_text
from emid_assets.store.lake import Lake, LakeError
from emid_assets.store.schemas import TABLES

KEPT = [pl.Boolean, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.String, pl.List, pl.Array, pl.Struct]
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def returned(frame: pl.DataFrame) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        lake.write("music_clips", "sad", frame)
        return lake.read("music_clips")


@QUICK
@given(dataframes(min_cols=1, max_cols=6, max_size=8, allowed_dtypes=KEPT))
def test_any_frame_of_the_types_that_are_kept_comes_back_equal(frame: pl.DataFrame) -> None:
    assert_frame_equal(returned(frame), frame, check_exact=True)


@QUICK
@given(dataframes(min_cols=1, max_cols=3, max_size=6, allowed_dtypes=[*KEPT[-3:], pl.String, pl.Float32]))
def test_any_nested_frame_comes_back_equal(frame: pl.DataFrame) -> None:
    assert_frame_equal(returned(frame), frame, check_exact=True)


@QUICK
@given(
    dataframes(
        [
            column("feelings", pl.List(pl.Struct({"feeling": pl.String, "percent": pl.Float32}))),
            column("embedding", pl.Array(pl.Float32, 3), allow_null=True),
            column("answered_at", pl.Datetime("us", "UTC")),
        ],
        max_size=8,
    )
)
def test_the_types_that_the_tables_use_come_back_equal(frame: pl.DataFrame) -> None:
    assert_frame_equal(returned(frame), frame, check_exact=True)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@settings(QUICK, max_examples=10)
def test_float_bits_survive_in_columns_and_in_arrays(bits: list[int]) -> None:
    special = [0x7FC00000, 0xFFC00001, 0x7F800001, 0x80000000, 0x7F800000, 0xFF800000, 1]
    single = np.array(bits + special, dtype=np.uint32)
    double = single.astype(np.uint64) << 32 | np.uint64(1)
    frame = pl.DataFrame(
        {
            "single": single.view(np.float32),
            "double": double.view(np.float64),
            "array": pl.Series(single.view(np.float32).reshape(-1, 1), dtype=pl.Array(pl.Float32, 1)),
        }
    )
    back = returned(frame)
    np.testing.assert_array_equal(back["single"].to_numpy().view(np.uint32), single)
    np.testing.assert_array_equal(back["double"].to_numpy().view(np.uint64), double)
    np.testing.assert_array_equal(back["array"].to_numpy().view(np.uint32)[:, 0], single)


def test_the_ends_of_every_range_survive() -> None:
    frame = pl.DataFrame(
        {
            "i32": pl.Series([2**31 - 1, -(2**31), None], dtype=pl.Int32),
            "i64": pl.Series([2**63 - 1, -(2**63), None], dtype=pl.Int64),
            "text": ["a\0b", "", None],
            "truth": [True, False, None],
            "instant": pl.Series([2**57, -(2**55), None], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
        }
    )
    assert_frame_equal(returned(frame), frame)


@pytest.mark.parametrize("rows", [0, 3])
def test_odd_column_names_survive_with_and_without_rows(rows: int) -> None:
    names = [
        'a "quoted" name',
        "with space",
        "it's",
        "select",
        "rowid",
        "ÄÖ",
        "äö",
        "数",
        "a.b",
        "{x}",
        "%s",
        "?",
    ]
    values = {name: [float(i)] * rows for i, name in enumerate(names)}
    frame = pl.DataFrame(values, schema=dict.fromkeys(names, pl.Float64))
    assert_frame_equal(returned(frame), frame)


def test_rows_keep_their_order_over_many_chunks() -> None:
    frame = pl.concat(
        [pl.DataFrame({"row": np.arange(i * 50_000, (i + 1) * 50_000)}) for i in range(8)], rechunk=False
    )
    assert returned(frame)["row"].to_list() == list(range(400_000))


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        (pl.DataFrame({"Valence": [1], "valence": [2]}), "'Valence' and 'valence' are the same name"),
        (pl.DataFrame({"s": [{"A": 1, "a": 2}]}), "column 's'.*'A' and 'a' are the same name"),
        (pl.DataFrame({"": [1]}), "column name '' is empty"),
        (pl.DataFrame({"a\0b": [1]}), "zero byte"),
        (pl.DataFrame(), "no columns"),
        (pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), "column 'o': type Object"),
        (pl.DataFrame(schema={"s": pl.Struct({})}), "column 's'"),
        (pl.DataFrame(schema={"a": pl.Array(pl.Float32, 0)}), "column 'a'"),
        (pl.DataFrame(schema={"u": pl.UInt32}), "column 'u': type UInt32 cannot be stored"),
        (pl.DataFrame(schema={"t": pl.Datetime("ns", "UTC")}), "column 't': type Datetime"),
        (
            pl.DataFrame(schema={"l": pl.List(pl.Struct({"x": pl.Categorical}))}),
            "column 'l': type Categorical",
        ),
    ],
)
def test_what_duckdb_cannot_hold_is_an_error_that_names_the_column(
    tmp_path: Path, frame: pl.DataFrame, wanted: str
) -> None:
    with pytest.raises(LakeError, match=wanted):
        Lake(tmp_path).write("music_clips", "sad", frame)
    assert list(tmp_path.iterdir()) == []


def test_a_schema_survives_as_text() -> None:
    for table in TABLES.values():
        schema = table.empty(dimension=512).schema
        assert schema_from_text(schema_to_text(schema)) == schema
