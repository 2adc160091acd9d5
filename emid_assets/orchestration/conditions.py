"""When an asset's partition is built by itself: the conditions, and what taught each of their parts.

Belongs here: conditions alone. Which assets have them is `emid_assets.definitions`'s to say; the
sensor that asks them, the look at the media folder and the schedule are `automation`'s.
"""

from typing import Any

import dagster as dg
from dagster import AutomationCondition, AutomationContext, AutomationResult

from emid_assets.orchestration.stages import STAGE

Condition = AutomationCondition[Any]


class OtherStagesAtRest(AutomationCondition[dg.AssetKey]):
    """No asset of a stage before or after is being built, and none before is about to be or has failed.

    The stages follow each other as in `emid build`. Without this, the pairs were made from the new
    clips and the old embeddings while those were on their way, failed on a clip that had been
    removed, and were made a second time; and the adapters were trained beside the alignment whose
    pairs they learn from. What is downstream must rest too, since a condition counts an asset's end
    as an answer to every change before it, also to one that came after the asset had read its inputs.
    """

    @property
    def name(self) -> str:
        """Name in the web UI."""
        return "other_stages_at_rest"

    @property
    def description(self) -> str:
        """What the web UI says of it."""
        return "Nothing in an earlier or later stage is being built, and nothing in an earlier one failed"

    async def evaluate(  # type: ignore[override]
        self, context: AutomationContext[dg.AssetKey]
    ) -> AutomationResult[dg.AssetKey]:
        """All of the partitions that are asked about, or none."""
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
    """An input has other content than before, or will have in the very run that is asked for.

    As `any_deps_updated` of Dagster's `eager`, but an input that was built again to the same content
    does not count: one clip more asks for one partition to be matched anew and not for thirteen. And
    only inputs of the same stage are counted on before they are built: counted on at large, every
    look at the folder ended in a new alignment.
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
"""Never built, and not asked for either since that was so: switching automation on builds an empty lake."""


def failed_once(changed: Condition) -> Condition:
    """Failed, and not tried again so far, since it was last built or its inputs `changed`.

    `execution_failed` alone asks again after every failure, and a partition that cannot succeed then
    runs all night. A failure after the one retry waits for new data or for a person. What was asked
    for counts as a retry only if that was after the failure was seen: a run may begin and fail
    between two ticks.
    """
    failed = (
        AutomationCondition.execution_failed()
        .newly_true()
        .since(changed | AutomationCondition.newly_updated())
    )
    retried = AutomationCondition.newly_requested().since(failed.newly_true())
    return (failed & ~retried).with_label("failed_once")


def on_changed_data(stage: str) -> Condition:
    """Of every asset of a stage that has inputs: built once what it is made from changed and came to rest."""
    changed = input_changed(stage)
    return (
        (MISSING | changed.since_last_handled() | failed_once(changed))
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & OtherStagesAtRest()
    ).with_label("on_changed_data")


def retry_once() -> Condition:
    """Of the asset without inputs, which the folder sensor and the schedule ask for."""
    failed = failed_once(AutomationCondition.newly_updated())
    return (failed & ~AutomationCondition.in_progress() & OtherStagesAtRest()).with_label("retry_once")
