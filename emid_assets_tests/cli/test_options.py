"""What every command does with its lake before it starts."""

import shutil
from pathlib import Path

import duckdb
import polars as pl
import pytest

from emid_assets.cli.options import BadValueError, prepared_instance
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake


def test_a_command_on_a_copied_lake_says_so_once_and_its_catalogue_can_be_attached_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    lake = Lake(tmp_path / "lake")
    lake.write("music_clips", "sad", pl.DataFrame({"value": [1]}))
    lake.rebuild_catalogue()
    prepared_instance(Settings(lake=str(lake.root)))
    assert capsys.readouterr().err == ""

    copy = Path(shutil.copytree(lake.root, tmp_path / "copy"))
    assert prepared_instance(Settings(lake=str(copy))) == copy / "dagster"
    said = capsys.readouterr().err
    assert f"was moved or copied from {lake.root}: {copy}/lake.duckdb is rewritten" in said
    prepared_instance(Settings(lake=str(copy)))
    assert capsys.readouterr().err == ""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{copy}/lake.duckdb' AS copied (READ_ONLY)")
        assert connection.sql("SELECT value FROM copied.music_clips").fetchall() == [(1,)]


def test_a_lake_whose_tables_are_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write("music_clips", "sad", pl.DataFrame({"value": [1]}))
    lake.rebuild_catalogue()
    shutil.rmtree(lake.root / "tables")
    with pytest.raises(BadValueError, match=r"its folder tables/ is gone, which lake.duckdb shows: copy it"):
        prepared_instance(Settings(lake=str(lake.root)))
    lake.catalogue_path.unlink()
    prepared_instance(Settings(lake=str(lake.root)))
