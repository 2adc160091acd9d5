"""music.csv and images.csv beside published rows, and what they say of each item.

EMID's columns have no place for ids, licences, authors, sources and for values that were measured or
predicted. A release of ours has them in tables beside its rows, and so may any other data set in EMID's form.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from emid_assets.media.folder import SUBFOLDERS
from emid_assets.media.limits import TableError
from emid_assets.media.tables import read_table

TERMS = ("licence", "author", "label_source")
"""What every item has, also one that no table lists."""

_VA = ("valence", "arousal", "va_source", "valence_sd", "arousal_sd")
CARRIED = {
    "music": ("clip_id", *_VA, "source_id", *TERMS),
    "image": ("image_id", *_VA, "caption_source", "source_id", *TERMS),
}
"""What is taken from them, by kind. An item's id comes first."""


@dataclass(frozen=True)
class Listed:
    """An item of such a table.

    Attributes:
        where: table and row, for people.
        file: its path as the table has it.
        cells: column of `CARRIED` → text, empty where blank.
    """

    where: str
    file: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class ItemTables:
    """The items of such tables: kind → file name without folders → those of that name."""

    rows: Mapping[str, Mapping[str, list[Listed]]] = field(default_factory=dict)

    @classmethod
    def of_folders(cls, folders: Iterable[Path]) -> "ItemTables":
        """Of each table, the one in the first of the folders that holds it.

        Raises:
            TableError: a table cannot be read, or contradicts itself about a file.
        """
        folders = list(folders)
        rows: dict[str, dict[str, list[Listed]]] = {}
        for kind in CARRIED:
            name = f"{SUBFOLDERS[kind]}.csv"
            for path in [folder / name for folder in folders if (folder / name).is_file()][:1]:
                rows[kind] = _read(path, kind)
        return cls(rows)

    def find(self, kind: str, written: str) -> Listed | None:
        """The row about an item, by the path that the published row has; None where no row is certain.

        One path may have more folders than the other: where both have folders, they must be the same.
        """
        found = self.rows.get(kind, {}).get(PurePosixPath(written).name, [])
        same = [listed for listed in found if ends_alike(_below(listed.file, kind), _below(written, kind))]
        return same[0] if len(same) == 1 else None

    def of_kind(self, kind: str) -> list[Listed]:
        """Every item of a kind."""
        return [listed for same in self.rows.get(kind, {}).values() for listed in same]


def ends_alike(one: str, other: str) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    parts, others = PurePosixPath(one).parts, PurePosixPath(other).parts
    shared = min(len(parts), len(others))
    return shared > 0 and parts[-shared:] == others[-shared:]


def _read(path: Path, kind: str) -> dict[str, list[Listed]]:
    columns = CARRIED[kind]
    items: dict[str, Listed] = {}
    for number, file, *cells in (
        read_table(path, kind).select("row", "file", *columns).fill_null("").iter_rows()
    ):
        listed = Listed(f"{path.name} row {number}", file, dict(zip(columns, cells, strict=True)))
        first = items.setdefault(file, listed)
        if first.cells[columns[0]] != listed.cells[columns[0]]:  # windows of one file: no row is the file's
            items[file] = first = replace(first, cells={**first.cells, columns[0]: ""})
            listed = replace(listed, cells={**listed.cells, columns[0]: ""})
        if first.cells != listed.cells:
            raise TableError(
                f"{path} row {number} and {first.where} contradict each other about {file}: remove one"
            )
    by_name: dict[str, list[Listed]] = {}
    for listed in items.values():
        by_name.setdefault(PurePosixPath(listed.file).name, []).append(listed)
    return by_name


def _below(path: str, kind: str) -> str:
    return path.removeprefix("/").removeprefix(f"{SUBFOLDERS[kind]}/")
