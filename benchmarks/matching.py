"""Cost of the matching engine against the bare matrix product and against other exact searches.

    python benchmarks/matching.py --ours                                    ours alone
    python benchmarks/matching.py --sizes 2000x20000,10738x50000,512x200000 --json out.json --plot cost.svg

The unit is the fastest bare blocked product X Yᵀ of {numpy, torch.mm, oneDNN} in the same run, which
keeps no scores: a ratio of 1.10 means a tenth on top of the unavoidable arithmetic. All are measured
as CPU time of the whole process with one thread each, interleaved round by round; the median is
reported. Peers that would take minutes get fewer rows, and their ratio is per row. `extra_mb` is the
peak memory of a child process above its inputs; `ids_equal` compares the ids of some rows with a
float64 brute force. Peers come from `pip install -e .[benchmarks]`; those that are not installed are
listed and skipped.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np

from emid_assets.matching.exact_order import SPARE_SLOTS
from emid_assets.matching.product import (
    Product,
    fastest_product,
    find_product,
    measure_products,
    one_thread_each,
)
from emid_assets.matching.top_k_softmax import settle_shards, shard_state, top_k_softmax

DIMENSION = 1024
K = 50
CHECK_ROWS = 128
BLOCKS = [(512, 2048), (512, 4096), (1024, 4096), (2048, 4096)]

Found = np.ndarray | None
Run = Callable[[np.ndarray, np.ndarray], Found]
"""From X and Y to the (n, K) ids, or None if the entry returns no ids."""


@dataclass(frozen=True)
class Entry:
    """One thing to measure; `rows` is the largest number of rows that it gets."""

    name: str
    run: Run
    rows: int = 1 << 40
    package: str | None = None


def ours(product: str | None = None, backend: str = "numba", threads: int = 1) -> Run:
    """The engine with the product that the probe picks; `auto` would use numpy at small sizes."""

    def run(X: np.ndarray, Y: np.ndarray) -> Found:
        name: Any = product or fastest_product(X.shape[1])
        return top_k_softmax(X, Y, K, product=name, backend=backend, threads=threads).ids  # type: ignore[arg-type]

    return run


def bare(name: str, rows: int, columns: int) -> Run:
    """Only the product, block by block into reused memory."""

    def run(X: np.ndarray, Y: np.ndarray) -> Found:
        import torch

        scratch = np.empty(rows * columns, dtype=np.float32)
        product: Product = find_product(name, X.shape[1])  # type: ignore[arg-type]
        linear = torch.ops.mkldnn._linear_pointwise
        for j in range(0, len(Y), columns):
            tile = torch.from_numpy(Y[j : j + columns])
            prepared = None if name == "onednn" else product.prepare_columns(Y[j : j + columns], 1)
            for i in range(0, len(X), rows):
                if name == "onednn":
                    # Without reordering the tile, which is part of our engine.
                    linear(torch.from_numpy(X[i : i + rows]), tile, None, "none", [], "")
                else:
                    product.multiply(product.prepare_rows(X[i : i + rows]), prepared, scratch)
        return None

    return run


def naive_torch(X: np.ndarray, Y: np.ndarray) -> Found:
    import torch

    S = torch.softmax(torch.from_numpy(X) @ torch.from_numpy(Y).T, dim=1)
    return torch.topk(S, K, dim=1).indices.numpy()


def numpy_blocks(X: np.ndarray, Y: np.ndarray) -> Found:
    ids = []
    for i in range(0, len(X), 256):
        scores = X[i : i + 256] @ Y.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        ids.append(np.take_along_axis(best, order, axis=1))
        np.log(np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1))
    return np.concatenate(ids)


def with_jax() -> Run:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def block(x: Any, y: Any) -> Any:
        scores = x @ y.T
        return jax.lax.top_k(scores, K)[1], jax.nn.logsumexp(scores, axis=1)

    def run(X: np.ndarray, Y: np.ndarray) -> Found:
        y = jnp.asarray(Y)
        return np.concatenate([np.asarray(block(X[i : i + 1024], y)[0]) for i in range(0, len(X), 1024)])

    return run


def with_faiss(tuned: bool) -> Run:
    """Flat inner product, then a second pass for the denominator, which no index returns."""

    def run(X: np.ndarray, Y: np.ndarray) -> Found:
        import faiss
        import torch

        faiss.omp_set_num_threads(1)
        faiss.cvar.distance_compute_blas_database_bs = 4096 if tuned else 1024
        index = faiss.IndexFlatIP(X.shape[1])
        index.add(Y)
        ids = index.search(X, K)[1]
        y = torch.from_numpy(Y)
        for i in range(0, len(X), 1024):
            x = torch.from_numpy(X[i : i + 1024])
            if tuned:
                torch.logsumexp(torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], ""), dim=1)
            else:
                torch.logsumexp(x @ y.T, dim=1)
        return ids

    return run


def with_sentence_transformers(denominator: bool) -> Run:
    """Its semantic search, then a second pass for the denominator, which it does not return."""

    def run(X: np.ndarray, Y: np.ndarray) -> Found:
        import torch
        from sentence_transformers import util

        x, y = torch.from_numpy(X), torch.from_numpy(Y)
        hits = util.semantic_search(x, y, top_k=K, score_function=util.dot_score)
        if denominator:
            for i in range(0, len(X), 1024):
                torch.logsumexp(x[i : i + 1024] @ y.T, dim=1)
        return np.array([[hit["corpus_id"] for hit in row] for row in hits])

    return run


def scikit_learn(X: np.ndarray, Y: np.ndarray) -> Found:
    """Nearest by Euclidean distance, which is the order of the inner product for unit Y; no denominator."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=1).fit(Y)
    return search.kneighbors(X, return_distance=False)


def usearch_exact(X: np.ndarray, Y: np.ndarray) -> Found:
    """Only its exact search: it has no denominator."""
    from usearch.index import MetricKind, search

    return search(Y, X, K, MetricKind.IP, exact=True, threads=1).keys


def duckdb_sql(X: np.ndarray, Y: np.ndarray) -> Found:
    import duckdb
    import pyarrow as pa

    def table(vectors: np.ndarray) -> pa.Table:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.table({"id": np.arange(len(vectors)), "v": flat})

    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("music", table(X))
        connection.register("images", table(Y))
        kind = f"FLOAT[{X.shape[1]}]"
        connection.execute(f"CREATE TABLE y AS SELECT id, v::{kind} AS v FROM images")
        query = f"""
            WITH scores AS (
                SELECT m.id AS i, y.id AS j, array_inner_product(m.v::{kind}, y.v) AS score FROM music m, y
            )
            SELECT i, max_by(j, score, {K}), ln(sum(exp(score - 20))) + 20 FROM scores GROUP BY i ORDER BY i
        """
        return np.array([row[1] for row in connection.execute(query).fetchall()])


def polars_expressions(X: np.ndarray, Y: np.ndarray) -> Found:
    import polars as pl

    images = pl.DataFrame({f"y{j}": np.ascontiguousarray(Y[:, j]) for j in range(Y.shape[1])}).lazy()
    ids = []
    for x in X:
        score = pl.sum_horizontal(pl.col(f"y{j}") * float(value) for j, value in enumerate(x))
        found = images.select(score.alias("score")).with_row_index("id")
        frame = found.select(
            pl.col("id").top_k_by("score", K).implode(),
            denominator=((pl.col("score") - 20).exp().sum().log() + 20).implode(),
        ).collect()
        ids.append(frame["id"][0].to_list())
    return np.array(ids)


OURS = [
    Entry("ours", ours()),
    Entry("ours without numba", ours(backend="numpy")),
    Entry("ours int8", ours(product="int8")),
]
PEERS = [
    Entry("naive torch", naive_torch, rows=4096),
    Entry("numpy row blocks", numpy_blocks, rows=4096),
    Entry("jax", lambda X, Y: with_jax()(X, Y), rows=4096, package="jax"),
    Entry("faiss tuned", with_faiss(tuned=True), rows=4096, package="faiss"),
    Entry("faiss as installed", with_faiss(tuned=False), rows=4096, package="faiss"),
    Entry(
        "sentence-transformers",
        with_sentence_transformers(denominator=True),
        rows=4096,
        package="sentence_transformers",
    ),
    Entry(
        "sentence-transformers, search alone",
        with_sentence_transformers(denominator=False),
        rows=4096,
        package="sentence_transformers",
    ),
    Entry("scikit-learn", scikit_learn, rows=4096, package="sklearn"),
    Entry("usearch", usearch_exact, rows=128, package="usearch"),
    Entry("duckdb", duckdb_sql, rows=64, package="duckdb"),
    Entry("polars", polars_expressions, rows=8, package="polars"),
]


def unit_rows(rng: np.random.Generator, rows: int, scale: float) -> np.ndarray:
    vectors = rng.standard_normal((rows, DIMENSION), dtype=np.float32)
    vectors *= np.float32(scale) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def brute_force(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    scores = X.astype(np.float64) @ Y.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def extra_memory(entry: Entry, files: tuple[Path, Path]) -> float:
    """Peak MB above the inputs, in a child process."""
    command = [sys.executable, __file__, "--measure-memory", entry.name, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{entry.name} failed in a child process:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure_memory(name: str, x_file: str, y_file: str) -> None:
    """The child of `extra_memory`: load, warm up, reset the peak, run."""
    entry = next(entry for entry in [*OURS, *PEERS] if entry.name == name)
    X, Y = np.load(x_file), np.load(y_file)
    X = X[: min(len(X), entry.rows)]
    with one_thread_each():
        # Warm up, so that one-time costs do not count: libraries, the probe, compiled code.
        ours()(X[:64], Y[: 4 * K])
        entry.run(X[:64].copy(), Y[: 4 * K].copy())
        Path("/proc/self/clear_refs").write_text("5")
        before = status_kb("VmRSS")
        entry.run(X, Y)
    print((status_kb("VmHWM") - before) / 1024)


def status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def cpu_seconds(entry: Entry, X: np.ndarray, Y: np.ndarray) -> tuple[float, Found]:
    start = time.process_time()
    found = entry.run(X[: entry.rows], Y)
    return time.process_time() - start, found


def fastest_bare(X: np.ndarray, Y: np.ndarray) -> list[Entry]:
    """Every product and block shape within a quarter of the fastest, measured on fewer rows."""
    entries = [
        Entry(f"bare {name} {r}x{c}", bare(name, r, c))
        for name in ("numpy", "torch", "onednn")
        for r, c in BLOCKS
    ]
    sample = X[: max(2048, len(X) // 8)]
    times = [min(cpu_seconds(entry, sample, Y[:16384])[0] for _ in range(2)) for entry in entries]
    for entry, taken in zip(entries, times, strict=True):
        speed = 2e-9 * len(sample) * len(Y[:16384]) * X.shape[1] / taken
        print(f"    {entry.name:24} {speed:6.0f} GFLOP per CPU second", flush=True)
    return [entry for entry, taken in zip(entries, times, strict=True) if taken <= 1.25 * min(times)]


def measure(size: str, entries: list[Entry], rounds: int) -> list[dict[str, Any]]:
    n, m = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, n, 20.0), unit_rows(rng, m, 1.0)
    with one_thread_each():
        bares = fastest_bare(X, Y)
        for entry in entries:
            cpu_seconds(entry, X[:64], Y[: 40 * K])
        expected = brute_force(X[:CHECK_ROWS], Y)
        seconds: dict[str, list[float]] = {entry.name: [] for entry in [*bares, *entries]}
        found: dict[str, Found] = {}
        for _ in range(rounds):
            for entry in [*bares, *entries]:
                taken, found[entry.name] = cpu_seconds(entry, X, Y)
                seconds[entry.name].append(taken / min(n, entry.rows))
    unit = min(float(np.median(seconds[entry.name])) for entry in bares)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "X.npy", Path(folder) / "Y.npy"
        np.save(files[0], X)
        np.save(files[1], Y)
        for entry in [*bares, *entries]:
            ids = found[entry.name]
            shown = None if ids is None else ids[:CHECK_ROWS] == expected[: len(ids)]
            median = float(np.median(seconds[entry.name]))
            rows.append(
                {
                    "name": entry.name,
                    "size": size,
                    "ratio": round(median / unit, 3),
                    "spread": [
                        round(s / unit, 3) for s in sorted(seconds[entry.name])[:: max(1, rounds - 1)]
                    ],
                    "cpu_seconds": round(median * n, 3),
                    "rows_measured": min(n, entry.rows),
                    "extra_mb": None if entry in bares else round(extra_memory(entry, files), 1),
                    "ids_equal": None if shown is None else bool(shown.all()),
                    "ids_share": None if shown is None else round(float(shown.mean()), 5),
                }
            )
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    extra = "" if row["extra_mb"] is None else f"{row['extra_mb']:9.1f} MB"
    ids = {None: "", True: "ids equal", False: f"{100 * (row['ids_share'] or 0):.2f} % of ids"}[
        row["ids_equal"]
    ]
    spread = f"[{row['spread'][0]:.2f} … {row['spread'][-1]:.2f}]"
    name = row["name"] + (
        f" ({row['rows_measured']} rows)" if row["rows_measured"] < int(row["size"].split("x")[0]) else ""
    )
    print(f"{row['size']:>13}  {name:38} {row['ratio']:8.2f} ×  {spread:18} {extra:>12}  {ids}", flush=True)


def measure_threads(size: str, rounds: int) -> dict[str, Any]:
    """Wall time of one thread over that of two."""
    n, m = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, n, 20.0), unit_rows(rng, m, 1.0)
    walls: dict[int, list[float]] = {1: [], 2: []}
    for threads in (1, 2):
        ours(threads=threads)(X[:1024], Y[:4096])
    for _ in range(rounds):
        for threads, times in walls.items():
            start = time.perf_counter()
            ours(threads=threads)(X, Y)
            times.append(time.perf_counter() - start)
    speedup = float(np.median(walls[1]) / np.median(walls[2]))
    print(f"{size:>13}  ours, two threads: {speedup:.2f} × faster in wall time", flush=True)
    return {"name": "two threads", "size": size, "speedup": round(speedup, 3)}


def measure_alignment(size: str, rounds: int) -> dict[str, Any]:
    """Time of S, E, T and the pairs as frames, relative to `similarity_matrix` alone."""
    import polars as pl

    from emid_assets.matching.frames import (
        candidate_pairs,
        fused_pairs_frame,
        similarity_frame,
        va_distance_frame,
    )
    from emid_assets.matching.fusion import Formula
    from emid_assets.settings import Settings

    formula = replace(Formula.of(Settings()), candidates=K)
    n, m = map(int, size.split("x"))
    rng = np.random.default_rng(0)

    def side(key: str, rows: int, scale: float) -> tuple[pl.DataFrame, pl.DataFrame]:
        names = [f"{key}{i:07d}" for i in range(rows)]
        vectors = pl.Series(unit_rows(rng, rows, 1.0), dtype=pl.Array(pl.Float32, DIMENSION))
        va = rng.uniform(-1, 1, (rows, 2))
        frame = pl.DataFrame(
            {key: names, "embedding": vectors, "scale": np.full(rows, scale, dtype=np.float32)}
        )
        return frame, pl.DataFrame({key: names, "valence": va[:, 0], "arousal": va[:, 1]})

    (music, music_va), (images, image_va) = side("clip_id", n, 20.0), side("image_id", m, 1.0)
    alone, whole = [], []
    for _ in range(rounds):
        start = time.process_time()
        similarity = similarity_frame(music, images, K, threads=1)
        alone.append(time.process_time() - start)
        candidates = candidate_pairs(similarity, music_va, image_va, formula, music, images)
        distances = va_distance_frame(candidates, music_va, image_va, formula)
        fused_pairs_frame(similarity, distances, formula)
        whole.append(time.process_time() - start)
    ratio = float(np.median(np.array(whole) / np.array(alone)))
    print(f"{size:>13}  whole alignment: {ratio:.3f} × similarity_matrix alone", flush=True)
    return {"name": "alignment over similarity", "size": size, "ratio_to_similarity": round(ratio, 4)}


def measure_settling(size: str, rounds: int) -> dict[str, Any]:
    """The share of the matching that makes the last bits certain: exact scores, order and log-sum-exps."""
    n, m = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, n, 20.0), unit_rows(rng, m, 1.0)
    ours()(X[:600], Y[:4096])
    shares = []
    for _ in range(rounds):
        start = time.process_time()
        shard = shard_state(X, Y, K, threads=1, backend="numba")
        middle = time.process_time()
        settle_shards(shard, X, Y, K, backend="numba")
        shares.append((time.process_time() - middle) / (time.process_time() - start))
    share = float(np.median(shares))
    print(f"{size:>13}  settling: {share:.1%} of the CPU time", flush=True)
    return {"name": "settling", "size": size, "share": round(share, 4)}


def measure_slope(rounds: int, file: Path | None) -> dict[str, Any]:
    """CPU time of ours over a range of N·M: the cost model predicts a slope of 1 on log axes."""
    sizes = [(500, 4000), (1000, 8000), (2000, 16000), (4000, 32000), (8000, 32000)]
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, 8000, 20.0), unit_rows(rng, 32000, 1.0)
    run = ours()
    run(X[:600], Y[:4096])
    points = []
    for n, m in sizes:
        times = []
        for _ in range(rounds):
            start = time.process_time()
            run(X[:n], Y[:m])
            times.append(time.process_time() - start)
        points.append((n * m, float(np.median(times))))
    work, seconds = np.array(points).T
    slope, offset = np.polyfit(np.log(work), np.log(seconds), 1)
    speed = 1e9 * max(measure_products(DIMENSION).values())
    modelled = np.polyfit(np.log(work), np.log([model_seconds(n, m, speed) for n, m in sizes]), 1)[0]
    print(
        f"slope of log CPU time on log N·M over {work[0]:.0e} … {work[-1]:.0e}: {slope:.3f}, "
        f"by the cost model {modelled:.3f}",
        flush=True,
    )
    if file:
        draw(work, seconds, float(slope), float(offset), file)
    return {
        "name": "slope",
        "slope": round(float(slope), 4),
        "modelled_slope": round(float(modelled), 4),
        "points": points,
    }


def model_seconds(n: int, m: int, flop_per_second: float) -> float:
    """The cost model of docs/matching.md on one core: the product, the epilogue's two terms, and settling."""
    slots = K + SPARE_SLOTS
    epilogue = n * (0.25e-9 * m + 60e-9 * slots * (1 + np.log(m / slots)))
    settling = 0.25e-6 * n * K + 0.3e-6 * m
    return float(2.0 * n * m * DIMENSION / flop_per_second + epilogue + settling)


def draw(work: np.ndarray, seconds: np.ndarray, slope: float, offset: float, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.loglog(work, np.exp(offset) * work**slope, color="0.6", label=f"fit: slope {slope:.3f}")
    axes.loglog(work, seconds, "o", color="C0", label="measured")
    axes.set(xlabel="N · M (scores)", ylabel="CPU seconds", title=f"Matching, d = {DIMENSION}, K = {K}")
    axes.legend(frameon=False)
    figure.savefig(file)


def installed(entries: list[Entry]) -> list[Entry]:
    missing = [entry for entry in entries if entry.package and not importlib.util.find_spec(entry.package)]
    for entry in missing:
        print(f"skipped, not installed: {entry.name} (pip install -e .[benchmarks])")
    return [entry for entry in entries if entry not in missing]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="skip the peers")
    parser.add_argument("--sizes", default="2000x20000,10738x50000,512x200000", help="N x M, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; the median is reported")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--plot", type=Path, help="file for the plot of cost against N·M")
    parser.add_argument("--skip-extras", action="store_true", help="skip threads, alignment and slope")
    parser.add_argument("--measure-memory", nargs=3, metavar=("NAME", "X", "Y"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        measure_memory(*arguments.measure_memory)
        return
    entries = OURS if arguments.ours else OURS + installed(PEERS)
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes.split(","):
        rows += measure(size, entries, arguments.rounds)
        if arguments.json:
            arguments.json.write_text(json.dumps({"rows": rows}, indent=1))
    if not arguments.skip_extras:
        rows.append(measure_alignment("2000x50000", arguments.rounds))
        rows.append(measure_threads("4000x30000", arguments.rounds))
        rows += [measure_settling(size, arguments.rounds) for size in arguments.sizes.split(",")]
        rows.append(measure_slope(arguments.rounds, arguments.plot))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
