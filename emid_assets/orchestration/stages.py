"""The stages of a build as jobs: what `emid build` runs one after the other, and the UI's launchpad offers.

A stage holds the assets with its tag. They share their partitions, so that one run takes a partition through
all of them.
"""

import json
from typing import Any

import dagster as dg

from emid_assets.settings import Operations, Settings

STAGE = "stage"
"""The tag that every asset has (`table_asset(stage=…)`): the stage of the build that builds it."""

STAGES = {
    "inventory": "Reads the media folder, and predicts an emotion for media without a label.",
    "embed_music": "Encodes the music clips and the windows of their recordings.",
    "embed_images": "Encodes the images.",
    "align": "Matches music and images, and picks the pairs.",
    "release": "Writes the data set as a folder to hand on.",
    "train_adapter": "Trains the networks on the pairs, and gives their new embeddings.",
    "study": "Draws the listening study, and reads its answers.",
    "evaluate": "Measures the pairs and the networks, and writes the report.",
    "health": "Looks for what is broken, stale or overdue.",
}
"""The stages of a build in their order, each with what it does."""

MATCHING_IN_SHARDS = {
    "expand": "Picks the windows that join the data set.",
    "match_shards": "Matches each music partition against each shard of the images.",
}
"""What stands before `align` where the matching is cut into shards of images: the runs of a stage share
their partitions, and `expand` has those of the music alone."""

COLLECT_ANSWERS = "collect_answers"
"""The job of the sensor that watches for answers: all of the study but its design."""


def stages(image_shards: int) -> dict[str, str]:
    """The stages in their order, each with what it does."""
    if image_shards == 1:
        return STAGES
    before = dict(list(STAGES.items())[: list(STAGES).index("align")])
    return before | MATCHING_IN_SHARDS | STAGES


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
    answers = dg.AssetSelection.tag(STAGE, "study") - dg.AssetSelection.assets("listening_study")
    return [
        *(
            dg.define_asset_job(
                name,
                selection=dg.AssetSelection.tag(STAGE, name),
                description=f"Stage of the build. {description}",
                tags=requests.get(name),
            )
            for name, description in stages(settings.image_shards).items()
        ),
        dg.define_asset_job(
            COLLECT_ANSWERS, selection=answers, description="Read the listening study's answers again."
        ),
    ]
