"""`emid sweep`: the α × m × K grid over what a build has stored."""

from collections.abc import Sequence

import polars as pl

from emid_assets.adapters.sweep import SWEEP_COLUMNS
from emid_assets.matching.fusion import Rescaling
from emid_assets.media.expansion import all_clips
from emid_assets.media.va_plane import Method, image_alignment, music_alignment, on_plane
from emid_assets.store.duckdb_store import Lake


def sweep_lake(
    lake: Lake,
    va_alignment: Method,
    *,
    alphas: Sequence[float],
    images_per_clip: Sequence[int],
    candidate_counts: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Every point of the grid as `adapters.sweep.sweep` gives it, from the lake's S and E.

    Args:
        lake: of a build.
        va_alignment: as it was set for the build.
        alphas: values of α.
        images_per_clip: values of m.
        candidate_counts: values of K; None: all candidates that were stored, and half of them.

    Raises:
        LakeError: the alignment has not been built.
        AdapterError: a K larger than the candidates that were stored.
    """
    similarity = lake.read("similarity_matrix")
    if candidate_counts is None:
        most = int(similarity["rank"].max() or 1)  # type: ignore[arg-type]
        candidate_counts = sorted({max(1, most // 2), most})
    return sweep_frames(
        similarity,
        lake.read("va_distances"),
        lake.read("music_clips"),
        lake.read("expanded_clips"),
        lake.read("images"),
        va_alignment,
        alphas=alphas,
        images_per_clip=images_per_clip,
        candidate_counts=candidate_counts,
    )


def sweep_around(
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    music_clips: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    images: pl.DataFrame,
    va_alignment: Method,
    m: int,
    rescaling: Rescaling,
) -> pl.DataFrame:
    """The report's grid: α from 0 to 1; m, 1 and 5; all K candidates, a third and a tenth of them."""
    if similarity_matrix.is_empty():
        return pl.DataFrame(schema=SWEEP_COLUMNS)
    most = int(similarity_matrix["rank"].max())  # type: ignore[arg-type]
    return sweep_frames(
        similarity_matrix,
        va_distances,
        music_clips,
        expanded_clips,
        images,
        va_alignment,
        alphas=[step / 10 for step in range(11)],
        images_per_clip=sorted({1, m, 5}),
        candidate_counts=sorted({max(1, most // 10), max(1, most // 3), most}),
        rescalings=[rescaling],
    )


def sweep_frames(
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    music_clips: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    images: pl.DataFrame,
    va_alignment: Method,
    *,
    alphas: Sequence[float],
    images_per_clip: Sequence[int],
    candidate_counts: Sequence[int],
    rescalings: Sequence[Rescaling] = ("candidate_minmax", "raw"),
) -> pl.DataFrame:
    """Every point of the grid as `adapters.sweep.sweep` gives it, from the tables of those names."""
    from emid_assets.adapters.sweep import Candidates, sweep

    candidates = Candidates.of_frames(similarity_matrix, va_distances)
    clips = pl.DataFrame({"clip_id": candidates.clip_ids}).join(
        all_clips(music_clips, expanded_clips), on="clip_id", how="left", maintain_order="left"
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
        rescalings=rescalings,
    )
