"""The published data set as rows: from its CSV and a folder of media, or from its Parquet files.

Belongs here: opening what was published, a row at a time, and finding the files that a CSV names.
What a row is worth, and where its media go, is `emid_import`'s.

A source is read in pieces, each a part of a file that is read and recorded as one: a row group of
a Parquet file, or some hundred rows of a CSV. Of a piece, a few rows at a time are in memory.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow.parquet as pq

from emid_assets.media.audio import AUDIO_SUFFIXES
from emid_assets.media.image import IMAGE_SUFFIXES
from emid_assets.release.emid_format import AUDIO_COLUMN, LABEL_COLUMNS, ORIGINAL_COLUMN, image_columns
from emid_assets.release.item_tables import ItemTables, Particulars

CSV_ROWS_OF_A_PIECE = 200
PARQUET_ROWS_AT_ONCE = 4
PARQUET_BUFFER_BYTES = 1 << 20
JOURNAL = ".import"
"""Folder that tells what an import has made from what was published."""

_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


class SourceError(ValueError):
    """What was published cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Medium:
    """An audio or image cell.

    Attributes:
        name: the name it was published under; empty where it has none.
        content: its bytes, where the row holds them.
        path: the file that holds them, where the row only names it.
        problem: why there is neither; empty where there is one.
        particulars: what a table beside the rows says of it; None where none does.
    """

    name: str
    content: bytes | None = None
    path: Path | None = None
    problem: str = ""
    particulars: Particulars | None = None


@dataclass(frozen=True)
class PublishedImage:
    """An image slot of a row: the image, its tag and its caption."""

    slot: int
    medium: Medium
    tag: str
    text: str


@dataclass(frozen=True)
class PublishedRow:
    """A row as it stands there, texts without blanks around them and empty where missing.

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
    def identity(self) -> str:
        """Changes with the contents of the file that it is part of."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    def read(self) -> Iterator[PublishedRow]:
        """The rows, one at a time."""


@dataclass(frozen=True)
class MediaIndex:
    """The files below a folder, by the last part of their path.

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
        """Walk `root`; hidden names, and folders that an import has made, are left out.

        Raises:
            SourceError: it is no folder.
        """
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder that can be read")
        found: dict[str, list[PurePosixPath]] = {}
        digest = hashlib.sha256(str(root.resolve()).encode())
        for top, folders, names in os.walk(root):
            folder = Path(top)
            folders[:] = sorted(
                name for name in folders if name[0] != "." and not (folder / name / JOURNAL).is_dir()
            )
            below = PurePosixPath(folder.relative_to(root).as_posix())
            for name in sorted(name for name in names if name[0] != "."):
                found.setdefault(name, []).append(below / name)
                status = (folder / name).lstat()
                digest.update(f"{below / name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
        return cls(root, {name: tuple(paths) for name, paths in found.items()}, digest.hexdigest())

    def find(self, name: str, suffixes: Sequence[str], hint: str = "") -> Medium:
        """The file that a cell names: the path itself, or the one file of that name below the folder.

        A name may lack the suffix that it has on the disk. Where several files have the name, the one
        in a folder called `hint` (an image's tag) is meant.
        """
        if not name:
            return Medium("", problem="the row names no file")
        # A backslash divides folders where the table was made on Windows, and is part of a name elsewhere.
        given = PurePosixPath(name)
        wanted = given if given.name in self.by_name else PurePosixPath(name.replace("\\", "/"))
        for written in (wanted.name, *(wanted.name + suffix for suffix in suffixes)):
            paths = self.by_name.get(written, ())
            exact = [path for path in paths if path == wanted.with_name(written)]
            hinted = [path for path in paths if hint and path.parent.name.casefold() == hint.casefold()]
            for chosen in (exact, list(paths), hinted):
                if len(chosen) == 1:
                    return Medium(written, path=self.root / chosen[0])
            if paths:
                shown = ", ".join(str(path) for path in paths[:3])
                return Medium(name, problem=f"{len(paths)} files below {self.root} have this name: {shown}")
        return Medium(name, problem=f"there is no file of this name below {self.root}")


def csv_pieces(table: Path, media: Path) -> list[Piece]:
    """The pieces of EMID's CSV, whose media lie anywhere below the folder `media`.

    A music.csv and images.csv beside it, or in `media`, tell more of the items.

    Raises:
        SourceError: no CSV in UTF-8, no column of file names, or `media` is no folder.
        TableError: a music.csv or images.csv that cannot be read.
    """
    index = MediaIndex.of_folder(media)
    tables = ItemTables.of_folders([table.parent, media])
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            records = [(number, record) for number, record in enumerate(reader, start=2) if any(record)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table} cannot be read as CSV in UTF-8: {error}") from None
    columns = _check_columns(table, header)
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    return [
        _CsvPiece(
            f"{digest}:{index.identity}:{tables.identity}:{first}",
            table, header, batch, _Media(columns, index, tables),
        )
        for first, batch in _batches(records, CSV_ROWS_OF_A_PIECE)
    ]  # fmt: skip


def parquet_pieces(patterns: Sequence[str], media: Path | None = None) -> list[Piece]:
    """The row groups of Parquet files in the layout of Hugging Face: structs of `bytes` and `path`.

    A music.csv and images.csv beside a file, in the folder above it, or in `media`, tell more of the items.

    Args:
        patterns: files, folders that hold `*.parquet`, or patterns such as `data/train-*.parquet`.
        media: folder to look in for what a struct names and does not hold.

    Raises:
        SourceError: nothing matches, a file is no Parquet, or it has no column of audio.
        TableError: a music.csv or images.csv that cannot be read.
    """
    files: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = list(path.rglob("*.parquet"))
        else:
            found = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        if not found:
            raise SourceError(f"no file matches {pattern!r}")
        files.update(file for file in found if file.is_file())
    index = MediaIndex.of_folder(media) if media is not None else None
    pieces: list[Piece] = []
    beside: dict[Path, ItemTables] = {}
    for path in sorted(files):
        try:
            with pq.ParquetFile(path) as file:
                columns = _check_columns(path, file.schema_arrow.names)
                sizes = [
                    file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
                ]
        except (OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from None
        folder = path.resolve().parent
        if folder not in beside:
            beside[folder] = ItemTables.of_folders([folder, folder.parent, *([media] if media else [])])
        tables, status = beside[folder], path.stat()
        identity = f"{path.name}:{status.st_size}:{status.st_mtime_ns}:{index.identity if index else ''}"
        identity += f":{tables.identity}"
        first = 1
        for group, rows in enumerate(sizes):
            of_group = _Media(columns, index, tables)
            pieces.append(_ParquetPiece(f"{identity}:{group}", path, group, first, rows, of_group))
            first += rows
    return pieces


@dataclass(frozen=True)
class _Media:
    """Where the media of rows are, and what else is known of them."""

    slots: int
    index: MediaIndex | None
    tables: ItemTables

    def medium(self, kind: str, cell: Any, hint: str = "") -> Medium:
        """A cell that is a struct of bytes and path, or the name alone."""
        is_struct = isinstance(cell, Mapping)
        written = _text(cell.get("path")) if is_struct else _text(cell)
        found = self._find(kind, written, cell.get("bytes") if is_struct else None, hint)
        return replace(found, particulars=self.tables.find(kind, found.name, written))

    def _find(self, kind: str, written: str, content: bytes | None, hint: str) -> Medium:
        name = PurePosixPath(written.replace("\\", "/")).name
        if content is not None:
            return Medium(name, content=bytes(content))
        if self.index is not None:
            suffixes = AUDIO_SUFFIXES if kind == "music" else IMAGE_SUFFIXES
            return self.index.find(written, suffixes, hint)
        if name:
            return Medium(name, problem="the row holds no bytes, only a name: give the folder of the files")
        return Medium("", problem="the row holds nothing")


@dataclass(frozen=True)
class _CsvPiece:
    identity: str
    table: Path
    header: list[str]
    records: Sequence[tuple[int, list[str]]]
    media: _Media

    @property
    def rows(self) -> int:
        return len(self.records)

    def read(self) -> Iterator[PublishedRow]:
        for number, record in self.records:
            where = f"{self.table.name} row {number}"
            if len(record) != len(self.header):
                problem = f"{len(record)} cells, where the header has {len(self.header)}"
                yield PublishedRow(where, problem)
                continue
            cells = dict(zip(self.header, record, strict=True))
            yield _row(where, cells, self.media)


@dataclass(frozen=True)
class _ParquetPiece:
    identity: str
    path: Path
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
                        yield _row(f"{self.path.name} row {number}", cells, self.media)
                        number += 1
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{self.path} is damaged at row {number} ({reason}): fetch it again; what is read is kept"
            ) from error


def _check_columns(path: Path, names: Sequence[str]) -> int:
    """The number of image slots; raises where the table has no audio."""
    if AUDIO_COLUMN not in names:
        raise SourceError(
            f"{path} has no column {AUDIO_COLUMN}; its columns are: {', '.join(names) or 'none'}"
        )
    slots = 0
    while image_columns(slots + 1)[0] in names:
        slots += 1
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
        medium = media.medium("image", cells[filename], hint=_text(cells.get(tag)))
        # A data set of fewer images leaves slots empty: those are no rows to speak of.
        if medium.name or medium.content is not None or _text(cells.get(tag)):
            images.append(PublishedImage(slot, medium, _text(cells.get(tag)), _text(cells.get(text))))
    genre, feeling, emotion = (_text(cells.get(name)) for name in LABEL_COLUMNS)
    return PublishedRow(
        where,
        "",
        media.medium("music", cells[AUDIO_COLUMN]),
        genre,
        feeling,
        emotion,
        _flag(cells.get(ORIGINAL_COLUMN)),
        tuple(images),
    )


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _flag(cell: Any) -> bool | None:
    word = _text(cell).lower()
    return True if word in _TRUE else False if word in _FALSE else None
