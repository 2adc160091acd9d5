"""The listening study: design and page, answers, the sensor that collects them, and results."""

import hashlib
import os
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from emid_assets.media.lake_tables import LakeTables
from emid_assets.orchestration.declared import Declared, Outside
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.stages import COLLECT_ANSWERS
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import FORMULA_SETTINGS, Settings, in_use
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import make_folder, write_in_place
from emid_assets.store.layout import (
    ANSWERS_FOLDER,
    ANSWERS_STORE,
    CHOICES_FILE,
    DESIGNS_FOLDER,
    STUDY_FOLDER,
    STUDY_PAGE,
    STUDY_PAGE_FOLDER,
)
from emid_assets.store.schemas import LISTENING_STUDY, STUDY_RESULTS

if TYPE_CHECKING:
    from emid_assets.study.design import Design

SECONDS_BETWEEN_LOOKS = 30


@table_asset(
    stage="study",
    group_name="evaluation",
    kinds={"numpy", "duckdb"},
    reads=(
        "music_clips", "expanded_clips", "images", "music_embeddings", "image_embeddings",
        "similarity_matrix", "va_distances", "trained_adapter", "adapted_embeddings",
    ),
    declared=Declared(code=2, settings=FORMULA_SETTINGS),
    checks={"every_system_shown": "Every clip has top images from each system."},
)  # fmt: skip
def top_images(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """The top images for each clip: by S alone, by T, and by the adapter's best network.

    The pairs page and the listening study show them.
    """
    from emid_assets.evaluation import top_images as first
    from emid_assets.matching.fusion import Formula
    from emid_assets.report.pairs import SHOWN
    from emid_assets.study.design import RANKS_NEEDED

    network = first.best_network(tables.trained_adapter)
    shown = first.top_images(tables, network, Formula.of(settings), max(SHOWN, RANKS_NEEDED))
    systems = shown.group_by("clip_id").agg(pl.col("system").n_unique())
    without = systems.filter(pl.col("system") < 3)["clip_id"].to_list()
    return dg.MaterializeResult(
        value=shown,
        data_version=dg.DataVersion(frame_digest(shown)),
        metadata={"network": network, "clips": systems.height},
        check_results=[check_result("every_system_shown", without, systems.height)],
    )


@table_asset(
    stage="study",
    group_name="evaluation",
    kinds={"html", "duckdb"},
    reads=(
        "music_clips", "expanded_clips", "images", "image_embeddings", "trained_adapter",
        "adapted_embeddings", "top_images",
    ),
    declared=Declared(
        code=2,
        settings=(
            "alpha", "seed", "study_clips", "study_trials", "study_seconds", "study_contact", "page_media_mb",
        ),
        writes=(f"{STUDY_FOLDER}/{STUDY_PAGE_FOLDER}/{STUDY_PAGE}",),
    ),
    warnings={"can_be_run": "There are enough images and clips for trials in which the conditions differ."},
)  # fmt: skip
def listening_study(settings: SettingsResource, tables: LakeTables) -> dg.MaterializeResult[pl.DataFrame]:
    """Which image do people choose for what they hear? The forced-choice experiment: design and page.

    A trial plays a clip and shows one image from each condition: α = 1, the α in use, the adapter's
    best network, random. `study/page/` in the lake folder is for participants; `study/designs/`, which
    reveals the conditions, is not.
    """
    from emid_assets.evaluation.top_images import best_network
    from emid_assets.study.design import StudyError
    from emid_assets.study.page import write_page

    network = best_network(tables.trained_adapter)
    try:
        design = _drawn_design(settings, tables, network)
    except StudyError as error:
        none = LISTENING_STUDY.empty()
        return dg.MaterializeResult(
            value=none,
            data_version=dg.DataVersion(frame_digest(none)),
            check_results=[_can_be_run(str(error))],
        )
    study = settings.lake_folder / STUDY_FOLDER
    make_folder(study / DESIGNS_FOLDER)
    write_in_place(study / DESIGNS_FOLDER / f"{design.hash}.json", design.to_json())
    page = write_page(
        design,
        tables.music_clips,
        tables.images,
        settings.media_folder,
        study / STUDY_PAGE_FOLDER,
        seconds=settings.study_seconds,
        embed_bytes=settings.page_media_mb * 1_000_000,
        contact=settings.study_contact,
    )
    frame = design.frame()
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(design.hash),
        metadata={
            "page": dg.MetadataValue.path(page.path),
            "media_beside_the_page": page.media_files,
            "media_bytes": page.media_bytes,
            "network": network,
            "ties_in_trials": frame.filter(pl.col("tied_with").list.len() > 0)["trial_id"].n_unique(),
            **_design_metadata(design),
        },
        check_results=[_can_be_run("")],
    )


def _drawn_design(settings: SettingsResource, tables: LakeTables, network: str) -> "Design":
    """The trials of this lake and seed. Raises StudyError where no study can be made of its pairs."""
    from emid_assets.study.design import draw_design

    adapted = tables.adapted_embeddings.filter(network=network, kind="music")
    return draw_design(
        tables.top_images,
        tables.music_clips,
        tables.images.join(tables.image_embeddings, on="image_id", how="semi"),  # the others cannot be read
        dict(adapted.select("item_id", "split").iter_rows()),
        seed=settings.seed,
        clips=settings.study_clips,
        trials=settings.study_trials,
        facts={"alpha": in_use(settings, "alpha"), "network": network},
    )


def _design_metadata(design: "Design") -> dict[str, Any]:
    return {
        "design_hash": design.hash,
        "trials": len(design.of_kind("trial")),
        "trials_of_a_participant": design.facts["trials_of_a_participant"],
        "tie_rule": design.facts["tie_rule"],
        "ties_over_all_clips": dg.MetadataValue.json(design.facts["ties"]),
    }


def _digest_of_answers(settings: Settings, _: str) -> str:
    """Of the names, sizes and times of all files with answers; empty if there are none."""
    study = settings.lake_folder / STUDY_FOLDER
    seen = []
    for file in sorted([*(study / ANSWERS_FOLDER).rglob("*.json"), *study.glob(ANSWERS_STORE + "*")]):
        if file.suffix != ".lock":
            try:
                facts = file.stat()
            except OSError as error:  # such as a link that leads nowhere; the asset says so
                seen.append(f"{file.relative_to(study)} {error.strerror}")
            else:
                seen.append(f"{file.relative_to(study)} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(seen))).hexdigest() if seen else ""


@table_asset(
    stage="study",
    group_name="evaluation",
    kinds={"polars", "duckdb"},
    deps=["listening_study"],
    warnings={"nothing_refused": "Every answer belongs to a design; the warning names those that do not."},
    declared=Declared(outside=Outside("answers", _digest_of_answers)),
)
def study_answers(settings: SettingsResource) -> dg.MaterializeResult[pl.DataFrame]:
    """The answers of all participants: those that the server received, and the files in `study/answers/`.

    Each answer is checked against its design. Put the files that participants send into that folder; a
    sensor detects them.
    """
    from emid_assets.study.answers import AnswerStore, DesignFiles, merge_answers, read_answer_files

    study = settings.lake_folder / STUDY_FOLDER
    make_folder(study / ANSWERS_FOLDER)
    of_files, refused = read_answer_files(study / ANSWERS_FOLDER, DesignFiles(study))
    posted = AnswerStore(study / ANSWERS_STORE).read()
    answers, repeated = merge_answers(posted, of_files)
    refused += repeated
    return dg.MaterializeResult(
        value=answers,
        data_version=dg.DataVersion(frame_digest(answers)),
        metadata={
            "participants": answers["participant_id"].n_unique(),
            "answers": answers.height,
            "missing": answers["chosen_position"].null_count(),
            "folder": dg.MetadataValue.path(study / ANSWERS_FOLDER),
        },
        check_results=[
            check_result(
                "nothing_refused",
                [f"{where}: {why}" for where, why in refused],
                answers.height + len(refused),
                dg.AssetCheckSeverity.WARN,
            ),
        ],
    )


def _can_be_run(problem: str) -> dg.AssetCheckResult:
    return check_result("can_be_run", [problem] if problem else [], 1, dg.AssetCheckSeverity.WARN)


@dg.sensor(
    job_name=COLLECT_ANSWERS,
    minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def answers_arrived(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.SensorResult | dg.SkipReason:
    """Collect the listening study's answers when files in `study/answers/` or the server's store change."""

    now = _digest_of_answers(settings, "")
    if not now:
        return dg.SkipReason(f"there are no answers in {settings.lake_folder / STUDY_FOLDER} yet")
    if now == context.cursor:
        return dg.SkipReason("no new answers")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=now)], cursor=now)


@table_asset(
    stage="study",
    group_name="evaluation",
    kinds={"scipy", "duckdb"},
    declared=Declared(code=2, settings=("seed",)),
    warnings={
        "analysed": "If there are answers, the packages that the statistics need are installed, and every "
        "design can be read."
    },
)
def study_results(
    settings: SettingsResource, study_answers: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """What people chose: shares with intervals, effects of the condition, tests, agreement, exclusions.

    Empty until somebody has answered. `study/choices.csv` in the lake folder has a row for each image of
    each analysed trial, in the form that R's lme4 expects.
    """
    from emid_assets.study.answers import DesignFiles
    from emid_assets.study.optional_packages import missing_packages

    missing = missing_packages() if study_answers.height else ""
    problems = [missing] if missing else []
    results = STUDY_RESULTS.empty()
    metadata: dict[str, Any] = {"why_empty": missing or "nobody has answered yet"}
    if study_answers.height and not missing:
        from emid_assets.study.statistics import analyse, lme4_rows

        folder = settings.lake_folder / STUDY_FOLDER
        made, problems = DesignFiles(folder).readable()
        answers = study_answers.filter(pl.col("design_hash").is_in([design.hash for design in made]))
        if lost := study_answers.height - answers.height:
            problems.append(
                f"{lost} answers belong to designs that {folder / DESIGNS_FOLDER} does not hold, or not in "
                "one piece; restore these from a backup"
            )
        metadata = {"why_empty": "no answer belongs to a design that can be read"}
        if answers.height:
            designs = pl.concat([LISTENING_STUDY.empty(), *(design.frame() for design in made)])
            results = analyse(answers, designs, settings.seed)
            write_in_place(folder / CHOICES_FILE, lme4_rows(answers, designs).write_csv())
            metadata = {"choices": dg.MetadataValue.path(folder / CHOICES_FILE), **_shown(results)}
    return dg.MaterializeResult(
        value=results,
        data_version=dg.DataVersion(frame_digest(results)),
        metadata=metadata,
        check_results=[
            check_result("analysed", problems, study_answers.height, dg.AssetCheckSeverity.WARN),
        ],
    )


def _shown(results: pl.DataFrame) -> dict[str, Any]:
    """The share of each condition, as numbers that the web UI plots over time and as a figure."""
    from emid_assets.report.study import study_section
    from emid_assets.report.style import markdown_image

    section = study_section(results)
    shown: dict[str, Any] = {f"{row['condition']}_share": row["share"] for row in section["shares"]}
    for row in section["exclusions"]:
        shown[f"participants: {row['reason']}"] = int(row["participants"])
    if section["shares"]:
        figure = markdown_image(section["shares_figure"], "Share of the trials that chose each condition")
        shown["shares"] = dg.MetadataValue.md(figure)
    return shown
