"""An asset reads the settings that it declares, and its recipe has those of the run."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.health.recipes import RECIPE, Recipe, code_version
from emid_assets.orchestration.declared import DECLARED, Declared
from emid_assets.orchestration.io_manager import LakeIOManager
from emid_assets.orchestration.resources import SettingsResource, settings_resource
from emid_assets.orchestration.table_asset import CODE_VERSION_TAG, table_asset
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import STUDY_RESULTS, TUNING_TRIALS


def run(lake: Path, reads: str, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """Run an asset that declares alpha and reads the setting `reads`."""
    before = DECLARED[STUDY_RESULTS.name]

    @table_asset(stage="study", table=STUDY_RESULTS.name, declared=Declared(7, ("alpha",)))
    def asset(settings: SettingsResource) -> dg.MaterializeResult[pl.DataFrame]:
        getattr(settings, reads)
        return dg.MaterializeResult(value=STUDY_RESULTS.empty())

    resource = settings_resource(Settings(lake=str(lake)))
    try:
        return dg.materialize(
            [asset],
            resources={"settings": resource, "io_manager": LakeIOManager(settings=resource)},
            run_config={"resources": {"settings": {"config": config}}},
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )
    finally:
        DECLARED[STUDY_RESULTS.name] = before


def test_a_setting_that_is_not_declared_cannot_be_read(tmp_path: Path) -> None:
    result = run(tmp_path / "lake", "images_per_clip", {})
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert "reads the setting images_per_clip and does not declare it" in str(failure.step_failure_data.error)


@pytest.mark.parametrize(
    ("name", "other", "with_effect"),
    [
        ("gaussian_sigma", 0.7, {"emotion_kernel": "gaussian"}),
        ("precision", "bf16", {"encoder": "imagebind"}),
        ("expansion_threshold", 0.6, {"expansion_target": 0}),
    ],
)
def test_a_setting_without_an_effect_changes_no_recipe(
    name: str, other: Any, with_effect: dict[str, Any]
) -> None:
    depends_on = next(iter(with_effect))
    declared = Declared(1, (name, depends_on))
    without = {"emotion_kernel": "cosine", "encoder": "bundled", "expansion_target": 9}

    def reason(given: dict[str, Any]) -> str:
        before, after = Settings(**given), Settings(**given, **{name: other})
        return declared.recipe(after, "all", {}).difference(declared.recipe(before, "all", {}), "")

    assert reason({depends_on: without[depends_on]}) == ""
    assert f"setting changed: {name}" in reason(with_effect)


def test_what_assets_read_from_outside_the_tables_is_the_same_in_a_moved_lake(tmp_path: Path) -> None:
    build_definitions()
    lake = Lake(tmp_path / "lake")
    lake.write(TUNING_TRIALS.name, "bmf", TUNING_TRIALS.empty())
    (lake.root / "study" / "answers").mkdir(parents=True)
    (lake.root / "study" / "answers" / "one.json").write_text("{}")

    def outside() -> dict[str, str]:
        settings = Settings(lake=str(lake.root))
        return {
            name: declared.outside.digest(settings, "bmf")
            for name, declared in DECLARED.items()
            if declared.outside is not None
        }

    before = outside()
    assert all(before[name] for name in ("trained_adapter", "evaluation_report", "study_answers"))
    lake = Lake(lake.root.rename(tmp_path / "moved"))
    assert outside() == before


@pytest.mark.parametrize("manner", ["workers", "device", "media_folder", "lake_folder"])
def test_where_and_how_a_build_runs_needs_no_declaration(tmp_path: Path, manner: str) -> None:
    assert run(tmp_path / "lake", manner, {}).success


def test_what_the_launchpad_gives_counts_for_the_recipe_and_for_dagster(tmp_path: Path) -> None:
    result = run(tmp_path / "lake", "alpha", {"alpha": 0.25})
    version = Lake(tmp_path / "lake").current(STUDY_RESULTS.name, "all")
    assert version is not None
    assert Recipe.of_text(version.metadata[RECIPE]) == Recipe(7, {"alpha": 0.25})
    (event,) = result.get_asset_materialization_events()
    tags = event.step_materialization_data.materialization.tags or {}
    assert tags[CODE_VERSION_TAG] == code_version(7, {"alpha": 0.25})
