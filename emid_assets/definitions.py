"""The code location: assembles all assets, jobs, sensors and resources.

Policies that apply to many assets (owners, tags, freshness, descriptions of tables) are applied here,
by selection, and not repeated on each asset.
"""

# ruff: noqa: E402 - the collector is set before the imports that it would slow down
import gc

gc.set_threshold(100_000, 20, 20)  # Dagster, Polars and the graph make a million objects that stay

from datetime import timedelta
from typing import Any

import dagster as dg

from emid_assets.defs import (
    adapter,
    alignment,
    embeddings,
    evaluation,
    expansion,
    health,
    media,
    pair_set,
    prediction,
    release,
    similarity,
    study,
)
from emid_assets.defs.alerts import alert_on_failure
from emid_assets.defs.automation import (
    changed_data,
    clean_up_job,
    clean_up_schedule,
    media_folder,
    nightly_rebuild,
    rebuild_job,
    update_job,
)
from emid_assets.health.recipes import code_version
from emid_assets.orchestration.conditions import on_changed_data, retry_once
from emid_assets.orchestration.declared import DECLARED
from emid_assets.orchestration.io_manager import LakeIOManager
from emid_assets.orchestration.partitions import (
    IMAGE_EMOTION_PARTITIONS,
    MUSIC_EMOTION_PARTITIONS,
    SHARD_PARTITIONS,
    image_shards,
    sharded,
)
from emid_assets.orchestration.resources import settings_resource
from emid_assets.orchestration.stages import STAGE, jobs
from emid_assets.settings import load_operations, load_settings
from emid_assets.store.schemas import TABLES

OWNERS = ["team:emid"]
ASSET_MODULES = (
    media, prediction, embeddings, expansion, alignment, release, adapter, study, evaluation,
)  # fmt: skip
EMOTION_PARTITIONS = (MUSIC_EMOTION_PARTITIONS, IMAGE_EMOTION_PARTITIONS)


def build_definitions(**overrides: Any) -> dg.Definitions:
    """A new code location; `overrides` are settings by name, which take precedence over `EMID_*` variables.

    Raises:
        SettingsError: names each setting with an invalid value.
    """
    settings = load_settings(overrides)
    operations = load_operations()
    days = timedelta(days=settings.fresh_days)
    fresh = dg.FreshnessPolicy.time_window(fail_window=days, warn_window=0.75 * days)

    def with_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        table = TABLES[spec.key.path[-1]]
        stage = spec.tags[STAGE]
        declared = DECLARED[table.name]
        if settings.image_shards > 1 and table.name == "expanded_clips":
            stage = "expand"  # the shards need them, before `align` merges the results
        attributes: dict[str, Any] = {
            "owners": OWNERS,
            "tags": {**spec.tags, STAGE: stage},
            "freshness_policy": fresh,
            "metadata": {
                **spec.metadata,
                "table": table.name,
                "row": table.row,
                "settings": ", ".join(sorted(declared.settings)),
            },
            "code_version": code_version(declared.code, declared.values(settings)),
            "automation_condition": on_changed_data(stage) if spec.deps else retry_once(),
        }
        if spec.partitions_def == SHARD_PARTITIONS:
            music = sharded(MUSIC_EMOTION_PARTITIONS, settings.shards_per_emotion)
            attributes["partitions_def"] = image_shards(music, settings.image_shards)
        for partitions in EMOTION_PARTITIONS:
            if settings.shards_per_emotion > 1 and spec.partitions_def == partitions:
                attributes["partitions_def"] = sharded(partitions, settings.shards_per_emotion)
        return spec.replace_attributes(**attributes)

    matching = [similarity.similarity_matrix]
    if settings.image_shards > 1:
        matching = [similarity.similarity_shards, similarity.similarity_matrix_of_shards]
    of_modules = {
        asset.key: asset
        for asset in dg.load_assets_from_modules(ASSET_MODULES)
        if isinstance(asset, dg.AssetsDefinition)
    }
    if settings.image_reuse_limit:
        of_modules[pair_set.fused_pairs_of_the_set.key] = pair_set.fused_pairs_of_the_set
    loaded = [*of_modules.values(), *matching, health.pipeline_health(lambda: definitions)]
    assets = [asset.map_asset_specs(with_policies) for asset in loaded]
    resource = settings_resource(settings)
    definitions = dg.Definitions(
        assets=assets,
        jobs=[
            *jobs(settings, operations),
            update_job,
            clean_up_job,
            rebuild_job(lambda: definitions, operations),
        ],
        schedules=[nightly_rebuild(operations), health.health_schedule, clean_up_schedule],
        sensors=[
            media_folder,
            changed_data(operations),
            alert_on_failure,
            study.answers_arrived,
            health.dead_runs_sensor,
        ],
        resources={"settings": resource, "io_manager": LakeIOManager(settings=resource)},
        executor=dg.in_process_executor,
    )
    return definitions


definitions = build_definitions()
