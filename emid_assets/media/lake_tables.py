"""The tables of the whole lake as one object, for code that reads many of them: adapters, evaluation, pages.

Belongs here: combining originals and expanded clips, and the plane that they share with the images.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl

from emid_assets.media.expansion import all_clips, all_music_embeddings
from emid_assets.media.va_plane import Plane
from emid_assets.settings import AlignmentMethod
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import TABLES

MEDIA = ("music_clips", "expanded_clips", "images")


@dataclass(frozen=True)
class LakeTables:
    """All partitions of each table. A table that was not requested is empty.

    Attributes:
        plane: the plane fitted to the original clips and the images.
        music_clips: every clip, originals and expanded clips (MUSIC_CLIPS).
        images: every image (IMAGES).
        music_embeddings: for every clip (MUSIC_EMBEDDINGS).
        image_embeddings: for every image.
        similarity_matrix, va_distances, fused_pairs: for every clip.
        trained_adapter, adapted_embeddings, tuning_trials: for every network.
        published_pairs: the pairs of `pairs.csv`.
        rejected_media: every item that could not be used.
        top_images, pair_statistics, retrieval_metrics, alpha_sweep, published_agreement: the measurements.
        study_results: results of the listening study.
        image_emotion_head, music_emotion_head: the heads that predict emotions.
        joined_windows: number of clips that are expanded clips.
    """

    plane: Plane
    music_clips: pl.DataFrame
    images: pl.DataFrame
    music_embeddings: pl.DataFrame = field(default_factory=TABLES["music_embeddings"].empty)
    image_embeddings: pl.DataFrame = field(default_factory=TABLES["image_embeddings"].empty)
    similarity_matrix: pl.DataFrame = field(default_factory=TABLES["similarity_matrix"].empty)
    va_distances: pl.DataFrame = field(default_factory=TABLES["va_distances"].empty)
    fused_pairs: pl.DataFrame = field(default_factory=TABLES["fused_pairs"].empty)
    trained_adapter: pl.DataFrame = field(default_factory=TABLES["trained_adapter"].empty)
    adapted_embeddings: pl.DataFrame = field(default_factory=TABLES["adapted_embeddings"].empty)
    tuning_trials: pl.DataFrame = field(default_factory=TABLES["tuning_trials"].empty)
    published_pairs: pl.DataFrame = field(default_factory=TABLES["published_pairs"].empty)
    rejected_media: pl.DataFrame = field(default_factory=TABLES["rejected_media"].empty)
    top_images: pl.DataFrame = field(default_factory=TABLES["top_images"].empty)
    pair_statistics: pl.DataFrame = field(default_factory=TABLES["pair_statistics"].empty)
    retrieval_metrics: pl.DataFrame = field(default_factory=TABLES["retrieval_metrics"].empty)
    alpha_sweep: pl.DataFrame = field(default_factory=TABLES["alpha_sweep"].empty)
    published_agreement: pl.DataFrame = field(default_factory=TABLES["published_agreement"].empty)
    study_results: pl.DataFrame = field(default_factory=TABLES["study_results"].empty)
    image_emotion_head: pl.DataFrame = field(default_factory=TABLES["image_emotion_head"].empty)
    music_emotion_head: pl.DataFrame = field(default_factory=TABLES["music_emotion_head"].empty)
    joined_windows: int = 0

    @classmethod
    def of(
        cls,
        method: AlignmentMethod,
        *,
        music_clips: pl.DataFrame,
        expanded_clips: pl.DataFrame,
        images: pl.DataFrame,
        **others: pl.DataFrame,
    ) -> "LakeTables":
        """Build from the frames of tables, by name.

        Args:
            method: alignment method of the plane, as in the setting `va_alignment`.
            music_clips: the original clips.
            expanded_clips: EXPANDED_CLIPS.
            images: IMAGES.
            **others: tables by attribute name; `music_embeddings` for the original clips only.

        Raises:
            ExpansionError: the embeddings of originals and expanded clips are from different encoders.
        """
        if "music_embeddings" in others:
            others["music_embeddings"] = all_music_embeddings(others["music_embeddings"], expanded_clips)
        return cls(
            Plane.fit(music_clips, images, method),
            all_clips(music_clips, expanded_clips),
            images,
            joined_windows=expanded_clips.height,
            **others,
        )

    @classmethod
    def read(cls, lake: Lake, method: AlignmentMethod, *tables: str) -> "LakeTables":
        """Read the media tables of a lake and the given tables.

        Raises:
            LakeError: a table has not been built.
        """
        return cls.of(method, **{name: lake.read(name) for name in (*MEDIA, *tables)})

    @cached_property
    def music_va(self) -> pl.DataFrame:
        """clip_id, valence, arousal and their standard deviations of every clip, on the plane."""
        return self.plane.clips(self.music_clips)

    @cached_property
    def image_va(self) -> pl.DataFrame:
        """image_id, valence, arousal and their standard deviations of every image, on the plane."""
        return self.plane.images(self.images)

    def without_failed(self) -> "LakeTables":
        """Without the clips that could not be embedded.

        A row that was rejected because its id was already used has the id of a good clip: that clip stays.
        """
        failed = self.rejected_media.filter(kind="music").select(clip_id="item_id")
        failed = failed.join(self.music_embeddings, on="clip_id", how="anti")
        return replace(self, music_clips=self.music_clips.join(failed, on="clip_id", how="anti"))
