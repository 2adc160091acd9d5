"""The types that DuckDB stores bit for bit, and a frame's schema as text.

Belongs here: the list of these types, and the names that DuckDB accepts. Nothing that touches a file.
"""

import base64
import io
from collections.abc import Iterable

import polars as pl
from polars.datatypes import DataTypeClass


class UnstorableError(ValueError):
    """A frame has a column that a DuckDB table cannot hold; the message names it."""


KEPT = {pl.Boolean, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.String, pl.Datetime("us", "UTC")}
"""Types that survive the round trip unchanged; so do lists, arrays and structs of them."""


def check_storable(frame: pl.DataFrame) -> None:
    """Refuse a frame that would not survive the round trip unchanged.

    Raises:
        UnstorableError: names the column and what is wrong with its type or name.
    """
    if not frame.columns:
        raise UnstorableError("the frame has no columns; a table needs at least one")
    _check_names(frame.columns, "column")
    for name, dtype in frame.schema.items():
        try:
            _check_type(dtype)
        except UnstorableError as error:
            raise UnstorableError(f"column {name!r}: {error}") from None


def _check_type(dtype: pl.DataType) -> None:
    match dtype:
        case pl.List(inner=inner):
            _check_type(_instance(inner))
        case pl.Array(inner=inner, size=size) if size > 0:
            _check_type(_instance(inner))
        case pl.Struct(fields=fields) if fields:
            _check_names((field.name for field in fields), "field")
            for field in fields:
                _check_type(_instance(field.dtype))
        case _:
            if dtype not in KEPT:
                raise UnstorableError(
                    f"type {dtype} cannot be stored: cast it, or add it to KEPT in "
                    "emid_assets/store/duckdb_types.py and to the round-trip tests"
                )


def schema_to_text(schema: pl.Schema) -> str:
    """The schema as base64 of an empty Arrow IPC file, a format that is stable across Polars versions."""
    buffer = io.BytesIO()
    pl.DataFrame(schema=schema).write_ipc(buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def schema_from_text(text: str) -> pl.Schema:
    """The inverse of `schema_to_text`."""
    return pl.read_ipc(io.BytesIO(base64.b64decode(text))).schema


def _instance(dtype: DataTypeClass | pl.DataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _check_names(names: Iterable[str], what: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not name or "\0" in name:
            raise UnstorableError(f"{what} name {name!r} is empty or holds a zero byte; rename it")
        # DuckDB ignores the case of A-Z (and only A-Z) in the names of columns and fields.
        folded = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)
        if folded in seen:
            raise UnstorableError(
                f"{what} names {seen[folded]!r} and {name!r} are the same name to DuckDB, which ignores "
                "case; rename one"
            )
        seen[folded] = name
