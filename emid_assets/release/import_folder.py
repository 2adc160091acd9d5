"""The folder that an import makes: who may write to it, and what an earlier import has left in it.

Belongs here: the lock, the journal of what was read, the files and tables that an import has put there
and whether they still are as it left them. What the tables say is `emid_import`'s.
"""

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from emid_assets.media.folder import SUBFOLDERS
from emid_assets.media.kinds import READER_VERSION
from emid_assets.release.emid_source import JOURNAL, Piece
from emid_assets.release.media_store import MediaStore, Stored
from emid_assets.store.files import held_alone, make_folder, sync, write_in_place

JOURNAL_FORMAT = 3
"""Part of each piece's name in the journal: after a change of the format, everything is read again."""

_WRITTEN_FILE = "tables.sha256"
"""The checksum of every table that an import has written here, to detect one that somebody has changed."""


class ImportRefusedError(ValueError):
    """The import cannot be made where it was asked for; the message says what to do."""


@dataclass
class ImportedImage:
    """An image slot of a row: what was published, and where the image is."""

    slot: int
    published: str
    written: str
    stored: Stored
    tag: str
    text: str


@dataclass
class ImportedRow:
    """A published row (see `PublishedRow`) once its media are in their places."""

    where: str
    problem: str
    published: str
    written: str
    audio: Stored
    genre: str
    feeling: str
    emotion: str
    is_original: bool | None
    images: list[ImportedImage]

    def media(self) -> list[tuple[str, Stored]]:
        """Its usable media, each with its kind."""
        every = [("music", self.audio), *(("image", image.stored) for image in self.images)]
        return [(kind, stored) for kind, stored in every if stored.name]


class ImportFolder:
    """A media folder, open for one import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stores = {kind: MediaStore(root, kind) for kind in SUBFOLDERS}
        self._journals: dict[Path, list[ImportedRow] | None] = {}
        self.removed = 0
        """Files of an earlier import that this one's rows no longer have."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, root: Path, pieces: Sequence[Piece], overwrite: bool) -> Iterator["ImportFolder"]:
        """Lock the folder, and clear it of what an import of other pieces has put there.

        Args:
            root: the folder; created if missing.
            pieces: what is to be imported.
            overwrite: whether files and tables that somebody has changed since may go.

        Raises:
            ImportRefusedError: it holds media that no import has put there, something was changed since,
                or another import is running.
        """
        folder = cls(root)
        if root.exists() and not root.is_dir():
            raise ImportRefusedError(f"{root} is a file: give a folder")
        taken = [name for name in (*SUBFOLDERS.values(), "music.csv", "images.csv") if (root / name).exists()]
        if taken and not (root / JOURNAL).is_dir():
            raise ImportRefusedError(
                f"{root} contains {', '.join(taken)}, which no import has written: give another folder"
            )
        make_folder(root / JOURNAL)
        other = ImportRefusedError(f"another import into {root} is running: wait until it ends")
        with held_alone(root / JOURNAL / "lock", other):
            folder._clear({folder._journal_path(piece) for piece in pieces}, overwrite)
            for name in SUBFOLDERS.values():
                make_folder(root / name)
            yield folder

    def rows_of(self, piece: Piece) -> list[ImportedRow] | None:
        """The rows of a piece that was read before and whose files are all there; else None."""
        rows = self._journals.get(self._journal_path(piece))
        if rows is None:
            return None
        media = [item for row in rows for item in row.media()]
        if not all(self.stores[kind].is_there(stored) for kind, stored in media):
            return None
        for kind, stored in media:
            self.stores[kind].remember(stored)
        return rows

    def keep(self, piece: Piece, rows: Sequence[ImportedRow]) -> None:
        """Note that a piece is read, and what its rows are: after its files are on the disk."""
        for kind, stored in (item for row in rows for item in row.media()):
            sync(self.stores[kind].folder / stored.name)
        for store in self.stores.values():
            sync(store.folder)
        path = self._journal_path(piece)
        write_in_place(path, json.dumps([asdict(row) for row in rows], ensure_ascii=False))

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Note a table's checksum, then write it."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        content = text.getvalue().encode()
        sums, line = self._written_sums(), _sum_line(content, name)
        if line not in sums:
            write_in_place(self.root / JOURNAL / _WRITTEN_FILE, "\n".join([*sums, line, ""]))
        write_in_place(self.root / name, content)

    def _clear(self, wanted: set[Path], overwrite: bool) -> None:
        """Refuse where something was changed; else remove the files of pieces that are not `wanted`.

        A file that is not in its journal would be taken for another item's, or join a build unlisted.
        """
        sums = self._written_sums()
        changed = [
            name
            for name in ("music.csv", "images.csv", "pairs.csv", "import.csv")
            if (self.root / name).exists() and _sum_line((self.root / name).read_bytes(), name) not in sums
        ]
        self._journals = {path: _read_journal(path) for path in (self.root / JOURNAL).glob("*.json")}
        files: dict[Path, bool] = {}
        for path, rows in self._journals.items():
            for kind, stored in (item for row in rows or () for item in row.media()):
                file = self.stores[kind].folder / stored.name
                files[file] = files.get(file, False) or path in wanted
                if file.exists() and not self.stores[kind].is_there(stored):
                    changed.append(str(file.relative_to(self.root)))
        if changed and not overwrite:
            names = sorted(set(changed))
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ImportRefusedError(
                f"{self.root}: {shown}: changed since an import wrote it, and would be overwritten: "
                "give another folder (--to), or --overwrite to discard the changes"
            )
        for path in set(self._journals) - wanted:
            path.unlink()
        for file in (file for file, is_wanted in files.items() if not is_wanted and file.exists()):
            file.unlink()
            self.removed += 1

    def _journal_path(self, piece: Piece) -> Path:
        # Another reader may accept what was rejected, or reject what was put in place.
        name = f"{JOURNAL_FORMAT}:{READER_VERSION}:{piece.identity}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.root / JOURNAL / f"{digest[:32]}.json"

    def _written_sums(self) -> list[str]:
        path = self.root / JOURNAL / _WRITTEN_FILE
        return path.read_text("utf-8").splitlines() if path.exists() else []


def _sum_line(content: bytes, name: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def _read_journal(path: Path) -> list[ImportedRow] | None:
    try:
        return [_row_of_json(row) for row in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):  # torn, or of another format
        return None


def _row_of_json(written: dict[str, object]) -> ImportedRow:
    row = ImportedRow(**written)  # type: ignore[arg-type]
    row.audio = _stored(row.audio)
    row.images = [ImportedImage(**image) for image in row.images]  # type: ignore[arg-type]
    for image in row.images:
        image.stored = _stored(image.stored)
    return row


def _stored(written: object) -> Stored:
    assert isinstance(written, dict), "the journal's own form"
    return Stored(**{**written, "notes": tuple((kind, note) for kind, note in written["notes"])})
