"""The listening study's statistics: from its answers to a table, a CSV for R and what the report shows."""

from typing import Any

import dagster as dg
import polars as pl

from emid_assets.defs.checks import check_result, schema_result, table_asset
from emid_assets.defs.resources import SettingsResource
from emid_assets.store.data_version import frame_digest
from emid_assets.store.schemas import LISTENING_STUDY, STUDY_RESULTS

CHOICES_FILE = "choices.csv"


@table_asset(
    group_name="evaluation",
    kinds={"scipy", "duckdb"},
    warnings={"analysed": "The packages that the statistics need are installed, where there are answers."},
)
def study_results(
    settings: SettingsResource, study_answers: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """What people chose: shares with intervals, effects of the condition, tests, agreement, exclusions.

    Empty while nobody has answered. `study/choices.csv` in the lake folder has a row for each image of
    each analysed trial, as R's lme4 takes them.
    """
    from emid_assets.study.answers import STUDY_FOLDER, DesignFiles
    from emid_assets.study.extra import missing_packages

    missing = missing_packages() if study_answers.height else ""
    results = STUDY_RESULTS.empty()
    metadata: dict[str, Any] = {"why_empty": missing or "nobody has answered so far"}
    if study_answers.height and not missing:
        from emid_assets.study.statistics import analyse, lme4_rows

        folder = settings.lake_folder / STUDY_FOLDER
        made = [design.frame() for design in DesignFiles(folder).values()]
        designs = pl.concat([LISTENING_STUDY.empty(), *made])
        results = analyse(study_answers, designs, settings.seed)
        lme4_rows(study_answers, designs).write_csv(folder / CHOICES_FILE)
        metadata = {"choices": dg.MetadataValue.path(folder / CHOICES_FILE), **_shown(results)}
    return dg.MaterializeResult(
        value=results,
        data_version=dg.DataVersion(frame_digest(results)),
        metadata=metadata,
        check_results=[
            schema_result("study_results", results),
            check_result(
                "analysed", [missing] if missing else [], study_answers.height, dg.AssetCheckSeverity.WARN
            ),
        ],
    )


def _shown(results: pl.DataFrame) -> dict[str, Any]:
    """Shares of the conditions as numbers that the web UI plots over time, and their figure."""
    from emid_assets.report.figures import markdown_image
    from emid_assets.report.study import study_section

    section = study_section(results)
    shown: dict[str, Any] = {f"{row['condition']}_share": row["share"] for row in section["shares"]}
    for row in section["exclusions"]:
        shown[f"participants: {row['reason']}"] = int(row["participants"])
    if section["shares"]:
        figure = markdown_image(section["shares_figure"], "Share of the trials that chose each condition")
        shown["shares"] = dg.MetadataValue.md(figure)
    return shown
