"""The command `emid status`: what is broken now, in a terminal or as JSON; exit code 1 where it is."""

import json
import os
import sys
import time
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from emid_assets.cli.options import settings_from, settings_options
from emid_assets.health.verdict import Health, assets_at_a_glance, readable_bytes
from emid_assets.runs.instance import environment_of, prepare_instance
from emid_assets.store.lake import LakeError
from emid_assets.store.layout import DAGSTER_FOLDER, TABLES_FOLDER

SHOWN = 20
STYLES = {"failed": "bold red", "damaged": "bold red", "overdue": "yellow", "missing": "yellow"}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@settings_options
def status_command(as_json: bool, **options: Any) -> None:
    """What is broken, stale or overdue now; exit code 1 where the pipeline is unhealthy."""
    settings = settings_from(options)
    # A first build that failed left no table, but the record of its runs.
    if not any((settings.lake_folder / part).is_dir() for part in (TABLES_FOLDER, DAGSTER_FOLDER)):
        raise click.ClickException(f"nothing is built in {settings.lake_folder}: `emid build` builds it")
    from dagster import DagsterInstance

    from emid_assets.build.ray_runs import ClusterError, records_at_hand
    from emid_assets.definitions import build_definitions
    from emid_assets.orchestration.resources import SHAPING_THE_GRAPH
    from emid_assets.orchestration.run_facts import current_health

    definitions = build_definitions(**{name: getattr(settings, name) for name in SHAPING_THE_GRAPH})
    try:
        os.environ.update(environment_of(settings, prepare_instance(settings)))
        with records_at_hand(), DagsterInstance.get() as instance:
            health = current_health(definitions, instance, settings, time.time())
    except (ClusterError, LakeError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(health.as_json(), indent=1))
    else:
        _print(health, Console())
    sys.exit(0 if health.is_healthy else 1)


def _print(health: Health, console: Console) -> None:
    colour = "green" if health.is_healthy else "bold red"
    console.print(f"[{colour}]{health.verdict}[/]")
    for title, frame in (
        ("Broken now", health.broken),
        ("Waits for a rebuild", health.states.filter(health.states["state"].is_in(["missing", "stale"]))),
    ):
        if frame.height:
            table = _table(title, "asset", "partition", "state", "last built", "why")
            for row in frame.head(SHOWN).iter_rows(named=True):
                state = Text(row["state"], STYLES.get(row["state"], ""))
                built = _ago(row["built_at"], health.at)
                table.add_row(row["asset"], row["partition"], state, built, escape(row["message"]))
            console.print(table)
            if frame.height > SHOWN:
                console.print(f"… and {frame.height - SHOWN} more: --json has all")
    table = _table("Assets", "asset", "built", "state", "last built", "rows", "size", "seconds")
    for row in assets_at_a_glance(health.states):
        table.add_row(
            row["asset"],
            f"{row['built']}/{row['partitions']}",
            row["states"],
            _ago(row["newest"], health.at),
            f"{row['rows']:,}",
            readable_bytes(row["bytes"]),
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    moved = health.drift.filter("is_notable")
    if moved.height:
        table = _table(
            "Drift since the build before", "table", "partition", "column", "before", "now", "shift"
        )
        for row in moved.head(SHOWN).iter_rows(named=True):
            numbers = (f"{row['before']:.4g}", f"{row['now']:.4g}", f"{row['shift']:+.2f}")
            table.add_row(row["table"], row["partition"], row["column"], *numbers)
        console.print(table)
    if health.rejected.height:
        table = _table("Rejected media", "kind", "items", "reason")
        for row in health.rejected.head(SHOWN).iter_rows(named=True):
            table.add_row(row["kind"], f"{row['items']:,}", escape(row["reason"]))
        console.print(table)
        if health.rejected.height > SHOWN:
            console.print(f"… and {health.rejected.height - SHOWN} more reasons: --json has all")
        console.print("Their files stand in the table rejected_media.")
    parts = ", ".join(
        f"{row['part']} {readable_bytes(row['bytes'])}" for row in health.disk.head(4).iter_rows(named=True)
    )
    used = readable_bytes(int(health.disk["bytes"].sum()))
    console.print(f"Disk: {used} ({parts}); {readable_bytes(health.free_bytes)} free")
    for note in health.notes:
        console.print(escape(note))


def _ago(text: str | None, now: float) -> str:
    """How long ago a time in ISO format was, in its largest unit."""
    if text is None:
        return "never"
    seconds = max(0.0, now - datetime.fromisoformat(text).timestamp())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, no_wrap=place < 2)
    return table
