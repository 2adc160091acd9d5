"""Our networks and their peers on one generated data set at EMID's scale, warm and cold.

`python benchmarks/adapter.py --ours --peers implicit,cornac,lightfm,surprise --json rows.json`

- *cold*: clips of unseen sources; *warm*: every clip known, one of its pairs held out.
- The data set is drawn from seed 0 whatever the run's seeds, which split, initialise and sample.
- Every ranking is measured by the same code on the test part; our networks keep the epoch that was
  best on the validation part. Peers have no validation; they run with the settings that
  `adapter_peers.py` states, in an interpreter of their own (`--peers-python`), since they are no
  dependency. Peers that know ids only have no cold row.
- Seconds are CPU seconds of the process, evaluation each epoch included for ours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# One thread, so that CPU seconds are work and not spinning; set before the numeric libraries load.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.baselines import formula_scores
from emid_assets.adapters.emotion_metrics import emotion_metrics_at_k
from emid_assets.adapters.generated import GeneratedData, Recipe, generate, pair_data
from emid_assets.adapters.retrieval import (
    Evaluation,
    ScoreRows,
    evaluate_ranking,
    evaluate_ranked,
    inner_product_scores,
    rerank,
)
from emid_assets.adapters.splits import TEST, TRAIN
from emid_assets.adapters.training import PairData, TrainedAdapter, TrainingSettings, train
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


def baseline_rows(data: GeneratedData, pairs: PairData, split: str, seed: int) -> Iterator[Row]:
    X = data.recipe.scale * data.music
    yield Row("cosine", split, seed, measured(pairs, inner_product_scores(X, data.images)), 0, 0.0)
    started = time.process_time()
    learn = np.unique(pairs.pair_clips[pairs.pair_parts == TRAIN])
    sources = [pairs.source_ids[clip] for clip in learn]
    reader, cross_fitted = fit_va_reader(data.music[learn], data.music_va[learn], sources)
    va = reader.read(data.music)
    # A known clip's own ratings would give its pairs away: it is read by folds without its source.
    va[learn] = cross_fitted
    seconds = time.process_time() - started
    recipe = data.recipe
    scores = formula_scores(
        X, data.images, va.astype(np.float64), data.image_va,
        alpha=recipe.alpha, candidates=recipe.candidates, rescaling="raw",
    )  # fmt: skip
    yield Row("structured", split, seed, measured(pairs, scores), 1, seconds)


def our_rows(
    data: GeneratedData, pairs: PairData, split: str, seed: int, networks: list[str], epochs: int, device: str
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
            reranked = neumf_over_its_gmf(adapter, pairs, p, q)
            yield Row("ours-ncf-reranked", split, seed, reranked, epochs, seconds)


def neumf_over_its_gmf(
    adapter: TrainedAdapter, pairs: PairData, p: NDArray[np.float32], q: NDArray[np.float32]
) -> Evaluation:
    """The whole NeuMF on the 100 images that its GMF part retrieves."""
    relevance = pairs.relevance(TEST)
    rows = relevance.queries()
    whole = adapter.pair_scores(
        adapter.music_items(pairs.clip_ids, pairs.music), adapter.image_items(pairs.image_ids, pairs.images)
    )
    ranked = rerank(inner_product_scores(p, q), whole, rows, 100, K, pairs.relevance(TRAIN))
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
    parser.add_argument("--ours", action="store_true", help="our networks")
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
    peers = [peer for peer in arguments.peers.split(",") if peer]
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
            found = list(baseline_rows(data, pairs, split, seed))
            if split == "warm" and peers:
                found += peer_rows(pairs, split, seed, peers, arguments.peers_python, arguments.epochs)
            if arguments.ours or not peers:
                networks = arguments.networks.split(",")
                found += our_rows(data, pairs, split, seed, networks, arguments.epochs, arguments.device)
            rows += [row.as_dict(data) for row in found]
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
            print(f"seed {seed}, {split}\n{summary([r for r in rows if r['seed'] == seed])}", flush=True)
    print(f"all seeds\n{summary(rows)}")


if __name__ == "__main__":
    main()
