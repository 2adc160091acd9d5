"""The code location: what it holds, and that it loads fast and light."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

from emid_assets.definitions import build_definitions
from emid_assets.defs.jobs import STAGES
from emid_assets.settings import SettingsError
from emid_assets.store.schemas import TABLES

ROOT = Path(__file__).parents[1]
GRAPH = """
media_inventory <-
music_tags <- media_inventory
image_features <- media_inventory
image_emotion_head <- image_features media_inventory
predicted_emotion <- image_emotion_head image_features media_inventory music_tags
music_clips[13] <- media_inventory predicted_emotion
images[8] <- media_inventory predicted_emotion
rejected_media <- media_inventory predicted_emotion
music_embeddings[13] <- music_clips
image_embeddings[8] <- images
expansion_windows[13] <- music_clips music_embeddings
expanded_clips[13] <- expansion_windows music_clips
similarity_matrix[13] <- expanded_clips image_embeddings music_embeddings
va_distances[13] <- expanded_clips images music_clips similarity_matrix
fused_pairs[13] <- images similarity_matrix va_distances
published_pairs <- media_inventory
emid_release <- expanded_clips fused_pairs images media_inventory music_clips
trained_adapter[4] <- expanded_clips fused_pairs image_embeddings images music_clips music_embeddings
adapted_embeddings[4] <- expanded_clips image_embeddings images music_embeddings trained_adapter
listening_study <- adapted_embeddings expanded_clips image_embeddings images music_clips music_embeddings \
similarity_matrix trained_adapter va_distances
study_answers <- listening_study
study_results <- study_answers
evaluation_report <- adapted_embeddings expanded_clips fused_pairs image_embeddings image_emotion_head \
images music_clips music_embeddings published_pairs rejected_media similarity_matrix study_results \
trained_adapter va_distances
pipeline_health <- evaluation_report
"""


MOST_OF_DAGSTER = 2.6
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
        "dagster_ray", "transformers", "optuna", "safetensors",
    }  # fmt: skip
    assert not heavy & modules


def test_definitions_load_in_the_time_that_dagster_takes_and_little_more() -> None:
    seconds: dict[str, list[float]] = {"dagster": [], "emid_assets.definitions": []}
    for _ in range(4):  # in turn, so that a busy moment meets both
        for module, taken in seconds.items():
            taken.append(imported_in_a_fresh_process(module)[0])
    dagster, ours = (min(taken) for taken in seconds.values())
    assert ours < MOST_OF_DAGSTER * dagster


def graph_lines(definitions: dg.Definitions) -> list[str]:
    graph = definitions.resolve_asset_graph()
    lines = []
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        partitions = f"[{len(node.partitions_def.get_partition_keys())}]" if node.partitions_def else ""
        parents = " ".join(sorted(parent.to_user_string() for parent in node.parent_keys))
        lines.append(f"{key.to_user_string()}{partitions} <- {parents}".strip())
    return sorted(lines)


def test_the_graph_is_as_designed() -> None:
    assert graph_lines(build_definitions()) == sorted(line for line in GRAPH.strip().splitlines())


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
    staged = [asset for assets in STAGES.values() for asset in assets]
    keys = {key.to_user_string() for key in build_definitions().resolve_asset_graph().get_all_asset_keys()}
    assert sorted(staged) == sorted(keys)


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
    lines = graph_lines(build_definitions(shards_per_emotion=2))
    assert lines == [
        line.replace("[13]", "[26]").replace("[8]", "[16]") for line in graph_lines(build_definitions())
    ]


def test_a_wrong_setting_stops_the_load_and_is_named() -> None:
    with pytest.raises(SettingsError, match="alpha"):
        build_definitions(alpha=7)


def test_workspace_and_dg_name_the_same_location() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    module = workspace["load_from"][0]["python_module"]
    assert module["location_name"] == project["code_location_name"]
    assert module["module_name"] == project["code_location_target_module"]
