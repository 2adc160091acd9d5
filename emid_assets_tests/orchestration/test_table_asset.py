"""What `table_asset` adds to an asset: its stage, the check of its table's schema, times and data version."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.orchestration.io_manager import LakeIOManager
from emid_assets.orchestration.resources import SettingsResource, settings_resource
from emid_assets.orchestration.stages import STAGE
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import load_settings
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import TABLES


def asset_of(frame: pl.DataFrame) -> dg.AssetsDefinition:
    @table_asset(stage="inventory", checks={"has_rows": "There are rows."})
    def rejected_media(media_inventory: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
        """What an asset of the package looks like."""
        none = [] if frame.height else ["no rows"]
        return dg.MaterializeResult(
            value=frame,
            data_version=dg.DataVersion("version-1"),
            check_results=[check_result("has_rows", none, frame.height)],
        )

    return rejected_media


def run(asset: dg.AssetsDefinition, folder: Path) -> dg.ExecuteInProcessResult:
    Lake(folder).write("media_inventory", "all", TABLES["media_inventory"].empty())
    settings = settings_resource(load_settings({"lake": str(folder)}))
    definitions = dg.Definitions(
        assets=[asset, dg.AssetSpec("media_inventory")],
        resources={"settings": settings, "io_manager": LakeIOManager(settings=settings)},
        jobs=[dg.define_asset_job("one", selection=dg.AssetSelection.tag(STAGE, "inventory"))],
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("one").execute_in_process(instance=instance, raise_on_error=False)


def test_an_asset_gives_its_own_checks_and_that_of_the_schema_is_added(tmp_path: Path) -> None:
    result = run(asset_of(TABLES["rejected_media"].empty()), tmp_path)
    passed = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert passed == {"schema": True, "has_rows": False}


def test_seconds_and_data_version_are_stored_with_the_frame(tmp_path: Path) -> None:
    frame = TABLES["rejected_media"].empty()
    run(asset_of(frame), tmp_path)
    version = Lake(tmp_path).current("rejected_media", "all")
    assert version is not None
    assert version.metadata["data_version"] == "version-1"
    assert float(str(version.metadata["compute_seconds"])) >= 0


def test_a_frame_of_another_schema_is_not_stored_and_its_column_is_named(tmp_path: Path) -> None:
    wrong = TABLES["rejected_media"].empty().rename({"reason": "why"})
    result = run(asset_of(wrong), tmp_path)
    assert not result.success
    assert "reason" in " ".join(
        str(e.step_failure_data.error) for e in result.all_events if e.is_step_failure
    )
    assert Lake(tmp_path).current("rejected_media", "all") is None


def test_an_asset_keeps_its_own_annotations() -> None:
    def fused_pairs(images: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
        raise NotImplementedError

    table_asset(stage="align")(fused_pairs)
    assert fused_pairs.__annotations__["return"] == dg.MaterializeResult[pl.DataFrame]


def test_an_asset_without_a_stage_is_refused() -> None:
    with pytest.raises(TypeError, match="stage"):
        table_asset()  # type: ignore[call-arg]


def test_tables_that_are_read_whole_come_as_one_thing_and_are_inputs_of_the_graph(tmp_path: Path) -> None:
    clips = TABLES["music_clips"].empty()
    seen: dict[str, object] = {}

    @table_asset(stage="inventory", reads=("music_clips", "expanded_clips", "images"))
    def rejected_media(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
        """What an asset looks like that reads the whole lake."""
        seen["columns"], seen["lake"] = tables.music_clips.columns, settings.lake
        return dg.MaterializeResult(value=TABLES["rejected_media"].empty())

    assert {key.path[-1] for key in rejected_media.keys_by_input_name.values()} == {
        "music_clips", "expanded_clips", "images",
    }  # fmt: skip
    for table in ("music_clips", "expanded_clips", "images"):
        Lake(tmp_path).write(table, "all", TABLES[table].empty())
    settings = settings_resource(load_settings({"lake": str(tmp_path)}))
    definitions = dg.Definitions(
        assets=[rejected_media, *map(dg.AssetSpec, ("music_clips", "expanded_clips", "images"))],
        resources={"settings": settings, "io_manager": LakeIOManager(settings=settings)},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance).success
    assert seen == {"columns": clips.columns, "lake": str(tmp_path)}


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        (("music_clips", "images"), "reads music_clips, expanded_clips, images among them"),
        (("music_clips", "expanded_clips", "images", "media_inventory"), "no field for media_inventory"),
    ],
)
def test_tables_that_cannot_be_read_as_one_thing_are_named_when_the_graph_is_made(
    reads: tuple[str, ...], message: str
) -> None:
    def rejected_media(settings: SettingsResource, tables: LakeTables) -> None:
        """An asset that reads what it cannot."""

    with pytest.raises(TypeError, match=message):
        table_asset(stage="inventory", reads=reads)(rejected_media)
