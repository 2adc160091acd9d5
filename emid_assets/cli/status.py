"""The command `emid status`: what is broken now, in a terminal or as JSON; exit code 1 where it is."""

import json
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from emid_assets.cli.options import SettingsCommand, prepared_instance, settings_from, settings_options
from emid_assets.runs.build_progress import build_under_way
from emid_assets.runs.instance import environment_of, home_of, instance_to_read
from emid_assets.store.layout import DAGSTER_FOLDER, TABLES_FOLDER

if TYPE_CHECKING:
    from emid_assets.health.verdict import Health
    from emid_assets.settings import Settings

SHOWN = 20
STYLES = {"failed": "bold red", "damaged": "bold red", "overdue": "yellow", "missing": "yellow"}


@click.command("status", cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--verify", is_flag=True,
    help="Also hash and encode all media again, and name the rows that do not belong to their files.",
)  # fmt: skip
@settings_options
def status_command(as_json: bool, verify: bool, **options: Any) -> None:
    """Show what is broken, stale or overdue now.

    The exit code is 1 where the pipeline is unhealthy, or --verify has found a wrong row.
    """
    settings = settings_from(options)
    # A first build that failed left no table, but the record of its runs.
    if not any((settings.lake_folder / part).is_dir() for part in (TABLES_FOLDER, DAGSTER_FOLDER)):
        raise click.ClickException(f"nothing is built in {settings.lake_folder}: `emid build` builds it")
    # A backup, or another user's lake, is only read.
    may_write = os.access(settings.lake_folder, os.W_OK)
    home = prepared_instance(settings) if may_write else home_of(settings)
    # Before the definitions are imported: they load what these variables say.
    os.environ.update(environment_of(settings, home))
    from dagster import DagsterInstance
    from sqlalchemy.exc import DatabaseError

    from emid_assets.build.ray_runs import ClusterError, records_at_hand
    from emid_assets.definitions import build_definitions
    from emid_assets.orchestration.resources import SHAPING_THE_GRAPH
    from emid_assets.orchestration.run_facts import current_health
    from emid_assets.store.lake import LakeError

    definitions = build_definitions(**{name: getattr(settings, name) for name in SHAPING_THE_GRAPH})
    try:
        with records_at_hand(), DagsterInstance.get() if may_write else instance_to_read(home) as instance:
            health = current_health(definitions, instance, settings, time.time())
    except DatabaseError as error:
        raise click.ClickException(f"Dagster's records in {home} cannot be opened: {error.orig}") from None
    except (ClusterError, LakeError, OSError) as error:
        raise click.ClickException(str(error)) from None
    building = build_under_way(settings.lake_folder)
    verified = _verified(settings) if verify else {}
    if as_json:
        click.echo(json.dumps({"building": building, **health.as_json(), **verified}, indent=1))
    else:
        _print(health, building)
        _print_verified(verified)
    sys.exit(0 if health.is_healthy and not verified.get("wrong_rows") else 1)


def _verified(settings: "Settings") -> dict[str, Any]:
    """What the lake stores about its media, compared with the files."""
    from emid_assets.cli.terminal import progress
    from emid_assets.encoders.load import encoder_from
    from emid_assets.encoders.verify import check_embeddings, check_files
    from emid_assets.store.lake import Lake

    lake, media, workers = Lake(settings.lake_folder), settings.media_folder, settings.workers
    try:
        with progress("verify", "files hashed", 0) as on_progress:
            files = check_files(lake, media, workers, on_progress)
        with progress("verify", "embeddings encoded again", 0) as on_progress:
            encoder = encoder_from(settings)
            rows = check_embeddings(lake, media, encoder, files.good, workers, on_progress)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        raise click.ClickException(f"--verify: {error}") from None
    return {
        "files_hashed": files.files,
        "embeddings_encoded": rows.embeddings,
        "embeddings_of_other_encoders": rows.others,
        "wrong_rows": [*files.findings.to_dicts(), *rows.findings.to_dicts()],
    }


def _print_verified(verified: dict[str, Any]) -> None:
    from emid_assets.cli.terminal import console, table

    if not verified:
        return
    out = console()
    wrong = verified["wrong_rows"]
    if wrong:
        rows = [list(row.values()) for row in wrong[:SHOWN]]
        out.print(table([*wrong[0]], rows, "Rows that do not belong to their files"))
        if len(wrong) > SHOWN:
            out.print(f"… and {len(wrong) - SHOWN} more: --json has all")
    files, embeddings, others, _ = verified.values()
    out.print(
        f"Verified: {files} files hashed, {embeddings} embeddings encoded again, {len(wrong)} wrong rows"
    )
    if others:
        out.print(f"{others} embeddings of another encoder were not compared: see --encoder")


def _print(health: "Health", building: str) -> None:
    from rich.text import Text

    from emid_assets.cli.terminal import console, table
    from emid_assets.health.verdict import assets_at_a_glance, readable_bytes

    out = console()
    verdict = f"a build is under way: {building}" if building else health.verdict
    out.print(verdict, style="green" if health.is_healthy else "bold red")
    for title, frame in (
        ("Broken now", health.broken),
        ("Waits for a rebuild", health.states.filter(health.states["state"].is_in(["missing", "stale"]))),
    ):
        if frame.height:
            rows = [
                (
                    row["asset"],
                    row["partition"],
                    Text(row["state"], STYLES.get(row["state"], "")),
                    _ago(row["built_at"], health.at),
                    row["message"],
                )
                for row in frame.head(SHOWN).iter_rows(named=True)
            ]
            out.print(table(("asset", "partition", "state", "last built", "why"), rows, title))
            if frame.height > SHOWN:
                out.print(f"… and {frame.height - SHOWN} more: --json has all")
    assets = [
        (
            row["asset"],
            f"{row['built']}/{row['partitions']}",
            row["states"],
            _ago(row["newest"], health.at),
            f"{row['rows']:,}",
            readable_bytes(row["bytes"]),
            f"{row['seconds']:.1f}",
        )
        for row in assets_at_a_glance(health.states)
    ]
    out.print(table(("asset", "built", "state", "last built", "rows", "size", "seconds"), assets, "Assets"))
    moved = health.drift.filter("is_notable")
    if moved.height:
        columns = ("table", "partition", "column", "before", "now", "shift")
        shifts = [(*row[:-1], f"{row[-1]:+.2f}") for row in moved.head(SHOWN).select(columns).rows()]
        out.print(table(columns, shifts, "Drift since the previous build"))
    if health.rejected.height:
        facts = ("kind", "items", "reason")
        reasons = [
            (kind, f"{items:,}", reason)
            for kind, items, reason in health.rejected.head(SHOWN).select(facts).rows()
        ]
        out.print(table(facts, reasons, "Rejected media"))
        if health.rejected.height > SHOWN:
            out.print(f"… and {health.rejected.height - SHOWN} more reasons: --json has all")
        out.print("The table rejected_media lists their files.")
    parts = ", ".join(
        f"{row['part']} {readable_bytes(row['bytes'])}" for row in health.disk.head(4).iter_rows(named=True)
    )
    used = readable_bytes(int(health.disk["bytes"].sum()))
    out.print(f"Disk: {used} ({parts}); {readable_bytes(health.free_bytes)} free")
    for note in health.notes:
        out.print(note)


def _ago(text: str | None, now: float) -> str:
    """How long ago a time in ISO format was, in its largest unit."""
    if text is None:
        return "never"
    seconds = max(0.0, now - datetime.fromisoformat(text).timestamp())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
