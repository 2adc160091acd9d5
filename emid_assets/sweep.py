"""`emid sweep`: the α × m × K grid over what a build has stored."""

from collections.abc import Sequence

import polars as pl

from emid_assets.media.expansion import all_clips
from emid_assets.media.va_plane import Method, image_alignment, music_alignment, on_plane
from emid_assets.store.duckdb_store import Lake


def sweep_lake(
    lake: Lake,
    va_alignment: Method,
    *,
    alphas: Sequence[float],
    images_per_clip: Sequence[int],
    candidate_counts: Sequence[int],
) -> pl.DataFrame:
    """Every point of the grid as `adapters.sweep.sweep` gives it, from the lake's S and E.

    Raises:
        LakeError: the alignment has not been built.
        AdapterError: a K larger than the candidates that were stored.
    """
    from emid_assets.adapters.sweep import Candidates, sweep

    candidates = Candidates.of_frames(lake.read("similarity_matrix"), lake.read("va_distances"))
    music_clips, images = lake.read("music_clips"), lake.read("images")
    clips = pl.DataFrame({"clip_id": candidates.clip_ids}).join(
        all_clips(music_clips, lake.read("expanded_clips")), on="clip_id", how="left", maintain_order="left"
    )
    pictures = pl.DataFrame({"image_id": candidates.image_ids}).join(
        images, on="image_id", how="left", maintain_order="left"
    )
    va = ["valence", "arousal"]
    return sweep(
        candidates,
        clips["emotion"].to_list(),
        on_plane(clips, "clip_id", music_alignment(music_clips, va_alignment)).select(va).to_numpy(),
        pictures["tag"].to_list(),
        on_plane(pictures, "image_id", image_alignment(images, va_alignment)).select(va).to_numpy(),
        alphas=alphas,
        images_per_clip=images_per_clip,
        candidate_counts=candidate_counts,
    )
