"""music.csv and images.csv beside published rows, and what they say of each item.

EMID's columns have no place for licences, authors, sources and measured values. A release of ours has
them in tables beside its rows, and so may any other data set in EMID's form.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from emid_assets.media.folder import SUBFOLDERS
from emid_assets.media.tables import read_table

CARRIED = {
    "music": ("source_id", "licence", "author", "label_source"),
    "image": ("valence", "arousal", "source_id", "licence", "author", "label_source"),
}
"""What is taken from them, by kind."""

Particulars = dict[str, str]
"""Column of `CARRIED` → cell, empty where blank."""


@dataclass(frozen=True)
class ItemTables:
    """The rows of such tables.

    Attributes:
        identity: digest of the tables.
        rows: kind → file name without folders → each row of that name, as its path and its cells.
    """

    identity: str = ""
    rows: Mapping[str, Mapping[str, list[tuple[str, Particulars]]]] = field(default_factory=dict)

    @classmethod
    def of_folders(cls, folders: Iterable[Path]) -> "ItemTables":
        """Of each table, the one in the first of the folders that holds it.

        Raises:
            TableError: a table cannot be read.
        """
        folders = list(folders)
        rows: dict[str, dict[str, list[tuple[str, Particulars]]]] = {}
        digest = hashlib.sha256()
        for kind, columns in CARRIED.items():
            name = f"{SUBFOLDERS[kind]}.csv"
            for path in [folder / name for folder in folders if (folder / name).is_file()][:1]:
                digest.update(path.read_bytes())
                of_kind = rows.setdefault(kind, {})
                for file, *cells in read_table(path, kind).select("file", *columns).fill_null("").iter_rows():
                    particulars = dict(zip(columns, cells, strict=True))
                    of_kind.setdefault(PurePosixPath(file).name, []).append((file, particulars))
        return cls(digest.hexdigest() if rows else "", rows)

    def find(self, kind: str, name: str, written: str) -> Particulars | None:
        """What is said of an item; None where no row is about it, or several are and none for certain.

        Args:
            kind: `music` or `image`.
            name: its file's name, without folders.
            written: the path that the published row has.
        """
        of_kind = self.rows.get(kind, {})
        found = of_kind.get(PurePosixPath(written).name) or of_kind.get(name, [])
        exact = [cells for file, cells in found if f"/{written}".endswith(f"/{file}")]
        cells = exact or [cells for _, cells in found]
        return cells[0] if len(cells) == 1 else None
