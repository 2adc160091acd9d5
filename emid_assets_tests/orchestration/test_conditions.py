"""Each automation condition, on a small graph of the pipeline's own names, ticked on a real instance."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from emid_assets.definitions import definitions
from emid_assets.defs.automation import changed_data
from emid_assets.orchestration.conditions import on_changed_data, retry_once
from emid_assets.orchestration.stages import STAGE
from emid_assets.settings import load_operations
from emid_assets_tests.defs.ticking import Automation
from emid_assets_tests.graph import stage_of_assets

STAGE_OF = stage_of_assets(definitions)
EMOTIONS = dg.StaticPartitionsDefinition(["calm", "sad"])
TAGS = dg.StaticPartitionsDefinition(["awe"])
EVERY = dg.AllPartitionMapping()
EMBEDDING = ("music_clips", "music_embeddings")
ALIGNMENT = ("fused_pairs", "similarity_matrix")


@dataclass
class World:
    """What the assets of the small graph hold, and which of them fail."""

    contents: dict[tuple[str, str | None], str] = field(default_factory=dict)
    broken: set[tuple[str, str | None]] = field(default_factory=set)
    gates: dict[tuple[str, str | None], tuple[threading.Event, threading.Event]] = field(default_factory=dict)

    def build(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        key = (
            context.asset_key.to_user_string(),
            context.partition_key if context.has_partition_key else None,
        )
        if key in self.gates:
            entered, gate = self.gates[key]
            entered.set()
            gate.wait(60)
        if key in self.broken:
            raise RuntimeError(f"{key} is broken")
        return dg.MaterializeResult(data_version=dg.DataVersion(self.contents.get(key, "as ever")))


@pytest.fixture
def world() -> World:
    return World()


def small_graph(world: World) -> dg.Definitions:
    """One asset of each sort of step: inventory, manifests, embeddings, alignment, adapter."""

    def asset(name: str, *deps: Any, partitions: Any = None) -> dg.AssetsDefinition:
        def compute(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
            return world.build(context)

        stage = STAGE_OF[name]
        condition = on_changed_data(stage) if deps else retry_once()
        return dg.asset(
            name=name,
            deps=list(deps),
            partitions_def=partitions,
            automation_condition=condition,
            tags={STAGE: stage},
        )(compute)

    def whole(name: str) -> dg.AssetDep:
        return dg.AssetDep(name, partition_mapping=EVERY)

    return dg.Definitions(
        assets=[
            asset("media_inventory"),
            asset("music_clips", "media_inventory", partitions=EMOTIONS),
            asset("images", "media_inventory", partitions=TAGS),
            asset("music_embeddings", "music_clips", partitions=EMOTIONS),
            asset("image_embeddings", "images", partitions=TAGS),
            asset("similarity_matrix", "music_embeddings", whole("image_embeddings"), partitions=EMOTIONS),
            asset("fused_pairs", "similarity_matrix", whole("images"), partitions=EMOTIONS),
            asset("trained_adapter", whole("music_clips"), whole("images"), whole("fused_pairs")),
        ],
        sensors=[changed_data(load_operations())],
        executor=dg.in_process_executor,
    )


@pytest.fixture
def automation(world: World) -> Iterator[Automation]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(small_graph(world), instance)


@pytest.fixture
def built(automation: Automation) -> Automation:
    """The graph, built by automation alone after its first inventory."""
    automation.run(dg.RunRequest(asset_selection=[dg.AssetKey("media_inventory")]))
    automation.until_rest()
    return automation


def look_again(automation: Automation) -> None:
    automation.run(dg.RunRequest(asset_selection=[dg.AssetKey("media_inventory")]))


def test_an_empty_lake_is_built_once_stage_by_stage(built: Automation) -> None:
    runs = [(assets, partition) for assets, partition, _ in built.ran]
    assert runs == [
        (("media_inventory",), None),
        (("image_embeddings", "images"), "awe"),
        (EMBEDDING, "calm"),
        (EMBEDDING, "sad"),
        (ALIGNMENT, "calm"),
        (ALIGNMENT, "sad"),
        (("trained_adapter",), None),
    ]


def test_without_an_inventory_nothing_is_asked_for(automation: Automation) -> None:
    assert automation.until_rest() == []


def test_an_inventory_that_found_nothing_new_asks_for_nothing(built: Automation) -> None:
    look_again(built)
    assert built.until_rest() == []


def test_only_what_changed_goes_on_to_the_next_stage(built: Automation, world: World) -> None:
    world.contents["media_inventory", None] = "one clip more"
    world.contents["music_embeddings", "sad"] = "one row more"
    world.contents["fused_pairs", "sad"] = "three pairs more"
    look_again(built)
    runs = [(assets, partition) for assets, partition, _ in built.until_rest()]
    assert runs == [
        (("image_embeddings", "images"), "awe"),
        (EMBEDDING, "calm"),
        (EMBEDDING, "sad"),
        (ALIGNMENT, "sad"),
        (("trained_adapter",), None),
    ]


def test_a_failed_partition_is_tried_once_more_and_then_left_alone(built: Automation, world: World) -> None:
    world.contents["media_inventory", None] = "one clip more"
    world.broken.add(("music_embeddings", "sad"))
    look_again(built)
    runs = built.until_rest()
    of_sad = [run for run in runs if run[1] == "sad"]
    assert of_sad == [(EMBEDDING, "sad", False), (("music_embeddings",), "sad", False)]


def test_what_follows_a_failed_partition_waits_until_it_is_mended(built: Automation, world: World) -> None:
    world.contents |= {
        ("media_inventory", None): "another clip", ("music_clips", "sad"): "another clip",
        ("music_embeddings", "sad"): "another clip", ("images", "awe"): "another picture",
    }  # fmt: skip
    world.broken.add(("music_embeddings", "sad"))
    look_again(built)
    assert not any("trained_adapter" in assets for assets, _, _ in built.until_rest())
    world.broken.clear()
    built.run(dg.RunRequest(asset_selection=[dg.AssetKey("music_embeddings")], partition_key="sad"))
    later = [(assets, partition) for assets, partition, _ in built.until_rest()]
    assert (ALIGNMENT, "sad") in later
    assert later[-1] == (("trained_adapter",), None)


def test_a_partition_that_succeeds_on_its_retry_is_gone_on_with(built: Automation, world: World) -> None:
    world.contents["media_inventory", None] = "one clip more"
    world.contents["music_embeddings", "sad"] = "one row more"
    world.broken.add(("music_embeddings", "sad"))
    look_again(built)
    for request in built.tick():
        built.run(request)
    world.broken.clear()
    runs = built.until_rest()
    assert runs[0] == (("music_embeddings",), "sad", True)
    assert (ALIGNMENT, "sad", True) in runs


def test_new_data_give_a_failed_partition_another_try(built: Automation, world: World) -> None:
    world.contents["media_inventory", None] = "one clip more"
    world.broken.add(("music_clips", "sad"))
    look_again(built)
    assert len([run for run in built.until_rest() if run[1] == "sad"]) == 2
    world.contents["media_inventory", None] = "two clips more"
    look_again(built)
    assert (EMBEDDING, "sad", False) in built.until_rest()
    world.broken.clear()
    world.contents["media_inventory", None] = "three clips more"
    look_again(built)
    assert (EMBEDDING, "sad", True) in built.until_rest()


def test_a_failed_inventory_is_tried_once_more(built: Automation, world: World) -> None:
    world.broken.add(("media_inventory", None))
    look_again(built)
    assert built.until_rest() == [(("media_inventory",), None, False)]


def test_nothing_is_asked_for_while_a_later_stage_is_being_built(built: Automation, world: World) -> None:
    entered, gate = threading.Event(), threading.Event()
    world.gates["trained_adapter", None] = (entered, gate)
    training = dg.RunRequest(asset_selection=[dg.AssetKey("trained_adapter")])
    thread = threading.Thread(target=built.run, args=(training,))
    thread.start()
    try:
        assert entered.wait(60)
        world.contents["media_inventory", None] = "one clip more"
        look_again(built)
        assert built.tick() == []
    finally:
        gate.set()
        thread.join()
    assert {request.partition_key for request in built.tick()} == {"awe", "calm", "sad"}


def test_nothing_is_asked_for_while_a_backfill_of_it_is_under_way(built: Automation, world: World) -> None:
    world.contents["media_inventory", None] = "one clip more"
    look_again(built)
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id="rebuild",
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=built.instance,
        asset_graph_subset=AssetGraphSubset.all(built.definitions.resolve_asset_graph()),
        title=None,
        description=None,
        run_config=None,
    )
    built.instance.add_backfill(backfill)
    assert built.tick() == []
    built.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    assert built.tick()
