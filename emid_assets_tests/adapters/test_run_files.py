"""The files of a training: weights by content, the record beside them, and what goes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emid_assets.adapters.pair_data import PairData, pair_data
from emid_assets.adapters.run_files import save_run
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.files import sha256_of
from emid_assets_tests.small_lake import SETTINGS


@pytest.fixture(scope="module")
def data(lake: LakeTables) -> PairData:
    return pair_data(lake, seed=0)


def trained(data: PairData, seed: int) -> TrainedAdapter:
    return train("bmf", data, replace(SETTINGS, epochs=1, seed=seed), {"hidden": 7})


def test_the_record_says_what_the_weights_were_made_with(data: PairData, tmp_path: Path) -> None:
    weights, sha256 = save_run(trained(data, 5), tmp_path, {"alpha": 0.6})
    assert sha256_of(weights) == sha256
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["weights_sha256"] == sha256
    assert record["seed"] == 5
    assert record["hyperparameters"]["hidden"] == 7
    assert record["configuration"] == {"alpha": 0.6}
    assert record["data_version"] == data.digest() == TrainedAdapter.load(weights).data_version
    assert {"python", "torch", "numpy", "emid-assets"} == record["versions"].keys()
    assert [epoch["epoch"] for epoch in record["history"]] == [1]


def test_equal_runs_give_equal_files_and_older_ones_go_but_those_that_are_kept(
    data: PairData, tmp_path: Path
) -> None:
    first, _ = save_run(trained(data, 0), tmp_path, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert save_run(trained(data, 0), tmp_path, {})[0] == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    second, _ = save_run(trained(data, 1), tmp_path, {}, keep=[first])
    third, _ = save_run(trained(data, 2), tmp_path, {}, keep=[second])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        file.with_suffix(ending).name for file in (second, third) for ending in (".safetensors", ".json")
    }


def test_other_pairs_or_other_ratings_are_another_version_of_the_data(data: PairData) -> None:
    assert replace(data).digest() == data.digest()
    assert replace(data, music_va=data.music_va + 1e-9).digest() != data.digest()
    assert replace(data, pair_images=data.pair_images[::-1].copy()).digest() != data.digest()
