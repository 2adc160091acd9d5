"""The code location: what it holds, and that it loads fast and light."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

from emid_assets.definitions import build_definitions
from emid_assets.orchestration.stages import stages
from emid_assets.settings import Settings, SettingsError
from emid_assets.store.schemas import TABLES
from emid_assets_tests.graph import REWRITE, SNAPSHOT, assets_as_text, graph_text, stage_of_assets

ROOT = Path(__file__).parents[1]


SHAPES: tuple[dict[str, int], ...] = (
    {},
    {"image_shards": 2},
    {"image_reuse_limit": 1},
    {"image_shards": 2, "image_reuse_limit": 1},
)
"""Settings that give the graph other assets."""

MOST_OF_DAGSTER = 1.6
"""CPU time of loading the definitions, start of Python included, by that of `import dagster` alone."""


def imported_in_a_fresh_process(module: str) -> tuple[float, set[str]]:
    """CPU seconds, and the modules, of a process that does nothing but import one."""
    code = (
        f"import json, sys, time; import {module};"
        "print(json.dumps([time.process_time(), sorted(sys.modules)]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, modules = json.loads(output.stdout)
    return seconds, set(modules)


def test_definitions_load_without_heavy_packages() -> None:
    _, modules = imported_in_a_fresh_process("emid_assets.definitions")
    assert {"dagster", "emid_assets.definitions"} <= modules
    heavy = {
        "torch", "imagebind", "matplotlib", "numba", "scipy", "statsmodels", "krippendorff", "ray",
        "dagster_ray", "transformers", "optuna", "safetensors", "duckdb", "pyarrow", "numpy", "PIL",
        "soundfile",
    }  # fmt: skip
    assert not heavy & modules


def test_definitions_load_in_the_time_that_dagster_takes_and_little_more() -> None:
    seconds: dict[str, list[float]] = {"dagster": [], "emid_assets.definitions": []}
    for _ in range(4):  # in turn, so that a busy moment meets both
        for module, taken in seconds.items():
            taken.append(imported_in_a_fresh_process(module)[0])
    dagster, ours = (min(taken) for taken in seconds.values())
    assert ours < MOST_OF_DAGSTER * dagster


def test_the_graph_is_the_one_that_was_reviewed() -> None:
    assert graph_text() == SNAPSHOT.read_text(encoding="utf-8"), (
        f"the graph has changed: `{REWRITE}` rewrites {SNAPSHOT.name}, and its difference shows in review"
    )


def test_every_asset_says_what_it_holds_and_who_owns_it() -> None:
    graph = build_definitions().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name != "default", key
        assert key.to_user_string() in TABLES


def test_every_asset_is_in_one_stage_of_the_build() -> None:
    for shape in SHAPES:
        definitions = build_definitions(**shape)
        built: list[str] = []
        for stage in stages(Settings(**shape)):
            keys = definitions.resolve_job_def(stage).asset_layer.executable_asset_keys
            built += [key.path[-1] for key in keys]
        assert sorted(built) == sorted(stage_of_assets(definitions))


def test_no_stage_is_built_before_what_it_is_made_from() -> None:
    for shape in SHAPES:
        definitions = build_definitions(**shape)
        graph = definitions.resolve_asset_graph()
        order = list(stages(Settings(**shape)))
        stage_of = stage_of_assets(definitions)
        for asset, stage in stage_of.items():
            for parent in graph.get(dg.AssetKey(asset)).parent_keys:
                assert order.index(stage_of[parent.path[-1]]) <= order.index(stage), (parent, asset)


def test_every_table_asset_has_a_blocking_schema_check() -> None:
    graph = build_definitions().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        specs = {
            check.name: graph.get_check_spec(check)
            for check in graph.asset_check_keys
            if check.asset_key == key
        }
        assert specs["schema"].blocking, key


def test_shards_cut_each_emotion_into_more_partitions_of_the_same_graph() -> None:
    one, two = (assets_as_text(build_definitions(shards_per_emotion=shards)) for shards in (1, 2))
    doubled = {13: 26, 8: 16, 4: 4, 1: 1}
    for name, text in one.items():
        expected = re.sub(r"partitions (\d+)", lambda found: f"partitions {doubled[int(found[1])]}", text)
        assert two.pop(name) == expected
    assert not two


def test_a_wrong_setting_stops_the_load_and_is_named() -> None:
    with pytest.raises(SettingsError, match="alpha"):
        build_definitions(alpha=7)


def test_workspace_and_dg_name_the_same_location() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    module = workspace["load_from"][0]["python_module"]
    assert module["location_name"] == project["code_location_name"]
    assert module["module_name"] == project["code_location_target_module"]
