"""What DuckDB cannot keep of a Polars frame by itself, and the casts there and back.

Belongs here: the Polars type that a column is stored as, the names that DuckDB accepts, and the
schema as text. Nothing that touches a file.
"""

import base64
import io
from collections.abc import Iterable

import polars as pl
from polars.datatypes import DataTypeClass


class UnstorableError(ValueError):
    """A frame has a column that a DuckDB table cannot hold; the message names it."""


def stored_type(dtype: pl.DataType) -> pl.DataType:
    """The Polars type whose values DuckDB keeps bit for bit, and that casts to `dtype` and back.

    Most types are their own. Text stands for categories and 128-bit integers, int64 for durations
    (DuckDB's INTERVAL has no nanoseconds), float32 for float16; a zoned time that is not in
    microseconds is kept as the same instant without its zone.

    Raises:
        UnstorableError: no such type exists.
    """
    match dtype:
        case pl.Categorical() | pl.Enum() | pl.Int128() | pl.UInt128():
            return pl.String()
        case pl.Duration():
            return pl.Int64()
        case pl.Float16():
            return pl.Float32()
        case pl.Null():
            return pl.Boolean()
        case pl.Datetime(time_unit=unit, time_zone=zone) if zone is not None:
            return pl.Datetime("us", "UTC") if unit == "us" else pl.Datetime(unit)
        case pl.List(inner=inner):
            return pl.List(stored_type(_instance(inner)))
        case pl.Array(inner=inner, size=size) if size > 0:
            return pl.Array(stored_type(_instance(inner)), size)
        case pl.Struct(fields=fields) if fields:
            _check_names((field.name for field in fields), "field")
            if any(_holds_list_of_nulls(_instance(field.dtype)) for field in fields):
                raise UnstorableError(f"type {dtype} has a list of nothing but nulls inside a struct")
            return pl.Struct({field.name: stored_type(_instance(field.dtype)) for field in fields})
    if dtype.is_nested() or dtype == pl.Object or type(dtype) not in _KEPT:
        raise UnstorableError(f"type {dtype} has no DuckDB form")
    return dtype


_KEPT = {
    pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
    pl.Float32, pl.Float64, pl.Decimal, pl.String, pl.Binary, pl.Date, pl.Time, pl.Datetime,
}  # fmt: skip


def to_stored(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with every column cast to the type that DuckDB keeps.

    Raises:
        UnstorableError: names the column and what is wrong with its type or name.
    """
    if not frame.columns:
        raise UnstorableError("the frame has no columns; a table needs at least one")
    _check_names(frame.columns, "column")
    casts = {}
    for name, dtype in frame.schema.items():
        try:
            stored = stored_type(dtype)
        except UnstorableError as error:
            raise UnstorableError(f"column {name!r}: {error}") from None
        if stored != dtype:
            casts[name] = stored
    return frame.cast(casts) if casts else frame  # type: ignore[arg-type]


def from_stored(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Cast what came out of DuckDB back to the types that went in; the columns may be a part of them."""
    return frame.with_columns(
        _restored(pl.col(name), schema[name]) for name, dtype in frame.schema.items() if dtype != schema[name]
    )


def _restored(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    # Polars leaves List(Boolean).cast(List(Null)) as it was, so lists are cast from within.
    if isinstance(dtype, pl.List):
        return column.list.eval(_restored(pl.element(), _instance(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return column.arr.eval(_restored(pl.element(), _instance(dtype.inner)))
    return column.cast(dtype)


def _holds_list_of_nulls(dtype: pl.DataType) -> bool:
    match dtype:
        case pl.List(inner=inner) | pl.Array(inner=inner):
            return inner == pl.Null or _holds_list_of_nulls(_instance(inner))
        case pl.Struct(fields=fields):
            return any(_holds_list_of_nulls(_instance(field.dtype)) for field in fields)
    return False


def schema_to_text(schema: pl.Schema) -> str:
    """The schema as base64 of an empty Arrow IPC file, a format that outlives versions of Polars."""
    buffer = io.BytesIO()
    pl.DataFrame(schema=schema).write_ipc(buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def schema_from_text(text: str) -> pl.Schema:
    """What `schema_to_text` was given."""
    return pl.read_ipc(io.BytesIO(base64.b64decode(text))).schema


def _instance(dtype: DataTypeClass | pl.DataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _check_names(names: Iterable[str], what: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not name or "\0" in name:
            raise UnstorableError(f"{what} name {name!r} is empty or holds a zero byte; rename it")
        # DuckDB tells names apart without regard to the case of A-Z only, in columns and in fields.
        folded = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)
        if folded in seen:
            raise UnstorableError(
                f"{what} names {seen[folded]!r} and {name!r} are one name to DuckDB, which ignores case; "
                "rename one"
            )
        seen[folded] = name
