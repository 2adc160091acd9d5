"""The study's assets on a real lake: answers collected from server and folder, and the sensor."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.defs.study import answers_arrived
from emid_assets.orchestration.stages import COLLECT_ANSWERS
from emid_assets.store.lake import Lake
from emid_assets.store.layout import ANSWERS_FOLDER, ANSWERS_STORE, DESIGNS_FOLDER
from emid_assets.study.answers import FILE_FORMAT, AnswerStore, decode_answer
from emid_assets_tests.conftest import Checkout
from emid_assets_tests.study.conftest import Study, copy_of, participant, sent, study, trials_of

__all__ = ["study"]  # the fixture of the study's own tests


@pytest.fixture
def mine(study: Study, tmp_path: Path) -> Study:
    copied = copy_of(study, tmp_path)
    (copied.folder / ANSWERS_FOLDER).mkdir()
    return copied


def collect(mine: Study) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(lake=str(mine.lake))
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def(COLLECT_ANSWERS)
        return job.execute_in_process(instance=instance, raise_on_error=False)


def put_file(mine: Study, number: int, **changed: Any) -> None:
    who = participant(number)
    answers = [sent(mine.design, who, trial, **changed) for trial in trials_of(mine.design, who)]
    file = mine.folder / ANSWERS_FOLDER / f"{number}.json"
    file.write_text(json.dumps({"format": FILE_FORMAT, "answers": answers}))


def test_answers_of_the_server_and_of_files_are_one_table_and_what_is_refused_is_told(mine: Study) -> None:
    who, designs = participant(1), {mine.design.hash: mine.design}
    posted = [decode_answer(sent(mine.design, who, trial), designs) for trial in trials_of(mine.design, who)]
    AnswerStore(mine.folder / ANSWERS_STORE).add(posted)
    put_file(mine, 1)
    put_file(mine, 2)
    put_file(mine, 3, chosen="forged")
    result = collect(mine)
    assert result.success
    answers = Lake(mine.lake).read("study_answers")
    assert answers["participant_id"].unique().sort().to_list() == sorted([who, participant(2)])
    assert answers.height == 2 * len(posted)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["schema"].passed
    assert not checks["nothing_refused"].passed
    assert "3.json, answer 1" in str(checks["nothing_refused"].description)


def test_what_is_no_file_of_answers_stops_neither_the_sensor_nor_the_stage(mine: Study) -> None:
    put_file(mine, 1)
    folder = mine.folder / ANSWERS_FOLDER
    (folder / "a folder.json").mkdir()
    (folder / "gone.json").symlink_to(folder / "nowhere")
    (folder / os.fsdecode(b"\xff.json")).write_text('{"answers": ' + "9" * 5000 + "}")
    definitions = build_definitions(lake=str(mine.lake))
    with dg.build_sensor_context(definitions=definitions, resources=definitions.resources) as context:
        found = answers_arrived(context)
    assert isinstance(found, dg.SensorResult)
    result = collect(mine)
    assert result.success
    assert Lake(mine.lake).read("study_answers")["participant_id"].unique().to_list() == [participant(1)]
    refused = {check.check_name: check for check in result.get_asset_check_evaluations()}["nothing_refused"]
    told = str(refused.description)
    assert all(name in told for name in ("a folder.json: ", "gone.json: ", "\\xff.json: "))


def test_a_damaged_design_stops_neither_the_stage_nor_other_designs_answers(mine: Study) -> None:
    put_file(mine, 1)
    answers = Lake(mine.lake)
    assert collect(mine).success
    before = answers.read("study_answers")
    damaged = "0" * 16
    (mine.folder / DESIGNS_FOLDER / f"{damaged}.json").write_text("{")
    file = mine.folder / ANSWERS_FOLDER / "2.json"
    [first, *_] = json.loads((mine.folder / ANSWERS_FOLDER / "1.json").read_text())["answers"]
    file.write_text(json.dumps({"format": FILE_FORMAT, "answers": [{**first, "design": damaged}]}))
    result = collect(mine)
    assert result.success
    assert answers.read("study_answers").equals(before)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert f"{damaged}.json" in str(checks["nothing_refused"].description)
    assert "2.json, answer 1" in str(checks["nothing_refused"].description)
    assert f"{damaged}.json" in str(checks["analysed"].description)


def test_without_answers_there_is_an_empty_table(mine: Study) -> None:
    result = collect(mine)
    assert all(check.passed for check in result.get_asset_check_evaluations() if check.check_name == "schema")
    assert Lake(mine.lake).read("study_answers").is_empty()


def test_the_sensor_asks_for_a_run_when_answers_change_and_only_then(mine: Study) -> None:
    definitions = build_definitions(lake=str(mine.lake))
    cursor: str | None = None

    def look() -> bool:
        nonlocal cursor
        with dg.build_sensor_context(
            definitions=definitions, cursor=cursor, resources=definitions.resources
        ) as context:
            found = answers_arrived(context)
        if isinstance(found, dg.SkipReason):
            return False
        assert isinstance(found, dg.SensorResult)
        cursor = found.cursor
        return len(found.run_requests or []) == 1

    assert not look()
    put_file(mine, 1)
    assert look()
    assert not look()
    collect(mine)
    assert not look()
    design, who = mine.design, participant(5)
    row = decode_answer(sent(design, who, trials_of(design, who)[0]), {design.hash: design})
    AnswerStore(mine.folder / ANSWERS_STORE).add([row])
    assert look()
    collect(mine)
    assert not look()
    os.utime(mine.folder / ANSWERS_FOLDER / "1.json", ns=(1, 1))
    assert look()


def test_the_demo_has_a_study_with_its_page_and_its_pairs_side_by_side(demo: Checkout) -> None:
    lake = Lake(demo.demo_lake)
    study_of_demo = lake.read("listening_study")
    trials = study_of_demo.group_by("trial_id").agg(
        images=pl.col("image_id").n_unique(), conditions=pl.col("condition").n_unique()
    )
    assert trials.height > 10
    assert set(trials["images"]) == set(trials["conditions"]) == {4}
    for name in ("study/page/index.html", "pairs.html"):
        assert (demo.demo_lake / name).stat().st_size > 100_000
    assert 'href="pairs.html"' in (demo.demo_lake / "report.html").read_text(encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "emid_assets", "study", "serve", "--port", "0"],
        cwd=demo.folder, env=demo.environment | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        link = server.stdout.readline()
        server.kill()
    assert "#token=" in link
