"""What grows with the data besides the matching: each step at the largest size that it was built for.

`python benchmarks/growth.py --json rows.json`

CPU seconds (medians) and the peak of the memory that Python and numpy allocate (MB). `--shrink N` divides
every size by N.
"""
# ruff: noqa: E402

import argparse
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import polars as pl
import soundfile

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.evaluation.mteb_tasks import other_emotion_pairs
from emid_assets.matching.assignment import assign
from emid_assets.media.expansion import cut_windows
from emid_assets.prediction.gaussian_process import fit_process
from emid_assets.ranking.metrics import Relevance, auc, evaluate_ranking
from emid_assets.store.schemas import MUSIC_CLIPS
from emid_assets.study.design import CONDITIONS, Option, Trial, _forms
from emid_assets.study.statistics import Choices, conditional_logit

Step = tuple[str, str, Callable[[], object]]


def ranking_steps(shrink: int) -> list[Step]:
    rng = np.random.default_rng(0)
    clips, images = 1610 // shrink, 10_000 // shrink
    pairs = np.repeat(np.arange(clips), 3)
    paired = rng.integers(0, images, len(pairs))
    tags = [IMAGE_EMOTION_KEYS[tag] for tag in rng.integers(0, 8, images)]
    items = 160_000 // shrink
    scores = rng.standard_normal((20, items)).astype(np.float32)
    relevant = [rng.integers(0, items, 3) for _ in range(20)]
    many = 1_000_000 // shrink
    relevance = Relevance.of_pairs(np.arange(256), np.arange(256), many)
    row = rng.standard_normal(many).astype(np.float32)

    def ranked() -> object:
        return evaluate_ranking(lambda rows: np.tile(row, (len(rows), 1)), np.arange(256), relevance)

    return [
        (
            "other_emotion_pairs",
            f"{len(pairs)} pairs, {images} images",
            lambda: other_emotion_pairs(pairs, paired, tags, 0),
        ),
        ("auc", f"20 queries, {items} items", lambda: auc(scores, relevant)),
        ("evaluate_ranking", f"256 queries, {many} items", ranked),
    ]


def study_steps(shrink: int) -> list[Step]:
    options = tuple(Option(f"o{place}", f"i{place}", name) for place, name in enumerate(CONDITIONS))
    trials = [
        Trial(f"t{number}", "trial", f"c{number}", MUSIC_EMOTION_KEYS[number % 13], None, options)
        for number in range(10_000 // shrink)
    ]
    length = max(1, 500 // shrink)
    answers = 20_000 // shrink
    chosen = np.random.default_rng(1).multinomial(1, [0.2, 0.3, 0.3, 0.2], answers).astype(np.bool_)
    who = np.arange(answers) % 100
    choices = Choices(("random", "semantic", "fused", "adapter"), who, who, who, np.ones_like(chosen), chosen)
    return [
        (
            "_forms",
            f"{len(trials)} clips, {length} trials",
            lambda: _forms(trials, length, np.random.default_rng(0)),
        ),
        ("conditional_logit", f"{answers} trials", lambda: conditional_logit(choices)),
    ]


def media_steps(shrink: int, folder: Path) -> list[Step]:
    rng = np.random.default_rng(2)
    recordings = max(2, 2000 // shrink)
    schema = MUSIC_CLIPS.empty().schema
    rows: list[dict[str, Any]] = []
    for number in range(recordings):
        soundfile.write(folder / f"{number}.wav", np.zeros(60_000, np.int16), 1000)
        for start in range(0, 60, 12):
            row = {"clip_id": f"{number}-{start}", "file": f"{number}.wav", "is_original_clip": True}
            row |= {"start_s": float(start), "duration_s": 5.0, "content_hash": f"{number}#t={start}"}
            rows.append({column: row.get(column) for column in schema})
    clips = pl.DataFrame(rows, schema=schema)
    images, rated = 100_000 // shrink, 1500 // shrink
    features = rng.standard_normal((rated, 8)).astype(np.float32)
    head, _ = fit_process(features, rng.random((rated, 2)), [str(n % 50) for n in range(rated)], [4, 4])
    unrated = rng.standard_normal((images, 8)).astype(np.float32)
    return [
        (
            "cut_windows",
            f"{recordings} recordings, {clips.height} clips",
            lambda: cut_windows(clips, folder, 5.0, 2.5),
        ),
        ("gaussian_process.predict", f"{images} images, {rated} rated", lambda: head.predict(unrated)),
    ]


def assignment_steps(shrink: int) -> list[Step]:
    """Clips in groups that like the same images, and images that every clip likes."""
    rng = np.random.default_rng(3)
    clips, images, width = 10_738 // shrink, 6000 // shrink, 100 // min(shrink, 10)
    of_group = rng.standard_normal((clips // 30 + 1, 24), dtype=np.float32)
    music = of_group[np.arange(clips) // 30] + 0.35 * rng.standard_normal((clips, 24), dtype=np.float32)
    pictures = rng.standard_normal((images, 24), dtype=np.float32)
    liked = music @ (pictures * np.exp(0.2 * rng.standard_normal((images, 1), dtype=np.float32))).T
    best = np.argsort(-liked, axis=1)[:, :width]
    score = np.take_along_axis(liked, best, axis=1)
    low, high = score.min(axis=1, keepdims=True), score.max(axis=1, keepdims=True)
    given = np.repeat(np.arange(clips), width), best.ravel(), ((score - low) / (high - low)).ravel()
    assign(*(values[: 2 * width] for values in given), 1, 1)  # compiled, or loaded from the cache

    def of_limit(limit: int) -> Step:
        size = f"{clips} × {width} candidates, limit {limit}"
        return "assignment", size, lambda: assign(*given, 3, limit)

    return [of_limit(limit) for limit in (6, 10)]


def measure(name: str, size: str, step: Callable[[], object], rounds: int) -> dict[str, Any]:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    middle = float(np.median(seconds))
    print(f"{name:>20}  {size:<34} {middle:9.4f} s {peak:9.1f} MB", flush=True)
    return {"name": f"ours {name}", "size": size, "seconds": round(middle, 4), "mb": round(peak, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="has no effect: there is nothing to compare with")
    parser.add_argument("--shrink", type=int, default=1, help="divide every size by this")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the median is reported")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = ranking_steps(arguments.shrink) + study_steps(arguments.shrink)
        steps += assignment_steps(arguments.shrink)
        steps += media_steps(arguments.shrink, Path(folder))
        rows = [measure(*step, arguments.rounds) for step in steps]
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
