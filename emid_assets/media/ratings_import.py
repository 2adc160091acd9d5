"""Ratings of published tables, put into music.csv and images.csv beside the media.

Belongs here: which file a name means, and what becomes of a row that the user's table has already. Reading
the published tables is `published_ratings`'.
"""

import csv
import io
import math
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from emid_assets.affect.emotions import UnknownLabelError, find_image_emotion
from emid_assets.affect.ratings import BLANK_WORDS
from emid_assets.media.folder import SUBFOLDERS, SUFFIXES, find_files, open_media_folder
from emid_assets.media.limits import TableError
from emid_assets.media.published_ratings import AXES, Rating, RatingTable
from emid_assets.media.tables import known_columns, read_records, read_table
from emid_assets.media.va_sources import OTHER_MODEL
from emid_assets.store.files import write_in_place

SCALES = {"music": (1.0, 9.0), "image": (0.0, 1.0)}
"""Scale of valence and arousal in music.csv and images.csv."""

_MEASURED = {"music": "ratings", "image": "measured"}
_VA_CELLS = ("valence", "arousal", "va_source", "valence_sd", "arousal_sd")
_CLOSE = 1e-4


@dataclass(frozen=True)
class Target:
    """Where ratings go.

    Attributes:
        media: the media folder.
        kind: `music` or `image`; None: told by the table, or by the files that it names.
        below: the sub-folder of music/ or images/ that holds the files; empty: all.
        model: name of the model whose outputs these are; empty: people's ratings.
        overwrite: replace other values that the user's table has.
    """

    media: Path
    kind: str | None = None
    below: str = ""
    model: str = ""
    overwrite: bool = False


@dataclass
class TableOutcome:
    """What became of the names in a published table."""

    table: RatingTable
    kind: str
    found: int = 0
    absent: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


@dataclass
class MediaTableOutcome:
    """What became of music.csv or images.csv: numbers of rows, and the conflicts, a line each."""

    name: str
    added: int = 0
    completed: int = 0
    replaced: int = 0
    unchanged: int = 0
    conflicts: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What an import did."""

    tables: list[TableOutcome] = field(default_factory=list)
    written: list[MediaTableOutcome] = field(default_factory=list)


class FilesByName:
    """The files below music/ or images/, to be found by the names that published tables use."""

    def __init__(self, root: Path, kind: str, below: str = "") -> None:
        prefix = f"{below.strip('/')}/".removeprefix(f"{SUBFOLDERS[kind]}/").removeprefix("/")
        self._suffixes = SUFFIXES[kind]
        self._by_name: dict[str, list[str]] = {}
        for file in find_files(root, kind):
            if file.problem is None and file.below.startswith(prefix):
                path = PurePosixPath(_composed(file.below))
                for name in {path.name, path.stem}:
                    self._by_name.setdefault(name.casefold(), []).append(file.below)

    def find(self, written: str) -> list[str]:
        """The files that a name may mean: with or without suffix, and with any of its folders."""
        path = PurePosixPath(_composed(written.replace("\\", "/")))
        names = [path.name]
        if path.suffix.casefold() in self._suffixes:
            names.append(path.stem)  # the same clip in another format
        elif path.suffix == ".0":
            names.append(path.stem)  # a number that a spreadsheet has written
        for name in names:
            found = self._by_name.get(name.casefold(), [])
            if found:
                return [below for below in found if _folders_agree(path, PurePosixPath(below))]
        return []


def import_ratings(tables: Iterable[RatingTable], target: Target) -> Outcome:
    """Add ratings to music.csv and images.csv of a media folder.

    No row and no column of the user's tables is removed. A row that has other values keeps them, unless
    `target.overwrite` says otherwise.

    Raises:
        MediaFolderError: the folder is not laid out as a media folder.
        TableError: one of the user's tables cannot be read, or a name may be of either kind.
        OSError: a table cannot be written.
    """
    root = open_media_folder(target.media)
    files = {kind: FilesByName(root, kind, target.below) for kind in SUBFOLDERS}
    outcome = Outcome()
    conflicts: dict[str, list[str]] = {kind: [] for kind in SUBFOLDERS}
    ratings: dict[str, dict[str, Rating]] = {kind: {} for kind in SUBFOLDERS}
    for table in tables:
        kind = table.layout.kind or target.kind or _kind_of(table, files)
        if target.kind not in (None, kind):
            raise TableError(
                f"{table.path} has the layout {table.layout.title}, which is not of {target.kind}"
            )
        of_table = TableOutcome(table, kind)
        for name, rating in table.ratings.items():
            found = files[kind].find(name)
            if len(found) == 1:
                of_table.found += 1
                conflicts[kind] += _add(ratings[kind], found[0], rating)
            elif found:
                of_table.unclear.append(f"{rating.where}: {name!r} may be {' or '.join(found[:3])}")
            else:
                of_table.absent.append(name)
        outcome.tables.append(of_table)
    for kind, of_kind in ratings.items():
        for file, rating in list(of_kind.items()):
            if rating.values and not set(AXES) <= rating.values.keys():
                absent = " and ".join(axis for axis in AXES if axis not in rating.values)
                conflicts[kind].append(f"{rating.where}: {file} has no {absent}: left out")
                rating.values.clear()
            if not (rating.values or rating.tag):
                del of_kind[file]
        if of_kind or conflicts[kind]:
            merged = _merge(root, kind, of_kind, target)
            merged.conflicts[:0] = conflicts[kind]
            outcome.written.append(merged)
    return outcome


def _kind_of(table: RatingTable, files: Mapping[str, FilesByName]) -> str:
    """The kind of media that most names of a table are of."""
    counts = {kind: sum(bool(found.find(name)) for name in table.ratings) for kind, found in files.items()}
    if all(counts.values()):
        raise TableError(
            f"{table.path} names files of music/ and of images/: say which it is of, --kind music or image"
        )
    return max(counts, key=lambda kind: counts[kind])


def _add(ratings: dict[str, Rating], file: str, rating: Rating) -> list[str]:
    """Add what one table says of a file to what others say; the first one's values stay."""
    known = ratings.setdefault(file, Rating(rating.where))
    differs = [
        name for name, value in rating.values.items() if abs(known.values.get(name, value) - value) > _CLOSE
    ]
    if known.tag and rating.tag not in ("", known.tag):
        differs.append("tag")
    known.values = rating.values | known.values
    known.tag = known.tag or rating.tag
    return [f"{rating.where}: {', '.join(differs)} of {file} differ from {known.where}: left out"] * bool(
        differs
    )


def _merge(root: Path, kind: str, ratings: Mapping[str, Rating], target: Target) -> MediaTableOutcome:
    """Write music.csv or images.csv with the ratings of its files."""
    path = root / f"{SUBFOLDERS[kind]}.csv"
    before = path.read_bytes() if path.exists() else b""
    if before:
        read_table(path, kind)  # its errors name the row
    records = [list(record) for record in read_records(path)] if before else [["file"]]
    header = records[0]
    columns = known_columns(path, [name.strip() for name in header], kind)
    needed = {"tag", "label_source"} if any(rating.tag for rating in ratings.values()) else set()
    needed |= {name for rating in ratings.values() for name in _cells(kind, rating, target.model)}
    for name in ("tag", *_VA_CELLS, "label_source"):
        if name in needed and name not in columns:
            columns[name] = len(header)
            header.append(name)
    outcome = MediaTableOutcome(path.name)
    listed: set[str] = set()
    by_composed = {_composed(file): file for file in ratings}
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        record += [""] * (len(header) - len(record))
        written = _composed(posixpath.normpath(record[columns["file"]].strip()))
        file = by_composed.get(written) or by_composed.get(written.removeprefix(f"{SUBFOLDERS[kind]}/"))
        if file is not None:
            listed.add(file)
            row = _Row(f"{path.name} row {number}", file, record, columns)
            row.take(kind, ratings[file], target, outcome)
    for file in sorted(ratings.keys() - listed):
        record = [""] * len(header)
        record[columns["file"]] = file
        fresh = MediaTableOutcome(path.name)
        _Row(f"{SUBFOLDERS[kind]}/{file}", file, record, columns).take(kind, ratings[file], target, fresh)
        outcome.added += fresh.completed + fresh.replaced
        outcome.unchanged += fresh.unchanged
        outcome.conflicts += fresh.conflicts
        if fresh.completed or fresh.replaced:
            records.append(record)
    content = _as_csv(records, before)
    if content != before and (outcome.added or outcome.completed or outcome.replaced):
        if (path.read_bytes() if path.exists() else b"") != before:
            raise TableError(f"{path} was changed meanwhile: run the same command again")
        write_in_place(path.resolve(), content)
    return outcome


@dataclass
class _Row:
    """A row of the user's table, about a file."""

    where: str
    file: str
    record: list[str]
    columns: Mapping[str, int]

    def take(self, kind: str, rating: Rating, target: Target, outcome: MediaTableOutcome) -> None:
        """Fill this row's blank cells from a rating, and count what that did."""
        cells = _cells(kind, rating, target.model)
        changes = {"completed": False, "replaced": False}
        kept: list[str] = []
        if "valence" in cells:
            if self._text("emotion"):
                kept.append("has its 11 ratings")
            elif self._text("valence") or self._text("arousal"):
                if self._agrees(cells):
                    blank = {name: cell for name, cell in cells.items() if not self._text(name)}
                    changes["completed"] |= self._fill(blank)
                elif target.overwrite:
                    self._fill({name: cells.get(name, "") for name in _VA_CELLS})
                    changes["replaced"] = True
                else:
                    own = {name: self._text(name) or "blank" for name in AXES}
                    own["va_source"] = self._text("va_source") or _MEASURED[kind]
                    has, given = ("{valence}, {arousal} ({va_source})".format_map(va) for va in (own, cells))
                    kept.append(f"has valence, arousal = {has}, not {given}")
            else:
                changes["completed"] |= self._fill({name: cells.get(name, "") for name in _VA_CELLS})
        if rating.tag:
            label = self._label()
            if label and label != rating.tag and not target.overwrite:
                kept.append(f"is labelled {label}, not {rating.tag}")
            elif label != rating.tag:
                changes["replaced" if label else "completed"] = True
                self._fill({"tag": rating.tag, "label_source": rating.where.rpartition(" row ")[0]})
        outcome.conflicts += [f"{self.where}: {why} ({rating.where}): kept" for why in kept]
        outcome.replaced += changes["replaced"]
        outcome.completed += changes["completed"] and not changes["replaced"]
        outcome.unchanged += not any(changes.values()) and not kept

    def _text(self, name: str) -> str:
        """The text of a cell; empty where it is blank or there is none."""
        text = self.record[self.columns[name]].strip() if name in self.columns else ""
        return "" if text.casefold() in BLANK_WORDS else text

    def _fill(self, cells: Mapping[str, str]) -> bool:
        """Write cells; whether anything was written."""
        for name, cell in cells.items():
            if name in self.columns:
                self.record[self.columns[name]] = cell
        return any(cells.values())

    def _agrees(self, cells: Mapping[str, str]) -> bool:
        """Whether the row has the same valence and arousal, from the same source."""
        source = self._text("va_source")
        is_model = source.casefold().startswith((OTHER_MODEL, "predicted"))
        given = cells["va_source"]
        same_source = source == given if is_model or given.startswith(OTHER_MODEL) else True
        return same_source and all(_is_near(self._text(axis), cells[axis]) for axis in AXES)

    def _label(self) -> str:
        """The key of the image's emotion, by its tag or its folder; empty if it has none."""
        try:
            return find_image_emotion(self._text("tag") or self.file.partition("/")[0]).key
        except UnknownLabelError:
            return self._text("tag")


def _cells(kind: str, rating: Rating, model: str) -> dict[str, str]:
    """What a row of music.csv or images.csv says of a rating's valence and arousal; empty without them."""
    if not set(AXES) <= rating.values.keys():
        return {}
    low, high = SCALES[kind]
    cells = {axis: f"{low + rating.values[axis] * (high - low):.6g}" for axis in AXES}
    cells["va_source"] = f"{OTHER_MODEL}{model}" if model else _MEASURED[kind]
    for axis in AXES:
        if (error := rating.values.get(f"{axis}_sd")) is not None:
            cells[f"{axis}_sd"] = f"{error * (high - low):.6g}"
    return cells


def _as_csv(records: Sequence[Sequence[str]], before: bytes) -> bytes:
    """A table as CSV, with the byte-order mark and the line ends that it had."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n" if b"\r\n" in before else "\n").writerows(records)
    mark = b"\xef\xbb\xbf"
    return mark * before.startswith(mark) + text.getvalue().encode()


def _is_near(text: str, cell: str) -> bool:
    try:
        return math.isclose(float(text), float(cell), rel_tol=0.0, abs_tol=_CLOSE)
    except ValueError:
        return False


def _composed(text: str) -> str:
    """Accented letters in one form, whichever the disk or the table has."""
    return unicodedata.normalize("NFC", text)


def _folders_agree(path: PurePosixPath, below: PurePosixPath) -> bool:
    """Whether the shorter of two chains of folders is the end of the longer one."""
    ours, theirs = path.parent.parts, PurePosixPath(_composed(str(below))).parent.parts
    shared = min(len(ours), len(theirs))
    return shared == 0 or ours[-shared:] == theirs[-shared:]
