"""Our networks and their peers on one generated data set at EMID's scale: warm, cold, and unseen images.

`python benchmarks/adapter.py --peers implicit,cornac,lightfm,surprise --json rows.json`

- *cold*: clips of unseen sources; *warm*: every clip known, one of its pairs held out;
  *cold_images*: clips of unseen sources, and images that training never saw.
- The data set is always generated from seed 0; the run's seeds split, initialise and sample.
- The same code evaluates every ranking on the test part; our networks keep the epoch that is best on
  the validation part. Peers have no validation; they run with the settings in `adapter_peers.py`, in
  separate interpreters (`--peers-python`, and `--pinned-python` for those that need old packages),
  because they are not dependencies. Peers that use only ids have no cold row.
- Seconds are CPU seconds of the process on one thread; for our networks with content they include the
  evaluation after each epoch.
- `structured` uses the valence and arousal that a ridge predicts from the music; `expected-formula`
  averages the same formula over the ridge's errors: it is the distilled network's teacher.
- `ours-NETWORK` is what the project serves: inner products of the new embeddings without re-ranking.
  `ours-NETWORK-reranked`: they retrieve 100 images, which the whole NeuMF (ncf) or the expected formula
  (distilled, cold) re-ranks. That is not an inner product, so no index can serve it.
- `ours-NETWORK-plain` uses only ids, as the peers do: random vectors replace the content. It is
  measured like the peers: no validation part, the last epoch, training seconds only.
- JSON: `rows`, one for each system, split and seed; `means`, with the spread over the seeds; `targets`.
"""
# ruff: noqa: E402

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

# One thread, so that CPU seconds do not count spinning; set before the numeric libraries are loaded.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.pair_data import PairData
from emid_assets.adapters.splits import TEST, TRAIN, VALIDATION
from emid_assets.adapters.trained_adapter import TrainingSettings
from emid_assets.adapters.training import train
from emid_assets.adapters.va_ridge import fit_va_reader
from emid_assets.evaluation.baselines import formula_candidates, formula_scores
from emid_assets.matching.fusion import Formula, fuse
from emid_assets.ranking.emotion_metrics import emotion_metrics_at_k
from emid_assets.ranking.metrics import (
    Evaluation,
    Floats,
    Ids,
    ScoreRows,
    evaluate_ranked,
    evaluate_ranking,
    inner_product_scores,
    rerank,
)
from emid_assets_tests.synthetic_emid import GeneratedData, Recipe, generate, pair_data, split_images

K = 10
NETWORKS = ("bmf", "ncf", "svdpp", "distilled")
PLAIN_DIMENSION = 64
PLAIN_NORM = 0.1
"""Norm of an id's initial factor: small, so that training is not drowned by the random start."""
PLAIN: dict[str, dict[str, Any]] = {"bmf": {}, "svdpp": {}, "ncf": {"mlp": 16}}
PLAIN_CONFIG = {"hidden": 1, "id_dropout": 0.0, "scale": 1.0, "negative_weight": 64.0}
PLAIN_LEARNING_RATE = 0.1
"""Hyperparameters of networks that use only ids, chosen on the validation part: their factors must move far,
and a tower has nothing to read."""
PEERS = ("implicit", "cornac", "lightfm", "surprise")
PINNED_PEERS = ("libreco", "recbole")
SAME_MODEL = {"bmf": "libreco-svd", "svdpp": "libreco-svdpp", "ncf": "libreco-ncf"}
"""LibRecommender's counterparts of the networks that use only ids."""


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    name: str
    split: str
    seed: int
    evaluation: Evaluation
    epochs: int
    seconds: float

    def as_dict(self, data: GeneratedData) -> dict[str, Any]:
        metrics = self.evaluation.metrics
        by_feeling = emotion_metrics_at_k(
            self.evaluation.ranked,
            [data.clip_emotions[row] for row in self.evaluation.rows],
            data.music_va[self.evaluation.rows],
            data.image_tags,
            data.image_va,
        )
        return {
            "name": self.name,
            "split": self.split,
            "seed": self.seed,
            "ndcg_at_10": metrics["ndcg_at_10"],
            "hit_at_10": metrics["hit_rate_at_10"],
            "seconds_per_epoch": self.seconds / max(1, self.epochs),
            "coverage": metrics["coverage_at_10"],
            "epochs": self.epochs,
            "seconds": self.seconds,
            "map_at_10": metrics["map_at_10"],
            "mrr_at_10": metrics["mrr_at_10"],
            "recall_at_10": metrics["recall_at_10"],
            **{f"{name}_at_10": float(np.nanmean(value)) for name, value in by_feeling.items()},
        }


def measured(data: PairData, score_rows: ScoreRows) -> Evaluation:
    """Evaluate a ranking by scores on the test part, without the pairs trained on."""
    relevance = data.relevance(TEST)
    return evaluate_ranking(
        score_rows, relevance.queries(), relevance, K, data.relevance(TRAIN), with_auc=False
    )


def expected_formula_scores(
    X: Floats,
    Y: Floats,
    music_va: NDArray[np.float64],
    image_va: NDArray[np.float64],
    errors: NDArray[np.float64],
    formula: Formula,
    draws: int = 48,
) -> ScoreRows:
    """How often an image would be among a clip's m pairs, given the uncertainty of the clip's VA.

    The `structured` formula trusts the VA predicted from the embedding; this one adds drawn prediction
    errors, (n, 2), and counts. It is not an inner product. It is the distilled network's teacher, applied to
    the test clips, and so the ceiling of that distillation.
    """
    added = errors[np.random.default_rng(0).integers(len(errors), size=draws)]

    def score_rows(rows: Ids) -> Floats:
        chosen, S, below = formula_candidates(X, Y, rows, formula)
        counts = np.zeros(chosen.shape)
        for error in added:
            E = formula.emotional((music_va[rows] + error)[:, None], image_va[chosen])
            best = fuse(S, E, np.ones(S.shape, bool), formula.alpha, formula.images_per_clip).slots
            np.put_along_axis(counts, best, np.take_along_axis(counts, best, axis=1) + 1.0, axis=1)
        # S breaks ties between equal counts.
        np.put_along_axis(below, chosen, counts + 0.5 * S / max(1e-300, float(S.max())), axis=1)
        return below

    return score_rows


@dataclass(frozen=True)
class Baselines:
    """Systems without a network, and the CPU seconds that predicting VA took."""

    cosine: ScoreRows
    structured: ScoreRows
    expected: ScoreRows
    seconds: float

    @classmethod
    def of(cls, data: GeneratedData, pairs: PairData) -> "Baselines":
        X = data.recipe.scale * data.music
        started = time.process_time()
        learn = np.flatnonzero(np.asarray(pairs.clip_parts) == TRAIN)
        sources = [pairs.source_ids[clip] for clip in learn]
        reader, cross_fitted = fit_va_reader(data.music[learn], data.music_va[learn], sources)
        va = reader.read(data.music).astype(np.float64)
        # A known clip's own ratings would reveal its pairs: use predictions of folds without its source.
        va[learn] = cross_fitted
        seconds = time.process_time() - started
        structured = formula_scores(X, data.images, va, data.image_va, data.formula)
        errors = data.music_va[learn] - cross_fitted
        expected = expected_formula_scores(X, data.images, va, data.image_va, errors, data.formula)
        return cls(inner_product_scores(X, data.images), structured, expected, seconds)

    def rows(self, pairs: PairData, split: str, seed: int) -> Iterator[Row]:
        for name in ("cosine", "structured", "expected"):
            seconds = 0.0 if name == "cosine" else self.seconds
            label = "expected-formula" if name == "expected" else name
            yield Row(label, split, seed, measured(pairs, getattr(self, name)), 1, seconds)


def our_rows(
    learnt: PairData,
    tested: PairData,
    split: str,
    network: str,
    settings: TrainingSettings,
    expected: ScoreRows | None = None,
    config: dict[str, Any] | None = None,
) -> Iterator[Row]:
    """Train on `learnt` and evaluate on the test part of `tested`: the same except for unseen images.

    `expected` re-ranks what the distilled network retrieves, in a separate row.
    """
    started = time.process_time()
    adapter = train(network, learnt, settings, config)
    seconds = time.process_time() - started
    p, q = adapter.embed(tested.clip_ids, tested.music, tested.image_ids, tested.images, tested.image_va)
    evaluation = measured(tested, inner_product_scores(p, q))
    yield Row(f"ours-{network}", split, settings.seed, evaluation, settings.epochs, seconds)
    if adapter.scores_pairs:
        clips = adapter.music_items(tested.clip_ids, tested.music)
        images = adapter.image_items(tested.image_ids, tested.images, tested.image_va)
        reranked = reordered(tested, p, q, adapter.pair_scores(clips, images))
        yield Row(f"ours-{network}-reranked", split, settings.seed, reranked, settings.epochs, seconds)
    elif network == "distilled" and expected is not None:
        reranked = reordered(tested, p, q, of_pairs(expected))
        yield Row(f"ours-{network}-reranked", split, settings.seed, reranked, settings.epochs, seconds)


def of_pairs(score_rows: ScoreRows) -> Callable[[Ids, Ids], Floats]:
    """A system's scores of given items of each query."""
    return lambda rows, items: np.take_along_axis(score_rows(rows), items, axis=1)


def without_content(pairs: PairData, seed: int) -> PairData:
    """The same pairs with items reduced to ids: a random vector is an id's initial factor.

    There is no validation part, so that only training is timed.
    """
    rng = np.random.default_rng(seed)

    def factors(count: int) -> Floats:
        rows = rng.normal(size=(count, PLAIN_DIMENSION))
        return (PLAIN_NORM * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return replace(
        pairs,
        music=factors(len(pairs.music)),
        images=factors(len(pairs.images)),
        pair_parts=np.where(pairs.pair_parts == VALIDATION, "unused", pairs.pair_parts),
        formula=None,
    )


def reordered(pairs: PairData, p: Floats, q: Floats, pair_scores: Callable[[Ids, Ids], Floats]) -> Evaluation:
    """The 100 images that the inner product retrieves, re-ranked by `pair_scores`."""
    relevance = pairs.relevance(TEST)
    rows = relevance.queries()
    ranked = rerank(inner_product_scores(p, q), pair_scores, rows, 100, K, len(q), pairs.relevance(TRAIN))
    return evaluate_ranked(rows, ranked, relevance)


def peer_rows(pairs: PairData, split: str, seed: int, peer: str, python: str, epochs: int) -> Iterator[Row]:
    """Run a peer in its own interpreter on the same pairs, and evaluate its ranking here."""
    relevance = pairs.relevance(TEST)
    rows = relevance.queries()
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        training = pairs.pair_parts == TRAIN
        np.savez(
            task, rows=rows, clips=pairs.pair_clips[training], images=pairs.pair_images[training],
            image_features=pairs.images, n_clips=len(pairs.music), n_images=len(pairs.images),
        )  # fmt: skip
        command = [python, str(Path(__file__).with_name("adapter_peers.py")), peer, str(task), str(answer)]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, "--seed", str(seed), "--epochs", str(epochs)],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            print(f"peer {peer} did not run: {message}; `make bench-peers` installs it", file=sys.stderr)
            return
        with np.load(answer) as found:
            for name in found["names"]:
                evaluation = evaluate_ranked(rows, found[f"{name}_ranked"], relevance)
                n_epochs, seconds = int(found[f"{name}_epochs"]), float(found[f"{name}_seconds"])
                yield Row(str(name), split, seed, evaluation, n_epochs, seconds)


AVERAGED = ("ndcg_at_10", "hit_at_10", "coverage", "seconds_per_epoch", "seconds", "epochs")


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the seeds of each system and split, and the standard deviation as `…_sd`; best first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["name"]), []).append(row)
    result = []
    for (split, name), group in groups.items():
        line: dict[str, Any] = {"name": name, "split": split, "seeds": len(group)}
        for key in AVERAGED:
            values = np.array([row[key] for row in group], dtype=np.float64)
            line[key] = float(values.mean())
            line[f"{key}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        result.append(line)
    return sorted(result, key=lambda line: (line["split"], -line["ndcg_at_10"]))


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The project's targets, as ratios per seed; only those that `rows` has the systems for."""
    by_key = {(row["split"], row["name"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    names = {split: {row["name"] for row in rows if row["split"] == split} for split in ("warm", "cold")}
    ours = [name for name in names["warm"] if name.startswith("ours") and not name.endswith("plain")]
    peers = [
        name for name in names["warm"]
        if not name.startswith("ours") and name not in ("cosine", "structured", "expected-formula")
    ]  # fmt: skip
    mean = {(line["split"], line["name"]): line for line in means(rows)}

    def best(group: list[str]) -> str:
        return max(group, key=lambda name: mean["warm", name]["ndcg_at_10"])

    wanted: list[tuple[str, str, str, str, str, float]] = []  # what, split, ours, theirs, key, least ratio
    if ours and peers:
        what = "warm NDCG of ours to the best peer"
        wanted.append((what, "warm", best(ours), best(peers), "ndcg_at_10", 1.06))
    if ours and "implicit-als-256" in peers:
        wanted.append(
            ("warm coverage of ours to ALS", "warm", best(ours), "implicit-als-256", "coverage", 2.0)
        )
    for name in ("ours-distilled", "ours-distilled-reranked"):
        for key, least in (("ndcg_at_10", 1.05), ("hit_at_10", 1.15)):
            if {name, "structured"} <= names["cold"]:
                what = f"cold {key} of {name} to structured"
                wanted.append((what, "cold", name, "structured", key, least))
    for network, peer in SAME_MODEL.items():
        name = f"ours-{network}-plain"
        if {name, peer} <= names["warm"]:
            wanted.append((f"warm NDCG of {name} to {peer}", "warm", name, peer, "ndcg_at_10", 1.0))
            what = f"epochs of {name} in the time of one of {peer}"
            wanted.append((what, "warm", name, peer, "seconds_per_epoch", 1.0))
    result = []
    for what, split, left, right, key, least in wanted:
        pairs = [(by_key.get((split, left, seed)), by_key.get((split, right, seed))) for seed in seeds]
        # During a run, a split may not have all seeds yet.
        ratios = np.array([mine[key] / other[key] for mine, other in pairs if mine and other])
        if key == "seconds_per_epoch":
            ratios = 1 / ratios
        result.append(
            {
                "target": what, "ours": left, "theirs": right, "least": least, "ratio": float(ratios.mean()),
                "lowest": float(ratios.min()), "met": bool(ratios.mean() >= least),
            }
        )  # fmt: skip
    return result


def summary(rows: list[dict[str, Any]]) -> str:
    """Means (and spreads over seeds) as a table, the best NDCG first, and the targets below."""
    lines = [
        f"{'name':24} {'split':11} {'NDCG@10':>15} {'hit@10':>15} {'coverage':>9} {'s/epoch':>8} {'CPU s':>7}"
    ]
    lines += [
        f"{line['name']:24} {line['split']:11} {line['ndcg_at_10']:8.4f} ±{line['ndcg_at_10_sd']:.4f}"
        f" {line['hit_at_10']:8.4f} ±{line['hit_at_10_sd']:.4f} {line['coverage']:9.3f}"
        f" {line['seconds_per_epoch']:8.3f} {line['seconds']:7.1f}"
        for line in means(rows)
    ]
    lines += [
        f"{t['target']}: {t['ratio']:.3f} (lowest {t['lowest']:.3f}, wanted {t['least']})"
        for t in targets(rows)
    ]
    return "\n".join(lines)


def rows_of(
    data: GeneratedData, split: str, seed: int, arguments: argparse.Namespace, peers: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Every system on one split."""
    learnt_from, tested_on = split_images(data, seed) if split == "cold_images" else (data, data)
    protocol: Literal["warm", "cold"] = "warm" if split == "warm" else "cold"
    learnt, tested = pair_data(learnt_from, protocol, seed), pair_data(tested_on, protocol, seed)
    baselines = Baselines.of(tested_on, tested)
    rows = list(baselines.rows(tested, split, seed))
    # Pairs of known clips are held out one by one: the formula would also return those trained on.
    expected = None if split == "warm" else baselines.expected
    settings = TrainingSettings(epochs=arguments.epochs, seed=seed, device=arguments.device)
    if split == "warm":
        for peer, python in peers:
            rows += peer_rows(learnt, split, seed, peer, python, arguments.epochs)
        plain = without_content(learnt, seed)
        of_ids = replace(settings, dimension=PLAIN_DIMENSION, learning_rate=PLAIN_LEARNING_RATE)
        for network in [name for name in PLAIN if name in arguments.networks]:
            config = PLAIN_CONFIG | PLAIN[network]
            found = our_rows(plain, plain, split, network, of_ids, config=config)
            rows += [replace(row, name=f"{row.name}-plain") for row in found]
    for network in arguments.networks:
        rows += our_rows(learnt, tested, split, network, settings, expected)
    return [row.as_dict(tested_on) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="skip the peers")
    parser.add_argument("--peers", default="", help=f"comma-separated: {','.join(PEERS + PINNED_PEERS)}")
    parser.add_argument("--peers-python", default=sys.executable, help=f"runs {', '.join(PEERS)}")
    parser.add_argument("--pinned-python", default=sys.executable, help=f"runs {', '.join(PINNED_PEERS)}")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="our networks, comma-separated")
    parser.add_argument("--splits", default="warm,cold,cold_images")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shrink", type=int, default=1, help="divide the data set's size, for a quick run")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    arguments.networks = [network for network in arguments.networks.split(",") if network]
    named = [] if arguments.ours else [peer for peer in arguments.peers.split(",") if peer]
    unknown = [peer for peer in named if peer not in PEERS + PINNED_PEERS]
    if unknown:
        parser.error(f"unknown peer {unknown[0]}: use {', '.join(PEERS + PINNED_PEERS)}")
    peers = [
        (peer, arguments.pinned_python if peer in PINNED_PEERS else arguments.peers_python) for peer in named
    ]
    if arguments.device == "cpu":
        import torch

        torch.set_num_threads(1)
    recipe = Recipe()
    if arguments.shrink > 1:
        recipe = replace(recipe, shrink=arguments.shrink, images=recipe.images // arguments.shrink)
    data = generate(0, recipe)
    rows: list[dict[str, Any]] = []
    for split in arguments.splits.split(","):
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            rows += rows_of(data, split, seed, arguments, peers)
            if arguments.json:
                result = {"rows": rows, "means": means(rows), "targets": targets(rows)}
                arguments.json.write_text(json.dumps(result, indent=1))
            print(f"seed {seed}, {split}", flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
