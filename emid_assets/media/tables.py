"""The user's tables, music.csv and images.csv: their columns, and reading them.

Belongs here: a CSV file in, a frame of text out. `inventory` interprets the text.
"""

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emid_assets.media.limits import TableError


@dataclass(frozen=True)
class TableColumn:
    """A column that a table may have; the comparison of names ignores case."""

    name: str
    aliases: tuple[str, ...]
    meaning: str


_CERTAINTY = (
    TableColumn(
        "va_source", (), "predicted, or model:NAME: a program gave valence and arousal; default: people did"
    ),
    TableColumn(
        "valence_sd", (), "standard error of the raters' mean valence, or of a program's valence; same scale"
    ),
    TableColumn("arousal_sd", (), "standard error of arousal, likewise"),
)

TABLE_COLUMNS = {
    "music": (
        TableColumn("file", ("audio_filename", "filename"), "path below music/ (required)"),
        TableColumn(
            "genre", (), "letter A to M, key such as sad, or full name; default: the sub-folder's name"
        ),
        TableColumn(
            "feeling", (), "percentages over the 28 feelings, such as 33% Sad, depressing, 22% Dreamy"
        ),
        TableColumn(
            "emotion", (), "the 11 ratings, 1 to 9, comma-separated, in EMID's order; nan where missing"
        ),
        TableColumn(
            "valence",
            (),
            "this clip's valence, 1 to 9, if it has no ratings; default: its genre's mean",
        ),
        TableColumn("arousal", (), "this clip's arousal, likewise"),
        *_CERTAINTY,
        TableColumn("is_original_clip", (), "false for a clip cut from a source's recording; default: true"),
        TableColumn("clip_id", (), "unique id; default: the path below music/"),
        TableColumn("start_s", (), "where the clip starts in the file, seconds; default: 0"),
        TableColumn("duration_s", (), "length of the clip, seconds; default: to the end of the file"),
        TableColumn(
            "source_id", (), "what the clip was cut from; clips of one source are never in different splits"
        ),
        TableColumn("licence", ("license",), "licence of the item"),
        TableColumn("author", (), "author of the item"),
        TableColumn(
            "label_source", (), "where the label comes from, in your words; default: table or folder"
        ),
    ),
    "image": (
        TableColumn("file", ("image", "image_filename", "filename"), "path below images/ (required)"),
        TableColumn("tag", (), "one of Mikels' eight emotions; default: the sub-folder's name"),
        TableColumn("text", ("caption",), "caption"),
        TableColumn("valence", (), "measured valence of this image, 0 to 1; default: the tag's"),
        TableColumn("arousal", (), "measured arousal of this image, 0 to 1; default: the tag's"),
        *_CERTAINTY,
        TableColumn("caption_source", (), "what wrote the caption; default: table"),
        TableColumn("image_id", (), "unique id; default: the path below images/"),
        TableColumn(
            "source_id",
            ("group",),
            "the series or theme of the image, kept together in cross-validation",
        ),
        TableColumn("licence", ("license",), "licence of the item"),
        TableColumn("author", (), "author of the item"),
        TableColumn(
            "label_source", (), "where the label comes from, in your words; default: table or folder"
        ),
    ),
}
"""Columns that music.csv and images.csv may have. Other columns are ignored."""


def read_table(path: Path, kind: str) -> pl.DataFrame:
    """Read music.csv or images.csv.

    Args:
        path: CSV file: comma-separated, double quotes, UTF-8 with or without a byte-order mark.
        kind: `music` or `image`.

    Returns:
        All columns of `TABLE_COLUMNS[kind]` as text, stripped, null where a cell is blank or the
        column is absent; and `row`, the row number as in a spreadsheet, where the header is row 1.
        Columns with other names are dropped.

    Raises:
        TableError: not a CSV file of this form, no file column, a duplicate column, a row with more or
            fewer cells than the header, or an unknown column that looks like a misspelling.
    """
    records = read_records(path)
    if not records:
        raise TableError(f"{path} is empty: its first row must name the columns, such as file")
    header = [name.strip() for name in records[0]]
    columns = known_columns(path, header, kind)
    rows = [(number, record) for number, record in enumerate(records[1:], start=2) if any(record)]
    for number, record in rows:
        if len(record) != len(header):
            raise TableError(
                f"{path} row {number} has {len(record)} cells and the header has {len(header)}: "
                "put cells that contain commas in double quotes"
            )
    data: dict[str, list[str | None]] = {}
    for column in TABLE_COLUMNS[kind]:
        place = columns.get(column.name)
        data[column.name] = (
            [None] * len(rows) if place is None else [record[place].strip() or None for _, record in rows]
        )
    schema = {column.name: pl.String for column in TABLE_COLUMNS[kind]}
    return pl.DataFrame(data, schema=schema).with_columns(
        row=pl.Series([number for number, _ in rows], dtype=pl.Int64)
    )


def cure_of_divider(header: Sequence[str]) -> str:
    """What to do about a header of one cell because the separator is not a comma; else empty."""
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "; its cells are separated by semicolons or tabs: save it with commas"
    return ""


def read_records(path: Path) -> list[list[str]]:
    """The cells of a CSV file, its header first, as they are written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path} cannot be read as a table: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError(f"{path} line {line} is not UTF-8: save the table as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        raise TableError(f"{path} line {reader.line_num} is not valid CSV: {error}") from None


def known_columns(path: Path, header: list[str], kind: str) -> dict[str, int]:
    """Name of each column of `TABLE_COLUMNS[kind]` that a header has → its place."""
    name_of = {
        written: column.name for column in TABLE_COLUMNS[kind] for written in (column.name, *column.aliases)
    }
    columns: dict[str, int] = {}
    unknown: list[str] = []
    for place, written in enumerate(header):
        name = name_of.get(written.casefold())
        if name is None:
            unknown.append(written)
        elif name in columns:
            raise TableError(f"{path} has two columns for {name}: {header[columns[name]]} and {written}")
        else:
            columns[name] = place
    if "file" not in columns:
        shown = f"{', '.join(header)}{cure_of_divider(header)}"
        raise TableError(f"{path} has no column named file; its columns are: {shown}")
    absent = [name for name in name_of if name_of[name] not in columns]
    for written in unknown:
        near = difflib.get_close_matches(written.casefold(), absent, n=1, cutoff=0.85)
        if near:
            raise TableError(
                f"{path} has an unknown column {written!r}: rename it to {near[0]!r}, or to something else"
            )
    return columns
