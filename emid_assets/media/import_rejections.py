"""What an import of a published data set rejected: `import.csv` in the media folder that it created.

Belongs here: the format of that table, and its rejections as items of the inventory. `release.emid_import`
writes it.
"""

import csv
from pathlib import Path

import polars as pl

FINDINGS_FILE = "import.csv"
FINDINGS_COLUMNS = ("outcome", "kind", "medium", "row", "item", "reason")
REJECTED = "rejected"

_SCHEMA = {"kind": pl.String, "item_id": pl.String, "file": pl.String, "reason": pl.String}


def rejected_at_import(root: Path) -> pl.DataFrame:
    """What an import rejected: `kind`, `item_id`, `file` (both: the published row and name), `reason`.

    Has no rows if the folder does not come from an import, or if its import.csv has other columns than ours.
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
