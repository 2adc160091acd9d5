"""The stages of a build as jobs: what `emid build` runs one after the other, and the UI's launchpad offers.

A stage holds assets that share their partitions, so that one run takes a partition through all of them.
"""

import dagster as dg

STAGES: dict[str, tuple[str, ...]] = {
    "inventory": ("media_inventory", "rejected_media"),
    "embed_music": ("music_clips", "music_embeddings"),
    "embed_images": ("images", "image_embeddings"),
    "align": ("similarity_matrix", "va_distances", "fused_pairs"),
    "train_adapter": ("trained_adapter", "adapted_embeddings"),
    "evaluate": ("evaluation_report",),
}

JOBS = [
    dg.define_asset_job(name, selection=list(assets), description=f"Stage of the build: {', '.join(assets)}.")
    for name, assets in STAGES.items()
]
