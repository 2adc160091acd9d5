"""Tables of published ratings, and of other models' outputs: a table in, one rating for each name out.

Belongs here: the layouts of the tables and their scales. Which file a name means, and what music.csv and
images.csv say of it already, is `ratings_import`'s.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emid_assets.affect.emotions import UnknownLabelError, find_image_emotion
from emid_assets.affect.ratings import BLANK_WORDS
from emid_assets.media.limits import TableError

AXES = ("valence", "arousal")

NAME_COLUMNS = (
    "file", "filename", "audiofilename", "imagefilename", "path", "filepath", "audiopath", "imagepath",
    "image", "songid", "musicid", "trackid", "imageid", "stimulus", "clip", "track", "iaps", "theme", "name",
    "id",
)  # fmt: skip
"""Columns that name the clip or image, letters and digits only, the more certain ones first."""

TIME_COLUMNS = ("frametime", "time", "times", "second", "seconds")
"""Columns of a table that has several rows for each clip, to be averaged."""

_MEASURES = {
    "": ("{}", "{}mean", "mean{}", "{}average", "average{}", "{}m", "{:.3}mn"),
    "_sd": ("{}sd", "{}std", "sd{}", "std{}", "{:.3}sd"),
    "_se": ("{}se", "{}sem", "se{}", "{}stderr"),
    "_n": ("{}n", "n{}", "n"),
}
VALUE_COLUMNS = {
    f"{axis}{measure}": tuple(spelling.format(axis) for spelling in spellings)
    for axis in AXES
    for measure, spellings in _MEASURES.items()
}
"""Value → how tables call its column: mean, deviation, standard error and number of the ratings."""

TAG_COLUMNS = ("tag", "emotion")

SHOWN_COLUMNS = 12
"""Columns that an error names."""

_WIDE_COLUMN = re.compile(r"sample\d+ms")


@dataclass(frozen=True)
class Layout:
    """A layout that is told by its columns.

    Attributes:
        title: what it is, for people.
        marks: columns that tell it, letters and digits only.
        kind: `music` or `image`; None where either is possible.
        scale: lowest and highest value; None where the table does not tell.
    """

    title: str
    marks: frozenset[str]
    kind: str | None
    scale: tuple[float, float] | None


BY_TIME = Layout("DEAM, over time", frozenset({"songid"}), "music", (-1.0, 1.0))
TAGS = Layout("tags", frozenset(), "image", None)
OTHER = Layout("file, valence, arousal", frozenset(), None, None)
LAYOUTS = (
    Layout("DEAM", frozenset({"songid", "valencemean"}), "music", (1.0, 9.0)),
    Layout("PMEmo", frozenset({"musicid"}), "music", (0.0, 1.0)),
    Layout("OASIS", frozenset({"theme", "valencemean"}), "image", (1.0, 7.0)),
    Layout("IAPS", frozenset({"valmn", "aromn"}), "image", (1.0, 9.0)),
)


@dataclass
class Rating:
    """What a table says of one name.

    Attributes:
        where: table and row, for people.
        values: `valence`, `arousal` and their standard errors `valence_sd`, `arousal_sd`, as shares of the
            scale: 0 is its lowest value and 1 its highest; only what the table has.
        tag: key of one of Mikels' emotions; empty if there is none.
    """

    where: str
    values: dict[str, float] = field(default_factory=dict)
    tag: str = ""


@dataclass
class RatingTable:
    """A table that has been read.

    Attributes:
        path: the file.
        layout: what it was read as.
        scale: the scale in use; None for a table of tags alone.
        ratings: name of the clip or image → its rating.
        problems: rows that cannot be used, one line each.
        single_deviations: ratings whose deviation is not used, since nobody says of how many raters it is.
    """

    path: Path
    layout: Layout
    scale: tuple[float, float] | None
    ratings: dict[str, Rating] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    single_deviations: int = 0


@dataclass(frozen=True)
class Reading:
    """How tables are to be read, where they do not tell it themselves.

    Attributes:
        scale: lowest and highest value of valence and arousal; None: the layout's.
        raters: people behind each value, where no column says so; None: unknown.
        is_model: the values are a model's outputs: their deviations are taken as they are.
    """

    scale: tuple[float, float] | None = None
    raters: int | None = None
    is_model: bool = False


def read_ratings(path: Path, reading: Reading) -> RatingTable:
    """Read a table of ratings: the layout is told by its columns, and several rows over time are averaged.

    Raises:
        TableError: it is no table, names no clip or image, has no values, or its scale is unknown.
    """
    header, records = _records(path)
    columns = _columns(path, header)
    wide = [place for name, place in columns.items() if _WIDE_COLUMN.fullmatch(name)]
    layout = BY_TIME if wide else next((each for each in LAYOUTS if each.marks <= columns.keys()), OTHER)
    name = next((columns[name] for name in NAME_COLUMNS if name in columns), None)
    if name is None:
        raise TableError(
            f"{path} has no column that names the clip or image: rename it to file; {_shown(header)}"
        )
    values = _wide_values(path, wide) if wide else _value_places(path, columns)
    # A model of music may have a column `emotion` with words of its own.
    tags = [] if values else [columns[name] for name in TAG_COLUMNS if name in columns]
    if not values:
        layout = TAGS
    if not values and not tags:
        raise TableError(
            f"{path} has no columns called valence and arousal, or tag: rename them; {_shown(header)}"
        )
    scale = reading.scale or layout.scale
    if values and scale is None:
        raise TableError(f"{path} does not tell the scale of its values: give --scale LOW HIGH")
    table = RatingTable(path, layout, scale if values else None)
    over_time = bool(wide) or any(name in columns for name in TIME_COLUMNS)
    rows = [(number, record) for number, record in enumerate(records, start=2) if any(map(str.strip, record))]
    cells: dict[str, list[tuple[int, list[str]]]] = {}
    for number, record in rows:
        if len(record) != len(header):
            table.problems.append(
                f"{path.name} row {number}: has {len(record)} cells and the header has {len(header)}"
            )
        elif record[name].strip().casefold() in BLANK_WORDS:
            table.problems.append(f"{path.name} row {number}: names no clip or image")
        else:
            cells.setdefault(record[name].strip(), []).append((number, record))
    for named, found in cells.items():
        if len(found) > 1 and not over_time:
            again = ", ".join(str(number) for number, _ in found[1:])
            table.problems.append(f"{path.name} row {again}: {named!r} is in row {found[0][0]} already")
            found = found[:1]
        try:
            if values:
                table.ratings[named] = _rating(table, found, values, over_time, reading)
            else:
                table.ratings[named] = _tag(table, *found[0], tags[0])
        except ValueError as error:
            table.problems.append(f"{path.name} {error}")
    return table


def _rating(
    table: RatingTable,
    rows: Sequence[tuple[int, list[str]]],
    values: Mapping[str, Sequence[int]],
    over_time: bool,
    reading: Reading,
) -> Rating:
    """The rating in the rows of one name; ValueError with the row where a cell is wrong."""
    first, record = rows[0]
    rating = Rating(f"{table.path.name} row {first}")
    low, high = table.scale or (0.0, 1.0)
    for axis in AXES:
        found = [
            number
            for row, cells in rows
            for place in values.get(axis, ())
            if (number := _number(cells[place], row, axis, -math.inf, math.inf)) is not None
        ]
        if found:
            mean = math.fsum(found) / len(found)
            if not low <= mean <= high:
                raise ValueError(
                    f"row {first}: {axis} is {mean:g}, expected a number from {low:g} to {high:g}"
                )
            rating.values[axis] = (mean - low) / (high - low)
        if over_time:  # the deviation at one moment is not that of the mean over all
            continue
        deviation, error, raters = (
            _number(record[places[0]], first, f"{axis}{of}", 0.0, math.inf if of == "_n" else high - low)
            if (places := values.get(f"{axis}{of}"))
            else None
            for of in ("_sd", "_se", "_n")
        )
        raters = raters or reading.raters
        if error is None and deviation is not None:
            if reading.is_model:
                error = deviation
            elif raters:
                error = deviation / math.sqrt(raters)
            else:
                table.single_deviations += axis == AXES[0]
        if error is not None:
            rating.values[f"{axis}_sd"] = error / (high - low)
    return rating


def _tag(table: RatingTable, row: int, record: Sequence[str], place: int) -> Rating:
    """The tag in a row; ValueError with the row where it is none of Mikels' emotions."""
    try:
        return Rating(f"{table.path.name} row {row}", tag=find_image_emotion(record[place]).key)
    except UnknownLabelError as error:
        raise ValueError(f"row {row}: {error}") from None


def _number(cell: str, row: int, what: str, lowest: float, highest: float) -> float | None:
    """A cell's number; None where it is blank."""
    text = cell.strip()
    if text.casefold() in BLANK_WORDS:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and lowest <= number <= highest):
        scale = f" from {lowest:g}" if math.isfinite(lowest) else ""
        scale += f" to {highest:g}" if math.isfinite(highest) else ""
        raise ValueError(f"row {row}: {what} is {text[:80]!r}, expected a number{scale}")
    return number


def _shown(header: Sequence[str]) -> str:
    more = f" and {len(header) - SHOWN_COLUMNS} more" if len(header) > SHOWN_COLUMNS else ""
    return f"the table has {', '.join(map(str.strip, header[:SHOWN_COLUMNS]))}{more}"


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Name of each column, letters and digits only, in lower case → its place."""
    columns: dict[str, int] = {}
    for place, written in enumerate(header):
        name = re.sub(r"[\W_]", "", written).casefold()
        if name and name in columns:
            raise TableError(f"{path} has two columns called {written.strip()!r}: remove one")
        columns[name] = place
    columns.pop("", None)  # row numbers have no header
    return columns


def _value_places(path: Path, columns: Mapping[str, int]) -> dict[str, list[int]]:
    places = {}
    for value, spellings in VALUE_COLUMNS.items():
        found = [name for name in spellings if name in columns]
        if len(found) > 1 and not value.endswith("_n"):
            raise TableError(f"{path} has two columns for {value}, {' and '.join(found)}: remove one")
        if found:
            places[value] = [columns[found[0]]]
    of_use = {f"{axis}{measure}" for axis in AXES for measure in ("", "_sd", "_se")}
    return places if of_use & places.keys() else {}


def _wide_values(path: Path, places: list[int]) -> dict[str, list[int]]:
    """The axis of a table whose columns are moments, which only its file's name tells."""
    name = path.stem.casefold()
    axes = [axis for axis in AXES if axis in name]
    if len(axes) != 1 or "std" in name:
        raise TableError(
            f"{path} has a column for each moment, and its name does not tell of what: call it valence.csv "
            "or arousal.csv; deviations over time are not read"
        )
    return {axes[0]: places}


def _records(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table whose cells are separated by commas, semicolons or tabs."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TableError(f"{path} cannot be read as a table: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TableError(f"{path} is not UTF-8: save the table as CSV in UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        records = list(reader)
    except csv.Error as error:
        raise TableError(f"{path} line {reader.line_num} is not valid CSV: {error}") from None
    if not records or not any(records[0]):
        raise TableError(f"{path}: its first row must name the columns, such as file,valence,arousal")
    return records[0], records[1:]
