"""The SQL of the catalogue's views, which find the lake's files wherever the lake is.

Belongs here: how a view gets the folder of its lake, and why it never reads another lake's files. Nothing
here opens a file.

DuckDB resolves a relative path against the client's working folder, and a table function takes no subquery.
But its arguments may use settings, and `temp_directory` is by default the path of the opened database with
`.tmp` behind it. So a client that opens `lake.duckdb` reads the tables beside it, even if the lake was moved,
copied or mounted elsewhere. A client that attaches the file to another database has another `temp_directory`:
then a view uses the folder that it was written for. Each view compares what it uses with the places of all
attached catalogues and fails if one of them is elsewhere, so that a copy never shows its original's rows.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from emid_assets.store.layout import CATALOGUE

_MARK = "A view of the lake in "
_TEMPORARY = "current_setting('temp_directory')"
_OPENED = f"{_TEMPORARY}[:-5]"  # without .tmp
_IS_OPENED = f"suffix({_TEMPORARY}, '/{CATALOGUE}.tmp')"


def view_of(files: Sequence[str], root: Path) -> str:
    """The SELECT over all rows of these files, given by their paths below the lake's folder `root`."""
    catalogue = f"CASE WHEN {_IS_OPENED} THEN {_OPENED} ELSE {quoted(root / CATALOGUE)} END"
    # DuckDB takes *, ? and [ in a path for patterns.
    folder = rf"regexp_replace(parse_dirpath({catalogue}), '([*?\[])', '[\1]', 'g')"
    listed = ", ".join(map(quoted, files))
    return (
        f"SELECT * FROM read_duckdb(list_transform([{listed}], lambda file: {folder} || '/' || file), "
        f"table_name = 'data', hive_partitioning = false) WHERE ({_NOTHING_ELSEWHERE})"
    )


def comment_of(root: Path) -> str:
    """The comment on one view of a catalogue: it says for which folder all of its views were written."""
    return f"{_MARK}{root}"


_NOTHING_ELSEWHERE = f"""
SELECT bool_and(CASE
    WHEN path = CASE WHEN {_IS_OPENED} THEN {_OPENED} ELSE folder || '/{CATALOGUE}' END THEN true
    WHEN {_IS_OPENED} THEN error(
        path || ' cannot be attached to another lake: start DuckDB without a file, and attach both')
    ELSE error(
        path || ' is not where it was written, which is ' || folder || '. If the lake was moved or copied, '
        || 'open this file instead of attaching it, or run emid status --lake ' || parse_dirpath(path))
END)
FROM (
    SELECT DISTINCT database_name, comment[{len(_MARK) + 1}:] AS folder FROM duckdb_views()
    WHERE starts_with(comment, '{_MARK}')
) JOIN duckdb_databases() USING (database_name)
"""


def quoted(text: object) -> str:
    """A string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def glob_escaped(path: Path) -> str:
    """A path in which DuckDB finds no pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
