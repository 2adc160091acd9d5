"""What alpha, m and K do to the pairs: a whole grid over the stored S and E.

Belongs here: choosing pairs again at other settings (each point is a re-sort) and saying how they
differ. Points are compared by labels, where E does not derive from them: tuning alpha on pairs that T made
would be circular.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.matching.frames import candidate_rows
from emid_assets.matching.fusion import Formula, fuse, rescale
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import VA_OF_LABEL
from emid_assets.media.with_predictions import PREDICTED
from emid_assets.ranking.emotion_metrics import emotion_metrics_at_k
from emid_assets.ranking.metrics import Ids, coverage
from emid_assets.settings import AlignmentMethod, Rescaling
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import ALPHA_SWEEP


@dataclass(frozen=True)
class Grid:
    """The points of a sweep.

    Attributes:
        alphas: values of alpha.
        images_per_clip: values of m.
        candidate_counts: values of K, at most the number of stored candidates.
        rescalings: variants of S̃.
    """

    alphas: Sequence[float]
    images_per_clip: Sequence[int]
    candidate_counts: Sequence[int]
    rescalings: Sequence[Rescaling] = ("candidate_minmax", "raw")


@dataclass(frozen=True)
class Candidates:
    """S and E of every clip's candidates: by S, best first, then the others by score.

    Attributes:
        clip_ids: n clips. image_ids: M images.
        images: (n, C) int64 rows of `image_ids`, -1 as padding.
        ranks: (n, C) int64 rank by S; 0 for candidates by E alone, and in the padding.
        scores: (n, C) float32, -inf in the padding.
        log_sum_exp: (n,) float64.
        emotional: (n, C) float64 E.
    """

    clip_ids: list[str]
    image_ids: list[str]
    images: Ids
    ranks: Ids
    scores: NDArray[np.float32]
    log_sum_exp: NDArray[np.float64]
    emotional: NDArray[np.float64]

    @classmethod
    def of_frames(cls, similarity: pl.DataFrame, va_distances: pl.DataFrame) -> "Candidates":
        """From SIMILARITY_MATRIX and VA_DISTANCES rows of the same clips, in any order.

        Raises:
            MatchingError: a candidate by S has no E.
        """
        rows = candidate_rows(similarity.sort("clip_id", "rank"), va_distances)
        clip_ids = rows["clip_id"].unique().sort().to_list()
        image_ids = rows["image_id"].unique().sort().to_list()
        slots = rows.select(slot=pl.int_range(pl.len()).over("clip_id"))["slot"].to_numpy()
        line = (
            rows["clip_id"].replace_strict(clip_ids, range(len(clip_ids)), return_dtype=pl.Int64).to_numpy()
        )
        image = rows["image_id"].replace_strict(image_ids, range(len(image_ids)), return_dtype=pl.Int64)

        def spread(values: NDArray[Any], fill: Any) -> NDArray[Any]:
            matrix = np.full((len(clip_ids), int(slots.max()) + 1), fill, dtype=values.dtype)
            matrix[line, slots] = values
            return matrix

        denominators = np.zeros(len(clip_ids))
        denominators[line] = rows["log_sum_exp"].to_numpy()
        return cls(
            clip_ids,
            image_ids,
            spread(image.to_numpy(), -1),
            spread(rows["rank"].fill_null(0).cast(pl.Int64).to_numpy(), 0),
            spread(rows["score"].to_numpy(), -np.inf),
            denominators,
            spread(rows["emotional_similarity"].to_numpy(), 0.0),
        )

    @property
    def by_similarity(self) -> int:
        """The largest number of candidates by S that a clip has: K as it was built."""
        return int(self.ranks.max())

    def pairs(self, alpha: float, images_per_clip: int, candidates: int, rescaling: Rescaling) -> Ids:
        """(n, m) rows of images that these settings choose, best T first, -1 where there are fewer."""
        by_s = (self.ranks > 0) & (self.ranks <= candidates)
        rescaled = rescale(np.where(by_s, self.scores, np.float32(-np.inf)), self.log_sum_exp, rescaling)
        of_all_images = ((self.images >= 0) & (self.ranks == 0)).any()
        valid = self.images >= 0 if of_all_images and alpha < 1.0 else by_s
        chosen = fuse(rescaled, self.emotional, valid, alpha, images_per_clip).slots
        picked = np.take_along_axis(self.images, np.maximum(chosen, 0), axis=1)
        return np.where(chosen >= 0, picked, -1)


def same_picks(ours: Ids, theirs: Ids) -> float:
    """Share of the pairs (n, m) in `ours` that are in `theirs` too, whatever their rank."""
    present = ours >= 0
    same = (ours[:, :, None] == theirs[:, None, :]).any(axis=2) & present
    return float(same.sum() / max(1, present.sum()))


def sweep(
    candidates: Candidates,
    clip_emotions: Sequence[str],
    clip_va: NDArray[np.float64],
    image_tags: Sequence[str],
    image_va: NDArray[np.float64],
    grid: Grid,
) -> pl.DataFrame:
    """Every point of the grid: what it picks, and how well the labels of its picks fit.

    Args:
        candidates: S and E.
        clip_emotions: Cowen key of each clip of `candidates.clip_ids`.
        clip_va: (n, 2) aligned VA of the clips.
        image_tags: tag of each image of `candidates.image_ids`.
        image_va: (M, 2) aligned VA of the images.
        grid: the points.

    Returns:
        ALPHA_SWEEP without independent_labels, one row for each point. `same_as_emotional` and
        `same_as_semantic` are the shares of the picks that alpha = 0 and alpha = 1 make too: what alpha means
        with this S̃.

    Raises:
        AdapterError: a K larger than the candidates that were kept.
    """
    width = candidates.by_similarity
    if min(grid.candidate_counts) < 1:
        raise AdapterError(f"K = {min(grid.candidate_counts)}: at least one candidate is needed")
    too_many = [count for count in grid.candidate_counts if count > width]
    if too_many:
        raise AdapterError(
            f"K = {too_many[0]} asks for more candidates than the {width} that were kept: "
            "materialize similarity_matrix with a larger setting candidates first"
        )
    lines = []
    for rescaling, m, count in product(grid.rescalings, grid.images_per_clip, grid.candidate_counts):
        emotional = candidates.pairs(0.0, m, count, rescaling)
        semantic = candidates.pairs(1.0, m, count, rescaling)
        for alpha in grid.alphas:
            picks = candidates.pairs(alpha, m, count, rescaling)
            fit = emotion_metrics_at_k(picks, clip_emotions, clip_va, image_tags, image_va)
            lines.append(
                (
                    rescaling, alpha, m, count,
                    same_picks(picks, emotional), same_picks(picks, semantic),
                    float(fit["label_precision"].mean()), coverage(picks, len(candidates.image_ids)),
                )
            )  # fmt: skip
    columns = {
        name: kind for name, kind in ALPHA_SWEEP.empty().schema.items() if name != "independent_labels"
    }
    return pl.DataFrame(lines, schema=columns, orient="row")


def selected_point(points: pl.DataFrame) -> dict[str, Any] | None:
    """The point of ALPHA_SWEEP whose picks' labels fit best; None where labels and E have one source.

    Ties go to the point that uses most images, then to the first.
    """
    if points.is_empty() or points["independent_labels"][0] < 1.0:
        return None
    order = points.sort("label_precision", "coverage", descending=True, maintain_order=True)
    return order.row(0, named=True)


NO_JUDGE = (
    "Labels cannot judge α here, and no point is recommended: {:.0%} of the clips and images have a label "
    "that was predicted from their valence and arousal, or the valence and arousal of their label. What "
    "favours E makes such labels fit."
)


def independent_labels(music_clips: pl.DataFrame, images: pl.DataFrame) -> float:
    """Share of clips and images whose label and whose valence and arousal do not derive from each other.

    A predicted label is that of the place in the plane, and a medium without ratings has the place of its
    label: either way E favours pairs whose labels fit, so that these say nothing about E or alpha.
    """
    derived = pl.col("label_source").eq_missing(PREDICTED) | pl.col("va_source").is_in(VA_OF_LABEL)
    of_both = [frame.select(derived=derived.fill_null(False)) for frame in (music_clips, images)]
    return 1.0 - float(pl.concat(of_both)["derived"].mean() or 0.0)  # type: ignore[arg-type]


def sweep_lake(
    lake: Lake,
    va_alignment: AlignmentMethod,
    *,
    alphas: Sequence[float],
    images_per_clip: Sequence[int],
    candidate_counts: Sequence[int] | None = None,
) -> pl.DataFrame:
    """The sweep of a lake's S and E.

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
    tables = LakeTables.read(lake, va_alignment, "similarity_matrix", "va_distances")
    if candidate_counts is None:
        most = _most_candidates(tables) or 1
        candidate_counts = sorted({max(1, most // 2), most})
    return sweep_tables(tables, Grid(alphas, images_per_clip, candidate_counts))


def sweep_around(tables: LakeTables, formula: Formula) -> pl.DataFrame:
    """The report's grid: α from 0 to 1; m, 1 and 5; all K candidates, a third and a tenth of them."""
    most = _most_candidates(tables)
    if not most:
        return ALPHA_SWEEP.empty()
    grid = Grid(
        alphas=[step / 10 for step in range(11)],
        images_per_clip=sorted({1, formula.images_per_clip, 5}),
        candidate_counts=sorted({max(1, most // 10), max(1, most // 3), most}),
        rescalings=[formula.rescaling],
    )
    return sweep_tables(tables, grid)


def sweep_tables(tables: LakeTables, grid: Grid) -> pl.DataFrame:
    """Every point of the grid as `sweep` gives it, from the alignment and the media of a lake."""
    candidates = Candidates.of_frames(tables.similarity_matrix, tables.va_distances)
    clips = pl.DataFrame({"clip_id": candidates.clip_ids}).join(
        tables.music_clips, on="clip_id", how="left", maintain_order="left"
    )
    pictures = pl.DataFrame({"image_id": candidates.image_ids}).join(
        tables.images, on="image_id", how="left", maintain_order="left"
    )
    va = ["valence", "arousal"]
    return sweep(
        candidates,
        clips["emotion"].to_list(),
        tables.plane.clips(clips).select(va).to_numpy(),
        pictures["tag"].to_list(),
        tables.plane.images(pictures).select(va).to_numpy(),
        grid,
    ).with_columns(independent_labels=pl.lit(independent_labels(clips, pictures)))


def _most_candidates(tables: LakeTables) -> int:
    return int(tables.similarity_matrix["rank"].max() or 0)  # type: ignore[arg-type]
