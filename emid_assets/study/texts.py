"""What the study's page says, by language: the small table `texts.csv` beside this file.

A new language is a new column there, named by its code, and nothing else. `{n}` and the like stand
for numbers and names that the page fills in; `language_name` is the language's own name for itself.
"""

import csv
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).parent / "texts.csv"


@cache
def load_texts() -> dict[str, dict[str, str]]:
    """Language → key → text.

    Raises:
        ValueError: a text is missing; language and key are named.
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    languages = [name for name in rows[0] if name != "key"]
    for row in rows:
        for language in languages:
            if not row[language]:
                raise ValueError(f"{_TABLE.name}: {row['key']} has no text in {language}")
    return {language: {row["key"]: row[language] for row in rows} for language in languages}


LANGUAGES = tuple(load_texts())
