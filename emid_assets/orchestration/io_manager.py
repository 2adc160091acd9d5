"""The IO manager: stores an asset's frame as a version in the lake, and loads it as the next asset's input.

Belongs here: the mapping from Dagster's names to tables and partitions, the check against the declared
schema, and what the web UI shows about a version. `store.lake` stores the versions.
"""

import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import polars as pl

from emid_assets.health.verdict import DATA_VERSION, HISTORY, RUN_ID, data_version, extended_history
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.report.markdown import escaped
from emid_assets.runs.run_tags import tell_of_run
from emid_assets.store.lake import WHOLE_TABLE, Lake, LakeError, Scalar, Version
from emid_assets.store.schemas import REJECTED_MEDIA, TABLES, TableSchema

PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 60


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores every asset's Polars frame as a table of the lake, partition by partition.

    The table is named after the last part of the asset's key. The scalar metadata of a materialization
    (text, numbers, booleans; no Markdown) is stored with it: `Lake.current(table, partition).metadata`.
    So is the data version, under `data_version`, if the asset sets it with `context.set_data_version` or puts
    it in its metadata: Dagster does not pass on the one in a `MaterializeResult` until the frame is
    stored. The partition's short history is stored there too; `emid_assets.health.verdict` derives drift and
    times from it.
    """

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["LakeIOManager"]:
        """The IO manager of a run, at whose end the catalogue is rebuilt, however it ends."""
        if context.run is not None and context.instance is not None:
            tell_of_run(context.instance, context.run.run_id, self.settings.lake_folder)
        with self._lake().one_rebuild():
            yield self

    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame) -> None:
        """Store a frame as the new version of its partition, and add metadata about it."""
        schema = _declared(context.asset_key)
        if not isinstance(obj, pl.DataFrame):
            raise TypeError(f"asset {schema.name} returned a {type(obj).__name__}; return a Polars DataFrame")
        frame = schema.check(obj)
        partition = stored_partition(context.partition_key) if context.has_asset_partitions else WHOLE_TABLE
        lake = self._lake()
        kept = _kept_metadata(context)
        before = previous_version(lake, schema.name, partition)
        history = extended_history(before.metadata if before else {}, schema.name, frame, kept, time.time())
        kept |= {HISTORY: history, RUN_ID: context.run_id}
        version = lake.write(schema.name, partition, frame, kept)
        if schema.name != REJECTED_MEDIA.name:  # partitions of other assets join it
            keys = [WHOLE_TABLE]
            if context.has_asset_partitions:
                keys = list(map(stored_partition, context.asset_partitions_def.get_partition_keys()))
            remove_other_partitions(context, lake, schema.name, keys)
        lake.rebuild_catalogue()
        context.add_output_metadata(_shown_metadata(schema, version, frame, lake))

    def load_input(self, context: dg.InputContext) -> pl.DataFrame:
        """The partitions that the input maps to, concatenated; the whole table if it has no partitions.

        If an input maps to several partitions, unbuilt ones are skipped: an emotion may have no media. At
        least one must be built.
        """
        schema = _declared(context.asset_key)
        lake = self._lake()
        keys = [WHOLE_TABLE]
        if context.has_asset_partitions:
            keys = [stored_partition(key) for key in context.asset_partition_keys]
        built = set(lake.partitions(schema.name))
        present = [key for key in keys if key in built]
        if not present:
            raise LakeError(_not_built(schema.name, keys, context.has_asset_partitions))
        if len(present) < len(keys):
            missing = [key for key in keys if key not in built]
            context.log.info(f"{schema.name}: skipped {', '.join(missing)}, not built")
        frame, versions = lake.read_with_versions(schema.name, present)
        read = _READ.setdefault((context.step_context.run_id, context.step_context.step.key), {})
        read[schema.name] = {version.partition: data_version(version) for version in versions}
        return frame

    def _lake(self) -> Lake:
        return Lake(self.settings.lake_folder)


_READ: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
"""(Run, step) → table → partition → data version: what `load_input` has read for a step under way."""


def versions_read(run_id: str, step_key: str) -> dict[str, dict[str, str]]:
    """What `load_input` read for a step, and then forgets: table → partition → data version."""
    return _READ.pop((run_id, step_key), {})


def stored_partition(partition_key: str) -> str:
    """A partition's name in the lake: Dagster's name, with `--` between a multi-partition's dimensions."""
    return partition_key.replace("|", "--")


def remove_other_partitions(
    context: dg.OutputContext | dg.AssetExecutionContext,
    lake: Lake,
    table: str,
    partitions: Collection[str],
    beginning: str = "",
) -> None:
    """Remove a table's partitions of another graph: with other shards, their rows would stand twice."""
    if removed := lake.remove_others(table, partitions, beginning):
        context.log.info(
            f"{table}: removed {', '.join(removed)}: the graph has other partitions now (see "
            "shards_per_emotion, image_shards and image_reuse_limit); a later inventory deletes the files"
        )


def previous_version(lake: Lake, table: str, partition: str) -> Version | None:
    """A partition's version before a rebuild; None if there is none, or it is damaged and of no use."""
    try:
        return lake.current(table, partition)
    except LakeError:
        return None


def previous_rows(
    context: dg.AssetExecutionContext, lake: Lake, version: Version | None
) -> pl.DataFrame | None:
    """The rows of a previous version; None, with a warning in the log, if they cannot be read."""
    if version is None:
        return None
    try:
        return lake.read(version.table, [version.partition])
    except LakeError as error:
        context.log.warning(f"{version.table}/{version.partition} is rebuilt from scratch: {error}")
        return None


def _declared(key: dg.AssetKey) -> TableSchema:
    name = key.path[-1]
    if name not in TABLES:
        raise LakeError(
            f"asset {key.to_user_string()} has no table: declare {name} in emid_assets/store/schemas.py, "
            f"or give the asset another IO manager (declared: {', '.join(TABLES)})"
        )
    return TABLES[name]


def _not_built(table: str, partitions: list[str], is_partitioned: bool) -> str:
    missing = f", partition {', '.join(partitions)}," if is_partitioned else ""
    return (
        f"asset {table}{missing} is not built: run `emid build`, or materialize it in the web UI (`emid ui`)"
    )


def _kept_metadata(context: dg.OutputContext) -> dict[str, Scalar]:
    kept: dict[str, Scalar] = {}
    for key, raw in context.output_metadata.items():
        value = raw.value if isinstance(raw, dg.MetadataValue) else raw
        # Markdown holds pictures and tables for the web UI, and is large.
        if isinstance(value, Scalar) and not isinstance(raw, dg.MarkdownMetadataValue):
            kept[key] = value
    step = context.step_context
    if step.has_data_version(context.asset_key):
        kept[DATA_VERSION] = step.get_data_version(context.asset_key).value
    return kept


def _shown_metadata(
    schema: TableSchema, version: Version, frame: pl.DataFrame, lake: Lake
) -> Mapping[str, Any]:
    return {
        "dagster/row_count": version.rows,
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(name, str(dtype), description=schema.columns[name][1])
                for name, dtype in frame.schema.items()
            ]
        ),
        "dagster/table_name": schema.name,
        "file": dg.MetadataValue.path(version.path),
        "size_bytes": version.bytes,
        "catalogue": dg.MetadataValue.path(lake.catalogue_path),
        # A line break in the folder's name would end the code block, and the rest would become markup.
        "query": dg.MetadataValue.md(
            f"```sh\nduckdb {shlex.quote(' '.join(str(lake.catalogue_path).splitlines()))} "
            f"'SELECT * FROM {schema.name} LIMIT 10'\n```"
        ),
        "preview": dg.MetadataValue.md(preview(frame)),
    }


def preview(frame: pl.DataFrame) -> str:
    """The first rows as a Markdown table: long values are cut, arrays show their length and first numbers."""
    rows = [[_cell(value) for value in row] for row in frame.head(PREVIEW_ROWS).rows()]
    header = [escaped(name) for name in frame.columns]
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    left = frame.height - len(rows)
    return f"{table}\n\n… and {left:,} more" if left else table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and len(value) > 3 and all(isinstance(x, float | int) for x in value):
        return escaped(f"{len(value)} numbers: {value[0]:.3g}, {value[1]:.3g}, …")
    text = str(value)
    return escaped(text if len(text) <= PREVIEW_CHARACTERS else text[: PREVIEW_CHARACTERS - 1] + "…")
