"""The tables of the whole lake as one thing, for what reads many of them: adapters, evaluation, pages.

Belongs here: putting originals and expanded clips together, and the plane that they share with the images.
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
    """All partitions of each table. A table that was not asked for is empty.

    Attributes:
        plane: of the original clips and the images.
        music_clips: every clip, originals and expanded ones (MUSIC_CLIPS).
        images: every image (IMAGES).
        music_embeddings: of every clip (MUSIC_EMBEDDINGS).
        image_embeddings: of every image.
        similarity_matrix, va_distances, fused_pairs: of every clip.
        trained_adapter, adapted_embeddings, tuning_trials: of every network.
        published_pairs: those of `pairs.csv`.
        rejected_media: every item that could not be used.
        top_images, pair_statistics, retrieval_metrics, alpha_sweep, published_agreement: what was measured.
        study_results, image_emotion_head: of the listening study, and of the head that predicts emotions.
        joined_windows: how many of the clips are expanded ones.
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
        """From the frames of tables, by name.

        Args:
            method: of the plane, as the setting `va_alignment` has it.
            music_clips: the original clips.
            expanded_clips: EXPANDED_CLIPS.
            images: IMAGES.
            **others: tables by the names of the attributes; `music_embeddings` of the original clips.

        Raises:
            ExpansionError: the embeddings of originals and expanded clips are of different encoders.
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
        """The media of a lake, and these tables beside them.

        Raises:
            LakeError: a table has not been built.
        """
        return cls.of(method, **{name: lake.read(name) for name in (*MEDIA, *tables)})

    @cached_property
    def music_va(self) -> pl.DataFrame:
        """clip_id, valence, arousal of every clip on the plane."""
        return self.plane.clips(self.music_clips)

    @cached_property
    def image_va(self) -> pl.DataFrame:
        """image_id, valence, arousal of every image on the plane."""
        return self.plane.images(self.images)

    def without_failed(self) -> "LakeTables":
        """Without the clips that were rejected as they were embedded.

        A row that was rejected since its id is taken has a good clip's id: that clip stays.
        """
        failed = self.rejected_media.filter(kind="music").select(clip_id="item_id")
        failed = failed.join(self.music_embeddings, on="clip_id", how="anti")
        return replace(self, music_clips=self.music_clips.join(failed, on="clip_id", how="anti"))
