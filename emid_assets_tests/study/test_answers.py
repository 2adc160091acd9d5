"""Answers: what is taken, what is refused, and how they are kept."""

import json
import multiprocessing
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.store.schemas import STUDY_ANSWERS
from emid_assets.study.answers import (
    FILE_FORMAT,
    AnswerError,
    AnswerStore,
    DesignFiles,
    answers_frame,
    decode_answer,
    merge_answers,
    read_answer_files,
)
from emid_assets.study.design import StudyError
from emid_assets_tests.study.conftest import Study, participant, sent, trials_of

ME = participant(1)


def decoded(study: Study, number: int = 0, who: str = ME, **changed: Any) -> dict[str, Any]:
    trial = trials_of(study.design, who)[number]
    return decode_answer(sent(study.design, who, trial, **changed), {study.design.hash: study.design})


def test_an_answer_is_told_in_conditions_by_the_design(study: Study) -> None:
    trial = study.design.by_id[trials_of(study.design, ME)[0]]
    place_of = {option.option_id: option.condition for option in trial.options}
    raw = sent(study.design, ME, trial.trial_id)
    row = decode_answer({**raw, "chosen": raw["options"][2]}, {study.design.hash: study.design})
    assert row["conditions"] == [place_of[option] for option in raw["options"]]
    assert (row["chosen_position"], row["chosen_condition"]) == (3, place_of[raw["options"][2]])
    assert (row["clip_id"], row["emotion"]) == (trial.clip_id, trial.emotion)
    assert (row["is_attention_check"], row["attention_passed"]) == (False, None)
    assert row["answered_at"] == datetime(2026, 11, 23, 10, 0, 0, 123_000, UTC)
    assert answers_frame([row]).height == 1


def test_a_missing_answer_is_kept_as_missing(study: Study) -> None:
    row = decoded(study, chosen=None)
    assert (row["chosen_position"], row["chosen_condition"]) == (None, None)
    assert len(row["conditions"]) == 4


def test_an_attention_check_is_passed_by_the_place_that_was_asked_for_only(study: Study) -> None:
    check = study.design.of_kind("check")[0]
    ids = [option.option_id for option in check.options]
    for place, option in enumerate(ids, start=1):
        raw = sent(study.design, ME, check.trial_id, chosen=option)
        row = decode_answer(raw, {study.design.hash: study.design})
        assert row["attention_passed"] is (place == check.wanted)
        assert (row["is_attention_check"], row["conditions"], row["chosen_condition"]) == (True, [], None)
    skipped = decode_answer(
        sent(study.design, ME, check.trial_id, chosen=None), {study.design.hash: study.design}
    )
    assert skipped["attention_passed"] is False


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"design": "0123456789abcdef"}, "no design"),
        ({"participant": "somebody"}, "32 hexadecimal"),
        ({"participant": ME.upper()}, "32 hexadecimal"),
        ({"trial": "nothing"}, "no trial"),
        ({"options": []}, "other images"),
        ({"chosen": "nothing"}, "no image"),
        ({"chosen": 1}, "no image"),
        ({"chosen": ["x"]}, "no image"),
        ({"response_ms": -1}, "response_ms"),
        ({"response_ms": 1.5}, "response_ms"),
        ({"response_ms": True}, "response_ms"),
        ({"response_ms": 10**9}, "response_ms"),
        ({"language": "xx"}, "language"),
        ({"answered_at": "yesterday"}, "answered_at"),
        ({"answered_at": "2026-13-01T00:00:00Z"}, "answered_at"),
        ({"answered_at": 5}, "answered_at must be text"),
        ({"condition": "fused"}, "exactly the fields"),
    ],
)
def test_what_is_not_of_the_design_is_refused(study: Study, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        decoded(study, **changed)


@pytest.mark.parametrize("thing", [None, 3, "answer", [], {}, {"design": 1}])
def test_what_is_no_answer_at_all_is_refused(study: Study, thing: object) -> None:
    with pytest.raises(AnswerError, match="exactly the fields"):
        decode_answer(thing, {study.design.hash: study.design})


def test_another_order_of_the_images_or_another_participants_trial_is_refused(study: Study) -> None:
    design = study.design
    trial = trials_of(design, ME)[0]
    options = sent(design, ME, trial)["options"]
    with pytest.raises(AnswerError, match="in another order"):
        decoded(study, options=options[::-1])
    others = {one.trial_id for one in design.of_kind("trial")} - set(trials_of(design, ME))
    raw = {**sent(design, ME, trial), "trial": min(others)}
    with pytest.raises(AnswerError, match="not one of this participant's"):
        decode_answer(raw, {design.hash: design})
    practice = design.of_kind("practice")[0].trial_id
    with pytest.raises(AnswerError, match="no trial"):
        decode_answer(sent(design, ME, practice), {design.hash: design})


def test_files_are_read_and_what_is_wrong_in_them_is_named(study: Study, tmp_path: Path) -> None:
    good = [sent(study.design, ME, trial) for trial in trials_of(study.design, ME)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text(json.dumps({"format": FILE_FORMAT, "answers": good}))
    forged = [{**good[0], "chosen": "nothing"}]
    (tmp_path / "b.json").write_text(json.dumps({"format": FILE_FORMAT, "answers": [*forged, good[1]]}))
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text("[" * 100_000)
    (tmp_path / "e.json").write_text(json.dumps({"answers": good}))
    (tmp_path / "f.json").write_bytes(b"\xff\xfe")
    (tmp_path / "g.json").write_text(" " * 2_000_001)
    (tmp_path / "h.json").write_text('{"answers": [' + "9" * 5000 + "]}")
    (tmp_path / "i.json").mkdir()
    (tmp_path / "j.json").symlink_to(tmp_path / "gone.json")
    (tmp_path / "k.json").symlink_to(tmp_path / "k.json")
    os.mkfifo(tmp_path / "l.json")
    (tmp_path / os.fsdecode(b"m\xff.json")).write_text("{")
    nested = [{**good[0], "chosen": json.loads("[" * 900 + "]" * 900)}]
    (tmp_path / "n.json").write_text(json.dumps({"format": FILE_FORMAT, "answers": nested}))
    found, refused = read_answer_files(tmp_path, {study.design.hash: study.design})
    assert found.height == len(good) + 1
    assert [where for where, _ in refused] == [
        "b.json, answer 1",
        "c.json",
        "d.json",
        "e.json",
        "f.json",
        "g.json",
        "h.json",
        "i.json",
        "j.json",
        "k.json",
        "l.json",
        "m\\xff.json",
        "n.json, answer 1",
    ]
    reasons = dict(refused)
    assert reasons["i.json"] == reasons["l.json"] == "it is not a file"
    assert "No such file" in reasons["j.json"]
    assert read_answer_files(tmp_path / "nowhere", {})[0].is_empty()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def contents_of_files(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """Any bytes, any JSON, downloads with any answers, and answers of which some fields are anything."""
    changed = st.dictionaries(st.sampled_from(sorted(good)), ANY_JSON, max_size=3)
    answers = st.lists(ANY_JSON | changed.map(lambda fields: {**good, **fields}), max_size=3)
    downloads = answers.map(lambda all_of: {"format": FILE_FORMAT, "answers": all_of})
    as_text = (downloads | ANY_JSON).map(json.dumps)
    digits = st.integers(4000, 6000).map(lambda count: as_text_with_digits(good, count))
    return draw(st.binary(max_size=200) | (as_text | digits).map(str.encode))


def as_text_with_digits(good: dict[str, Any], count: int) -> str:
    text = json.dumps({"format": FILE_FORMAT, "answers": [{**good, "response_ms": 10**9}]})
    return text.replace(str(10**9), "9" * count)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_file_of_a_participant_keeps_another_from_being_read(study: Study, data: st.DataObject) -> None:
    good = sent(study.design, ME, trials_of(study.design, ME)[0])
    contents = data.draw(st.lists(contents_of_files(good), min_size=1, max_size=3))
    whole = {"format": FILE_FORMAT, "answers": [sent(study.design, ME, trials_of(study.design, ME)[1])]}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, content in enumerate(contents):
            (folder / f"{number}.json").write_bytes(content)
        alone = [answers_alone(folder / f"{number}.json", study) for number in range(len(contents))]
        (folder / "whole.json").write_text(json.dumps(whole))
        found, refused = read_answer_files(folder, {study.design.hash: study.design})
    assert found.height == sum(rows for rows, _ in alone) + 1
    assert [why for _, why in refused] == [why for _, whys in alone for why in whys]
    for where, why in refused:
        assert (where + why).encode()  # can be stored and shown


def answers_alone(file: Path, study: Study) -> tuple[int, list[str]]:
    """How many answers a file gives where it is the only one, and why others are refused."""
    with TemporaryDirectory() as name:
        (Path(name) / file.name).write_bytes(file.read_bytes())
        found, refused = read_answer_files(Path(name), {study.design.hash: study.design})
    return found.height, [why for _, why in refused]


def test_an_answer_that_came_twice_counts_once_and_a_contradiction_is_named(study: Study) -> None:
    posted = answers_frame([decoded(study, 0), decoded(study, 1)])
    second = decoded(study, 1)
    other = {**second, "chosen_position": 4, "chosen_condition": second["conditions"][3]}
    files = answers_frame([decoded(study, 0), other, decoded(study, 2)])
    merged, refused = merge_answers(posted, files)
    assert merged.height == 3
    assert merged.filter(trial_id=second["trial_id"])["chosen_position"].to_list() == [1]
    assert refused == [
        (f"participant {ME}, trial {second['trial_id']}", "there is already another answer to this trial")
    ]
    swapped, _ = merge_answers(files, posted)
    assert swapped.filter(trial_id=second["trial_id"])["chosen_position"].to_list() == [4]


def test_the_store_keeps_what_it_was_given_and_each_answer_once(study: Study, tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "sub" / "answers.duckdb")
    assert store.read().is_empty()
    rows = [
        decoded(study, 0),
        decoded(study, 1, chosen=None),
        decoded(study, len(trials_of(study.design, ME)) - 1),
    ]
    assert store.add(rows) == ["stored"] * 3
    assert store.add([rows[0]]) == ["repeated"]
    assert store.add([{**rows[0], "response_ms": 1}, {**rows[1], "chosen_position": 2}]) == ["conflict"] * 2
    read = store.read()
    key = ["participant_id", "trial_id"]
    assert read.sort(key).equals(answers_frame(rows).sort(key))
    assert read.schema == STUDY_ANSWERS.empty().schema


def test_more_participants_than_allowed_are_turned_away_and_those_inside_go_on(
    study: Study, tmp_path: Path
) -> None:
    store = AnswerStore(tmp_path / "answers.duckdb", most_participants=2)
    rows = [decoded(study, 0, participant(number)) for number in range(3)]
    assert store.add(rows) == ["stored", "stored", "full"]
    assert store.add([decoded(study, 1, participant(0)), decoded(study, 1, participant(2))]) == [
        "stored",
        "full",
    ]


def test_reading_does_not_change_the_file(study: Study, tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.duckdb")
    store.add([decoded(study)])
    before = store.path.stat().st_mtime_ns
    store.read()
    assert store.path.stat().st_mtime_ns == before


def _add_all(path: Path, rows: list[dict[str, Any]], outcomes: Any) -> None:
    for row in rows:
        outcomes.put(AnswerStore(path).add([row])[0])


def test_two_processes_may_write_at_once(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "answers.duckdb"
    rows = [decoded(study, number) for number in range(6)]
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    writers = [context.Process(target=_add_all, args=(path, rows, outcomes)) for _ in range(2)]
    for writer in writers:
        writer.start()
    found = Counter(outcomes.get(timeout=60) for _ in range(12))
    for writer in writers:
        writer.join(60)
    assert found == {"stored": 6, "repeated": 6}
    assert AnswerStore(path).read().height == 6


def test_somebody_with_the_file_open_is_an_error_that_can_be_tried_again(
    study: Study, tmp_path: Path
) -> None:
    store = AnswerStore(tmp_path / "answers.duckdb")
    store.add([decoded(study)])
    context = multiprocessing.get_context("spawn")
    opened, done = context.Event(), context.Event()
    reader = context.Process(target=_hold_open, args=(store.path, opened, done))
    reader.start()
    assert opened.wait(60)
    with pytest.raises(duckdb.Error):
        store.add([decoded(study, 1)])
    done.set()
    reader.join(60)
    assert store.add([decoded(study, 1)]) == ["stored"]


def _hold_open(path: Path, opened: Any, done: Any) -> None:
    with duckdb.connect(str(path)):
        opened.set()
        done.wait(60)


def test_designs_of_before_and_later_ones_are_known_and_a_damaged_one_is_named(
    study: Study, tmp_path: Path
) -> None:
    designs = DesignFiles(tmp_path)
    assert designs.get(study.design.hash) is None
    (tmp_path / "designs").mkdir()
    file = tmp_path / "designs" / f"{study.design.hash}.json"
    file.write_text(study.design.to_json()[:-40])
    with pytest.raises(StudyError, match=file.name):
        designs.get(study.design.hash)
    file.write_text(study.design.to_json())
    assert dict(designs) == {study.design.hash: study.design}
    (tmp_path / f"{'0' * 16}.json").write_text(study.design.to_json())
    for forged in ("", "../" + "0" * 16, "0" * 16, "x" * 16):
        assert forged not in designs


def test_the_table_has_nothing_but_an_opaque_id_for_a_person() -> None:
    about_people = {"participant_id", "language", "answered_at", "response_ms"}
    about_trials = {
        "trial_id", "clip_id", "emotion", "conditions", "chosen_condition", "chosen_position",
        "is_attention_check", "attention_passed", "design_hash",
    }  # fmt: skip
    assert set(STUDY_ANSWERS.columns) == about_people | about_trials


def test_frames_of_answers_of_many_participants_sort_by_person_and_time(study: Study) -> None:
    rows = [decoded(study, number % 3, participant(number // 3)) for number in range(9)]
    merged, _ = merge_answers(answers_frame(rows), answers_frame([]))
    assert merged["participant_id"].is_sorted()
    assert merged.filter(pl.col("participant_id") == participant(0)).height == 3
