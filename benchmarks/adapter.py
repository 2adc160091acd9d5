"""Our networks and their peers on one generated data set at EMID's scale, warm and cold.

`python benchmarks/adapter.py --peers implicit,cornac,lightfm,surprise --json rows.json`

- *cold*: clips of unseen sources; *warm*: every clip known, one of its pairs held out.
- The data set is drawn from seed 0 whatever the run's seeds, which split, initialise and sample.
- Every ranking is measured by the same code on the test part; our networks keep the epoch that was
  best on the validation part. Peers have no validation; they run with the settings that
  `adapter_peers.py` states, in an interpreter of their own (`--peers-python`), since they are no
  dependency. Peers that know ids only have no cold row.
- Seconds are CPU seconds of the process on one thread, evaluation each epoch included for ours.
- `structured` takes the valence and arousal that a ridge reads from the music; `expected-formula`
  averages the same formula over the ridge's errors: it is what the distilled network is taught.
- `…-reranked`: the network's inner product retrieves 100 images, and the whole NeuMF (ncf) or the
  expected formula (distilled) puts them in order. All other rows of ours are inner products alone.
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
from typing import Any

# One thread, so that CPU seconds are work and not spinning; set before the numeric libraries load.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np

from emid_assets.adapters.baselines import expected_formula_scores, formula_scores
from emid_assets.adapters.emotion_metrics import emotion_metrics_at_k
from emid_assets.adapters.generated import GeneratedData, Recipe, generate, pair_data
from emid_assets.adapters.retrieval import (
    Evaluation,
    Floats,
    Ids,
    ScoreRows,
    evaluate_ranked,
    evaluate_ranking,
    inner_product_scores,
    rerank,
)
from emid_assets.adapters.splits import TEST, TRAIN
from emid_assets.adapters.training import PairData, TrainingSettings, train
from emid_assets.adapters.va_reader import fit_va_reader

K = 10
NETWORKS = ("bmf", "ncf", "svdpp", "distilled")
PEERS = ("implicit", "cornac", "lightfm", "surprise")


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
    """The test part of a ranking by scores, without the pairs that were trained on."""
    relevance = data.relevance(TEST)
    return evaluate_ranking(
        score_rows, relevance.queries(), relevance, K, data.relevance(TRAIN), with_auc=False
    )


@dataclass(frozen=True)
class Baselines:
    """Systems that learn no network, and the CPU seconds that reading VA took."""

    cosine: ScoreRows
    structured: ScoreRows
    expected: ScoreRows
    seconds: float

    @classmethod
    def of(cls, data: GeneratedData, pairs: PairData) -> "Baselines":
        X, recipe = data.recipe.scale * data.music, data.recipe
        started = time.process_time()
        learn = np.unique(pairs.pair_clips[pairs.pair_parts == TRAIN])
        sources = [pairs.source_ids[clip] for clip in learn]
        reader, cross_fitted = fit_va_reader(data.music[learn], data.music_va[learn], sources)
        va = reader.read(data.music).astype(np.float64)
        # A known clip's own ratings would give its pairs away: it is read by folds without its source.
        va[learn] = cross_fitted
        seconds = time.process_time() - started
        structured = formula_scores(
            X, data.images, va, data.image_va,
            alpha=recipe.alpha, candidates=recipe.candidates, rescaling="raw",
        )  # fmt: skip
        expected = expected_formula_scores(
            X, data.images, va, data.image_va, data.music_va[learn] - cross_fitted,
            alpha=recipe.alpha, candidates=recipe.candidates,
            images_per_clip=recipe.images_per_clip, rescaling="raw",
        )  # fmt: skip
        return cls(inner_product_scores(X, data.images), structured, expected, seconds)

    def rows(self, pairs: PairData, split: str, seed: int) -> Iterator[Row]:
        for name in ("cosine", "structured", "expected"):
            seconds = 0.0 if name == "cosine" else self.seconds
            label = "expected-formula" if name == "expected" else name
            yield Row(label, split, seed, measured(pairs, getattr(self, name)), 1, seconds)


def our_rows(
    pairs: PairData,
    baselines: Baselines,
    split: str,
    seed: int,
    networks: list[str],
    epochs: int,
    device: str,
) -> Iterator[Row]:
    for network in networks:
        settings = TrainingSettings(epochs=epochs, seed=seed, device=device)
        started = time.process_time()
        adapter = train(network, pairs, settings)
        seconds = time.process_time() - started
        p, q = adapter.embed(pairs.clip_ids, pairs.music, pairs.image_ids, pairs.images, pairs.image_va)
        evaluation = measured(pairs, inner_product_scores(p, q))
        yield Row(f"ours-{network}", split, seed, evaluation, epochs, seconds)
        if network == "ncf":
            clips = adapter.music_items(pairs.clip_ids, pairs.music)
            images = adapter.image_items(pairs.image_ids, pairs.images, pairs.image_va)
            reranked = reordered(pairs, p, q, adapter.pair_scores(clips, images))
            yield Row("ours-ncf-reranked", split, seed, reranked, epochs, seconds)
        if network == "distilled" and split == "cold":
            reranked = reordered(pairs, p, q, of_pairs(baselines.expected))
            yield Row("ours-distilled-reranked", split, seed, reranked, epochs, seconds)


def of_pairs(score_rows: ScoreRows) -> Callable[[Ids, Ids], Floats]:
    """A system's scores of given items of each query."""
    return lambda rows, items: np.take_along_axis(score_rows(rows), items, axis=1)


def reordered(pairs: PairData, p: Floats, q: Floats, pair_scores: Callable[[Ids, Ids], Floats]) -> Evaluation:
    """The 100 images that the inner product retrieves, in the order of `pair_scores`."""
    relevance = pairs.relevance(TEST)
    rows = relevance.queries()
    ranked = rerank(inner_product_scores(p, q), pair_scores, rows, 100, K, pairs.relevance(TRAIN))
    return evaluate_ranked(rows, ranked, relevance)


def peer_rows(
    pairs: PairData, split: str, seed: int, peers: list[str], python: str, epochs: int
) -> Iterator[Row]:
    """Run each peer in its own interpreter on the same pairs, and measure its ranking here."""
    relevance = pairs.relevance(TEST)
    rows = relevance.queries()
    for peer in peers:
        with tempfile.TemporaryDirectory() as folder:
            task, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
            training = pairs.pair_parts == TRAIN
            np.savez(
                task, rows=rows, clips=pairs.pair_clips[training], images=pairs.pair_images[training],
                image_features=pairs.images, n_clips=len(pairs.music), n_images=len(pairs.images),
            )  # fmt: skip
            command = [
                python,
                str(Path(__file__).with_name("adapter_peers.py")),
                peer,
                str(task),
                str(answer),
            ]
            path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                [*command, "--seed", str(seed), "--epochs", str(epochs)],
                env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
                print(f"peer {peer} did not run: {message}; `make bench-peers` installs it", file=sys.stderr)
                continue
            with np.load(answer) as found:
                for name in found["names"]:
                    evaluation = evaluate_ranked(rows, found[f"{name}_ranked"], relevance)
                    n_epochs, seconds = int(found[f"{name}_epochs"]), float(found[f"{name}_seconds"])
                    yield Row(str(name), split, seed, evaluation, n_epochs, seconds)


def summary(rows: list[dict[str, Any]]) -> str:
    """Means (and spreads over seeds) as a table, the best NDCG first."""
    lines = [
        f"{'name':24} {'split':5} {'NDCG@10':>15} {'hit@10':>15} {'coverage':>9} {'s/epoch':>8} {'CPU s':>7}"
    ]
    names = {(row["split"], row["name"]) for row in rows}
    grouped = [
        (split, name, [r for r in rows if (r["split"], r["name"]) == (split, name)]) for split, name in names
    ]
    for split, name, group in sorted(
        grouped, key=lambda g: (g[0], -np.mean([r["ndcg_at_10"] for r in g[2]]))
    ):
        mean = {key: np.mean([row[key] for row in group]) for key in group[0] if key not in ("name", "split")}
        spread = {key: np.std([row[key] for row in group]) for key in ("ndcg_at_10", "hit_at_10")}
        lines.append(
            f"{name:24} {split:5} {mean['ndcg_at_10']:8.4f} ±{spread['ndcg_at_10']:.4f}"
            f" {mean['hit_at_10']:8.4f} ±{spread['hit_at_10']:.4f} {mean['coverage']:9.3f}"
            f" {mean['seconds_per_epoch']:8.3f} {mean['seconds']:7.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    parser.add_argument("--peers", default="", help=f"comma-separated: {','.join(PEERS)}")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which of ours")
    parser.add_argument("--splits", default="warm,cold")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shrink", type=int, default=1, help="divide the data set's size, for a quick look")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    peers = [] if arguments.ours else [peer for peer in arguments.peers.split(",") if peer]
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        parser.error(f"unknown peer {unknown[0]}: use {', '.join(PEERS)}")
    if arguments.device == "cpu":
        import torch

        torch.set_num_threads(1)
    recipe = Recipe()
    if arguments.shrink > 1:
        recipe = replace(recipe, shrink=arguments.shrink, images=recipe.images // arguments.shrink)
    data = generate(0, recipe)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for split in arguments.splits.split(","):
            pairs = pair_data(data, split, seed)
            baselines = Baselines.of(data, pairs)
            found = list(baselines.rows(pairs, split, seed))
            if split == "warm" and peers:
                found += peer_rows(pairs, split, seed, peers, arguments.peers_python, arguments.epochs)
            networks = arguments.networks.split(",")
            found += our_rows(pairs, baselines, split, seed, networks, arguments.epochs, arguments.device)
            rows += [row.as_dict(data) for row in found]
            if arguments.json:
                arguments.json.write_text(json.dumps({"rows": rows}, indent=1))
            print(f"seed {seed}, {split}\n{summary([r for r in rows if r['seed'] == seed])}", flush=True)
    print(f"all seeds\n{summary(rows)}")


if __name__ == "__main__":
    main()
