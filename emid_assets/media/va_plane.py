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
VA_OF_LABEL = ("category_mean", "tag")
"""Values of `va_source` of a medium whose valence and arousal are those of its label."""


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
    """Columns `id_column`, valence, arousal, valence_sd, arousal_sd of `frame`, on [-1, 1]².

    The last two are the standard deviations of the true values: those of the frame; of a label, the spread of
    its category; else 0. A frame without a column `va_source` has certain values.
    """
    aligned = alignment.apply(frame.select("valence", "arousal").to_numpy())
    uncertain = "va_source" in frame.columns
    return frame.select(
        id_column,
        pl.Series("valence", aligned[:, 0], dtype=pl.Float64),
        pl.Series("arousal", aligned[:, 1], dtype=pl.Float64),
        *(
            ((_spread(axis, id_column) if uncertain else pl.lit(0.0)) / unit).alias(f"{axis}_sd")
            for axis, unit in zip(("valence", "arousal"), alignment.unit, strict=True)
        ),
    )


def _spread(axis: str, id_column: str) -> pl.Expr:
    """The standard deviation of a value on the modality's own scale."""
    from emid_assets.affect.emotions import IMAGE_TAG_SPREAD, MUSIC_EMOTIONS

    of_label = pl.lit(IMAGE_TAG_SPREAD)
    if id_column == "clip_id":
        spreads = {emotion.key: getattr(emotion, f"{axis}_spread") for emotion in MUSIC_EMOTIONS}
        of_label = pl.col("emotion").replace_strict(spreads, default=None, return_dtype=pl.Float64)
    is_label = pl.col("va_source").is_in(VA_OF_LABEL)
    return pl.when(is_label).then(of_label).otherwise(f"{axis}_sd").fill_null(0.0)


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
        """clip_id, valence, arousal and their standard deviations of any clips, on the plane."""
        return on_plane(clips, "clip_id", self.music)

    def images(self, images: pl.DataFrame) -> pl.DataFrame:
        """image_id, valence, arousal and their standard deviations of any images, on the plane."""
        return on_plane(images, "image_id", self.image)
