"""Made-up tables in the layouts of the public sets, read against values that were worked out by hand."""

from pathlib import Path

import pytest

from emid_assets.media.limits import TableError
from emid_assets.media.published_ratings import Reading, read_ratings

DEAM = "song_id, valence_mean, valence_std, arousal_mean, arousal_std\n2,3.0,0.8,9,0.4\n3,5,0,1,0\n"
DEAM_LONGER = (
    "song_id, valence_mean, valence_std, valence_ max_mean, arousal_mean, arousal_std\n2001,3,1,9,7,1\n"
)
PMEMO = "musicId,Arousal(mean),Valence(mean)\n1,0.4,0.575\n4,0,1\n"
PMEMO_STD = "musicId,Arousal(std),Valence(std)\n1,0.3,0.18\n"
PMEMO_OVER_TIME = (
    "musicId,frameTime,Arousal(mean),Valence(mean)\n1,15.0,0.2,0.5\n1,15.5,0.4,0.75\n4,15.0,1,1\n"
)
OASIS = (
    ",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\n"
    "I1,Acorns 1,Object,Pixabay,4.6,0.9,100,2.5,1.8,36\n"
)
IAPS = "desc\tIAPS\tvalmn\tvalsd\taromn\tarosd\tdom1mn\nSnake\t1050.1\t3\t2\t7\t1\t4\n"
OTHER = "filename,genre,valence,arousal,emotion\na.mp3,film,2,5,dreamy\n"

LAYOUTS = [
    (DEAM, Reading(), "DEAM", {"2": (0.25, 1), "3": (0.5, 0)}),
    (
        DEAM,
        Reading(raters=4),
        "DEAM",
        {"2": {"valence": 0.25, "arousal": 1, "valence_sd": 0.05, "arousal_sd": 0.025}},
    ),
    (DEAM_LONGER, Reading(), "DEAM", {"2001": (0.25, 0.75)}),
    (PMEMO, Reading(), "PMEmo", {"1": (0.575, 0.4), "4": (1, 0)}),
    (PMEMO_STD, Reading(raters=9), "PMEmo", {"1": {"valence_sd": 0.06, "arousal_sd": 0.1}}),
    (PMEMO_OVER_TIME, Reading(), "PMEmo", {"1": (0.625, 0.3), "4": (1, 1)}),
    (
        OASIS,
        Reading(),
        "OASIS",
        {"Acorns 1": {"valence": 0.6, "arousal": 0.25, "valence_sd": 0.015, "arousal_sd": 0.05}},
    ),
    (IAPS, Reading(), "IAPS", {"1050.1": (0.25, 0.75)}),
    (OTHER, Reading(scale=(1, 5)), "file, valence, arousal", {"a.mp3": (0.25, 1)}),
    # A model's own deviation is that of its value.
    (
        "file;valence;arousal;valence_std;arousal_std\nb.wav;5;-5;2;1\n",
        Reading(scale=(-10, 10), is_model=True),
        "file, valence, arousal",
        {"b.wav": {"valence": 0.75, "arousal": 0.25, "valence_sd": 0.1, "arousal_sd": 0.05}},
    ),
    # A standard error needs no number of raters.
    (
        "file,valence,arousal,valence_se\nb.wav,1,2,0.5\n",
        Reading(scale=(0, 4), raters=100),
        "file, valence, arousal",
        {"b.wav": {"valence": 0.25, "arousal": 0.5, "valence_sd": 0.125}},
    ),
]


@pytest.mark.parametrize(("text", "reading", "layout", "expected"), LAYOUTS)
def test_a_layout_is_told_by_its_columns_and_its_scale_becomes_zero_to_one(
    tmp_path: Path,
    text: str,
    reading: Reading,
    layout: str,
    expected: dict[str, dict[str, float] | tuple[float, float]],
) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    table = read_ratings(tmp_path / "table.csv", reading)
    assert (table.layout.title, table.problems) == (layout, [])
    for name, values in expected.items():
        rating = (
            dict(zip(("valence", "arousal"), values, strict=True)) if isinstance(values, tuple) else values
        )
        assert table.ratings[name].values == pytest.approx(rating)


def test_a_table_with_a_column_for_each_moment_is_averaged_and_its_name_tells_the_axis(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arousal.csv"
    path.write_text("song_id,sample_15000ms,sample_15500ms,sample_16000ms\n2,-0.5,0.5,0.75\n3,-1,,\n")
    table = read_ratings(path, Reading())
    assert table.layout.title == "DEAM, over time"
    assert table.ratings["2"].values == pytest.approx({"arousal": (0.25 + 1) / 2})
    assert table.ratings["3"].values == {"arousal": 0.0}
    for name in ("table.csv", "arousal_std.csv"):
        with pytest.raises(TableError, match=r"call it valence\.csv or arousal\.csv"):
            read_ratings(path.replace(tmp_path / name), Reading())
        path = tmp_path / name


def test_deviations_without_a_number_of_raters_are_counted_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for text, raters, count in ((DEAM, None, 2), (DEAM, 4, 0), (PMEMO_STD, None, 1), (OASIS, None, 0)):
        path.write_text(text)
        table = read_ratings(path, Reading(raters=raters))
        assert table.single_deviations == count
        assert all(("valence_sd" in rating.values) == (count == 0) for rating in table.ratings.values())


def test_a_table_of_tags_needs_no_scale(tmp_path: Path) -> None:
    path = tmp_path / "EmoSet.csv"
    path.write_text("image_id,emotion\namusement_1,Amusement\nb,happy\nc,\n")
    table = read_ratings(path, Reading())
    assert {name: rating.tag for name, rating in table.ratings.items()} == {"amusement_1": "amusement"}
    assert [problem.partition(":")[0] for problem in table.problems] == [
        "EmoSet.csv row 3",
        "EmoSet.csv row 4",
    ]
    assert "unknown image emotion 'happy'" in table.problems[0]


def test_a_row_that_cannot_be_used_is_told_with_its_reason_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "file,valence,arousal,valence_sd,valence_n\n"
        "a,0,1,,\nb,2,0.5,,\nc,x,0.5,,\nd,0.5,nan,,\n,0.5,0.5,,\na,1,1,,\ne,0.5\n\nf,0.5,0.5,-1,4\n"
        "g,0.5,0.5,0.2,4\n"
    )
    table = read_ratings(path, Reading(scale=(0, 1)))
    assert {name: rating.values for name, rating in table.ratings.items()} == {
        "a": {"valence": 0, "arousal": 1},
        "d": {"valence": 0.5},
        "g": {"valence": 0.5, "arousal": 0.5, "valence_sd": 0.1},
    }
    assert sorted(table.problems) == [
        "t.csv row 10: valence_sd is '-1', expected a number from 0 to 1",
        "t.csv row 3: valence is 2, expected a number from 0 to 1",
        "t.csv row 4: valence is 'x', expected a number",
        "t.csv row 6: names no clip or image",
        "t.csv row 7: 'a' is in row 2 already",
        "t.csv row 8: has 2 cells and the header has 5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first row must name the columns"),
        ("valence,arousal\n1,2\n", "no column that names the clip or image"),
        (
            "file,joy\na,2\n",
            "columns called valence and arousal, or tag: rename them; the table has file, joy",
        ),
        ("file,valence,arousal\na,2,3\n", "does not tell the scale of its values: give --scale LOW HIGH"),
        ("file,valence,mean_valence,arousal\na,1,2,3\n", "two columns for valence, valence and meanvalence"),
        ("file,valence,Valence\na,1,2\n", "two columns called 'Valence'"),
        ('file,valence\n"a,1\n', "is not valid CSV"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_with_its_cure(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=message) as found:
        read_ratings(tmp_path / "t.csv", Reading())
    assert str(tmp_path / "t.csv") in str(found.value)
