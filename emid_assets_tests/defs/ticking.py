"""Automation as the daemon drives it, but in this process: the real sensor on a real instance."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg

MOST_TICKS = 30


@dataclass
class Automation:
    """The sensor `changed_data` of a code location, and the runs that it has asked for.

    Attributes:
        empty: partitions that have nothing in them: they are reported as built, to the same content each
            time, instead of being run for nothing.
        ran: (assets, partition, succeeded) of every run, in their order.
    """

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    empty: frozenset[str] = frozenset()
    cursor: str | None = None
    ran: list[tuple[tuple[str, ...], str | None, bool]] = field(default_factory=list)

    def tick(self) -> Sequence[dg.RunRequest]:
        """One tick; what it asks for, not run."""
        repository = self.definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=repository
        )
        result = repository.get_sensor_def("changed_data").evaluate_tick(context)
        self.cursor = result.cursor
        return result.run_requests

    def run(self, request: dg.RunRequest) -> bool:
        """Run what was asked for, in this process."""
        assets = set(request.asset_selection or ())
        if request.partition_key in self.empty:
            for asset in assets:
                built = dg.AssetMaterialization(
                    asset, partition=request.partition_key, tags={"dagster/data_version": "empty"}
                )
                self.instance.report_runless_asset_event(built)
            return True
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=assets)
        result = job.execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=request.tags,
            raise_on_error=False,
        )
        names = tuple(sorted(key.to_user_string() for key in assets))
        self.ran.append((names, request.partition_key, result.success))
        return result.success

    def until_rest(self) -> list[tuple[tuple[str, ...], str | None, bool]]:
        """Tick and run until two ticks in a row ask for nothing; the runs of this time."""
        before = len(self.ran)
        quiet = 0
        for _ in range(MOST_TICKS):
            requests = self.tick()
            quiet = 0 if requests else quiet + 1
            if quiet == 2:
                return self.ran[before:]
            for request in requests:
                self.run(request)
        raise AssertionError(f"no rest after {MOST_TICKS} ticks: {self.ran[before:]}")
