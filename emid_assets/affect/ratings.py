"""Parsing of EMID's `feeling` and `emotion` cells.

Belongs here: converting a cell's text to numbers, with errors that say what is wrong in the text. Only
the caller knows the file and row of the cell.
"""

import math
import re

from emid_assets.affect.emotions import FEELINGS, RATINGS

LOWEST_RATING, HIGHEST_RATING = 1.0, 9.0

BLANK_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""Lower-case spellings of a missing number in tables."""

_FEELING_BY_NAME = {name.casefold(): name for name in FEELINGS}

# A feeling's name may contain commas, so the text is split before each percentage, never at a comma.
_PERCENTAGE = re.compile(r"(?:^|[,;])\s*(\d+(?:\.\d+)?)\s*%")


Labels = tuple[object, object]
"""Feelings and ratings as values, to be compared: see `labels_of`."""


class RatingsError(ValueError):
    """A `feeling` or `emotion` cell cannot be parsed; the message says what is wrong in it."""


def parse_feelings(text: str) -> dict[str, float]:
    """Parse a `feeling` cell, such as `33% Sad, depressing, 22% Awe-inspiring, amazing`.

    Returns:
        Percentage (0 to 100) by feeling, in the order of the text, spelled as in `FEELINGS`.
        Empty if the text is blank.

    Raises:
        RatingsError: a part without percentage, a percentage above 100, a name that is none of
            the 28, or one that appears twice.
    """
    if text.strip().casefold() in BLANK_WORDS:
        return {}
    before, *parts = _PERCENTAGE.split(text.strip().rstrip(",;"))
    if before.strip():
        raise RatingsError(f"feeling: {_short(before)} has no percentage before it")
    feelings: dict[str, float] = {}
    for number, written in zip(parts[::2], parts[1::2], strict=True):
        name = _FEELING_BY_NAME.get(" ".join(written.split()).casefold())
        if name is None:
            raise RatingsError(f"feeling: {_short(written)} is none of the {len(FEELINGS)} feelings")
        if name in feelings:
            raise RatingsError(f"feeling: {name!r} appears twice")
        if float(number) > 100:
            raise RatingsError(f"feeling: {number}% of {name!r} is more than 100%")
        feelings[name] = float(number)
    return feelings


def parse_ratings(text: str) -> tuple[float, ...]:
    """Parse an `emotion` cell: 11 comma-separated numbers from 1 to 9, in the order of `RATINGS`.

    Returns:
        The 11 numbers; NaN where one is missing (`nan`, `NA` or nothing between two commas).

    Raises:
        RatingsError: not 11 parts, a part that is not a number, or a number outside 1 to 9.
    """
    parts = text.split(",")
    if len(parts) != len(RATINGS):
        raise RatingsError(f"emotion: {len(parts)} numbers in {_short(text)}, expected {len(RATINGS)}")
    return tuple(_rating(part.strip(), name) for part, name in zip(parts, RATINGS, strict=True))


def labels_of(feeling: str | None, emotion: str | None) -> Labels | None:
    """Two cells as values that are equal where the cells say the same: `5` and `5.0`, any order of feelings.

    What cannot be parsed stands for itself, so that an expanded clip still equals the source that it has
    copied. None if there is no rating at all.
    """
    ratings = tuple(_value(cell) for cell in (emotion or "").strip("[] ").split(","))
    if not any(rating is not None for rating in ratings):
        return None
    try:
        return frozenset(parse_feelings(feeling or "").items()), ratings
    except RatingsError:
        return feeling, ratings


def _value(cell: str) -> float | str | None:
    text = cell.strip().casefold()
    if text in BLANK_WORDS:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _rating(text: str, name: str) -> float:
    if text.casefold() in BLANK_WORDS:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise RatingsError(f"emotion: {name} is {_short(text)}, which is not a number") from None
    if not LOWEST_RATING <= value <= HIGHEST_RATING:
        raise RatingsError(
            f"emotion: {name} is {text}, outside the scale of {LOWEST_RATING:g} to {HIGHEST_RATING:g}"
        )
    return value


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
