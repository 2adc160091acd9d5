"""The stages of a build as jobs, which `emid build` runs in order and which the web UI can launch.

A stage holds the assets with its tag. They share their partitions, so one run builds a partition of all of
them.
"""

import json
from typing import Any

import dagster as dg

from emid_assets.settings import Operations, Settings

STAGE = "stage"
"""The tag that every asset has (`table_asset(stage=…)`): the stage that builds it."""

STAGES = {
    "inventory": "Reads the media folder and predicts an emotion for media without a label.",
    "embed_music": "Encodes the music clips and the windows of their recordings.",
    "embed_images": "Encodes the images.",
    "align": "Matches music and images and picks the pairs.",
    "release": "Writes the data set as a folder to share.",
    "train_adapter": "Trains the networks on the pairs and computes their new embeddings.",
    "study": "Designs the listening study and reads its answers.",
    "evaluate": "Measures the pairs and the networks and writes the report.",
    "health": "Finds partitions that are broken, stale or overdue.",
}
"""The stages of a build in order, with their descriptions."""

MATCHING_IN_SHARDS = {
    "expand": "Picks the windows that join the data set.",
    "match_shards": "Matches each music partition against each shard of the images.",
}
"""The stages that come before `align` if the matching is split into shards of images. They are two, because
the runs of a stage share their partitions, and `expand` has the partitions of the music only."""

ONE_SET = {"assign": "Chooses the pairs of all clips together, within the limit of each image's use."}
"""The stage that comes after `align` if the use of an image is limited: it has no partitions."""

COLLECT_ANSWERS = "collect_answers"
"""The job of the sensor that watches for answers: the study's assets without its design."""


def stages(settings: Settings) -> dict[str, str]:
    """The stages of a graph of these settings in order, with their descriptions."""
    names = list(STAGES)
    before, after = names[: names.index("align")], names[names.index("release") :]
    shards = MATCHING_IN_SHARDS if settings.image_shards > 1 else {}
    one_set = ONE_SET if settings.image_reuse_limit else {}
    every = STAGES | MATCHING_IN_SHARDS | ONE_SET
    return {name: every[name] for name in [*before, *shards, "align", *one_set, *after]}


ON_THE_DEVICE = ("embed_music", "embed_images", "train_adapter")
"""Stages whose runs always use the device: they request it from a cluster."""

MATCHING = ("match_shards", "align")
"""Stages whose runs use the device if `matching_product` is `device`."""


def device_tags(operations: Operations) -> dict[str, str]:
    """Run tags that request the device from a Ray cluster; empty if a run requests no GPU."""
    if not operations.run_gpus:
        return {}
    return {"dagster-ray/config": json.dumps({"num_gpus": operations.run_gpus})}


def jobs(settings: Settings, operations: Operations) -> list[Any]:
    """One asset job for each stage, and the job of the answers sensor; unresolved, for `dg.Definitions`."""
    on_the_device = ON_THE_DEVICE + (MATCHING if settings.matching_product == "device" else ())
    requests = dict.fromkeys(on_the_device, device_tags(operations))
    if settings.embedding_actors:
        # The actors need the devices and processors. If the runs that feed them took these, no actor could
        # start.
        feeding = {"dagster-ray/config": json.dumps({"num_cpus": 0.01})}
        requests |= {"embed_music": feeding, "embed_images": feeding}
    design = dg.AssetSelection.assets("top_images", "listening_study")
    answers = dg.AssetSelection.tag(STAGE, "study") - design
    return [
        *(
            dg.define_asset_job(
                name,
                selection=dg.AssetSelection.tag(STAGE, name),
                description=f"Stage of the build. {description}",
                tags=requests.get(name),
            )
            for name, description in stages(settings).items()
        ),
        dg.define_asset_job(
            COLLECT_ANSWERS, selection=answers, description="Read the listening study's answers again."
        ),
    ]
