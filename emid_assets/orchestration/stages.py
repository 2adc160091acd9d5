"""The stages of a build as jobs: what `emid build` runs one after the other, and the UI's launchpad offers.

A stage holds assets that share their partitions, so that one run takes a partition through all of them.
"""

import json
from typing import Any

import dagster as dg

from emid_assets.settings import Operations, Settings

STAGES: dict[str, tuple[str, ...]] = {
    "inventory": (
        "media_inventory", "music_tags", "image_features", "image_emotion_head", "predicted_emotion",
        "rejected_media", "published_pairs",
    ),
    "embed_music": ("music_clips", "music_embeddings", "expansion_windows"),
    "embed_images": ("images", "image_embeddings"),
    "align": ("expanded_clips", "similarity_matrix", "va_distances", "fused_pairs"),
    "release": ("emid_release",),
    "train_adapter": ("trained_adapter", "adapted_embeddings"),
    "study": ("listening_study", "study_answers", "study_results"),
    "evaluate": ("evaluation_report",),
    "health": ("pipeline_health",),
}  # fmt: skip

COLLECT_ANSWERS = "collect_answers"
"""The job of the sensor that watches for answers: all of the study but its design."""

MATCHING_IN_SHARDS = {"expand": ("expanded_clips",), "match_shards": ("similarity_shards",)}


def stages(image_shards: int) -> dict[str, tuple[str, ...]]:
    """The stages in order; where the matching is cut into shards of images, those come before `align`."""
    if image_shards == 1:
        return STAGES
    before = dict(list(STAGES.items())[: list(STAGES).index("align")])
    merging = {"align": tuple(asset for asset in STAGES["align"] if asset != "expanded_clips")}
    return before | MATCHING_IN_SHARDS | STAGES | merging


ON_THE_DEVICE = ("embed_music", "embed_images", "train_adapter")
"""Stages whose runs use the device all the time: these ask a cluster for it."""

MATCHING = ("match_shards", "align")
"""Stages that do so where `matching_product` says so."""


def device_tags(operations: Operations) -> dict[str, str]:
    """Run tags that ask a Ray cluster for the device; none where a run asks for no GPU."""
    if not operations.run_gpus:
        return {}
    return {"dagster-ray/config": json.dumps({"num_gpus": operations.run_gpus})}


def jobs(settings: Settings, operations: Operations) -> list[Any]:
    """One asset job (unresolved, as `dg.Definitions` takes it) for each stage, and that of the sensor."""
    on_the_device = ON_THE_DEVICE + (MATCHING if settings.matching_product == "device" else ())
    requests = dict.fromkeys(on_the_device, device_tags(operations))
    if settings.embedding_actors:
        # The actors have the devices and processors. Were those taken by the runs that feed them, no actor
        # could start.
        feeding = {"dagster-ray/config": json.dumps({"num_cpus": 0.01})}
        requests |= {"embed_music": feeding, "embed_images": feeding}
    of_answers = [asset for asset in STAGES["study"] if asset != "listening_study"]
    return [
        *(
            dg.define_asset_job(
                name,
                selection=list(assets),
                description=f"Stage of the build: {', '.join(assets)}.",
                tags=requests.get(name),
            )
            for name, assets in stages(settings.image_shards).items()
        ),
        dg.define_asset_job(
            COLLECT_ANSWERS, selection=of_answers, description="Read the listening study's answers again."
        ),
    ]
