"""Pipeline health: the asset with its checks and page, an hourly schedule, and a sensor that ends dead runs.

Belongs here: their Dagster definitions. `health.verdict` makes the verdict, from the facts that
`orchestration.run_facts` gathers.
"""

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl

from emid_assets.health.verdict import Health
from emid_assets.orchestration.declared import all_of
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.run_facts import current_health
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.runs.dead_runs import end_dead_runs
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import write_in_place
from emid_assets.store.layout import HEALTH_PAGE
from emid_assets.store.schemas import PIPELINE_HEALTH


def pipeline_health(definitions: Callable[[], dg.Definitions]) -> dg.AssetsDefinition:
    """The asset that judges the graph in `definitions`, which includes the asset itself."""

    @table_asset(
        stage="health",
        group_name="evaluation",
        kinds={"html", "duckdb"},
        deps=["evaluation_report"],
        table=PIPELINE_HEALTH.name,
        warnings={
            "nothing_broken": "No partition has failed, is damaged or is overdue.",
            "nothing_stale": "No partition is missing or older than its inputs.",
            "no_drift": "No partition's norms, valence or arousal shifted much between its last two builds.",
        },
    )
    def asset(
        context: dg.AssetExecutionContext, settings: SettingsResource
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """What is broken, stale or overdue now: the state of every partition, and the page `health.html`.

        The page is beside the report in the lake folder. `emid status` prints the same in a terminal.
        """
        from emid_assets.report.health_page import health_page

        health = current_health(
            definitions(), context.instance, all_of(settings), time.time(), context.run_id
        )
        page = settings.lake_folder / HEALTH_PAGE
        write_in_place(page, health_page(health))
        return dg.MaterializeResult(
            value=health.states,
            data_version=dg.DataVersion(frame_digest(health.states)),
            metadata={"page": dg.MetadataValue.path(page), **_metadata(health)},
            check_results=_checks(health),
        )

    return asset


def _stale(health: Health) -> pl.DataFrame:
    return health.states.filter(pl.col("state").is_in(["missing", "stale"]))


def _metadata(health: Health) -> dict[str, Any]:
    from emid_assets.report.health_page import time_figures

    return {
        "verdict": health.verdict,
        "broken": health.broken.height,
        "stale_or_missing": _stale(health).height,
        "rejected": int(health.rejected["items"].sum()),
        "lake_bytes": int(health.disk["bytes"].sum()),
        "free_bytes": health.free_bytes,
        "largest_shift": float(health.drift["shift"].abs().max() or 0.0),  # type: ignore[arg-type]
        "total_seconds": float(health.states["seconds"].sum()),
        **{name: dg.MetadataValue.md(image) for name, image in time_figures(health).items()},
    }


def _checks(health: Health) -> list[dg.AssetCheckResult]:
    moved = [
        f"{row['table']}/{row['partition']}: {row['column']} shifted by {row['shift']:+.2f} spreads"
        for row in health.drift.filter("is_notable").iter_rows(named=True)
    ]
    return [
        _check("nothing_broken", health.broken, health.states.height, dg.AssetCheckSeverity.ERROR),
        _check("nothing_stale", _stale(health), health.states.height, dg.AssetCheckSeverity.WARN),
        check_result("no_drift", moved, health.drift.height, dg.AssetCheckSeverity.WARN),
    ]


def _check(
    name: str, partitions: pl.DataFrame, checked: int, severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    lines = [
        f"{asset}/{partition} {state}: {message}"
        for asset, partition, state, message in partitions.select(
            "asset", "partition", "state", "message"
        ).rows()
    ]
    return check_result(name, lines, checked, severity)


health_schedule = dg.ScheduleDefinition(
    name="hourly_health",
    job_name="health",
    cron_schedule="17 * * * *",
    description="Checks every hour that no partition has failed, is damaged or is overdue; off until "
    "switched on.",
)


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, so that they do not block a queue or pool.",
)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Dagster's own monitoring does not watch runs of other processes, such as `emid build`."""
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(
        f"ended {', '.join(ended)}" if ended else "the process of every running run is alive"
    )
