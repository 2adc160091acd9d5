"""Training data of a network: the lake's pairs with their arrays, split by source.

Belongs here: joining ids and arrays. Training is in `training`.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.adapters.formula import TaughtFormula
from emid_assets.adapters.splits import TRAIN, split_by_source
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.metrics import (
    Floats,
    Ids,
    Relevance,
)


@dataclass(frozen=True)
class PairData:
    """The training data of a network.

    Attributes:
        clip_ids, image_ids: ids of the rows of `music` and `images`.
        source_ids: (N,) source of each clip.
        music: (N, d) float32 unit embeddings. images: (M, d) the same.
        music_va, image_va: (N, 2) and (M, 2) float64 aligned valence and arousal. Those of clips
            outside the training part are not read.
        pair_clips, pair_images: (P,) int64 rows of the paired clip and image; a clip's pairs by rank.
        fused_scores: (P,) float32, T of each pair.
        pair_parts: (P,) str: `train`, `validation` or `test`.
        clip_parts: (N,) str: the part of each clip if the split is by source.
        formula: the formula that chose the pairs; if None, networks that learn from it use only the pairs.
        music_sd, image_sd: (N, 2) and (M, 2) float64, standard deviations of the VA, which the formula reads;
            None if they are exact.
    """

    clip_ids: list[str]
    image_ids: list[str]
    source_ids: list[str]
    music: Floats
    images: Floats
    music_va: NDArray[np.float64]
    image_va: NDArray[np.float64]
    pair_clips: Ids
    pair_images: Ids
    fused_scores: Floats
    pair_parts: NDArray[np.str_]
    clip_parts: list[str]
    formula: TaughtFormula | None = None
    music_sd: NDArray[np.float64] | None = None
    image_sd: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not (self.pair_parts == TRAIN).any():
            raise AdapterError("there is no pair to train on: match music and images first")
        for name, embeddings in (("music", self.music), ("image", self.images)):
            finite = np.isfinite(embeddings).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                ids = self.clip_ids if name == "music" else self.image_ids
                raise AdapterError(f"the embedding of {name} {ids[row]!r} is not finite: encode it again")

    def digest(self) -> str:
        """Hex sha256 of all training and evaluation data: the data's version."""
        digest = hashlib.sha256(json.dumps([self.clip_ids, self.image_ids, self.source_ids]).encode())
        of_pairs = (self.pair_clips, self.pair_images, self.fused_scores, self.pair_parts)
        order = np.lexsort((self.pair_images, self.pair_clips))  # the order of the rows does not matter
        arrays: list[NDArray[Any]] = [self.music, self.images, self.music_va, self.image_va]
        arrays += [array for array in (self.music_sd, self.image_sd) if array is not None]
        for array in arrays + [column[order] for column in of_pairs]:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def relevance(self, part: str) -> Relevance:
        """The pairs of one part."""
        chosen = self.pair_parts == part
        return Relevance.of_pairs(self.pair_clips[chosen], self.pair_images[chosen], len(self.images))


def pair_data(tables: LakeTables, seed: int, formula: Formula | None = None) -> PairData:
    """Training data for `training.train`, split by source clip.

    Args:
        tables: media, embeddings and fused_pairs of the whole lake, rows in any order.
        seed: of the split.
        formula: the formula that chose the pairs, for the networks that also learn from it.

    Raises:
        AdapterError: names the first clip or image that one table has and another lacks.
    """
    music = tables.music_embeddings.sort("clip_id")
    images = tables.image_embeddings.sort("image_id")
    clip_ids, image_ids = music["clip_id"].to_list(), images["image_id"].to_list()
    sources = aligned_to(music, tables.music_clips.select("clip_id", "source_id"), "clip_id", "music_clips")
    clip_parts = split_by_source(sources["source_id"].to_list(), seed)
    music_points = va_points(music, tables.music_va, "clip_id")
    image_points = va_points(images, tables.image_va, "image_id")
    pairs = tables.fused_pairs.sort("clip_id", "rank")
    pair_clips = rows_of(pairs["clip_id"], clip_ids, "clip", "music_embeddings")
    # The encoder's norm is the same for all clips, and for all images.
    scale = float(np.median(music["scale"])) * float(np.median(images["scale"]))
    return PairData(
        clip_ids=clip_ids,
        image_ids=image_ids,
        source_ids=sources["source_id"].to_list(),
        music=matrix(music["embedding"]),
        images=matrix(images["embedding"]),
        music_va=music_points[:, :2],
        image_va=image_points[:, :2],
        pair_clips=pair_clips,
        pair_images=rows_of(pairs["image_id"], image_ids, "image", "image_embeddings"),
        fused_scores=pairs["fused_score"].cast(pl.Float32).to_numpy(),
        pair_parts=np.asarray(clip_parts, dtype=np.str_)[pair_clips],
        clip_parts=clip_parts,
        formula=None if formula is None else TaughtFormula(scale, formula),
        music_sd=music_points[:, 2:],
        image_sd=image_points[:, 2:],
    )


def matrix(embeddings: pl.Series) -> NDArray[np.float32]:
    """(n, d) float32, contiguous, of a column of embeddings."""
    return np.ascontiguousarray(embeddings.to_numpy(), dtype=np.float32)


def rows_of(ids: pl.Series, known: list[str], kind: str, table: str) -> NDArray[np.int64]:
    """The position of each id in `known`.

    Raises:
        AdapterError: names the first unknown id, with `kind` and `table`.
    """
    row_of = {name: row for row, name in enumerate(known)}
    missing = [name for name in ids.unique(maintain_order=True).to_list() if name not in row_of]
    if missing:
        raise AdapterError(
            f"{kind} {missing[0]!r} is in a pair but not in {table}: materialize the pairs again"
        )
    return np.asarray([row_of[name] for name in ids.to_list()], dtype=np.int64)


def aligned_to(items: pl.DataFrame, facts: pl.DataFrame, key: str, table: str) -> pl.DataFrame:
    """The rows of `facts` in the order of `items`, by the column `key`.

    Raises:
        AdapterError: names the first item without a row or a value in `facts`, the rows of `table`.
    """
    joined = items.select(key).join(facts, on=key, how="left", maintain_order="left")
    missing = joined.filter(pl.any_horizontal(pl.exclude(key).is_null()))
    if not missing.is_empty():
        raise AdapterError(
            f"{key} {missing[key][0]!r} has an embedding but no row in {table}: materialize it again"
        )
    if len(joined) != len(items):
        raise AdapterError(f"a {key} occurs more than once in {table}")
    return joined


def va_points(items: pl.DataFrame, va: pl.DataFrame, key: str) -> NDArray[np.float64]:
    """(n, 4) valence, arousal and their standard deviations of `items`, in their order."""
    plane = aligned_to(items, va, key, "the aligned valence and arousal")
    columns = ["valence", "arousal", "valence_sd", "arousal_sd"]
    return plane.select(columns).to_numpy().astype(np.float64)
