"""The split by source clip."""

from collections import Counter

import polars as pl
import pytest

from emid_assets.adapters.splits import divided_recordings, split_by_source


def test_all_clips_of_a_source_are_in_the_same_part() -> None:
    sources = [f"source {i % 40}" for i in range(200)]
    parts = split_by_source(sources, seed=0)
    for source in set(sources):
        assert len({part for name, part in zip(sources, parts, strict=True) if name == source}) == 1


def test_shares_are_counted_in_sources() -> None:
    counts = Counter(split_by_source([str(i) for i in range(100)], seed=3, validation=0.1, test=0.2))
    assert counts == {"train": 70, "validation": 10, "test": 20}


def test_the_split_does_not_depend_on_the_order_of_the_clips_but_on_the_seed() -> None:
    sources = [str(i) for i in range(50)]
    parts = dict(zip(sources, split_by_source(sources, seed=0), strict=True))
    backwards = sources[::-1]
    assert dict(zip(backwards, split_by_source(backwards, seed=0), strict=True)) == parts
    assert split_by_source(sources, seed=1) != split_by_source(sources, seed=0)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, {}),
        (1, {"train": 1}),
        (2, {"train": 1, "validation": 1}),
        (3, {"train": 1, "validation": 1, "test": 1}),
        (22, {"train": 16, "validation": 3, "test": 3}),
    ],
)
def test_few_sources_give_each_part_one_before_any_gets_two(n: int, expected: dict[str, int]) -> None:
    assert Counter(split_by_source([str(i) for i in range(n)], seed=0)) == expected


def test_something_is_always_left_to_train_on() -> None:
    assert "train" in split_by_source(["a", "b", "c"], seed=0, validation=0.45, test=0.5)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.5, 0.5)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="must sum below 1"):
        split_by_source(["a"], 0, validation, test)


def test_a_recording_that_a_split_divides_is_named_with_the_clips_that_overlap() -> None:
    clips = pl.DataFrame(
        [
            ("a", "one.wav", "11#t=0.0+5.0", 0.0, 5.0),
            ("b", "copy of one.wav", "11#t=10.0+5.0", 10.0, 5.0),
            ("c", "one.wav", "11#t=12.5+5.0", 12.5, 5.0),
            ("d", "two.wav", "22", 0.0, 9.0),
            ("e", "three.wav", "33", 0.0, 9.0),
            ("f", "four.wav", "44#t=0.0+5.0", 0.0, 5.0),
            ("g", "four.wav", "44#t=5.0+5.0", 5.0, 5.0),
            ("not embedded", "two.wav", "22#t=1.0+2.0", 1.0, 2.0),
        ],
        schema=["clip_id", "file", "content_hash", "start_s", "duration_s"],
        orient="row",
    )
    parts = {"a": "train", "b": "train", "c": "test", "d": "train", "e": "test", "f": "train", "g": "test"}
    assert divided_recordings(clips, parts) == [
        "copy of one.wav: b is in train, c of the same recording in test and overlaps it",
        "four.wav: f is in train, g of the same recording in test",
    ]
    assert divided_recordings(clips, dict.fromkeys(parts, "train")) == []
