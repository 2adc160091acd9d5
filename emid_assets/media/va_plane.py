"""Manifests on the valence-arousal plane: fits the alignment of each modality to its own population.

Belongs here: the step from the columns of `music_clips` and `images` to the arrays of
`affect.valence_arousal`, which contains the arithmetic.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from emid_assets.settings import AlignmentMethod

if TYPE_CHECKING:
    from emid_assets.affect.valence_arousal import VaAlignment

MUSIC_SCALE = (1.0, 9.0)
IMAGE_SCALE = (0.0, 1.0)


def music_alignment(music_clips: pl.DataFrame, method: AlignmentMethod) -> "VaAlignment":
    """The alignment of music, fitted to the clips (MUSIC_CLIPS); all Cowen categories have equal weight.

    Expanded clips repeat the positions of their sources and are left out, whether they were expanded here or
    come from a table; where the originals of a source are missing, its expanded clips stand for them.
    """
    from emid_assets.affect.valence_arousal import fit_alignment

    is_original = pl.col("is_original_clip")
    clips = music_clips.filter(is_original | ~is_original.any().over("source_id"))
    va = clips.select("valence", "arousal").to_numpy()
    return fit_alignment(va, clips["emotion"].to_list(), *MUSIC_SCALE, method=method)


def image_alignment(images: pl.DataFrame, method: AlignmentMethod) -> "VaAlignment":
    """The alignment of images, fitted to all images (IMAGES); all tags have equal weight."""
    from emid_assets.affect.valence_arousal import fit_alignment

    va = images.select("valence", "arousal").to_numpy()
    return fit_alignment(va, images["tag"].to_list(), *IMAGE_SCALE, method=method)


def on_plane(frame: pl.DataFrame, id_column: str, alignment: "VaAlignment") -> pl.DataFrame:
    """Columns `id_column`, valence, arousal of `frame`, the latter two on [-1, 1]²."""
    aligned = alignment.apply(frame.select("valence", "arousal").to_numpy())
    return frame.select(id_column).with_columns(
        pl.Series("valence", aligned[:, 0], dtype=pl.Float64),
        pl.Series("arousal", aligned[:, 1], dtype=pl.Float64),
    )


@dataclass(frozen=True)
class Plane:
    """The valence-arousal plane [-1, 1]² of a data set, with each modality aligned by its own population.

    Attributes:
        music: alignment of music.
        image: alignment of images.
    """

    music: "VaAlignment"
    image: "VaAlignment"

    @classmethod
    def fit(cls, music_clips: pl.DataFrame, images: pl.DataFrame, method: AlignmentMethod) -> "Plane":
        """Fit to the original clips in MUSIC_CLIPS and to all images (IMAGES)."""
        return cls(music_alignment(music_clips, method), image_alignment(images, method))

    @property
    def axes_without_spread(self) -> list[str]:
        """Axes such as `music valence` mapped by the ends of the scale, since they have no spread."""
        return [
            f"{name} {axis}"
            for name, alignment in (("music", self.music), ("image", self.image))
            for axis in alignment.fixed_axes
        ]

    def clips(self, clips: pl.DataFrame) -> pl.DataFrame:
        """clip_id, valence, arousal of any clips, the latter two on the plane."""
        return on_plane(clips, "clip_id", self.music)

    def images(self, images: pl.DataFrame) -> pl.DataFrame:
        """image_id, valence, arousal of any images, the latter two on the plane."""
        return on_plane(images, "image_id", self.image)
