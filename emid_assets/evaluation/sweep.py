"""What alpha, m and K do to the pairs: a whole grid over the stored S and E.

Belongs here: choosing pairs again at other settings (each point is a re-sort) and saying how they
differ. Points are compared by labels that T does not use: tuning alpha on pairs that T made would
be circular.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.matching.fusion import Formula, fuse, rescale
from emid_assets.media.lake_tables import LakeTables
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
    """S and E of every clip's candidates, best S first.

    Attributes:
        clip_ids: n clips. image_ids: M images.
        images: (n, K) int64 rows of `image_ids`, -1 as padding.
        scores: (n, K) float32, -inf in the padding.
        log_sum_exp: (n,) float64.
        emotional: (n, K) float64 E.
    """

    clip_ids: list[str]
    image_ids: list[str]
    images: Ids
    scores: NDArray[np.float32]
    log_sum_exp: NDArray[np.float64]
    emotional: NDArray[np.float64]

    @classmethod
    def of_frames(cls, similarity: pl.DataFrame, va_distances: pl.DataFrame) -> "Candidates":
        """From SIMILARITY_MATRIX and VA_DISTANCES rows of the same pairs, in any order.

        Raises:
            AdapterError: a candidate has no E.
        """
        keys = ["clip_id", "image_id"]
        emotional = va_distances.select(*keys, "emotional_similarity")
        rows = similarity.join(emotional, on=keys, how="left").sort("clip_id", "rank")
        missing = rows.filter(pl.col("emotional_similarity").is_null())
        if not missing.is_empty():
            raise AdapterError(
                f"clip {missing['clip_id'][0]!r} with image {missing['image_id'][0]!r} has no row in "
                "va_distances: materialize it again"
            )
        clip_ids = rows["clip_id"].unique().sort().to_list()
        image_ids = rows["image_id"].unique().sort().to_list()
        line = (
            rows["clip_id"].replace_strict(clip_ids, range(len(clip_ids)), return_dtype=pl.Int64).to_numpy()
        )
        image = rows["image_id"].replace_strict(image_ids, range(len(image_ids)), return_dtype=pl.Int64)
        slot = rows["rank"].to_numpy() - 1
        shape = (len(clip_ids), int(slot.max()) + 1)
        images = np.full(shape, -1, dtype=np.int64)
        scores = np.full(shape, -np.inf, dtype=np.float32)
        similar = np.zeros(shape)
        denominators = np.zeros(len(clip_ids))
        images[line, slot] = image.to_numpy()
        scores[line, slot] = rows["score"].to_numpy()
        similar[line, slot] = rows["emotional_similarity"].to_numpy()
        denominators[line] = rows["log_sum_exp"].to_numpy()
        return cls(clip_ids, image_ids, images, scores, denominators, similar)

    def pairs(self, alpha: float, images_per_clip: int, candidates: int, rescaling: Rescaling) -> Ids:
        """(n, m) rows of images that these settings choose, best T first, -1 where there are fewer."""
        kept = slice(0, candidates)
        scores, images = self.scores[:, kept], self.images[:, kept]
        rescaled = rescale(scores, self.log_sum_exp, rescaling)
        chosen = fuse(rescaled, self.emotional[:, kept], images >= 0, alpha, images_per_clip).slots
        picked = np.take_along_axis(images, np.maximum(chosen, 0), axis=1)
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
        ALPHA_SWEEP, one row for each point. `same_as_emotional` and `same_as_semantic` are the shares
        of the picks that alpha = 0 and alpha = 1 make too: what alpha means with this S̃.

    Raises:
        AdapterError: a K larger than the candidates that were kept.
    """
    width = candidates.images.shape[1]
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
    return pl.DataFrame(lines, schema=ALPHA_SWEEP.empty().schema, orient="row")


def selected_point(points: pl.DataFrame) -> dict[str, Any]:
    """The point of ALPHA_SWEEP whose picks' labels fit best.

    Ties go to the point that uses most images, then to the first. Labels are those of
    MUSIC_TO_IMAGE_EMOTION, which T does not know.
    """
    order = points.sort("label_precision", "coverage", descending=True, maintain_order=True)
    return order.row(0, named=True)


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
    )


def _most_candidates(tables: LakeTables) -> int:
    return int(tables.similarity_matrix["rank"].max() or 0)  # type: ignore[arg-type]
