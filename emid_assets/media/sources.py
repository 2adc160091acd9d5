"""Groups clips by their source recording, so that a split never divides a recording.

Belongs here: grouping clips by what their table says and by the file they are cut from.
"""

import polars as pl

from emid_assets.affect.emotions import RATINGS

_RATING_COLUMNS = [f"rating_{name}" for name in RATINGS]


def find_sources(items: pl.DataFrame) -> pl.Series:
    """The source that each clip was cut from.

    This is the table's own value, if there is one. Otherwise clips belong to one source if they have equal
    (feeling, emotion), since expanded clips copy the labels of their source and their names are
    mangled, or if they are cut from one file. The id of such a source is the one that the table gives to
    another of its clips, or else the id of its first original clip.
    """
    columns = items.select(
        "item_id", "source_id", "is_original_clip", "below", "feeling", "emotion", *_RATING_COLUMNS
    )
    # Ratings alone would be enough; feelings alone would not, as two sources may both be 100% Dreamy.
    rated = columns.select(pl.any_horizontal(pl.col(_RATING_COLUMNS).is_not_null())).to_series()
    parent: dict[tuple[str | None, ...], tuple[str | None, ...]] = {}

    def group(key: tuple[str | None, ...]) -> tuple[str | None, ...]:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    rows = list(
        columns.select("item_id", "source_id", "is_original_clip", "below", "feeling", "emotion").iter_rows()
    )
    for (_, _, _, below, feeling, emotion), is_rated in zip(rows, rated, strict=True):
        if is_rated:
            parent[group(("file", below))] = group(("labels", feeling, emotion))
    names: dict[tuple[str | None, ...], tuple[int, str]] = {}
    for item_id, source, is_original, below, _, _ in rows:
        key = group(("file", below))
        candidate = (0, source) if source is not None else (1 if is_original else 2, item_id)
        names[key] = min(names.get(key, candidate), candidate)
    return pl.Series(
        [
            source if source is not None else names[group(("file", row_below))][1]
            for _, source, _, row_below, _, _ in rows
        ],
        dtype=pl.String,
    )
