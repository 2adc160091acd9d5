"""The study's statistics as an asset, from answers as a page sends them: participants of known preference."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.orchestration.stages import COLLECT_ANSWERS
from emid_assets.store.lake import Lake
from emid_assets.store.layout import ANSWERS_STORE, DESIGNS_FOLDER
from emid_assets.store.schemas import STUDY_RESULTS
from emid_assets.study.answers import AnswerStore, decode_answer
from emid_assets_tests.study.conftest import Study, copy_of, participant, sent, study, trials_of

__all__ = ["study"]  # the fixture of the study's own tests

PREFERENCE = {"semantic": 0.2, "fused": 0.5, "adapter": 0.2, "random": 0.1}


@pytest.fixture
def mine(study: Study, tmp_path: Path) -> Study:
    return copy_of(study, tmp_path)


def collect(mine: Study) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(lake=str(mine.lake))
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def(COLLECT_ANSWERS)
        return job.execute_in_process(instance=instance)


def answer_all(mine: Study, participants: int, careless: int) -> None:
    """Participants who choose by `PREFERENCE`; the last `careless` fail every attention check."""
    rng = np.random.default_rng(4)
    design, rows = mine.design, []
    for number in range(participants):
        who = participant(number)
        for trial_id in trials_of(design, who):
            trial = design.by_id[trial_id]
            screen = design.screen_of(who, trial)
            assert screen is not None
            if trial.kind == "check":
                assert trial.wanted is not None
                place = trial.wanted % 4 if number >= participants - careless else trial.wanted - 1
            else:
                place = rng.choice(4, p=[PREFERENCE[str(option.condition)] for option in screen])
            rows.append(
                decode_answer(
                    sent(design, who, trial_id, chosen=screen[place].option_id), {design.hash: design}
                )
            )
    AnswerStore(mine.folder / ANSWERS_STORE).add(rows)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey("study_results")
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def analysed(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    [check] = [check for check in result.get_asset_check_evaluations() if check.check_name == "analysed"]
    return check


def test_a_known_preference_comes_back_within_its_intervals(mine: Study) -> None:
    answer_all(mine, participants=24, careless=3)
    result = collect(mine)
    results = Lake(mine.lake).read("study_results")
    of_all = results.filter(scope="all", measure="share", analysis="bootstrap").filter(
        pl.col("versus").is_null()
    )
    for row in of_all.iter_rows(named=True):
        assert row["low"] <= PREFERENCE[row["condition"]] <= row["high"], row["condition"]
        assert row["participants"] == 21
    effect = results.filter(scope="all", analysis="gee", condition="fused", versus="semantic")
    odds_ratio = (0.5 / 0.5) / (0.2 / 0.8)
    assert effect["low"][0] <= odds_ratio <= effect["high"][0]
    assert effect["p_adjusted"][0] < 0.01

    shown = metadata(result)
    assert shown["fused_share"] == of_all.filter(condition="fused")["estimate"][0]
    assert shown["participants: failed an attention check: participant left out"] == 3
    assert "data:image/png" in shown["shares"]
    choices = pl.read_csv(shown["choices"])
    assert Path(shown["choices"]) == mine.folder / "choices.csv"
    assert choices.height == 4 * of_all["trials"][0]
    assert choices["chosen"].sum() == of_all["trials"][0]
    assert analysed(result).passed


def test_while_nobody_has_answered_the_table_is_empty_and_says_so(mine: Study) -> None:
    result = collect(mine)
    results = Lake(mine.lake).read("study_results")
    assert results.is_empty()
    assert STUDY_RESULTS.differences(results) == []
    assert metadata(result)["why_empty"] == "nobody has answered yet"
    assert analysed(result).passed
    assert not (mine.folder / "choices.csv").exists()


def test_answers_whose_design_is_gone_are_told_and_stop_nothing(mine: Study) -> None:
    answer_all(mine, participants=2, careless=0)
    (mine.folder / DESIGNS_FOLDER / f"{mine.design.hash}.json").unlink()
    result = collect(mine)
    answers = AnswerStore(mine.folder / ANSWERS_STORE).read()
    assert Lake(mine.lake).read("study_answers").height == answers.height > 0
    assert Lake(mine.lake).read("study_results").is_empty()
    assert metadata(result)["why_empty"] == "no answer belongs to a design that can be read"
    check = analysed(result)
    assert not check.passed
    assert f"{answers.height} answers belong to designs" in str(check.description)


def test_without_the_packages_the_check_says_what_to_install(
    mine: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(mine, participants=2, careless=0)
    monkeypatch.setattr(
        "emid_assets.study.optional_packages.PACKAGES", ("scipy", "a_package_that_is_not_there")
    )
    result = collect(mine)
    assert result.success
    assert Lake(mine.lake).read("study_results").is_empty()
    check = analysed(result)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.description == "needs a_package_that_is_not_there: pip install 'emid-assets[experiment]'"
