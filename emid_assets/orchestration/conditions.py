"""When an asset's partition is built automatically: the conditions, and the incident behind each part.

Belongs here: conditions only. `emid_assets.definitions` applies them to the assets; `defs.automation` has the
sensor that evaluates them, the media folder sensor and the schedule.
"""

from functools import cache
from typing import Any

import dagster as dg
from dagster import AutomationCondition, AutomationContext, AutomationResult

from emid_assets.orchestration.stages import STAGE

Condition = AutomationCondition[Any]


class OtherStagesAtRest(AutomationCondition[dg.AssetKey]):
    """No other stage's asset is being built, and none of an earlier stage is requested or has failed.

    The stages run one after another, as in `emid build`. Without this condition, the pairs were built from
    new clips and old embeddings while the new embeddings were still being computed, failed on a clip that had
    been removed, and were built a second time; and the adapters were trained during the alignment whose
    pairs they learn from. Downstream assets must be idle too: Dagster counts the end of a build as handling
    every earlier change, even one that came after the asset had read its inputs.
    """

    @property
    def name(self) -> str:
        """Name in the web UI."""
        return "other_stages_at_rest"

    @property
    def description(self) -> str:
        """Description in the web UI."""
        return "Nothing in an earlier or later stage is being built, and nothing in an earlier one failed"

    async def evaluate(  # type: ignore[override]
        self, context: AutomationContext[dg.AssetKey]
    ) -> AutomationResult[dg.AssetKey]:
        """Either all candidate partitions, or none."""
        at_rest = await self._at_rest(context)
        subset = context.candidate_subset if at_rest else context.get_empty_subset()
        return AutomationResult(context, true_subset=subset)

    async def _at_rest(self, context: AutomationContext[dg.AssetKey]) -> bool:
        view = context.asset_graph_view
        this = dg.AssetSelection.assets(context.key)
        upstream = this.upstream(include_self=False).resolve(context.asset_graph)
        downstream = this.downstream(include_self=False).resolve(context.asset_graph)
        for other in sorted(upstream | downstream):
            if context.asset_graph.get(other).tags[STAGE] == context.asset_graph.get(context.key).tags[STAGE]:
                continue
            whole = view.get_full_subset(key=other)
            requested = context.request_subsets_by_key.get(other)
            if other in upstream and requested is not None and not requested.is_empty:
                return False
            found = [
                await view.compute_run_in_progress_subset(key=other, from_subset=whole),
                await view.compute_backfill_in_progress_subset(key=other, from_subset=whole),
            ]
            if other in upstream:
                found.append(await view.compute_execution_failed_subset(key=other, from_subset=whole))
            if not all(subset.is_empty for subset in found):
                return False
        return True


def input_changed(stage: str) -> Condition:
    """The content of an input has changed, or the input is rebuilt in the same requested run.

    Like `any_deps_updated` of Dagster's `eager`, but an input that was rebuilt with the same content does not
    count: one new clip requests one partition to be matched again, not thirteen. And an input that is only
    requested counts only within the same stage: otherwise every scan of the folder led to a new alignment.
    """
    same_stage = dg.AssetSelection.tag(STAGE, stage)
    built = AutomationCondition.any_deps_match(
        AutomationCondition.data_version_changed() & ~AutomationCondition.executed_with_root_target()
    )
    about_to_be = AutomationCondition.any_deps_match(AutomationCondition.will_be_requested())
    return (built | about_to_be.allow(same_stage)).with_label("input_changed")


MISSING = (
    AutomationCondition.missing()
    .newly_true()
    .since(AutomationCondition.newly_requested() | AutomationCondition.newly_updated())
    .with_label("missing_and_not_asked_for")
)
"""Never built, and not requested since: switching automation on builds everything in an empty lake."""


def failed_once(changed: Condition) -> Condition:
    """Failed since it was last built or its inputs `changed`, and not retried yet.

    `execution_failed` alone requests a run after every failure, so a partition that cannot succeed would run
    all night. After one retry, a failure waits for new data or for a person. A request counts as the
    retry only if it came after the failure was seen: a run may start and fail between two ticks.
    """
    failed = (
        AutomationCondition.execution_failed()
        .newly_true()
        .since(changed | AutomationCondition.newly_updated())
    )
    retried = AutomationCondition.newly_requested().since(failed.newly_true())
    return (failed & ~retried).with_label("failed_once")


@cache
def on_changed_data(stage: str) -> Condition:
    """For every asset of a stage that has inputs: build it once they have changed and are idle.

    The code version counts too, which covers the settings that an asset declares. With the inputs' data
    versions it is what a recipe holds (see `health.recipes`), as Dagster knows it.
    """
    of_code: Condition = AutomationCondition.code_version_changed()
    changed: Condition = input_changed(stage) | of_code
    return (
        (MISSING | changed.since_last_handled() | failed_once(changed))
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & OtherStagesAtRest()
    ).with_label("on_changed_data")


def retry_once() -> Condition:
    """For the asset without inputs, which the folder sensor and the schedule request."""
    failed = failed_once(AutomationCondition.newly_updated())
    return (failed & ~AutomationCondition.in_progress() & OtherStagesAtRest()).with_label("retry_once")
