"""Studies of hyperparameters: real Optuna, a real journal, a small lake."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from emid_assets.adapters import NETWORKS, AdapterError, tuning
from emid_assets.adapters.pair_data import PairData, pair_data
from emid_assets.adapters.trained_adapter import TrainingSettings, build_network
from emid_assets.adapters.training import NonFiniteLossError, train
from emid_assets.adapters.tuning import (
    RANGES,
    best_trial,
    own_trial,
    study_name,
    tunable,
    tune,
    tuned_hyperparameters,
)
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.lake import Lake
from emid_assets_tests.small_lake import SETTINGS, make_lake

QUICK = replace(SETTINGS, epochs=2)


@pytest.fixture(scope="module")
def data(lake: LakeTables) -> PairData:
    return pair_data(lake, seed=0)


def test_a_study_that_is_gone_on_with_tries_what_one_in_a_go_tries(data: PairData, tmp_path: Path) -> None:
    tune("bmf", data, QUICK, tmp_path / "cut.journal", 2)
    seen: list[int] = []
    in_two = tune("bmf", data, QUICK, tmp_path / "cut.journal", 4, lambda done, _: seen.append(done))
    at_once = tune("bmf", data, QUICK, tmp_path / "whole.journal", 4)
    assert in_two.equals(at_once)
    assert seen == [3, 4]
    assert tune("bmf", data, QUICK, tmp_path / "cut.journal", 3).equals(in_two)


def test_the_first_trial_is_the_network_as_it_comes_and_the_best_is_never_worse(
    data: PairData, tmp_path: Path
) -> None:
    rows = tune("bmf", data, QUICK, tmp_path / "study.journal", 3)
    own = train("bmf", data, QUICK)
    assert json.loads(rows["hyperparameters"][0]) == tunable("bmf")
    assert rows["ndcg_at_10"][0] == own.history[own.best_epoch - 1]["ndcg_at_10"]
    best = best_trial(rows)
    assert best is not None
    assert best["ndcg_at_10"] == rows.filter(state="complete")["ndcg_at_10"].max()
    again = train("bmf", data, QUICK, json.loads(best["hyperparameters"]))
    assert again.history[again.best_epoch - 1]["ndcg_at_10"] == best["ndcg_at_10"]


def test_a_trial_that_a_kill_cut_short_is_failed_and_the_study_goes_on(
    data: PairData, tmp_path: Path
) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = tmp_path / "study.journal"
    name = tune("bmf", data, QUICK, journal, 1)["study"][0]
    study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal))))
    study.ask()  # and never told
    rows = tune("bmf", data, QUICK, journal, 2)
    assert rows["state"].to_list() == ["complete", "fail", "complete"]
    assert rows["ndcg_at_10"].is_null().to_list() == [False, True, False]


def test_a_kill_in_the_first_trial_loses_nothing(data: PairData, tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = tmp_path / "study.journal"
    study = optuna.create_study(
        study_name=study_name("bmf", data, QUICK),
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="maximize",
    )
    study.enqueue_trial(tunable("bmf"))
    study.ask()  # killed here, before anything was told
    rows = tune("bmf", data, QUICK, journal, 1)
    assert rows["state"].to_list() == ["fail", "complete"]
    assert own_trial("bmf", rows) is not None
    again = tune("bmf", data, QUICK, journal, 3)
    assert again.height == 4
    assert own_trial("bmf", again) == own_trial("bmf", rows)


def test_a_loss_that_is_not_finite_fails_its_trial_and_no_other(
    data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tunable("bmf")

    def diverging(
        network: str, data: PairData, settings: TrainingSettings, config: dict, *others: Any
    ) -> Any:
        if config != own:
            raise NonFiniteLossError("network bmf, epoch 1, batch 1: the loss is nan")
        return train(network, data, settings, config, *others)

    monkeypatch.setattr(tuning, "train", diverging)
    rows = tune("bmf", data, QUICK, tmp_path / "study.journal", 3)
    assert rows["state"].to_list() == ["complete", "fail", "fail"]
    best = best_trial(rows)
    assert best is not None
    assert best["trial"] == 0

    monkeypatch.setattr(tuning, "tunable", lambda network: {**own, "hidden": 64})
    none = tune("bmf", data, replace(QUICK, epochs=3), tmp_path / "study.journal", 2)
    assert none["state"].to_list() == ["fail", "fail"]
    assert best_trial(none) is None


def test_only_the_study_of_the_same_data_seed_epochs_and_dimension_is_used(
    data: PairData, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    ours = study_name("bmf", data, QUICK)
    assert tuned_hyperparameters(lake, "bmf", ours) == ({}, "the network's own")
    rows = tune("bmf", data, QUICK, tmp_path / "study.journal", 2)
    lake.write("tuning_trials", "bmf", rows)
    found, origin = tuned_hyperparameters(lake, "bmf", ours)
    best = best_trial(rows)
    assert best is not None
    assert found == json.loads(best["hyperparameters"])
    assert ours in origin

    resplit = pair_data(make_lake(), seed=1)
    for other in (
        study_name("bmf", resplit, QUICK),
        study_name("bmf", data, replace(QUICK, seed=1)),
        study_name("bmf", data, replace(QUICK, epochs=3)),
        study_name("bmf", data, replace(QUICK, dimension=8)),
    ):
        found, origin = tuned_hyperparameters(lake, "bmf", other)
        assert found == {}
        assert "run it again to use its result" in origin
        assert other in origin
    lake.write("tuning_trials", "bmf", rows.with_columns(state=pl.lit("fail")))
    assert tuned_hyperparameters(lake, "bmf", ours)[0] == {}


def test_other_data_is_another_study_in_the_same_journal(data: PairData, tmp_path: Path) -> None:
    first = tune("bmf", data, QUICK, tmp_path / "study.journal", 1)
    other = pair_data(make_lake(seed=1), seed=0)
    second = tune("bmf", other, QUICK, tmp_path / "study.journal", 1)
    assert first["study"][0] != second["study"][0]
    assert second.height == 1


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_network_has_something_to_tune_and_its_own_values_are_among_what_is_tried(
    network: str,
) -> None:
    from emid_assets.adapters.networks.interface import Known

    own = tunable(network)
    assert {"learning_rate", "hidden"} <= own.keys()
    for name, value in own.items():
        assert RANGES[name].low <= value <= RANGES[name].high, name
        assert isinstance(RANGES[name].low, int) == isinstance(value, int), name
    build_network(network, own, Known(6, 4, 3, 3))


def test_without_a_validation_part_there_is_nothing_to_tune_on(data: PairData, tmp_path: Path) -> None:
    whole = replace(data, pair_parts=pl.Series(["train"] * len(data.pair_parts)).to_numpy())
    with pytest.raises(AdapterError, match="no validation part"):
        tune("bmf", whole, QUICK, tmp_path / "study.journal", 1)
