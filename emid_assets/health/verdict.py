"""Pipeline health: what is broken, stale or overdue, what has drifted, and the use of time and disk.

Belongs here: the verdict as frames, from the lake and from plain facts about runs. Each version in the
lake carries a short history of its partition (`extended_history`), so that drift and times survive when old
versions are deleted. Nothing here uses Dagster: `orchestration.run_facts` gathers the facts about runs.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from emid_assets.health.mixtures import mixtures, settings_of
from emid_assets.health.recipes import CHANGED_MEDIA, RECIPE, Recipe
from emid_assets.store.lake import Lake, LakeError, Scalar, Version
from emid_assets.store.layout import TABLES_FOLDER
from emid_assets.store.schemas import PIPELINE_HEALTH, REJECTED_MEDIA

DATA_VERSION = "data_version"
COMPUTE_SECONDS = "compute_seconds"
HISTORY = "history"
RUN_ID = "run_id"
"""Keys in the metadata of a stored version."""

HISTORY_LENGTH = 20
WATCHED: Mapping[str, tuple[str, ...]] = {
    "music_clips": ("valence", "arousal"),
    "images": ("valence", "arousal"),
    "music_embeddings": ("scale",),
    "image_embeddings": ("scale",),
}
"""Columns whose mean and spread are kept with each version; `scale` is the norm of an embedding."""

NOTABLE_SHIFT = 0.5
"""Shift of a partition's mean between two builds, in spreads, beyond which it counts as drift. (A choice.)"""

BROKEN = ("failed", "damaged", "overdue")
"""States that make a pipeline unhealthy; `missing` and `stale` only ask for a rebuild."""

SECONDS_OF_A_DAY = 86_400.0


@dataclass(frozen=True)
class AssetFacts:
    """One asset of the graph, with the lake's names.

    Attributes:
        name: name of the asset and its table.
        partitions: all partitions that it should have; only `WHOLE_TABLE` if it has none.
        parents: asset → partition → the partitions of that asset that it reads.
        recipe: the recipe that a partition would have now, of (partition, asset → partition → data version).
        outside: what it reads from outside the lake's tables, in words.
        stage: the stage of the build that builds it.
        writes: files and folders that it writes beside its table, relative to the lake.
    """

    name: str
    partitions: tuple[str, ...]
    parents: Mapping[str, Mapping[str, tuple[str, ...]]]
    recipe: Callable[[str, Mapping[str, Mapping[str, str]]], Recipe]
    outside: str = ""
    stage: str = ""
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFacts:
    """One run. Sequences of runs are sorted newest first.

    Attributes:
        run_id: its id in the web UI.
        assets: the assets that it builds.
        partition: the partition of each of them, with the lake's name.
        state: `running`, `succeeded` or `failed`; a run whose process is gone has failed.
        started: seconds since 1970.
        errors: asset → why it failed, in one line; the key `""` stands for the run as a whole.
        came_before: whether it was recorded before the run of an id; None if that run is not recorded.
    """

    run_id: str
    assets: frozenset[str]
    partition: str
    state: Literal["running", "succeeded", "failed"]
    started: float
    errors: Mapping[str, str] = field(default_factory=dict)
    came_before: Callable[[str], bool | None] = lambda _: None


@dataclass(frozen=True)
class Health:
    """Everything that `emid status`, the health page and the asset show.

    Attributes:
        at: seconds since 1970.
        states: frame PIPELINE_HEALTH, every partition of every asset.
        drift: see `_drift`.
        rejected: kind, reason, items; most frequent first.
        disk: see `disk_use`.
        free_bytes: free space on the lake's disk.
        times: see `_times`.
        notes: other information for the reader, one line each.
    """

    at: float
    states: pl.DataFrame
    drift: pl.DataFrame
    rejected: pl.DataFrame
    disk: pl.DataFrame
    free_bytes: int
    times: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether no partition has failed, is damaged or is overdue."""
        return self.broken.is_empty()

    @property
    def broken(self) -> pl.DataFrame:
        """The partitions that make the pipeline unhealthy."""
        return self.states.filter(pl.col("state").is_in(BROKEN))

    @property
    def verdict(self) -> str:
        """One line: healthy or unhealthy, and how many partitions are in each state other than `ok`."""
        counts = dict(self.states["state"].value_counts().iter_rows())
        order = ("failed", "damaged", "overdue", "missing", "stale", "running")
        found = ", ".join(f"{counts[state]} {state}" for state in order if state in counts)
        return f"{'healthy' if self.is_healthy else 'unhealthy'}{': ' + found if found else ''}"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, for programs."""
        frames = {"drift": self.drift, "rejected": self.rejected, "disk": self.disk}
        return {
            "healthy": self.is_healthy,
            "verdict": self.verdict,
            "at": iso_time(self.at),
            "broken": self.broken.to_dicts(),
            "partitions": self.states.to_dicts(),
            **{name: frame.to_dicts() for name, frame in frames.items()},
            "free_bytes": self.free_bytes,
            "times": self.times.to_dicts(),
            "notes": list(self.notes),
        }


def data_version(version: Version) -> str:
    """The data version of a stored version; of one that has none, the name of its file."""
    return str(version.metadata.get(DATA_VERSION) or version.path.name)


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as text, in UTC: `2026-11-23T08:45:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------- the history stored with each version


def extended_history(
    previous: Mapping[str, Scalar],
    table: str,
    frame: pl.DataFrame,
    metadata: Mapping[str, Scalar],
    now: float,
) -> str:
    """The history to store with a new version: the previous version's history and a new entry.

    Args:
        previous: metadata of the previous version; empty if there is none.
        table: the table of `frame`.
        frame: the frame about to be stored.
        metadata: metadata of the new version.
        now: seconds since 1970; an entry is never older than the one before, whatever the clock says.

    Returns:
        JSON, a list of at most HISTORY_LENGTH entries: `at`; `since`, when this content first appeared;
        `rows`; `seconds` to compute; `statistics`: column → [mean, standard deviation].
    """
    entries = _history_of(previous)
    at = max([now, *(float(entry["at"]) for entry in entries[-1:])])
    data_version = metadata.get(DATA_VERSION)
    is_same = data_version is not None and data_version == previous.get(DATA_VERSION)
    statistics = {}
    for column in WATCHED.get(table, ()) if frame.height else ():
        values = frame[column].drop_nulls().to_numpy().astype("float64")
        if len(values):
            statistics[column] = [float(values.mean()), float(values.std())]
    entry = {
        "at": at,
        "since": entries[-1]["since"] if is_same and entries else at,
        "rows": frame.height,
        "seconds": metadata.get(COMPUTE_SECONDS),
        "statistics": statistics,
    }
    return json.dumps([*entries, entry][-HISTORY_LENGTH:])


def _history_of(metadata: Mapping[str, Scalar]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(str(metadata.get(HISTORY, "[]")))
    return entries


# ---------------------------------------------------------------- the verdict


def examine(
    lake: Lake,
    assets: Sequence[AssetFacts],
    runs: Sequence[RunFacts],
    now: float,
    fresh_days: float,
    notes: Sequence[str] = (),
) -> Health:
    """Judge a lake and its runs.

    Args:
        lake: the tables that are built.
        assets: the tables and partitions that should be.
        runs: newest first; a partition is judged by the newest run that includes it.
        now: seconds since 1970.
        fresh_days: days after its last build at which a partition becomes overdue.
        notes: copied to the result, with a line for each setting that stored partitions differ in.
    """
    tables = sorted({asset.name for asset in assets} | {REJECTED_MEDIA.name})
    surveyed = lake.survey(tables)
    versions = {place: found for place, found in surveyed.items() if isinstance(found, Version)}
    of_graph = [
        versions[asset.name, one]
        for asset in assets
        for one in asset.partitions
        if (asset.name, one) in versions
    ]
    mixed = [f"Built with different settings: {line}" for line in mixtures(settings_of(of_graph))]
    free = shutil.disk_usage(next(path for path in (lake.root, *lake.root.parents) if path.exists())).free
    return Health(
        at=now,
        states=states_of(assets, runs, surveyed, now, fresh_days),
        drift=_drift(versions),
        rejected=_rejected(lake, versions),
        disk=disk_use(lake.root),
        free_bytes=free,
        times=_times(versions),
        notes=(*notes, *mixed),
    )


def states_of(
    assets: Sequence[AssetFacts],
    runs: Sequence[RunFacts],
    surveyed: Mapping[tuple[str, str], Version | LakeError],
    now: float,
    fresh_days: float,
) -> pl.DataFrame:
    """The state of every partition: frame PIPELINE_HEALTH. Whatever is not `ok` or `running` is not current.

    Args:
        assets: the tables and partitions that should be.
        runs: newest first.
        surveyed: what is built, see `Lake.survey`.
        now: seconds since 1970.
        fresh_days: days after its last build at which a partition becomes overdue.
    """
    newest: dict[tuple[str, str], RunFacts] = {}
    for run in runs:
        for name in run.assets:
            newest.setdefault((name, run.partition), run)
    versions = {place: found for place, found in surveyed.items() if isinstance(found, Version)}
    data_versions = {place: data_version(version) for place, version in versions.items()}
    rows = []
    for asset in assets:
        besides = [
            partition
            for (table, partition), found in surveyed.items()
            if table == asset.name and isinstance(found, LakeError) and partition not in asset.partitions
        ]
        for partition in (*asset.partitions, *besides):
            place = asset.name, partition
            found, version, last_run = surveyed.get(place), versions.get(place), newest.get(place)
            built = _last(version) if version else None
            state, message = "ok", ""
            if isinstance(found, LakeError):
                state, message = "damaged", " ".join(str(found).split())
            elif last_run is not None and last_run.state == "running":
                state = "running"
            elif (
                last_run is not None
                and last_run.state == "failed"
                and _left_undone(asset.name, version, last_run)
            ):
                state = "failed"
                message = last_run.errors.get(asset.name) or f"not reached: {_reason(last_run)}"
            elif version is None or built is None:
                state, message = "missing", "never built"
            elif (days := (now - float(built["at"])) / SECONDS_OF_A_DAY) > fresh_days:
                state, message = "overdue", f"built {days:.0f} days ago, more than {fresh_days:g}"
            elif why := _why_stale(asset, partition, version, data_versions):
                state, message = "stale", why
            rows.append(
                {
                    "asset": asset.name,
                    "partition": partition,
                    "state": state,
                    "message": message,
                    "built_at": iso_time(float(built["at"])) if built else None,
                    "rows": version.rows if version else None,
                    "bytes": version.bytes if version else None,
                    "seconds": built["seconds"] if built else None,
                    "run_id": last_run.run_id if last_run else None,
                }
            )
    return pl.DataFrame(rows, schema=PIPELINE_HEALTH.empty().schema)


def _why_stale(
    asset: AssetFacts, partition: str, version: Version, data_versions: Mapping[tuple[str, str], str]
) -> str:
    """How the recipe of a stored version differs from what it would be now; empty if it does not."""
    inputs = {
        parent: {
            other: data_versions[parent, other]
            for other in read.get(partition, ())
            if (parent, other) in data_versions
        }
        for parent, read in asset.parents.items()
    }
    now = asset.recipe(partition, {parent: of_parent for parent, of_parent in inputs.items() if of_parent})
    why = now.difference(Recipe.of_text(version.metadata.get(RECIPE)), asset.outside)
    if not why and (changed := version.metadata.get(CHANGED_MEDIA)):
        why = f"{changed} files changed or could not be read"
    root = version.path.parents[3]
    written = (*asset.writes, *filter(None, [str(version.metadata.get("weights_file", ""))]))
    if not why and version.rows and (gone := [name for name in written if not (root / name).exists()]):
        why = f"{', '.join(gone)} is gone"
    return why


def _last(version: Version) -> dict[str, Any]:
    """The newest entry of a version's history; derived from its file if it has no history."""
    entries = _history_of(version.metadata)
    if entries:
        return entries[-1]
    at = version.path.stat().st_mtime
    return {"at": at, "since": at, "rows": version.rows, "seconds": None, "statistics": {}}


def _left_undone(asset: str, version: Version | None, run: RunFacts) -> bool:
    """Whether a failed run failed in this asset, or never reached it."""
    if asset in run.errors or version is None:
        return True
    builder = str(version.metadata.get(RUN_ID, ""))
    is_newer = run.came_before(builder)
    if is_newer is None:  # of another instance, or a lake from before this was stored: only the time is known
        is_newer = float(_last(version)["at"]) >= run.started
    return builder != run.run_id and not is_newer


def _reason(run: RunFacts) -> str:
    return next(filter(None, run.errors.values()), "the run was stopped, or failed without a message")


def _drift(versions: Mapping[tuple[str, str], Version]) -> pl.DataFrame:
    """How far the means of the watched columns of each partition shifted between its last two builds.

    Returns:
        table, partition, column, before, now (means), shift, is_notable; the largest shift first. The
        shift is in spreads: standard deviations of the column over the whole table as it was before, or
        fractions of the mean if there was no spread.
    """
    rows: list[dict[str, Any]] = []
    for table, columns in WATCHED.items():
        histories = {
            place[1]: _history_of(version.metadata)
            for place, version in versions.items()
            if place[0] == table
        }
        for column in columns:
            pairs = {
                partition: (entries[-2]["statistics"][column], entries[-1]["statistics"][column])
                for partition, entries in histories.items()
                if len(entries) > 1 and all(column in entry["statistics"] for entry in entries[-2:])
            }
            weights = {partition: histories[partition][-2]["rows"] for partition in pairs}
            total = sum(weights.values())
            centre = sum(weights[p] * before[0] for p, (before, _) in pairs.items()) / max(total, 1)
            variance = sum(
                weights[p] * (before[1] ** 2 + (before[0] - centre) ** 2) for p, (before, _) in pairs.items()
            ) / max(total, 1)
            spread = variance**0.5 if variance**0.5 > 1e-6 * abs(centre) else abs(centre) or 1.0
            rows += [
                {
                    "table": table,
                    "partition": partition,
                    "column": column,
                    "before": before[0],
                    "now": after[0],
                    "shift": (after[0] - before[0]) / spread,
                }
                for partition, (before, after) in pairs.items()
            ]
    schema = {
        "table": pl.String, "partition": pl.String, "column": pl.String,
        "before": pl.Float64, "now": pl.Float64, "shift": pl.Float64,
    }  # fmt: skip
    frame = pl.DataFrame(rows, schema=schema).with_columns(is_notable=pl.col("shift").abs() > NOTABLE_SHIFT)
    return frame.sort(pl.col("shift").abs(), descending=True, maintain_order=True)


def _times(versions: Mapping[tuple[str, str], Version]) -> pl.DataFrame:
    """Compute time in seconds of each asset's partitions over their last builds, oldest first.

    Returns:
        asset, partition, build (0 is the latest, -1 the one before), at, seconds.
    """
    rows: list[dict[str, Any]] = []
    for (table, partition), version in versions.items():
        entries = _history_of(version.metadata)
        for build, entry in enumerate(entries, start=1 - len(entries)):
            if entry["seconds"] is not None:
                place = {"asset": table, "partition": partition, "build": build}
                rows.append({**place, "at": iso_time(entry["at"]), "seconds": entry["seconds"]})
    schema = {
        "asset": pl.String, "partition": pl.String, "build": pl.Int64, "at": pl.String, "seconds": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema).sort("asset", "build", "partition")


def _rejected(lake: Lake, versions: Mapping[tuple[str, str], Version]) -> pl.DataFrame:
    """Rejected items by kind and reason: `kind`, `reason`, `items`, the most frequent first."""
    filled = [
        partition
        for (table, partition), version in versions.items()  # damaged partitions are among the broken ones
        if table == REJECTED_MEDIA.name and version.rows
    ]
    columns = ["kind", "reason"]
    rows = (
        lake.read(REJECTED_MEDIA.name, filled, columns) if filled else REJECTED_MEDIA.empty().select(columns)
    )
    return (
        rows.group_by("kind", "reason")
        .agg(pl.len().cast(pl.Int64).alias("items"))
        .sort(["items", "kind", "reason"], descending=[True, False, False])
    )


def disk_use(root: Path) -> pl.DataFrame:
    """Disk used below a lake's folder.

    Returns:
        part, files, bytes; the largest first. A part is a table, the `superseded versions` of all tables
        together, or another entry of the folder, such as `dagster` or `weights`.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def add(part: str, path: Path) -> None:
        try:
            facts = path.stat()
        except OSError:  # deleted after it was listed
            return
        files, size = sizes.get(part, (0, 0))
        sizes[part] = files + 1, size + facts.st_blocks * 512

    for path in root.rglob("*") if root.is_dir() else ():
        if path.is_dir():
            continue
        parts = path.relative_to(root).parts
        if parts[0] != TABLES_FOLDER or len(parts) < 4:
            add(parts[0] if len(parts) > 1 else path.name, path)
            continue
        pointer = path.with_name("CURRENT")
        is_superseded = path.suffix == ".duckdb" and (
            not pointer.exists() or pointer.read_text("utf-8", errors="replace").strip() != path.name
        )
        add("superseded versions" if is_superseded else parts[1], path)
    rows = [(part, files, size) for part, (files, size) in sizes.items()]
    schema = {"part": pl.String, "files": pl.Int64, "bytes": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort(["bytes", "part"], descending=[True, False])


# ---------------------------------------------------------------- for readers


def assets_at_a_glance(states: pl.DataFrame) -> list[dict[str, Any]]:
    """One row for each asset, in the graph's order.

    Returns:
        asset, partitions, built, states (a text with those other than ok), oldest and newest build,
        rows, bytes, seconds.
    """
    rows = []
    for frame in states.partition_by("asset", maintain_order=True):
        counts = frame.filter(pl.col("state") != "ok")["state"].value_counts(sort=True, name="n").rows()
        rows.append(
            {
                "asset": frame["asset"][0],
                "partitions": frame.height,
                "built": frame.height - frame["built_at"].null_count(),
                "states": ", ".join(f"{count} {state}" for state, count in counts) or "ok",
                "oldest": frame["built_at"].min(),
                "newest": frame["built_at"].max(),
                "rows": int(frame["rows"].sum()),
                "bytes": int(frame["bytes"].sum()),
                "seconds": float(frame["seconds"].sum()),
            }
        )
    return rows


def readable_bytes(count: int) -> str:
    """A number of bytes in the largest unit in which it is at least 1: `3.2 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
