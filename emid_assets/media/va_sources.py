"""Where the valence and arousal of a clip or an image come from: `va_source`, and what it means.

Measured: people rated this very medium. Derived: nobody did, and it has the place of its label. Predicted: a
program put it there, this one or another model.
"""

import polars as pl

from emid_assets.media.with_predictions import PREDICTED

OTHER_MODEL = "model:"
"""Start of a `va_source` of valence and arousal that another model gave; its name follows."""

MEASURED, DERIVED = "measured", "derived"

_MEANINGS = {
    "ratings": "measured: the clip's own ratings",
    "measured": "measured: the image's own ratings",
    "category_mean": "derived: the mean of the clip's category",
    "tag": "derived: the place of the image's tag",
    PREDICTED: "predicted by this program",
}


def is_by_program() -> pl.Expr:
    """Whether a row's valence and arousal come from a program, by its `va_source`: this one, or a model."""
    return (pl.col("va_source") == PREDICTED) | pl.col("va_source").str.starts_with(OTHER_MODEL)


def va_origin() -> pl.Expr:
    """`measured`, `derived` or `predicted`, by `va_source`."""
    return (
        pl.when(is_by_program())
        .then(pl.lit(PREDICTED))
        .when(pl.col("va_source").is_in(["ratings", "measured"]))
        .then(pl.lit(MEASURED))
        .otherwise(pl.lit(DERIVED))
    )


def meaning_of(va_source: str) -> str:
    """A `va_source` in words."""
    if va_source.startswith(OTHER_MODEL):
        return f"predicted by {va_source.removeprefix(OTHER_MODEL)}"
    return _MEANINGS.get(va_source, va_source)
