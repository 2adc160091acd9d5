"""What stops a build before anything is computed, and what a build says where output is no terminal."""

import io
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console
from rich.progress import Progress

from emid_assets.build.stage_by_stage import BuildFailedError, _terminal_logger, run_build
from emid_assets.matching import product
from emid_assets.orchestration.progress import report_progress
from emid_assets.runs.progress_lines import SECONDS_BETWEEN_LINES, ProgressLines


def test_a_product_that_this_processor_cannot_compute_stops_the_build_before_anything_is_encoded(
    sample_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(product, "refusal", lambda name, *sizes: "could not create a primitive")
    lake = tmp_path / "lake"
    with pytest.raises(
        BuildFailedError,
        match=r"^matching_product 'onednn' cannot .* processor at \d+ dimensions: could not .*; set .* auto",
    ):
        run_build({"media": str(sample_media), "lake": str(lake), "matching_product": "onednn"})
    assert not (lake / "tables").exists()


def test_what_an_op_reports_is_said_when_a_line_is_due_and_a_warning_at_once() -> None:
    now, said, terminal = [0.0], list[str](), Console(file=io.StringIO())
    lines = ProgressLines(said.append, lambda: now[0])

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["sad"]))
    def long_work(context: dg.AssetExecutionContext) -> None:
        on_progress = report_progress(context, "files read", lambda: now[0])
        now[0] += SECONDS_BETWEEN_LINES / 2
        on_progress(120, 938)
        lines.look()
        assert said == []
        now[0] += SECONDS_BETWEEN_LINES / 2
        on_progress(240, 938)
        context.log.warning("a file [with brackets] cannot be read")
        lines.look()

    progress = Progress(console=terminal, disable=True)
    progress.add_task("inventory")
    lines.begin("inventory")
    lines.at("sad")
    job = dg.Definitions(assets=[long_work], jobs=[dg.define_asset_job("inventory")]).resolve_job_def(
        "inventory"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = job.with_logger_defs({"console": _terminal_logger(progress, lines)})
        config = {"loggers": {"console": {}}}
        assert job.execute_in_process(instance=instance, partition_key="sad", run_config=config).success
    assert said == ["inventory sad: files read: 240 of 938, 8.0 per second, 87 s left"]
    assert terminal.file.getvalue() == "a file [with brackets] cannot be read\n"  # type: ignore[attr-defined]
