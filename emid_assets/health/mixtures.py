"""Which settings stored partitions were built with, and where these differ.

A run of the launchpad may build one partition with other settings than the rest, or one asset with others
than the assets that read it. Belongs here: finding that in the recipes of stored versions, and saying it.
Nothing here uses Dagster or opens a file.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from emid_assets.health.recipes import RECIPE, Recipe
from emid_assets.store.lake import WHOLE_TABLE, Version

Used = Mapping[str, Mapping[Any, list[tuple[str, str]]]]
"""Setting → value → the partitions (table, partition) that were built with it."""

UNRECORDED = "settings"
"""Stands for a setting in `Used` where some partitions do not say what they were built with."""

NAMED_PARTITIONS = 3


def settings_of(versions: Iterable[Version]) -> Used:
    """The settings that versions were built with. A partition that is empty in all tables has used none."""
    used: dict[str, dict[Any, list[tuple[str, str]]]] = {}
    versions = list(versions)
    filled = {version.partition for version in versions if version.rows}
    for version in versions:
        recipe = Recipe.of_text(version.metadata.get(RECIPE))
        known = {UNRECORDED: "unknown"} if recipe is None else {UNRECORDED: "recorded", **recipe.settings}
        for name, value in known.items() if version.partition in filled else ():
            used.setdefault(name, {}).setdefault(value, []).append((version.table, version.partition))
    if used.get(UNRECORDED, {}).keys() <= {"recorded"}:
        used.pop(UNRECORDED, None)
    return used


def in_words(values: Mapping[Any, list[tuple[str, str]]]) -> str:
    """`0.6`, or where there are several: `0.6 in fused_pairs [calm, fear, joy and 9 more]; 1.0 in …`."""
    if len(values) == 1:
        return str(next(iter(values)))
    return "; ".join(f"{value} in {_places(places)}" for value, places in values.items())


def mixtures(used: Used) -> list[str]:
    """A line for each setting that has several values."""
    return [f"{name}: {in_words(values)}" for name, values in sorted(used.items()) if len(values) > 1]


def digest_of_used(used: Used) -> str:
    """Equal as long as every partition is built with the settings that it was built with."""
    return hashlib.sha256(str(sorted(used.items())).encode()).hexdigest()


def usual(values: Mapping[Any, list[tuple[str, str]]]) -> Any:
    """The value of the most partitions."""
    return max(values, key=lambda value: len(values[value]))


def _places(places: list[tuple[str, str]]) -> str:
    of_table: dict[str, list[str]] = {}
    for table, partition in places:
        of_table.setdefault(table, []).append(partition)
    shown = []
    for table, partitions in of_table.items():
        more = len(partitions) - NAMED_PARTITIONS
        names = ", ".join(partitions[:NAMED_PARTITIONS]) + (f" and {more} more" if more > 0 else "")
        shown.append(table if partitions == [WHOLE_TABLE] else f"{table} [{names}]")
    return ", ".join(shown)
