"""What an import of a published data set could not use: `import.csv` of the media folder that it made.

Belongs here: the form of that table, and its rejections as items of the inventory. Writing it is
`release.emid_import`'s.
"""

import csv
from pathlib import Path

import polars as pl

FINDINGS_FILE = "import.csv"
FINDINGS_COLUMNS = ("outcome", "kind", "medium", "row", "item", "reason")
REJECTED = "rejected"

_SCHEMA = {"kind": pl.String, "item_id": pl.String, "file": pl.String, "reason": pl.String}


def rejected_at_import(root: Path) -> pl.DataFrame:
    """What an import has rejected: `kind`, `item_id`, `file` (both its published row and name), `reason`.

    No rows where no import has made the folder; a table of this name with other columns is none of ours.
    """
    path = root / FINDINGS_FILE
    if not path.is_file():
        return pl.DataFrame(schema=_SCHEMA)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FINDINGS_COLUMNS:
            return pl.DataFrame(schema=_SCHEMA)
        rows = []
        for line in reader:
            if line["outcome"] == REJECTED:
                place = f"{line['row']}: {line['item']}"
                rows.append((line["medium"], place, place, f"not imported: {line['reason']}"))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")
