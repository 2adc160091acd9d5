"""Progress of long work: lines in the run's log, and asset observations that the web UI shows live."""

import time
from collections.abc import Callable

import dagster as dg

from emid_assets.runs.progress_lines import rate_text

SECONDS_BETWEEN_REPORTS = 5.0


def report_progress(
    context: dg.AssetExecutionContext, what: str, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """A callback `(done, total)` that reports done, total, rate and time left, at most every few seconds."""
    start = last = clock()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if done < total and now - last < SECONDS_BETWEEN_REPORTS:
            return
        last = now
        per_second = done / max(now - start, 1e-9)
        seconds_left = (total - done) / max(per_second, 1e-9)
        context.log.info(rate_text(what, done, total, now - start))
        context.log_event(
            dg.AssetObservation(
                context.asset_key,
                partition=context.partition_key if context.has_partition_key else None,
                metadata={
                    "done": done,
                    "total": total,
                    "per_second": per_second,
                    "seconds_left": seconds_left,
                },
            )
        )

    return on_progress
