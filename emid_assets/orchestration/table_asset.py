"""The decorator that all table assets share, with its checks, and check results that name each failure.

A check is part of its asset and runs in the same op, on the frame that is about to be stored.
A failed blocking check stops the run: nothing downstream is built from that frame.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import wraps
from typing import Any

import dagster as dg
import polars as pl

from emid_assets.health.recipes import RECIPE, code_version
from emid_assets.health.verdict import COMPUTE_SECONDS, DATA_VERSION
from emid_assets.media.lake_tables import MEDIA, LakeTables
from emid_assets.orchestration.declared import DECLARED, Declared, only_declared, recipe_of_run
from emid_assets.orchestration.io_manager import stored_partition
from emid_assets.orchestration.partitions import every_partition
from emid_assets.orchestration.pictures import with_kept_pictures
from emid_assets.orchestration.stages import STAGE
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import TABLES

Compute = Callable[..., dg.MaterializeResult[pl.DataFrame]]
CODE_VERSION_TAG = "dagster/code_version"
SHOWN_FAILURES = 5


def table_asset(
    stage: str,
    checks: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
    table: str | None = None,
    reads: Sequence[str] = (),
    declared: Declared = Declared(),  # noqa: B008
    **arguments: Any,
) -> Callable[[Compute], dg.AssetsDefinition]:
    """An asset whose frame becomes the table of the same name, with a blocking check of the table's schema.

    The decorator adds the schema check; the asset returns the results of its other checks only. It also adds
    the compute time in seconds and the data version to the metadata, so that both are stored with the
    frame, and stores pictures in the metadata where the web UI can show them.

    Args:
        stage: The stage that builds the asset (see `orchestration.stages`), added as a tag.
        checks: Additional blocking checks, name to description.
        warnings: Checks that only warn, name to description.
        table: Name of the asset and its table, if it differs from the function's.
        reads: Tables to read with all their partitions, `MEDIA` of `media.lake_tables` among them. The
            function gets them as one `LakeTables` argument called `tables`, together with the plane that the
            setting `va_alignment` selects.
        declared: The version of the asset's code and the settings that its result depends on. With the data
            versions of its inputs they are the recipe that is stored with the frame.
        **arguments: Passed on to `dg.asset`.
    """

    def decorate(compute: Compute) -> dg.AssetsDefinition:
        name = table or compute.__name__
        blocking = {"schema": "The table has the columns and types that it declares.", **(checks or {})}
        specs = [
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=check in blocking)
            for check, description in (blocking | dict(warnings or {})).items()
        ]
        DECLARED[name] = replace(
            declared, settings=(*declared.settings, *(("va_alignment",) if reads else ()))
        )
        run = _with_timing(_with_schema_check(name, compute))
        # With checks, Dagster reads the annotation MaterializeResult as "no value" and rejects a frame.
        signature = inspect.signature(compute).replace(return_annotation=inspect.Signature.empty)
        if reads:
            run, signature = _with_tables(run, signature, reads)
        if "settings" not in signature.parameters:
            arguments["required_resource_keys"] = {"settings"}
        run = _with_recipe(name, run)
        run.__signature__ = signature  # type: ignore[attr-defined]
        asset: dg.AssetsDefinition = dg.asset(
            name=name,
            check_specs=specs,
            tags={STAGE: stage},
            ins={**every_partition(*reads), **arguments.pop("ins", {})},
            **arguments,
        )(run)
        return asset

    return decorate


def _with_tables(
    compute: Compute, signature: inspect.Signature, reads: Sequence[str]
) -> tuple[Compute, inspect.Signature]:
    """`compute` with one input for each table instead of its parameter `tables`."""
    parameters, known = signature.parameters, {entry.name for entry in fields(LakeTables)}
    if not {"settings", "tables"} <= set(parameters) or not set(MEDIA) <= set(reads):
        raise TypeError(
            f"{compute.__name__}: an asset that reads whole tables takes `settings` and `tables`, and reads "
            f"{', '.join(MEDIA)} among them"
        )
    if unknown := set(reads) - known - {"expanded_clips"}:
        raise TypeError(f"{compute.__name__}: LakeTables has no field for {', '.join(sorted(unknown))}")

    @wraps(compute)
    def gathered(*args: Any, **inputs: Any) -> dg.MaterializeResult[pl.DataFrame]:
        frames = {table: inputs.pop(table) for table in reads}
        tables = LakeTables.of(inputs["settings"].va_alignment, **frames)
        return compute(*args, tables=tables, **inputs)

    of_tables = [inspect.Parameter(table, inspect.Parameter.POSITIONAL_OR_KEYWORD) for table in reads]
    others = [parameter for name, parameter in signature.parameters.items() if name != "tables"]
    return gathered, signature.replace(parameters=[*others, *of_tables])


def _with_schema_check(table: str, compute: Compute) -> Compute:
    """`compute` with an additional check result: whether its frame has the table's declared schema."""

    @wraps(compute)
    def checked(*args: Any, **kwargs: Any) -> dg.MaterializeResult[pl.DataFrame]:
        result = compute(*args, **kwargs)
        frame = result.value
        of_schema = check_result("schema", TABLES[table].differences(frame), len(frame.columns))
        changed: dg.MaterializeResult[pl.DataFrame] = result._replace(
            check_results=[of_schema, *(result.check_results or [])]
        )
        return changed

    return checked


def _with_recipe(name: str, compute: Compute) -> Compute:
    """`compute` on the settings that the asset declares, with its recipe stored and told to Dagster.

    Dagster compares the code version: here it has the settings of the run, which the launchpad may have
    changed, where Dagster's own would have those that the definitions were loaded with.
    """

    @wraps(compute)
    def recorded(*args: Any, **kwargs: Any) -> dg.MaterializeResult[pl.DataFrame]:
        context = dg.AssetExecutionContext.get()
        settings = kwargs.get("settings") or context.resources.settings
        recipe = recipe_of_run(context, settings)
        if "settings" in kwargs:
            kwargs["settings"] = only_declared(settings, name)
        partition = stored_partition(context.partition_key) if context.has_partition_key else WHOLE_TABLE
        waits = f"another run is building {name}/{partition}: waiting until it ends"
        # Two runs at once would break each other over the files that an asset writes beside its table.
        with Lake(settings.lake_folder).built_alone(name, partition, lambda: context.log.warning(waits)):
            result = compute(*args, **kwargs)
        changed: dg.MaterializeResult[pl.DataFrame] = result._replace(
            metadata={**(result.metadata or {}), RECIPE: recipe.to_text()},
            tags={**(result.tags or {}), CODE_VERSION_TAG: code_version(recipe.code, recipe.settings)},
        )
        return changed

    return recorded


def _with_timing(compute: Compute) -> Compute:
    """`compute` with its duration in seconds and its data version added to the metadata."""

    @wraps(compute)
    def timed(*args: Any, **kwargs: Any) -> dg.MaterializeResult[pl.DataFrame]:
        start = time.monotonic()
        result = compute(*args, **kwargs)
        metadata: dict[str, Any] = {**(result.metadata or {}), COMPUTE_SECONDS: time.monotonic() - start}
        if result.data_version is not None:
            metadata[DATA_VERSION] = result.data_version.value
        instance = dg.AssetExecutionContext.get().instance
        for key, value in metadata.items():
            if isinstance(value, dg.MarkdownMetadataValue):
                metadata[key] = dg.MetadataValue.md(with_kept_pictures(value.value or "", instance))
        changed: dg.MaterializeResult[pl.DataFrame] = result._replace(metadata=metadata)
        return changed

    return timed


def check_result(
    name: str,
    failures: Sequence[str],
    checked: int,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """A check result that passes if there are no `failures`, and otherwise names the first few."""
    shown = "; ".join(failures[:SHOWN_FAILURES])
    more = len(failures) - SHOWN_FAILURES
    return dg.AssetCheckResult(
        check_name=name,
        passed=not failures,
        severity=severity,
        description=f"{shown}; and {more} more" if more > 0 else shown,
        metadata={"checked": checked, "failures": len(failures)},
    )
