"""The published data set as rows: from its CSV and a folder of media, or from its Parquet files.

Belongs here: opening what was published, a row at a time, and finding the files that a CSV names.
What a row is worth, and where its media go, is `emid_import`'s.

A source is read in pieces, each a part of a file that is read and recorded as one: a row group of
a Parquet file, or some hundred rows of a CSV. Of a piece, a few rows at a time are in memory.
"""

import csv
import difflib
import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import pyarrow.parquet as pq

from emid_assets.affect.ratings import BLANK_WORDS
from emid_assets.media.kinds import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from emid_assets.media.tables import cure_of_divider
from emid_assets.release.emid_format import AUDIO_COLUMN, LABEL_COLUMNS, ORIGINAL_COLUMN, image_columns
from emid_assets.release.item_tables import ends_alike

CSV_ROWS_OF_A_PIECE = 200
PARQUET_ROWS_AT_ONCE = 4
PARQUET_BUFFER_BYTES = 1 << 20
JOURNAL = ".import"
"""Folder that marks what an import has made, as opposed to what was published."""

_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


class SourceError(ValueError):
    """What was published cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Medium:
    """An audio or image cell.

    Attributes:
        name: the name it was published under, without folders; empty where it has none.
        content: its bytes, where the row holds them.
        path: the file that holds them, where the row only names it.
        problem: why there is neither; empty where there is one.
        written: what the row has, with folders.
    """

    name: str
    content: bytes | None = None
    path: Path | None = None
    problem: str = ""
    written: str = ""


@dataclass(frozen=True)
class PublishedImage:
    """An image slot of a row: the image, its tag and its caption."""

    slot: int
    medium: Medium
    tag: str
    text: str


@dataclass(frozen=True)
class PublishedRow:
    """A row as published; texts are stripped, and empty where missing.

    Attributes:
        where: file and row, for people.
        problem: why the row cannot be read at all; empty where it can.
        audio: the clip.
        genre: letter of its category.
        feeling: percentages, as text.
        emotion: ratings, as text.
        is_original: None where the row does not say.
        images: its image slots.
    """

    where: str
    problem: str = ""
    audio: Medium = field(default_factory=lambda: Medium(""))
    genre: str = ""
    feeling: str = ""
    emotion: str = ""
    is_original: bool | None = None
    images: tuple[PublishedImage, ...] = ()


class Piece(Protocol):
    """A part of a source that is read as one."""

    @property
    def path(self) -> Path:
        """The file that it is part of."""

    @property
    def identity(self) -> str:
        """Changes with the contents of that file."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    def read(self) -> Iterator[PublishedRow]:
        """The rows, one at a time."""


@dataclass(frozen=True)
class MediaIndex:
    """The files below a folder, by the last part of their path, accents composed.

    Attributes:
        root: the folder.
        by_name: name → paths below it.
        identity: digest of all paths, sizes and times.
    """

    root: Path
    by_name: Mapping[str, tuple[PurePosixPath, ...]]
    identity: str

    @classmethod
    def of_folder(cls, root: Path) -> "MediaIndex":
        """Walk `root`, without hidden names and folders that an import has made.

        Raises:
            SourceError: it is not a folder.
        """
        if not root.is_dir():
            raise SourceError(f"{root} is not a readable folder")
        found: dict[str, list[PurePosixPath]] = {}
        digest = hashlib.sha256(os.fsencode(root.resolve()))
        for top, folders, names in os.walk(root):
            folder = Path(top)
            folders[:] = sorted(
                name for name in folders if name[0] != "." and not (folder / name / JOURNAL).is_dir()
            )
            below = PurePosixPath(folder.relative_to(root).as_posix())
            for name in sorted(name for name in names if name[0] != "."):
                try:
                    status = (folder / name).stat()
                except OSError:  # a link to nothing: reading it says so
                    status = (folder / name).lstat()
                if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                    continue
                found.setdefault(_composed(name), []).append(below / name)
                digest.update(os.fsencode(below / name))
                digest.update(f":{status.st_size}:{status.st_mtime_ns}\n".encode())
        return cls(root, {name: tuple(paths) for name, paths in found.items()}, digest.hexdigest())

    def find(self, written: str, suffixes: Sequence[str], hint: str = "") -> Medium:
        """The file that a cell names: the path itself, or the one file of that name below the folder.

        A name may lack the suffix that it has on the disk. If it has folders, the file must be in folders
        of these names, or in none. If several files fit, the one in a folder called `hint` (an image's tag)
        is taken.
        """
        if not written:
            return Medium("", problem="the row names no file")
        # A backslash separates folders where the table was made on Windows, and is part of a name elsewhere.
        wanted = PurePosixPath(_composed(written))
        if wanted.name not in self.by_name:
            wanted = PurePosixPath(_composed(written).replace("\\", "/"))
        elsewhere: list[PurePosixPath] = []
        for names in ([wanted.name], [wanted.name + suffix for suffix in suffixes]):
            paths = [path for name in names for path in self.by_name.get(name, ())]
            fitting = [
                path
                for path in paths
                if ends_alike(_composed(str(path)), str(wanted.with_name(_composed(path.name))))
            ]
            exact = [path for path in fitting if path.parent == wanted.parent]
            hinted = [path for path in fitting if hint and path.parent.name.casefold() == hint.casefold()]
            for chosen in (exact, fitting, hinted):
                if len(chosen) == 1:
                    return Medium(chosen[0].name, path=self.root / chosen[0], written=written)
            if fitting:
                shown = ", ".join(str(path) for path in fitting[:3])
                return _without_file(
                    written, f"{len(fitting)} files below {self.root} fit this name: {shown}"
                )
            elsewhere += paths
        cure = f" (but {elsewhere[0]}, in another folder)" if elsewhere else ""
        return _without_file(written, f"there is no file of this name below {self.root}{cure}")


def _without_file(written: str, problem: str) -> Medium:
    return Medium(PurePosixPath(written).name, problem=problem, written=written)


def csv_pieces(table: Path, media: Path) -> list[Piece]:
    """The pieces of EMID's CSV, whose media lie anywhere below the folder `media`.

    Raises:
        SourceError: no CSV in UTF-8, columns that are not EMID's, or `media` is no folder.
    """
    index = MediaIndex.of_folder(media)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            records = [(number, record) for number, record in enumerate(reader, start=2) if any(record)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table} cannot be read as CSV in UTF-8: {error}") from None
    reading = _Media(_check_columns(table, header), index)
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    return [
        _CsvPiece(f"{digest}:{index.identity}:{first}", table, header, batch, reading)
        for first, batch in _batches(records, CSV_ROWS_OF_A_PIECE)
    ]


def parquet_pieces(patterns: Sequence[str], media: Path | None = None) -> list[Piece]:
    """The row groups of Parquet files in the layout of Hugging Face: structs of `bytes` and `path`.

    Args:
        patterns: files, folders that hold `data/*.parquet` or `*.parquet`, or patterns such as
            `data/train-*.parquet`.
        media: folder to search for media that a struct names but does not hold.

    Raises:
        SourceError: nothing matches, a file is not Parquet, or its columns are not EMID's.
    """
    files = {file.absolute() for pattern in patterns for file in _matching(pattern)}
    index = MediaIndex.of_folder(media) if media is not None else None
    names = Counter(path.name for path in files)
    top = os.path.commonpath([path.parent for path in files]) if files else ""
    pieces: list[Piece] = []
    for path in sorted(files):
        try:
            with pq.ParquetFile(path) as file:
                reading = _Media(_check_columns(path, file.schema_arrow.names), index)
                sizes = [
                    file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
                ]
        except (OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from None
        status = path.stat()
        identity = f"{path}:{status.st_size}:{status.st_mtime_ns}:{index.identity if index else ''}"
        shown = path.name if names[path.name] == 1 else path.relative_to(top).as_posix()
        first = 1
        for group, rows in enumerate(sizes):
            pieces.append(_ParquetPiece(f"{identity}:{group}", path, shown, group, first, rows, reading))
            first += rows
    return pieces


def places_beside(pieces: Sequence[Piece], media: Path | None) -> list[Path]:
    """Folders where a music.csv or images.csv about the rows may lie, nearest first.

    That of a file; of Parquet files, which often are in `data/`, the one above it too; and `media`.
    A folder that an import has made is no such place.
    """
    folders = [piece.path.absolute().parent for piece in pieces]
    folders += [piece.path.absolute().parent.parent for piece in pieces if isinstance(piece, _ParquetPiece)]
    folders += [media] if media is not None else []
    return [folder for folder in dict.fromkeys(folders) if not (folder / JOURNAL).is_dir()]


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = list((path / "data").glob("*.parquet")) or list(path.rglob("*.parquet"))
    elif path.exists():
        found = [path]
    else:
        found = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    found = [file for file in found if file.is_file()]
    if not found:
        raise SourceError(f"no file matches {pattern!r}")
    return found


@dataclass(frozen=True)
class _Media:
    """How many images a row has, and where media are that it only names."""

    slots: int
    index: MediaIndex | None

    def medium(self, cell: Any, suffixes: Sequence[str], hint: str = "") -> Medium:
        """A cell that is a struct of bytes and path, bytes, or the name alone."""
        is_struct = isinstance(cell, Mapping)
        content = cell.get("bytes") if is_struct else cell if isinstance(cell, bytes) else None
        written = _text(cell.get("path") if is_struct else None if content is not None else cell)
        if content is not None:
            # A path of Windows has a drive; else a backslash is part of a name.
            of_windows = re.match(r"[A-Za-z]:\\", written) is not None
            name = PureWindowsPath(written).name if of_windows else PurePosixPath(written).name
            return Medium(name, content=bytes(content), written=written)
        if self.index is not None:
            return self.index.find(written, suffixes, hint)
        if written:
            return _without_file(written, "the row holds no bytes, only a name: give the folder of the files")
        return Medium("", problem="the row holds nothing")


@dataclass(frozen=True)
class _CsvPiece:
    identity: str
    path: Path
    header: list[str]
    records: Sequence[tuple[int, list[str]]]
    media: _Media

    @property
    def rows(self) -> int:
        return len(self.records)

    def read(self) -> Iterator[PublishedRow]:
        for number, record in self.records:
            where = f"{self.path.name} row {number}"
            if len(record) != len(self.header):
                problem = f"{len(record)} cells, where the header has {len(self.header)}"
                audio = [*record, *[""] * len(self.header)][self.header.index(AUDIO_COLUMN)].strip()
                yield PublishedRow(where, problem, Medium(audio))
                continue
            cells = dict(zip(self.header, record, strict=True))
            yield _row(where, cells, self.media)


@dataclass(frozen=True)
class _ParquetPiece:
    identity: str
    path: Path
    shown: str
    group: int
    first: int
    rows: int
    media: _Media

    def read(self) -> Iterator[PublishedRow]:
        wanted = [AUDIO_COLUMN, *LABEL_COLUMNS, ORIGINAL_COLUMN]
        wanted += [name for slot in range(1, self.media.slots + 1) for name in image_columns(slot)]
        number = self.first
        try:
            # Buffered and unthreaded, pages are read as they are needed and never a whole column chunk.
            with pq.ParquetFile(self.path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
                known = [name for name in wanted if name in file.schema_arrow.names]
                for batch in file.iter_batches(
                    PARQUET_ROWS_AT_ONCE, row_groups=[self.group], columns=known, use_threads=False
                ):
                    for cells in batch.to_pylist():
                        yield _row(f"{self.shown} row {number}", cells, self.media)
                        number += 1
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{self.path} is damaged at row {number} ({reason}): download it again; what was read is kept"
            ) from error


def _check_columns(path: Path, names: Sequence[str]) -> int:
    """The number of image slots; raises where the columns cannot be EMID's.

    Columns of other names are ignored, except those that look like a misspelling.
    """
    if AUDIO_COLUMN not in names and AUDIO_COLUMN.casefold() not in map(str.casefold, names):
        shown = f"{', '.join(names) or 'none'}{cure_of_divider(names)}"
        raise SourceError(f"{path} has no column {AUDIO_COLUMN}; its columns are: {shown}")
    for twice in (name for name, count in Counter(names).items() if count > 1 and name):
        raise SourceError(f"{path} has two columns named {twice}: remove one of them")
    slots = 0
    while image_columns(slots + 1)[0] in names:
        slots += 1
    known = [AUDIO_COLUMN, *LABEL_COLUMNS, ORIGINAL_COLUMN]
    known += [name for slot in range(1, slots + 2) for name in image_columns(slot)]
    for name in (name for name in names if re.fullmatch(r"Image\d+_filename", name) and name not in known):
        raise SourceError(f"{path} has a column {name} and none named {image_columns(slots + 1)[0]}")
    absent = {name.casefold(): name for name in known if name not in names}
    for name in names:
        if name not in known and (near := difflib.get_close_matches(name.casefold(), absent, 1, cutoff=0.84)):
            raise SourceError(f"{path} has a column {name!r}: rename it to {absent[near[0]]!r}, or otherwise")
    return slots


def _batches(
    records: Sequence[tuple[int, list[str]]], size: int
) -> Iterable[tuple[int, Sequence[tuple[int, list[str]]]]]:
    for start in range(0, len(records), size):
        yield start, records[start : start + size]


def _row(where: str, cells: Mapping[str, Any], media: _Media) -> PublishedRow:
    images = []
    for slot in range(1, media.slots + 1):
        filename, tag, text = image_columns(slot)
        medium = media.medium(cells[filename], IMAGE_SUFFIXES, hint=_text(cells.get(tag)))
        # A data set of fewer images leaves slots empty: those are not faults.
        if medium.name or medium.content is not None or _text(cells.get(tag)):
            images.append(PublishedImage(slot, medium, _text(cells.get(tag)), _text(cells.get(text))))
    genre, feeling, emotion = (_text(cells.get(name)) for name in LABEL_COLUMNS)
    return PublishedRow(
        where,
        "",
        media.medium(cells[AUDIO_COLUMN], AUDIO_SUFFIXES),
        genre,
        feeling,
        emotion,
        _flag(cells.get(ORIGINAL_COLUMN)),
        tuple(images),
    )


def _text(cell: Any) -> str:
    text = "" if cell is None else str(cell).strip()
    return "" if text.casefold() in BLANK_WORDS else text


def _composed(path: str) -> str:
    """Accents may be composed on the disk and decomposed in the table, or the reverse."""
    return unicodedata.normalize("NFC", path)


def _flag(cell: Any) -> bool | None:
    word = _text(cell).lower()
    return True if word in _TRUE else False if word in _FALSE else None
