"""The parsers of `feeling` and `emotion`, against made cells and all published rows at hand."""

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emid_assets.affect.emotions import FEELINGS, RATINGS
from emid_assets.affect.ratings import RatingsError, parse_feelings, parse_ratings


def test_a_comma_inside_a_feeling_does_not_cut_it() -> None:
    assert parse_feelings("33% Sad, depressing, 22% Awe-inspiring, amazing, 4% Calm, relaxing, serene") == {
        "Sad, depressing": 33.0,
        "Awe-inspiring, amazing": 22.0,
        "Calm, relaxing, serene": 4.0,
    }


@pytest.mark.parametrize("text", ["", "  ", "nan", "NaN", "NA"])
def test_a_blank_cell_has_no_feelings(text: str) -> None:
    assert parse_feelings(text) == {}


def test_blanks_case_and_a_trailing_comma_do_not_matter() -> None:
    assert parse_feelings(" 33 %  sad,  Depressing ,5.5%dreamy, ") == {"Sad, depressing": 33.0, "Dreamy": 5.5}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Sad, depressing", "'Sad, depressing' has no percentage"),
        ("Dreamy, 33% Sad, depressing", "'Dreamy,?' has no percentage"),
        ("33% Sad", "'Sad' is none of the 28"),
        ("33% Sad, depressing, Dreamy", "'Sad, depressing, Dreamy' is none"),
        ("33% ", "'' is none"),
        ("133% Dreamy", "133% of 'Dreamy' is more than 100%"),
        ("3% Dreamy, 4% Dreamy", "'Dreamy' appears twice"),
        ("-3% Dreamy", "has no percentage"),
    ],
)
def test_a_bad_feeling_cell_is_an_error_that_says_what_is_bad(text: str, complaint: str) -> None:
    with pytest.raises(RatingsError, match=complaint):
        parse_feelings(text)


@given(st.dictionaries(st.sampled_from(FEELINGS), st.integers(0, 100), min_size=1))
def test_whatever_feelings_are_written_as_the_published_tables_do_are_read_back(
    feelings: dict[str, int],
) -> None:
    text = ", ".join(f"{percent}% {name}" for name, percent in feelings.items())
    assert parse_feelings(text) == feelings


def test_the_11_ratings_are_read_in_their_order() -> None:
    ratings = parse_ratings("4.9,3.8,4.6,4.2,5.4,3.9,5.5,4.5,3.6,4.4,5.3")
    assert ratings[RATINGS.index("arousal")] == 4.9
    assert ratings[RATINGS.index("valence")] == 4.4
    assert ratings[RATINGS.index("familiarity")] == 5.3


@pytest.mark.parametrize("missing", ["nan", "NaN", "NA", "", " ", "null"])
def test_one_missing_rating_is_nan_and_the_others_stay(missing: str) -> None:
    ratings = parse_ratings(f"{missing},3.8,4.6,4.2,5.4,3.9,5.5,4.5,3.6,4.4,5.3")
    assert math.isnan(ratings[0])
    assert ratings[1:] == (3.8, 4.6, 4.2, 5.4, 3.9, 5.5, 4.5, 3.6, 4.4, 5.3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1 numbers in '', expected 11"),
        ("5," * 9 + "5", "10 numbers"),
        ("5," * 10 + "x", "familiarity is 'x', which is not a number"),
        ("0.9," + "5," * 9 + "5", "arousal is 0.9, outside the scale of 1 to 9"),
        ("inf," + "5," * 9 + "5", "arousal is inf, outside"),
    ],
)
def test_a_bad_ratings_cell_is_an_error_that_says_what_is_bad(text: str, complaint: str) -> None:
    with pytest.raises(RatingsError, match=complaint):
        parse_ratings(text)


@pytest.mark.parametrize(("table", "rows"), [("cowen_dev.csv", 1473), ("emid_shard0_dev.csv", 1067)])
def test_every_published_row_is_read_without_loss(shared_data: Path, table: str, rows: int) -> None:
    seen: set[str] = set()
    count = 0
    for row in csv.DictReader((shared_data / table).open(encoding="utf-8", newline="")):
        feelings = parse_feelings(row["feeling"])
        # Written out again, the parsed cell is the cell: nothing was lost, cut or moved.
        assert ", ".join(f"{percent:g}% {name}" for name, percent in feelings.items()) == row["feeling"]
        assert ",".join(f"{rating:g}" for rating in parse_ratings(row["emotion"])) == row["emotion"]
        seen |= feelings.keys()
        count += 1
    assert count == rows
    assert seen == set(FEELINGS)
