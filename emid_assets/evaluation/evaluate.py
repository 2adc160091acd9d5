"""Every network compared with its baselines on unseen clips: the lake's tables in, metrics out.

Belongs here: joining ids and arrays for the metrics of `ranking`. The baselines are in `baselines`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.adapters.pair_data import (
    aligned_to,
    matrix,
    pair_data,
    rows_of,
    va_points,
)
from emid_assets.adapters.splits import TEST, TRAIN, VALIDATION
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.va_ridge import fit_va_reader
from emid_assets.evaluation.baselines import formula_scores, random_scores
from emid_assets.evaluation.intervals import intervals
from emid_assets.evaluation.mteb_tasks import public_tasks, retrieval_task
from emid_assets.evaluation.protocols import FEWEST_QUERIES, HeldOut
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.emotion_metrics import emotion_metrics_at_k
from emid_assets.ranking.metrics import (
    Evaluation,
    Floats,
    Ids,
    Relevance,
    ScoreRows,
    ceilings_at_k,
    coverage,
    evaluate_ranked,
    evaluate_ranking,
    inner_product_scores,
    metrics_like_librecommender,
    rerank,
)

K = 10

RETRIEVED = 100
"""Images that a network re-ranks if it is more than an inner product."""

EVALUATION_COLUMNS = {
    "system": pl.String, "split": pl.String, "metric": pl.String, "value": pl.Float64,
    "low": pl.Float64, "high": pl.Float64,
}  # fmt: skip


RELEASED_TASKS = "released_tasks"
PUBLIC_TASKS = "public_tasks"
TEST_SECTION = "retrieval_test"

WARM, COLD_IMAGES = "warm", "cold_images"
"""Protocols beside the splits; see `protocols`."""

NOT_MEASURED = "not measured"
"""The system of a protocol that has too few clips: `queries`, how many, and `queries_needed`."""


def retrieval_metrics(
    tables: LakeTables,
    formula: Formula,
    seed: int,
    predicted: frozenset[str],
    weights: Mapping[str, Path],
) -> pl.DataFrame:
    """The frame RETRIEVAL_METRICS of a lake; arguments as `evaluate` takes them.

    Sections `retrieval_` with the name of a split or protocol, `released_tasks` and `public_tasks`.
    """
    columns = ["system", "metric", "value", "low", "high"]
    cold = evaluate(tables, formula, seed, predicted, weights)
    by_split = pl.concat([cold, evaluate_protocols(tables, formula, seed, weights)])
    released, public = evaluate_released_tasks(tables), evaluate_public_tasks(tables, seed)
    return pl.concat(
        [
            by_split.select(pl.format("retrieval_{}", "split").alias("section"), *columns),
            released.select(pl.lit(RELEASED_TASKS).alias("section"), *columns),
            public.select(pl.lit(PUBLIC_TASKS).alias("section"), *columns),
        ]
    )


def evaluate(
    tables: LakeTables,
    formula: Formula,
    seed: int,
    predicted: frozenset[str] = frozenset(),
    weights: Mapping[str, Path] = {},
) -> pl.DataFrame:
    """Every network beside random, semantic, structured and oracle, on unseen clips.

    Systems: each network; `random`; `semantic` (X·Y of the frozen space); `structured` (T with VA
    predicted from the music embedding by a ridge on the training clips); `oracle` (T with the
    clips' own VA, which made the pairs).

    Args:
        tables: media, embeddings, pairs and adapted_embeddings of the whole lake.
        formula: that made the pairs.
        seed: of the random baseline.
        predicted: ids of clips whose emotion nobody gave. If a split holds any, the split's name with
            `_given` covers its other clips.
        weights: network → weights file. A network that is more than an inner product appears a second
            time, as `…_reranked`: its embeddings retrieve 100 images, the whole network re-ranks them.

    Returns:
        system, split, metric, value, and low and high, the interval of a mean by drawing other sources (null
        where there is none). `ceiling` is one more system: the best that the metrics of
        pairs can be, since a clip has few images. Splits are `validation` and `test`; if there is neither
        (a single source clip), `train`. Metrics are those of
        `ranking.metrics` and of `ranking.emotion_metrics`, at 10, `auc`, and `queries`, the number of clips.

    Raises:
        AdapterError: networks that were split differently, or tables that do not fit each other.
    """
    space = _Space.of(tables)
    systems = _networks(space, tables.adapted_embeddings, weights) | _baselines(space, formula, seed)
    everything = np.ones(len(space.image_ids), dtype=np.bool_)
    lines: list[Line] = []
    for split, rows in _populations(space, predicted).items():
        lines += _lines(space, systems, _Protocol(split, rows, space.relevance, everything), seed)
    return pl.DataFrame(lines, schema=EVALUATION_COLUMNS, orient="row")


def evaluate_protocols(
    tables: LakeTables,
    formula: Formula,
    seed: int,
    weights: Mapping[str, Path] = {},
    fewest: int = FEWEST_QUERIES,
) -> pl.DataFrame:
    """Every network, trained once more, beside the baselines: known clips, and images it has never seen.

    Splits: `warm` (a held-out pair of each training clip, among the images of training) and `cold_images`
    (clips of unseen sources among unseen images); see `protocols`.

    Args:
        tables: as for `evaluate`.
        formula: that made the pairs.
        seed: of the split, of what is held out and of the draws.
        weights: network → weights file, which tells how to train it.
        fewest: clips that a protocol needs. If it has fewer, its only rows say how many of system
            `not measured`; if neither has enough, nothing is trained.

    Returns:
        As `evaluate`.
    """
    space = _Space.of(tables)
    held = HeldOut.of(pair_data(tables, seed, formula), seed)
    found = [
        _Protocol(WARM, held.pairs.queries(), held.pairs, ~held.unseen, held.known),
        _Protocol(COLD_IMAGES, held.unseen_pairs.queries(), held.unseen_pairs, held.unseen),
    ]
    lines: list[Line] = [
        (NOT_MEASURED, protocol.name, name, float(value), None, None)
        for protocol in found
        if len(protocol.rows) < fewest
        for name, value in (("queries", len(protocol.rows)), ("queries_needed", fewest))
    ]
    enough = [protocol for protocol in found if len(protocol.rows) >= fewest]
    if enough:
        systems: dict[str, _System] = {}
        for network, adapter in held.train_again(weights).items():
            p, q = adapter.embed(
                space.clip_ids, space.music, space.image_ids, space.images, space.image_points
            )
            systems |= _network(space, network, inner_product_scores(p, q), adapter)
        systems |= _baselines(space, formula, seed)
        for protocol in enough:
            lines += _lines(space, systems, protocol, seed)
    return pl.DataFrame(lines, schema=EVALUATION_COLUMNS, orient="row")


Line = tuple[str, str, str, float, float | None, float | None]


@dataclass(frozen=True)
class _Protocol:
    """Which clips are asked for, which images are ranked for them, and which are right.

    Attributes:
        name: of the split.
        rows: the query clips.
        relevance: the pairs to be found.
        corpus: (M,) bool, the images that are ranked.
        known: pairs that are not ranked, because networks have learnt them.
    """

    name: str
    rows: Ids
    relevance: Relevance
    corpus: NDArray[np.bool_]
    known: Relevance | None = None


def _lines(space: "_Space", systems: "Mapping[str, _System]", protocol: _Protocol, seed: int) -> list[Line]:
    lines: list[Line] = []
    for name, system in systems.items():
        figures = _figures(space, system.evaluated(protocol), protocol, seed)
        lines += [(name, protocol.name, metric, *figure) for metric, figure in figures.items()]
    counts = protocol.relevance.counts(protocol.rows)
    return lines + [
        ("ceiling", protocol.name, f"{name}_at_{K}", float(value.mean()), None, None)
        for name, value in ceilings_at_k(counts[counts > 0], K).items()
    ]


@dataclass(frozen=True)
class _Space:
    """The lake as arrays: clips and images in the order of their ids."""

    clip_ids: list[str]
    image_ids: list[str]
    parts: NDArray[np.str_]
    emotions: pl.Series
    sources: pl.Series
    tags: list[str]
    music: Floats
    images: Floats
    music_scale: Floats
    image_scale: Floats
    music_points: NDArray[np.float64]
    image_points: NDArray[np.float64]
    relevance: Relevance

    @property
    def music_va(self) -> NDArray[np.float64]:
        """(N, 2) valence and arousal, without their standard deviations."""
        return self.music_points[:, :2]

    @property
    def image_va(self) -> NDArray[np.float64]:
        """(M, 2), the same."""
        return self.image_points[:, :2]

    @classmethod
    def of(cls, tables: LakeTables) -> "_Space":
        music = tables.music_embeddings.sort("clip_id")
        images = tables.image_embeddings.sort("image_id")
        clip_ids, image_ids = music["clip_id"].to_list(), images["image_id"].to_list()
        parts = _common_split(tables.adapted_embeddings, clip_ids)
        facts = tables.music_clips.select("clip_id", "emotion", "source_id")
        facts = aligned_to(music, facts, "clip_id", "music_clips")
        pairs = tables.fused_pairs
        return cls(
            clip_ids=clip_ids,
            image_ids=image_ids,
            parts=parts,
            emotions=facts["emotion"],
            sources=facts["source_id"],
            tags=_tags(images, tables.images),
            music=matrix(music["embedding"]),
            images=matrix(images["embedding"]),
            music_scale=music["scale"].to_numpy(),
            image_scale=images["scale"].to_numpy(),
            music_points=va_points(music, tables.music_va, "clip_id"),
            image_points=va_points(images, tables.image_va, "image_id"),
            relevance=Relevance.of_pairs(
                rows_of(pairs["clip_id"], clip_ids, "clip", "music_embeddings"),
                rows_of(pairs["image_id"], image_ids, "image", "image_embeddings"),
                len(image_ids),
            ),
        )


@dataclass(frozen=True)
class _System:
    """A ranking of all images for a clip; with `reorder`, its first `RETRIEVED` are re-ranked."""

    score_rows: ScoreRows
    reorder: Callable[[Ids, Ids], Floats] | None = None

    def evaluated(self, protocol: _Protocol) -> Evaluation:
        relevance, known = protocol.relevance, protocol.known
        scores = self.score_rows if protocol.corpus.all() else _among(protocol.corpus, self.score_rows)
        if self.reorder is None:
            return evaluate_ranking(scores, protocol.rows, relevance, K, known)
        asked = protocol.rows[relevance.counts(protocol.rows) > 0]
        ranked = rerank(scores, self.reorder, asked, RETRIEVED, K, relevance.n_items, known)
        return evaluate_ranked(asked, ranked, relevance)


def _among(corpus: NDArray[np.bool_], score_rows: ScoreRows) -> ScoreRows:
    """The scores of these images alone."""
    return lambda rows: np.where(corpus, score_rows(rows), -np.inf)


def _networks(space: _Space, adapted: pl.DataFrame, weights: Mapping[str, Path]) -> dict[str, _System]:
    systems: dict[str, _System] = {}
    for (network,), rows in adapted.group_by("network", maintain_order=True):
        scores = inner_product_scores(
            _adapted_matrix(rows, "music", space.clip_ids), _adapted_matrix(rows, "image", space.image_ids)
        )
        adapter = TrainedAdapter.load(weights[str(network)]) if network in weights else None
        systems |= _network(space, str(network), scores, adapter)
    return systems


def _network(
    space: _Space, network: str, scores: ScoreRows, adapter: TrainedAdapter | None
) -> dict[str, _System]:
    """A network, and the same with its re-ranking if it is more than an inner product."""
    systems = {network: _System(scores)}
    if adapter is not None and adapter.scores_pairs:
        reorder = adapter.pair_scores(
            adapter.music_items(space.clip_ids, space.music),
            adapter.image_items(space.image_ids, space.images, space.image_va),
        )
        systems[f"{network}_reranked"] = _System(scores, reorder)
    return systems


def _baselines(space: _Space, formula: Formula, seed: int) -> dict[str, _System]:
    X = space.music * space.music_scale[:, None]
    Y = space.images * space.image_scale[:, None]
    learn = space.parts == TRAIN
    reader, cross_fitted = fit_va_reader(
        space.music[learn], space.music_va[learn], space.sources.filter(learn).to_list()
    )
    read = reader.read(space.music).astype(np.float64)
    # A known clip's own ratings would reveal its pairs: predictions of folds without its source.
    read[learn] = cross_fitted
    errors = np.broadcast_to((space.music_va[learn] - cross_fitted).std(axis=0), read.shape)
    scores = {
        "structured": formula_scores(X, Y, np.hstack([read, errors]), space.image_points, formula),
        "semantic": inner_product_scores(X, Y),
        "random": random_scores(seed, len(space.image_ids)),
        "oracle": formula_scores(X, Y, space.music_points, space.image_points, formula),
    }
    return {name: _System(score_rows) for name, score_rows in scores.items()}


def _populations(space: _Space, predicted: frozenset[str]) -> dict[str, NDArray[np.int64]]:
    """The query clips, by split."""
    is_given = np.array([clip_id not in predicted for clip_id in space.clip_ids], dtype=bool)
    populations: dict[str, NDArray[np.int64]] = {}
    for part in [part for part in (VALIDATION, TEST) if (space.parts == part).any()] or [TRAIN]:
        populations[part] = np.flatnonzero(space.parts == part)
        given = np.flatnonzero((space.parts == part) & is_given)
        if 0 < len(given) < len(populations[part]):
            populations[f"{part}_given"] = given
    return populations


def _figures(
    space: _Space, evaluation: Evaluation, protocol: _Protocol, seed: int
) -> dict[str, tuple[float, float | None, float | None]]:
    """The mean of each metric over the query clips, with its interval over sources if it has one."""
    by_feeling = emotion_metrics_at_k(
        evaluation.ranked,
        space.emotions.gather(evaluation.rows).to_list(),
        space.music_va[evaluation.rows],
        space.tags,
        space.image_va,
    )
    hits = protocol.relevance.hits(evaluation.rows, evaluation.ranked)
    values = dict(evaluation.values)
    for name, value in {**by_feeling, **metrics_like_librecommender(hits)}.items():
        values[f"{name}_at_{K}"] = value
    columns = np.stack([value.astype(np.float64) for value in values.values()], axis=1)
    defined = np.isfinite(columns)
    with np.errstate(invalid="ignore"):
        means = np.where(defined, columns, 0.0).sum(axis=0) / defined.sum(axis=0)
    sources = space.sources.gather(evaluation.rows).rank("dense").to_numpy().astype(np.int64)
    ends = [
        [float(end) if np.isfinite(end) else None for end in side]
        for side in intervals(columns, sources, seed)
    ]
    figures: dict[str, tuple[float, float | None, float | None]] = {
        name: (float(mean), low, high) for name, mean, low, high in zip(values, means, *ends, strict=True)
    }
    figures[f"coverage_at_{K}"] = (coverage(evaluation.ranked, int(protocol.corpus.sum())), None, None)
    figures["queries"] = (float(len(evaluation.rows)), None, None)
    return figures


def evaluate_public_tasks(tables: LakeTables, seed: int) -> pl.DataFrame:
    """The public benchmark's three tasks on one's own pairs, of the frozen space and every network.

    The pairs are those of the test part's clips, since networks have learnt the others; the corpus
    is all images, or all clips.

    Args:
        tables: images, embeddings, pairs and adapted_embeddings of the whole lake.
        seed: of the false pairs.

    Returns:
        system, split (`test`, or `train` where no clip is in the test part), metric such as
        `EMIDA2IRetrieval/ndcg_at_10`, value.
    """
    music = tables.music_embeddings.sort("clip_id")
    pictures = tables.image_embeddings.sort("image_id")
    adapted, fused_pairs = tables.adapted_embeddings, tables.fused_pairs
    clip_ids, image_ids = music["clip_id"].to_list(), pictures["image_id"].to_list()
    parts = _common_split(adapted, clip_ids)
    tags = _tags(pictures, tables.images)
    split = TEST if (parts == TEST).any() else TRAIN
    clips = rows_of(fused_pairs["clip_id"], clip_ids, "clip", "music_embeddings")
    pair_images = rows_of(fused_pairs["image_id"], image_ids, "image", "image_embeddings")
    of_split = parts[clips] == split
    spaces = {"semantic": (matrix(music["embedding"]), matrix(pictures["embedding"]))}
    for (network,), rows in adapted.group_by("network", maintain_order=True):
        spaces[str(network)] = (
            _adapted_matrix(rows, "music", clip_ids),
            _adapted_matrix(rows, "image", image_ids),
        )
    lines = [
        (system, split, f"{task}/{metric}", value, None, None)
        for system, (x, y) in spaces.items()
        for task, values in public_tasks(x, y, clips[of_split], pair_images[of_split], tags, seed).items()
        for metric, value in values.items()
    ]
    return pl.DataFrame(lines, schema=EVALUATION_COLUMNS, orient="row")


def evaluate_released_tasks(tables: LakeTables) -> pl.DataFrame:
    """The retrieval tasks as a release holds them, of the frozen space: what a tool like mteb would measure.

    Every pair counts, and the corpus holds what is in a pair. Networks are left out, since they have
    learnt most of these pairs: `evaluate_public_tasks` measures them on the test part.

    Args:
        tables: embeddings and pairs of the whole lake.

    Returns:
        system `semantic`, metric such as `EMIDA2IRetrieval/ndcg_at_10`, value.
    """
    fused_pairs = tables.fused_pairs
    music = tables.music_embeddings.join(fused_pairs, on="clip_id", how="semi").sort("clip_id")
    pictures = tables.image_embeddings.join(fused_pairs, on="image_id", how="semi").sort("image_id")
    clips = rows_of(fused_pairs["clip_id"], music["clip_id"].to_list(), "clip", "music_embeddings")
    images = rows_of(fused_pairs["image_id"], pictures["image_id"].to_list(), "image", "image_embeddings")
    x, y = matrix(music["embedding"]), matrix(pictures["embedding"])
    lines = [
        ("semantic", f"{task}/{metric}", value, None, None)
        for task, values in {
            "EMIDA2IRetrieval": retrieval_task(x, y, clips, images),
            "EMIDI2ARetrieval": retrieval_task(y, x, images, clips),
        }.items()
        for metric, value in values.items()
    ]
    columns = {name: dtype for name, dtype in EVALUATION_COLUMNS.items() if name != "split"}
    return pl.DataFrame(lines, schema=columns, orient="row")


def _tags(pictures: pl.DataFrame, images: pl.DataFrame) -> list[str]:
    tags = images.select("image_id", "tag")
    found: list[str] = aligned_to(pictures, tags, "image_id", "images")["tag"].to_list()
    return found


def _adapted_matrix(rows: pl.DataFrame, kind: str, ids: list[str]) -> NDArray[np.float32]:
    of_kind = rows.filter(pl.col("kind") == kind)
    wanted = pl.DataFrame({"item_id": ids})
    joined = aligned_to(wanted, of_kind.select("item_id", "embedding"), "item_id", "adapted_embeddings")
    return matrix(joined["embedding"])


def _common_split(adapted: pl.DataFrame, clip_ids: list[str]) -> NDArray[np.str_]:
    """The part of each clip, `""` for those added after training; the same in all networks."""
    splits = {
        str(network): dict(rows.filter(pl.col("kind") == "music").select("item_id", "split").iter_rows())
        for (network,), rows in adapted.group_by("network", maintain_order=True)
    }
    if not splits:
        raise AdapterError("there are no adapted embeddings to evaluate: train a network first")
    first, *others = splits
    for other in others:
        if splits[other] != splits[first]:
            raise AdapterError(
                f"networks {first} and {other} were trained on different splits: "
                "train both on the same seed and data"
            )
    return np.asarray([splits[first].get(clip_id) or "" for clip_id in clip_ids], dtype=np.str_)
