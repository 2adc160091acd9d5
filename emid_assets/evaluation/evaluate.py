"""Every network beside what it competes with, on unseen clips: the lake's tables in, metrics out.

Belongs here: joining ids and arrays for the metrics of `ranking`. What networks compete with is `baselines`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.adapters.pair_data import (
    _matrix,
    _rows_of,
    aligned_to,
    va_matrix,
)
from emid_assets.adapters.splits import TEST, TRAIN, VALIDATION
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.va_ridge import fit_va_reader
from emid_assets.evaluation.baselines import formula_scores, random_scores
from emid_assets.evaluation.mteb_tasks import public_tasks, retrieval_task
from emid_assets.matching.fusion import Rescaling
from emid_assets.ranking.emotion_metrics import emotion_metrics_at_k
from emid_assets.ranking.metrics import (
    Floats,
    Ids,
    Relevance,
    ScoreRows,
    ceilings_at_k,
    evaluate_ranked,
    evaluate_ranking,
    inner_product_scores,
    metrics_like_librecommender,
    rerank,
)

K = 10

RETRIEVED = 100
"""Images that a network which is more than an inner product puts in order again."""

EVALUATION_COLUMNS = {"system": pl.String, "split": pl.String, "metric": pl.String, "value": pl.Float64}


def evaluate(
    adapted: pl.DataFrame,
    music_embeddings: pl.DataFrame,
    image_embeddings: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    music_va: pl.DataFrame,
    image_va: pl.DataFrame,
    *,
    seed: int,
    alpha: float,
    candidates: int,
    rescaling: Rescaling,
    kernel: str,
    sigma: float,
    predicted: frozenset[str] = frozenset(),
    weights: Mapping[str, Path] = {},
) -> pl.DataFrame:
    """Every network beside random, semantic, structured and oracle, on unseen clips.

    Systems: each network; `random`; `semantic` (X·Y of the frozen space); `structured` (T with VA
    predicted from the music embedding by a ridge on the training clips); `oracle` (T with the
    clips' own VA, which made the pairs).

    Args:
        adapted: ADAPTED_EMBEDDINGS of one or more networks.
        music_embeddings: all partitions.
        image_embeddings: all partitions.
        fused_pairs: all partitions.
        music_clips: clip_id, source_id and emotion are read.
        images: image_id and tag are read.
        music_va: clip_id, valence, arousal **aligned to [-1, 1]²**.
        image_va: image_id, valence, arousal aligned.
        seed: of the random baseline.
        alpha: the one that made the pairs; the same goes for the rest.
        candidates: K.
        rescaling: S̃.
        kernel: of E.
        sigma: width of the gaussian kernel.
        predicted: ids of clips whose emotion nobody gave. Where a split holds any, the split's name with
            `_given` stands for its other clips.
        weights: network → weights file. A network that is more than an inner product stands a second
            time, as `…_reranked`: its embeddings retrieve 100 images, the whole of it orders them.

    Returns:
        system, split, metric, value. Beside the systems stands `ceiling`, the best that the metrics
        of pairs can be, since a clip has few images. Splits are `validation` and `test`; where there
        is neither (one source clip in all) `train`, under that name. Metrics are those of `retrieval`
        and of `emotion_metrics`, at 10, `auc`, and `queries`, the number of clips.

    Raises:
        AdapterError: networks that were split differently, or tables that do not fit each other.
    """
    music = music_embeddings.sort("clip_id")
    pictures = image_embeddings.sort("image_id")
    clip_ids, image_ids = music["clip_id"].to_list(), pictures["image_id"].to_list()
    parts = _common_split(adapted, clip_ids)
    facts = aligned_to(music, music_clips.select("clip_id", "emotion", "source_id"), "clip_id", "music_clips")
    tags = aligned_to(pictures, images.select("image_id", "tag"), "image_id", "images")
    music_plane, image_plane = (
        va_matrix(music, music_va, "clip_id"),
        va_matrix(pictures, image_va, "image_id"),
    )
    unit = _matrix(music["embedding"])
    X = unit * music["scale"].to_numpy()[:, None]
    Y = _matrix(pictures["embedding"]) * pictures["scale"].to_numpy()[:, None]
    learn = parts == TRAIN
    reader, _ = fit_va_reader(unit[learn], music_plane[learn], facts["source_id"].filter(learn).to_list())

    def formula(va: NDArray[np.float64]) -> ScoreRows:
        return formula_scores(
            X, Y, va, image_plane,
            alpha=alpha, candidates=candidates, rescaling=rescaling, kernel=kernel, sigma=sigma,
        )  # fmt: skip

    systems: dict[str, ScoreRows] = {}
    reordering: dict[str, Callable[[Ids, Ids], Floats]] = {}
    for (network,), adapted_rows in adapted.group_by("network", maintain_order=True):
        systems[str(network)] = inner_product_scores(
            _adapted_matrix(adapted_rows, "music", clip_ids),
            _adapted_matrix(adapted_rows, "image", image_ids),
        )
        adapter = TrainedAdapter.load(weights[str(network)]) if network in weights else None
        if adapter is not None and adapter.scores_pairs:
            systems[f"{network}_reranked"] = systems[str(network)]
            reordering[f"{network}_reranked"] = adapter.pair_scores(
                adapter.music_items(clip_ids, unit),
                adapter.image_items(image_ids, _matrix(pictures["embedding"]), image_plane),
            )
    systems["structured"] = formula(reader.read(unit).astype(np.float64))
    systems["semantic"] = inner_product_scores(X, Y)
    systems["random"] = random_scores(seed, len(image_ids))
    systems["oracle"] = formula(music_plane)

    relevance = Relevance.of_pairs(
        _rows_of(fused_pairs["clip_id"], clip_ids, "clip", "music_embeddings"),
        _rows_of(fused_pairs["image_id"], image_ids, "image", "image_embeddings"),
        len(image_ids),
    )
    lines: list[tuple[str, str, str, float]] = []
    is_given = np.array([clip_id not in predicted for clip_id in clip_ids], dtype=bool)
    populations: list[tuple[str, NDArray[np.int64]]] = []
    for part in [part for part in (VALIDATION, TEST) if (parts == part).any()] or [TRAIN]:
        populations.append((part, np.flatnonzero(parts == part)))
        given = np.flatnonzero((parts == part) & is_given)
        if 0 < len(given) < len(populations[-1][1]):
            populations.append((f"{part}_given", given))
    for split, rows in populations:
        for system, score_rows in systems.items():
            if system in reordering:
                asked = rows[relevance.counts(rows) > 0]
                ranked = rerank(score_rows, reordering[system], asked, RETRIEVED, K)
                evaluation = evaluate_ranked(asked, ranked, relevance)
            else:
                evaluation = evaluate_ranking(score_rows, rows, relevance, K)
            by_feeling = emotion_metrics_at_k(
                evaluation.ranked,
                facts["emotion"].gather(evaluation.rows).to_list(),
                music_plane[evaluation.rows],
                tags["tag"].to_list(),
                image_plane,
            )
            values = dict(evaluation.metrics)
            for name, value in by_feeling.items():
                defined = value[np.isfinite(value)]
                values[f"{name}_at_{K}"] = float(defined.mean()) if len(defined) else float("nan")
            hits = relevance.hits(evaluation.rows, evaluation.ranked)
            for name, value in metrics_like_librecommender(hits).items():
                values[f"{name}_at_{K}"] = float(value.mean())
            values["queries"] = float(len(evaluation.rows))
            lines += [(system, split, metric, value) for metric, value in values.items()]
        counts = relevance.counts(rows)
        lines += [
            ("ceiling", split, f"{name}_at_{K}", float(value.mean()))
            for name, value in ceilings_at_k(counts[counts > 0], K).items()
        ]
    return pl.DataFrame(lines, schema=EVALUATION_COLUMNS, orient="row")


def evaluate_public_tasks(
    adapted: pl.DataFrame,
    music_embeddings: pl.DataFrame,
    image_embeddings: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    images: pl.DataFrame,
    seed: int,
) -> pl.DataFrame:
    """The public benchmark's three tasks on one's own pairs, of the frozen space and every network.

    The pairs are those of the test part's clips, since networks have learnt the others; the corpus
    is all images, or all clips.

    Args:
        adapted: ADAPTED_EMBEDDINGS of one or more networks.
        music_embeddings: all partitions.
        image_embeddings: all partitions.
        fused_pairs: all partitions.
        images: image_id and tag are read.
        seed: of the false pairs.

    Returns:
        system, split (`test`, or `train` where no clip is in the test part), metric such as
        `EMIDA2IRetrieval/ndcg_at_10`, value.
    """
    music = music_embeddings.sort("clip_id")
    pictures = image_embeddings.sort("image_id")
    clip_ids, image_ids = music["clip_id"].to_list(), pictures["image_id"].to_list()
    parts = _common_split(adapted, clip_ids)
    tags = aligned_to(pictures, images.select("image_id", "tag"), "image_id", "images")["tag"].to_list()
    split = TEST if (parts == TEST).any() else TRAIN
    clips = _rows_of(fused_pairs["clip_id"], clip_ids, "clip", "music_embeddings")
    pair_images = _rows_of(fused_pairs["image_id"], image_ids, "image", "image_embeddings")
    of_split = parts[clips] == split
    spaces = {"semantic": (_matrix(music["embedding"]), _matrix(pictures["embedding"]))}
    for (network,), rows in adapted.group_by("network", maintain_order=True):
        spaces[str(network)] = (
            _adapted_matrix(rows, "music", clip_ids),
            _adapted_matrix(rows, "image", image_ids),
        )
    lines = [
        (system, split, f"{task}/{metric}", value)
        for system, (x, y) in spaces.items()
        for task, values in public_tasks(x, y, clips[of_split], pair_images[of_split], tags, seed).items()
        for metric, value in values.items()
    ]
    return pl.DataFrame(lines, schema=EVALUATION_COLUMNS, orient="row")


def evaluate_released_tasks(
    music_embeddings: pl.DataFrame, image_embeddings: pl.DataFrame, fused_pairs: pl.DataFrame
) -> pl.DataFrame:
    """The retrieval tasks as a release holds them, of the frozen space: what a tool like mteb would measure.

    Every pair counts, and the corpus is what stands in a pair. Networks are left out, since they have
    learnt most of these pairs: `evaluate_public_tasks` measures them on the test part.

    Args:
        music_embeddings: all partitions.
        image_embeddings: all partitions.
        fused_pairs: all partitions.

    Returns:
        system `semantic`, metric such as `EMIDA2IRetrieval/ndcg_at_10`, value.
    """
    music = music_embeddings.join(fused_pairs, on="clip_id", how="semi").sort("clip_id")
    pictures = image_embeddings.join(fused_pairs, on="image_id", how="semi").sort("image_id")
    clips = _rows_of(fused_pairs["clip_id"], music["clip_id"].to_list(), "clip", "music_embeddings")
    images = _rows_of(fused_pairs["image_id"], pictures["image_id"].to_list(), "image", "image_embeddings")
    x, y = _matrix(music["embedding"]), _matrix(pictures["embedding"])
    lines = [
        ("semantic", f"{task}/{metric}", value)
        for task, values in {
            "EMIDA2IRetrieval": retrieval_task(x, y, clips, images),
            "EMIDI2ARetrieval": retrieval_task(y, x, images, clips),
        }.items()
        for metric, value in values.items()
    ]
    columns = {name: EVALUATION_COLUMNS[name] for name in ("system", "metric", "value")}
    return pl.DataFrame(lines, schema=columns, orient="row")


def _adapted_matrix(rows: pl.DataFrame, kind: str, ids: list[str]) -> NDArray[np.float32]:
    of_kind = rows.filter(pl.col("kind") == kind)
    wanted = pl.DataFrame({"item_id": ids})
    joined = aligned_to(wanted, of_kind.select("item_id", "embedding"), "item_id", "adapted_embeddings")
    return _matrix(joined["embedding"])


def _common_split(adapted: pl.DataFrame, clip_ids: list[str]) -> NDArray[np.str_]:
    """The part of each clip, `""` for those that came after training; the same in all networks."""
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
