"""What a build has to run: the partitions that are not current, in waves.

Whether an input has changed is known once it is rebuilt, so a stage is planned again after each wave of its
runs. A partition whose inputs turn out the same is not run.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from emid_assets.health.verdict import AssetFacts, RunFacts, states_of
from emid_assets.store.lake import Lake

Place = tuple[str, str]
"""Asset and partition, with the lake's names."""

CURRENT = ("ok", "running")


@dataclass
class Plan:
    """What is not current in a lake.

    Attributes:
        lake: what is built.
        assets: the whole graph, upstream first.
        runs: newest first, those before this build.
        fresh_days: days after its last build at which a partition becomes overdue.
        everything: whether to build what is current too.
    """

    lake: Lake
    assets: Sequence[AssetFacts]
    runs: Sequence[RunFacts]
    fresh_days: float
    everything: bool = False
    _ran: set[Place] = field(default_factory=set)

    def not_current(self, assets: Sequence[AssetFacts]) -> dict[Place, str]:
        """The partitions of `assets` that are to be run, and why each."""
        if self.everything:
            return {(asset.name, one): "--all" for asset in assets for one in asset.partitions}
        surveyed = self.lake.survey(asset.name for asset in self.assets)
        states = states_of(assets, self.runs, surveyed, time.time(), self.fresh_days)
        wanted = states.filter(~pl.col("state").is_in(CURRENT))
        return {
            (asset, partition): message if state == "stale" else f"{state}: {message}"
            for asset, partition, state, message in wanted.select(
                "asset", "partition", "state", "message"
            ).iter_rows()
        }

    def waves(self, stage: str) -> Iterator[dict[str, list[str]]]:
        """Partition → the assets of the stage to run in it; until all of the stage is current.

        A wave has the partitions that are not current, except those that read what the wave changes and
        are reached only through an asset that may turn out to be current: they are in a later one.
        """
        assets = [asset for asset in self.assets if asset.stage == stage]
        while wave := self._wave(assets):
            self._ran.update((name, partition) for partition, names in wave.items() for name in names)
            yield wave

    def _wave(self, assets: Sequence[AssetFacts]) -> dict[str, list[str]]:
        wanted = self.not_current(assets).keys() - self._ran
        wave: dict[str, list[str]] = {}
        for partition in {partition: None for _, partition in sorted(wanted)}:
            names: list[str] = []
            waiting: set[str] = set()
            for asset in assets:
                above = asset.parents.keys()
                if waiting & above or ((asset.name, partition) not in wanted and above & {*names}):
                    waiting.add(asset.name)
                elif (asset.name, partition) in wanted:
                    names.append(asset.name)
            wave[partition] = names
        return wave

    def with_dependents(self) -> dict[Place, str]:
        """Every partition that a build now may run, and why: those not current, and those that read them."""
        planned = self.not_current(self.assets)
        for asset in self.assets:
            for partition in asset.partitions:
                changed = sorted(
                    parent
                    for parent, read in asset.parents.items()
                    if any((parent, other) in planned for other in read.get(partition, ()))
                )
                if changed and (asset.name, partition) not in planned:
                    planned[asset.name, partition] = f"if it changes: {', '.join(changed)}"
        return planned


def as_table(planned: Mapping[Place, str], assets: Collection[AssetFacts]) -> pl.DataFrame:
    """The plan as rows to show: asset, partitions (how many, of how many), why; upstream first."""
    rows = []
    for asset in assets:
        of_asset = [why for (name, _), why in planned.items() if name == asset.name]
        for why in dict.fromkeys(of_asset):
            rows.append((asset.name, f"{of_asset.count(why)}/{len(asset.partitions)}", why))
    return pl.DataFrame(rows, schema=["asset", "partitions", "why"], orient="row")
