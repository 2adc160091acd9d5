"""What all table assets share: the asset decorator with its checks, and a result that names what is wrong.

A check stands beside its asset and runs in the same op, on the frame that is about to be stored.
Checks block: within a run, nothing downstream is built from a frame that fails one.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import dagster as dg
import polars as pl

from emid_assets.health.verdict import COMPUTE_SECONDS, DATA_VERSION
from emid_assets.media.lake_tables import LakeTables
from emid_assets.orchestration.partitions import every_partition
from emid_assets.orchestration.pictures import with_kept_pictures
from emid_assets.orchestration.stages import STAGE
from emid_assets.store.schemas import TABLES

Compute = Callable[..., dg.MaterializeResult[pl.DataFrame]]
SHOWN_FAILURES = 5


def table_asset(
    stage: str,
    checks: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
    table: str | None = None,
    reads: Sequence[str] = (),
    **arguments: Any,
) -> Callable[[Compute], dg.AssetsDefinition]:
    """An asset whose frame becomes the table of its name, with a blocking check of the table's schema.

    The check is made here: an asset gives the results of its further checks alone. Metadata tells the
    seconds that its own computing took and its data version, so that both are stored with the frame;
    pictures in it are put where the web UI shows them.

    Args:
        stage: The stage of the build whose runs build it (`orchestration.stages`), as a tag.
        checks: Further blocking checks, name to description.
        warnings: Checks that only warn, name to description.
        table: Name of the asset and its table, where it is not the function's.
        reads: Tables that are read whole, all partitions of each. The function takes them, with the plane
            that the setting `va_alignment` makes of them, as one `LakeTables` called `tables`.
        **arguments: As `dg.asset` takes them.
    """

    def decorate(compute: Compute) -> dg.AssetsDefinition:
        name = table or compute.__name__
        blocking = {"schema": "The table has the columns and types that it declares.", **(checks or {})}
        specs = [
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=check in blocking)
            for check, description in (blocking | dict(warnings or {})).items()
        ]
        run = _with_timing(_with_schema_check(name, compute))
        # Dagster takes the annotation MaterializeResult beside checks for "no value" and refuses a frame.
        signature = inspect.signature(compute).replace(return_annotation=inspect.Signature.empty)
        if reads:
            run, signature = _with_tables(run, signature, reads)
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
    """`compute` with an input for each table in the place of its parameter `tables`."""

    @wraps(compute)
    def gathered(*args: Any, **inputs: Any) -> dg.MaterializeResult[pl.DataFrame]:
        frames = {table: inputs.pop(table) for table in reads}
        tables = LakeTables.of(inputs["settings"].va_alignment, **frames)
        return compute(*args, tables=tables, **inputs)

    of_tables = [inspect.Parameter(table, inspect.Parameter.POSITIONAL_OR_KEYWORD) for table in reads]
    others = [parameter for name, parameter in signature.parameters.items() if name != "tables"]
    return gathered, signature.replace(parameters=[*others, *of_tables])


def _with_schema_check(table: str, compute: Compute) -> Compute:
    """`compute`, whose result also says whether its frame is what the table declares."""

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


def _with_timing(compute: Compute) -> Compute:
    """`compute`, whose metadata also tells its seconds and its data version."""

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
    """Passed where there are no `failures`; else the first few of them and their number."""
    shown = "; ".join(failures[:SHOWN_FAILURES])
    more = len(failures) - SHOWN_FAILURES
    return dg.AssetCheckResult(
        check_name=name,
        passed=not failures,
        severity=severity,
        description=f"{shown}; and {more} more" if more > 0 else shown,
        metadata={"checked": checked, "failures": len(failures)},
    )
