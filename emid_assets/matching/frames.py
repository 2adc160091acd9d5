"""The alignment stage as frames: embeddings in; candidates, VA distances and fused pairs out.

Belongs here: joining ids and arrays. Every frame has the columns that `store/schemas.py`
declares. The formulas are in `top_k_softmax.py`, `fusion.py` and `affect/`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.affect.valence_arousal import va_cosine, va_euclidean
from emid_assets.matching.emotional_candidates import emotional_candidates
from emid_assets.matching.fusion import Formula, fuse, rescale, semantic_similarity
from emid_assets.matching.product import FastModeAccuracy
from emid_assets.matching.row_state import NO_COLUMN, RowState, empty_row_state, log_sum_exp
from emid_assets.matching.top_k_softmax import (
    Columns,
    MatchingError,
    ShardState,
    merge_shards,
    pair_scores,
    settle_shards,
    shard_state,
)
from emid_assets.settings import MatchingProduct
from emid_assets.store.schemas import FUSED_PAIRS, SIMILARITY_MATRIX, VA_DISTANCES

_T = TypeVar("_T", bound=np.generic)


ImageFrames = pl.DataFrame | Callable[[], Iterable[pl.DataFrame]]
"""The image embeddings: one frame, or a function that opens a new stream of frames at each call."""


def similarity_frame(
    music_embeddings: pl.DataFrame,
    image_embeddings: ImageFrames,
    k: int,
    *,
    threads: int | None = None,
    product: MatchingProduct = "auto",
    device: str = "cuda",
) -> pl.DataFrame:
    """Semantic similarity: each clip's K best images and its softmax denominator over all images.

    Args:
        music_embeddings: columns of MUSIC_EMBEDDINGS (clip_id, embedding, scale are read).
        image_embeddings: columns of IMAGE_EMBEDDINGS of **all** images, or a function that opens a
            stream of such frames (read three times: ids, product, near-ties), so that the images
            need not fit in memory. Its frames may come in any order.
        k: candidates per clip; all images if there are fewer.
        threads: as in `top_k_softmax`.
        product: as in `top_k_softmax`; `int8` is the fast mode; `device` computes on `device`.
        device: of the product `device`, as torch names it.

    Returns:
        SIMILARITY_MATRIX rows by (clip in input order, rank). Image ids break ties.

    Raises:
        MatchingError: no images, a duplicate image id, different dimensions, or a non-finite number.
    """
    images = _Images(image_embeddings)
    if music_embeddings.is_empty():
        return SIMILARITY_MATRIX.empty()
    X = embedding_matrix(music_embeddings)
    shard = _shard_state(X, images, k, threads, product, device)
    state = settle_shards(shard, X, images, k, column_ids=images.ranks)
    return _similarity_rows(music_embeddings["clip_id"], images, state)


def _shard_state(
    X: NDArray[np.float32], Y: Columns, k: int, threads: int | None, product: MatchingProduct, device: str
) -> ShardState:
    if product != "device":
        return shard_state(X, Y, k, threads=threads, product=product)
    from emid_assets.matching.device import shard_state_on_device

    return shard_state_on_device(X, Y, k, device=device, precision="float32")


def measure_fast_mode(
    music_embeddings: pl.DataFrame, image_embeddings: ImageFrames, fast: pl.DataFrame, k: int, rows: int = 64
) -> FastModeAccuracy:
    """Measure the errors of the fast mode on clips spaced evenly over the frame; kept beside the asset.

    Args:
        music_embeddings: the clips of `fast`.
        image_embeddings: the images of `fast`.
        fast: SIMILARITY_MATRIX rows of `similarity_frame(..., product="int8")`.
        k: candidates per clip, as for `fast`.
        rows: number of clips to compare with the exact mode.
    """
    sample = music_embeddings.gather_every(max(1, len(music_embeddings) // rows))
    exact = similarity_frame(sample, image_embeddings, k)
    same = exact.join(fast, on=["clip_id", "image_id"], how="semi").group_by("clip_id").len()
    both = exact.filter(pl.col("rank") == 1).join(
        fast.filter(pl.col("rank") == 1), on="clip_id", suffix="_fast"
    )
    off = (both["log_sum_exp"] - both["log_sum_exp_fast"]).abs().max()
    width = len(exact) // max(1, len(sample))
    return FastModeAccuracy(
        rows=len(sample),
        equal_sets=len(same.filter(pl.col("len") == width)) / max(1, len(sample)),
        log_sum_exp=0.0 if off is None else float(off),  # type: ignore[arg-type]
    )


def similarity_shard_frame(
    music_embeddings: pl.DataFrame,
    image_shard: pl.DataFrame,
    k: int,
    *,
    threads: int | None = None,
    product: MatchingProduct = "auto",
    device: str = "cuda",
) -> pl.DataFrame:
    """The state of clips over one shard of the images, for another process to merge.

    Args:
        music_embeddings: columns of MUSIC_EMBEDDINGS.
        image_shard: columns of IMAGE_EMBEDDINGS of some of the images.
        k: candidates per clip of the whole matrix.
        threads: as in `top_k_softmax`.
        product: as in `similarity_frame`.
        device: as in `similarity_frame`.

    Returns:
        clip_id, image_id, score: the clip's best images of the shard, K and some spare; also
        maximum, sum_exp (of the clip), columns, column_norm, rounding (of the shard). The last bits of
        scores and sums depend on what computed them; those of the merged rows do not.
    """
    X, Y = embedding_matrix(music_embeddings), embedding_matrix(image_shard)
    shard = _shard_state(X, Y, k, threads, product, device)
    width = min(shard.state.width, shard.columns)
    return pl.DataFrame(
        {
            "clip_id": _repeated(music_embeddings["clip_id"], width),
            "image_id": image_shard["image_id"].gather(shard.state.ids[:, :width].ravel()),
            "score": shard.state.scores[:, :width].ravel(),
            "maximum": np.repeat(shard.state.maximum, width),
            "sum_exp": np.repeat(shard.state.sum_exp, width),
        }
    ).with_columns(columns=shard.columns, column_norm=shard.column_norm, rounding=shard.rounding)


def merge_similarity_shards(
    shards: Sequence[pl.DataFrame], music_embeddings: pl.DataFrame, image_embeddings: ImageFrames, k: int
) -> pl.DataFrame:
    """The rows of `similarity_frame`, merged from column shards; the same bits.

    Args:
        shards: frames of `similarity_shard_frame` of these clips, which together hold every image once.
        music_embeddings: columns of MUSIC_EMBEDDINGS of the clips, in the shards' order.
        image_embeddings: as in `similarity_frame`; read for the ids and for near-ties.
        k: as for the shards.

    Raises:
        MatchingError: a shard has other clips, or the shards do not hold all images.
    """
    images = _Images(image_embeddings)
    if music_embeddings.is_empty():
        return SIMILARITY_MATRIX.empty()
    width = max([k, *(len(frame) // music_embeddings.height for frame in shards)])
    states = [_shard_of(frame, music_embeddings["clip_id"], images, width) for frame in shards]
    state = settle_shards(
        merge_shards(states), embedding_matrix(music_embeddings), images, k, column_ids=images.ranks
    )
    return _similarity_rows(music_embeddings["clip_id"], images, state)


def candidate_pairs(
    similarity: pl.DataFrame,
    music_va: pl.DataFrame,
    image_va: pl.DataFrame,
    formula: Formula,
    music_embeddings: pl.DataFrame,
    image_embeddings: ImageFrames,
) -> pl.DataFrame:
    """The images that a clip's pairs are chosen from: its first by S, with `calibrated` its first by E too.

    Args:
        similarity: columns of SIMILARITY_MATRIX.
        music_va: clip_id, valence, arousal, valence_sd, arousal_sd **aligned to [-1, 1]²**.
        image_va: image_id and the same.
        formula: which candidates, and E.
        music_embeddings: columns of MUSIC_EMBEDDINGS of the clips.
        image_embeddings: of **all** images, as in `similarity_frame`.

    Returns:
        clip_id, image_id, score: each clip's candidates by S by rank, then the others by score and id.
    """
    first_by_s = similarity.select("clip_id", "image_id", "rank", "score")
    if not formula.of_all_images or similarity.is_empty():
        return first_by_s.drop("rank")
    images, X = _Images(image_embeddings), embedding_matrix(music_embeddings)
    found = emotional_candidates(
        formula,
        _points(music_embeddings, music_va, "clip_id"),
        _points(images.ids.to_frame(), image_va, "image_id"),
        X,
        images,
        images.ranks,
    )
    others = pl.DataFrame(
        {
            "clip_id": music_embeddings["clip_id"].gather(found.clips),
            "image_id": images.ids.gather(found.images),
            "clip": found.clips,
            "image": found.images,
        }
    ).join(first_by_s, on=["clip_id", "image_id"], how="anti", maintain_order="left")
    others = others.select(
        "clip_id",
        "image_id",
        rank=pl.lit(None, pl.Int32),
        score=pl.Series(pair_scores(X, others["clip"].to_numpy(), images, others["image"].to_numpy())),
    )
    return _in_order(pl.concat([first_by_s, others]), similarity).select("clip_id", "image_id", "score")


def va_distance_frame(
    pairs: pl.DataFrame, music_va: pl.DataFrame, image_va: pl.DataFrame, formula: Formula
) -> pl.DataFrame:
    """Emotional similarity E of every candidate pair, beside cosine and Euclidean distance.

    Args:
        pairs: columns clip_id, image_id and score: rows of SIMILARITY_MATRIX or of `candidate_pairs`.
        music_va: clip_id, valence, arousal **aligned to [-1, 1]²**, one row per clip; and where they are not
            certain, valence_sd and arousal_sd.
        image_va: image_id and the same, one row per image.
        formula: E.

    Returns:
        VA_DISTANCES rows in the order of `pairs`.

    Raises:
        MatchingError: a candidate has no row in `music_va` or `image_va`; the message names it.
    """
    u = _points(pairs, music_va, "clip_id")
    v = _points(pairs, image_va, "image_id")
    return VA_DISTANCES.check(
        pl.DataFrame(
            {
                "clip_id": pairs["clip_id"],
                "image_id": pairs["image_id"],
                "score": pairs["score"],
                "emotional_similarity": formula.emotional(u, v),
                "cosine": pl.Series(va_cosine(u[:, :2], v[:, :2])).fill_nan(None),
                "euclidean": va_euclidean(u[:, :2], v[:, :2]),
            }
        )
    )


def candidate_rows(
    similarity: pl.DataFrame, va_distances: pl.DataFrame, formula: Formula | None = None
) -> pl.DataFrame:
    """S and E of the candidates that a formula chooses from.

    Args:
        similarity: columns of SIMILARITY_MATRIX, each clip's rows contiguous and ordered by rank.
        va_distances: columns of VA_DISTANCES, with a row for each of these pairs, in any order. Rows of other
            images are candidates by E.
        formula: with the method `paper`, and with α = 1, candidates by E are left out; None keeps them.

    Returns:
        The columns of `similarity`, and emotional_similarity: the clips in their order, each with its
        candidates by S by rank, then the others by score and id, whose rank is null.

    Raises:
        MatchingError: a candidate by S has no E.
    """
    keys = ["clip_id", "image_id"]
    emotional = va_distances.select(*keys, "score", "emotional_similarity")
    if len(similarity) == len(va_distances) and all(
        similarity[key].equals(va_distances[key]) for key in keys
    ):
        return similarity.with_columns(emotional["emotional_similarity"])
    joined = similarity.join(emotional.drop("score"), on=keys, how="left", maintain_order="left")
    missing = joined.filter(pl.col("emotional_similarity").is_null())
    if not missing.is_empty():
        clip, image = missing.select(keys).row(0)
        raise MatchingError(
            f"clip {clip!r} with image {image!r} has no row in va_distances: materialize it again"
        )
    if formula is not None and (not formula.of_all_images or formula.alpha == 1.0):
        return joined
    denominators = similarity.group_by("clip_id").agg(pl.col("log_sum_exp").first())
    others = emotional.join(similarity, on=keys, how="anti").join(denominators, on="clip_id")
    S = semantic_similarity(others["score"].to_numpy()[:, None], others["log_sum_exp"].to_numpy())
    others = others.with_columns(rank=pl.lit(None, pl.Int32), semantic_similarity=pl.Series(S[:, 0]))
    return _in_order(pl.concat([joined, others.select(joined.columns)]), similarity)


def fused_pairs_frame(similarity: pl.DataFrame, va_distances: pl.DataFrame, formula: Formula) -> pl.DataFrame:
    """The m best images of every clip by T = alpha S̃ + (1 - alpha) E.

    Args:
        similarity: columns of SIMILARITY_MATRIX, each clip's rows contiguous and ordered by rank.
        va_distances: columns of VA_DISTANCES for the candidates (in any order).
        formula: alpha, m, S̃, and whether candidates by E alone count.

    Returns:
        FUSED_PAIRS rows by (clip in input order, rank): m for each clip, or all its candidates if
        there are fewer.

    Raises:
        MatchingError: a candidate without E, or a clip whose rows are not contiguous.
    """
    if similarity.is_empty():
        return FUSED_PAIRS.empty()
    return best_of(candidate_rows(similarity, va_distances, formula), formula)


def best_of(rows: pl.DataFrame, formula: Formula) -> pl.DataFrame:
    """The pairs of `fused_pairs_frame`, from the rows of `candidate_rows`."""
    if rows.is_empty():
        return FUSED_PAIRS.empty()
    candidates = _Candidates.of(rows)
    emotional = rows["emotional_similarity"].to_numpy()
    # S̃ is 0 for an image that is not among the first by S, as for an empty slot.
    by_s = np.where(rows["rank"].is_null().to_numpy(), np.float32(-np.inf), rows["score"].to_numpy())
    rescaled = rescale(
        candidates.spread(by_s, -np.inf), rows["log_sum_exp"].to_numpy()[candidates.first], formula.rescaling
    )
    fused = fuse(
        rescaled,
        candidates.spread(emotional, 0.0),
        candidates.valid,
        formula.alpha,
        formula.images_per_clip,
    )
    lines, ranks = np.nonzero(fused.slots != NO_COLUMN)
    slots = fused.slots[lines, ranks]
    chosen = rows[candidates.first[lines] + slots]
    return FUSED_PAIRS.check(
        pl.DataFrame(
            {
                "clip_id": chosen["clip_id"],
                "image_id": chosen["image_id"],
                "rank": (ranks + 1).astype(np.int32),
                "semantic_similarity": chosen["semantic_similarity"],
                "rescaled_similarity": rescaled[lines, slots],
                "emotional_similarity": chosen["emotional_similarity"],
                "fused_score": fused.fused_score[lines, ranks],
            }
        )
    )


def unproven(pairs: pl.DataFrame, candidates: pl.DataFrame, formula: Formula) -> list[str]:
    """Clips whose last pair has a smaller T than an image that is no candidate may have; there must be none.

    Such an image has S̃ = 0, and at most the E of the last of the clip's first L by E.

    Args:
        pairs: FUSED_PAIRS of these candidates.
        candidates: rows of `candidate_rows`.
        formula: that made them.
    """
    if not formula.of_all_images or formula.alpha == 1.0:
        return []
    E = pl.col("emotional_similarity")
    last = candidates.group_by("clip_id").agg(last=E.top_k(formula.emotional_candidates).min())
    chosen = pairs.group_by("clip_id").agg(T=pl.col("fused_score").min())
    bound = (1.0 - formula.alpha) * pl.col("last")
    return chosen.join(last, on="clip_id").filter(pl.col("T") < bound)["clip_id"].sort().to_list()


def embedding_matrix(embeddings: pl.DataFrame) -> NDArray[np.float32]:
    """(n, d) float32: embedding × scale, the encoder's output before normalisation to unit length."""
    unit = embeddings["embedding"].to_numpy()
    return np.ascontiguousarray(unit * embeddings["scale"].to_numpy()[:, None])


class _Images:
    """All image embeddings: their ids, and their vectors as column parts that can be read repeatedly."""

    def __init__(self, source: ImageFrames) -> None:
        self._source = source
        parts = [frame["image_id"] for frame in self._open()]
        self.ids = pl.concat(parts) if parts else pl.Series("image_id", [], dtype=pl.String)
        if self.ids.is_empty():
            raise MatchingError("there are no image embeddings: materialize image_embeddings first")
        twice = self.ids.filter(self.ids.is_duplicated())
        if not twice.is_empty():
            raise MatchingError(f"image id {twice[0]!r} occurs more than once in the image embeddings")
        self.columns = len(self.ids)
        by_name = self.ids.arg_sort().to_numpy()
        self.names = self.ids.gather(by_name)
        self.ranks = np.empty(self.columns, dtype=np.int64)
        self.ranks[by_name] = np.arange(self.columns)

    def _open(self) -> Iterable[pl.DataFrame]:
        return [self._source] if isinstance(self._source, pl.DataFrame) else self._source()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for frame in self._open():
            if not frame.is_empty():
                yield embedding_matrix(frame)


def _similarity_rows(clips: pl.Series, images: _Images, state: RowState) -> pl.DataFrame:
    width = state.width
    denominators = log_sum_exp(state)
    return SIMILARITY_MATRIX.check(
        pl.DataFrame(
            {
                "clip_id": _repeated(clips, width),
                "image_id": images.names.gather(state.ids.ravel()),
                "rank": np.tile(np.arange(1, width + 1, dtype=np.int32), state.rows),
                "score": state.scores.ravel(),
                "semantic_similarity": semantic_similarity(state.scores, denominators).ravel(),
                "log_sum_exp": np.repeat(denominators, width),
            }
        )
    )


def _shard_of(frame: pl.DataFrame, clips: pl.Series, images: _Images, slots: int) -> ShardState:
    width = len(frame) // max(1, len(clips))
    if not frame["clip_id"].equals(_repeated(clips, width)):
        raise MatchingError("a similarity shard has other clips, or another order: compute it again")
    positions = pl.DataFrame({"image_id": images.ids, "position": np.arange(images.columns)})
    found = frame.select("image_id").join(positions, on="image_id", how="left", maintain_order="left")
    missing = found.filter(pl.col("position").is_null())
    if not missing.is_empty():
        raise MatchingError(
            f"image {missing['image_id'][0]!r} of a similarity shard has no embedding: recompute the shard"
        )
    first = frame[::width]
    state = empty_row_state(len(clips), slots)
    state.ids[:, :width] = found["position"].to_numpy().reshape(-1, width)
    state.scores[:, :width] = frame["score"].to_numpy().reshape(-1, width)
    state.maximum[:] = first["maximum"].to_numpy()
    state.sum_exp[:] = first["sum_exp"].to_numpy()
    columns, column_norm, rounding = first.select("columns", "column_norm", "rounding").row(0)
    return ShardState(state, columns, column_norm, rounding)


@dataclass(frozen=True)
class _Candidates:
    """Positions of each clip's candidates in the long frame, as a padded (clips, K) matrix."""

    first: NDArray[np.intp]
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, similarity: pl.DataFrame) -> "_Candidates":
        runs = similarity["clip_id"].rle().struct.unnest()
        if runs["value"].n_unique() != len(runs):
            name = runs["value"].filter(runs["value"].is_duplicated())[0]
            raise MatchingError(f"the candidates of clip {name!r} are not contiguous: sort by clip and rank")
        counts = runs["len"].to_numpy().astype(np.intp)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
        return cls(first=first, valid=np.arange(counts.max()) < counts[:, None])

    def spread(self, values: NDArray[_T], fill: float) -> NDArray[_T]:
        matrix = np.full(self.valid.shape, fill, dtype=values.dtype)
        matrix[self.valid] = values
        return matrix


def _repeated(ids: pl.Series, times: int) -> pl.Series:
    return ids.gather(np.repeat(np.arange(len(ids)), times))


def _in_order(rows: pl.DataFrame, similarity: pl.DataFrame) -> pl.DataFrame:
    """The candidates in the order in which ties of T are broken, the clips in the order of `similarity`."""
    lines = similarity.select(pl.col("clip_id").unique(maintain_order=True)).with_row_index("line")
    order = ["line", "rank", "score", "image_id"]
    return (
        rows.join(lines, on="clip_id")
        .sort(order, descending=[False, False, True, False], nulls_last=True)
        .drop("line")
    )


def _points(pairs: pl.DataFrame, va: pl.DataFrame, key: str) -> NDArray[np.float64]:
    """(n, 4) valence, arousal and their standard deviations, 0 where `va` has none."""
    columns = ["valence", "arousal", "valence_sd", "arousal_sd"]
    certain = [pl.lit(0.0).alias(name) for name in columns[2:] if name not in va.columns]
    known = va.with_columns(certain).select(key, *columns)
    joined = pairs.select(key).join(known, on=key, how="left", maintain_order="left")
    missing = joined.filter(pl.any_horizontal(pl.exclude(key).is_null()))
    if not missing.is_empty():
        raise MatchingError(f"{key} {missing[key][0]!r} has no valence and arousal: rebuild its table")
    if len(joined) != len(pairs):
        raise MatchingError(f"a {key} has more than one row of valence and arousal")
    return joined.select(columns).to_numpy().astype(np.float64)
