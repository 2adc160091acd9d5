"""How the graph scales: the cost of a run, a node and a partition file, and a model of large builds.

    python benchmarks/scaling.py                 # everything; half an hour on two idle cores
    python benchmarks/scaling.py --ours --parts catalogue --sizes 1000
    python benchmarks/scaling.py --parts model --json scaling.json

catalogue   A table of many small partition files (`--sizes`): CPU seconds to rebuild the catalogue after
            one partition was written, and of a query over it; with bundles, the default, and without.
runs        A local cluster (PostgreSQL, a head without CPUs and two worker nodes with one CPU each): wall
            seconds of an empty run, and of embedding and matching with one and with two nodes, as medians
            of interleaved rounds. The speed-up is also given without the overhead of the runs.
model       `cluster_model.py` with the costs that the other parts measured (else with its defaults): 1e6
            clips × 1e7 images on 1, 8 and 64 GPUs, and the embedding by the number of partitions.
"""
# ruff: noqa: E402

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).parent))

import duckdb
import numpy as np
import polars as pl
from cluster_model import Costs, Size, best_partitions, build

from emid_assets.store import lake as lake_module
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import EXPANDED_CLIPS

ROOT = Path(__file__).resolve().parents[1]
ROWS_PER_FILE = 50
QUERIES = {
    "count": "SELECT count(*) FROM pairs",
    "one-item": "SELECT * FROM pairs WHERE clip_id = 'p00007/3'",
    "group": "SELECT rank, avg(fused_score) FROM pairs GROUP BY rank",
}
PARTITION_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 10_000)


def show(row: dict[str, Any]) -> None:
    shown = [f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()]
    print("  ".join(shown))


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process and its threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


# ---------------------------------------------------------------- the catalogue


def write_partitions(lake: Lake, count: int) -> None:
    """`count` partitions of the table `pairs`; each is its own file with the same rows."""
    for number in range(count):
        name = f"p{number:05}"
        folder = lake.root / "tables" / "pairs" / name
        if number == 0:
            lake.write("pairs", name, pairs_of(name))
            (template,) = folder.glob("*.duckdb")
            continue
        folder.mkdir()
        version = folder / template.name
        shutil.copyfile(template, version)
        version.chmod(0o444)
        (folder / "CURRENT").write_text(template.name + "\n")


def pairs_of(name: str) -> pl.DataFrame:
    rows = np.arange(ROWS_PER_FILE)
    return pl.DataFrame(
        {
            "clip_id": [f"{name}/{row // 3}" for row in rows],
            "image_id": [f"awe/{row}.jpg" for row in rows],
            "rank": (rows % 3 + 1).astype(np.int32),
            "fused_score": np.linspace(1, 0, ROWS_PER_FILE, dtype=np.float32),
        }
    )


@contextmanager
def without_bundles() -> Iterator[None]:
    limit, lake_module._LOOSE_FILES = lake_module._LOOSE_FILES, sys.maxsize
    try:
        yield
    finally:
        lake_module._LOOSE_FILES = limit


def catalogue_row(lake: Lake, name: str, count: int, first: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": f"{name}-catalogue-{count}", "size": count}
    if first:
        row["first_rebuild_cpu_s"] = cpu_seconds(lake.rebuild_catalogue)
    write = cpu_seconds(lambda: lake.write("pairs", "p00007", pairs_of("p00007")))
    row |= {"write_cpu_s": write, "rebuild_cpu_s": cpu_seconds(lake.rebuild_catalogue)}
    for query, text in QUERIES.items():
        with duckdb.connect(str(lake.catalogue_path), read_only=True) as connection:
            row[f"{query}_cpu_s"] = cpu_seconds(connection.execute(text).fetchall)
    return row


def measure_catalogue(counts: list[int], ours_only: bool) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="emid-scaling-") as folder:
            lake = Lake(Path(folder) / "lake", declared={})
            write_partitions(lake, count)
            if not ours_only:
                with without_bundles():
                    rows.append(catalogue_row(lake, "without-bundles", count, first=False))
            rows.append(catalogue_row(lake, "ours", count, first=True))
        for row in rows[-(1 if ours_only else 2) :]:
            show(row)
    return rows


# ---------------------------------------------------------------- runs on one and two nodes


def write_lake(lake: Lake, clips: int, images: int) -> None:
    """Embeddings for the matching: music in one partition, images in two."""
    from query import embeddings

    facts = {"fingerprint": "0", "encoded": 0, "reused": 0}
    music = embeddings("clip_id", [f"sad/{i}" for i in range(clips)], 1024, 20.0, 0)
    lake.write("music_embeddings", "sad", music, facts)
    for place, tag in enumerate(("awe", "fear")):
        ids = [f"{tag}/{i}" for i in range(images // 2)]
        lake.write("image_embeddings", tag, embeddings("image_id", ids, 1024, 1.0, 1 + place), facts)
    lake.write("expanded_clips", "sad", EXPANDED_CLIPS.empty(1024), facts)


def write_images(folder: Path, each: int) -> None:
    """Images of noise for two image partitions, and one clip that nothing uses."""
    from PIL import Image

    random = np.random.default_rng(0)
    for tag in ("awe", "fear"):
        (folder / "images" / tag).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 255, (480, 640, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / tag / f"{number}.jpg")
    clip = next((ROOT / "emid_assets" / "sample" / "music").glob("*.ogg"))
    (folder / "music" / "sad").mkdir(parents=True)
    shutil.copyfile(clip, folder / "music" / "sad" / clip.name)


def in_stage(stage: str, keys: list[str | None], at_once: int, options: dict[str, Any]) -> float:
    """Wall seconds of a stage's runs on the cluster named in the environment, `at_once` at a time."""
    import dagster as dg

    from emid_assets.build.ray_runs import launched_runs
    from emid_assets.definitions import build_definitions
    from emid_assets.runs.instance import environment_of, prepare_instance
    from emid_assets.settings import Settings

    settings = Settings(**options)
    home = prepare_instance(settings)
    profile = home / "dagster.yaml"
    lines = [
        f"    max_concurrent_runs: {at_once}" if "max_concurrent_runs" in line else line
        for line in profile.read_text().splitlines()
    ]
    profile.write_text("\n".join(lines) + "\n")
    os.environ.update(environment_of(settings, home))
    job = build_definitions(**options).resolve_job_def(stage)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        start = time.monotonic()
        for key, error in launched_runs(instance, job, keys, {}, print):
            assert error is None, (key, error)
        return time.monotonic() - start


def measure_runs(clips: int, images: int, photographs: int, rounds: int) -> list[dict[str, Any]]:
    script = [sys.executable, str(ROOT / "deploy" / "ray" / "cluster.py")]
    with tempfile.TemporaryDirectory(prefix="emid-scaling-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL's user must be able to enter it
        where = ["--folder", str(folder / "cluster")]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        up = [*script, "up", *where, "--workers", "2", "--head-cpus", "0", "--cpus", "1"]
        subprocess.run(up, check=True, env=environment, stdout=subprocess.DEVNULL)
        try:
            state = json.loads((folder / "cluster" / "state.json").read_text())
            os.environ.update(state["environment"])
            return rows_of_runs(folder, clips, images, photographs, rounds)
        finally:
            subprocess.run([*script, "down", *where], check=True, env=environment)


def rows_of_runs(
    folder: Path, clips: int, images: int, photographs: int, rounds: int
) -> list[dict[str, Any]]:
    write_images(folder / "media", photographs)
    options: dict[str, Any] = {
        "media": str(folder / "media"), "lake": str(folder / "lake"), "workers": 0, "matching_threads": 1,
    }  # fmt: skip
    in_stage("inventory", [None], 1, options)
    lake = Lake(folder / "lake")
    shards = options | {"lake": str(folder / "matching"), "image_shards": 2}
    write_lake(Lake(folder / "matching"), clips, images)

    def embedding(nodes: int) -> float:
        for tag in ("awe", "fear"):
            lake.remove("image_embeddings", tag)
        shutil.rmtree(lake.root / "journal", ignore_errors=True)
        return in_stage("embed_images", ["awe", "fear"], nodes, options)

    measures: dict[str, Callable[[], float]] = {
        "overhead": lambda: in_stage("embed_images", ["anger"], 1, options),  # a partition without media
        "embedding-1": lambda: embedding(1),
        "embedding-2": lambda: embedding(2),
        "matching-1": lambda: in_stage("match_shards", ["0|sad", "1|sad"], 1, shards),
        "matching-2": lambda: in_stage("match_shards", ["0|sad", "1|sad"], 2, shards),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):  # interleaved, so that other load on the machine affects all of them
        for name, measure in measures.items():
            seconds[name].append(measure())
        print("  ".join(f"{name} {found[-1]:.1f} s" for name, found in seconds.items()), flush=True)
    overhead = median(seconds["overhead"])
    rows = [
        {"name": "ours-run-overhead", "wall_s": overhead},
        speed_up("embedding", seconds["embedding-1"], seconds["embedding-2"], overhead, 2 * photographs),
        speed_up("matching", seconds["matching-1"], seconds["matching-2"], overhead, clips * images),
    ]
    for row in rows:
        show(row)
    return rows


def speed_up(name: str, one: list[float], two: list[float], overhead: float, items: float) -> dict[str, Any]:
    """Medians, and the speed-up without the overhead of the runs."""
    work = median(one) - 2 * overhead, median(two) - overhead
    row: dict[str, Any] = {
        "name": f"ours-{name}",
        "one_node_s": median(one),
        "two_nodes_s": median(two),
        "speed_up": median(one) / median(two),
        "fastest": [min(one), min(two)],
        "overhead_share": 2 * overhead / median(one),
    }
    if min(work) > 0:  # otherwise there was too little work, or other load interfered
        row |= {"speed_up_of_the_work": work[0] / work[1], "per_second_and_node": items / work[0]}
    return row


# ---------------------------------------------------------------- the model


def costs_from(rows: list[dict[str, Any]]) -> Costs:
    """The model's costs, with those measured in this run."""
    costs = Costs()
    by_name = {row["name"]: row for row in rows}
    if "ours-run-overhead" in by_name:
        costs = replace(costs, startup_s=by_name["ours-run-overhead"]["wall_s"])
    if "per_second_and_node" in by_name.get("ours-matching", {}):  # scores, on a node with one CPU
        scores = by_name["ours-matching"]["per_second_and_node"]
        costs = replace(costs, cores_flops=16 * scores * 2 * Size().dimension)
    if writes := [row["write_cpu_s"] for row in rows if row["name"].startswith("ours-catalogue")]:
        costs = replace(costs, write_s=min(writes))
    catalogue = sorted((row["size"], row["rebuild_cpu_s"]) for row in rows if "ours-catalogue" in row["name"])
    if len(catalogue) > 1:
        sizes, seconds = zip(*catalogue, strict=True)
        slope, start = np.polyfit(sizes, seconds, 1)
        costs = replace(costs, rebuild_s=lambda files: max(0.0, float(start + slope * files)))
    return costs


def model_rows(costs: Costs) -> list[dict[str, Any]]:
    size, rows = Size(), []
    print("\n1e6 clips × 1e7 images    hours by stage (bottleneck)")
    for gpus in (1, 8, 64):
        for on_device in (True, False):
            partitions = min(PARTITION_COUNTS, key=best_partitions(size, costs, gpus, PARTITION_COUNTS).get)  # type: ignore[arg-type]
            outcomes = build(size, costs, gpus, partitions, 13, gpus, on_device=on_device)
            hours = sum(outcome.seconds for outcome in outcomes.values()) / 3600
            row: dict[str, Any] = {
                "name": f"ours-model-{gpus}-{'gpus' if on_device else 'gpus-matching-on-cpus'}",
                "size": gpus, "hours": hours, "gpu_hours": gpus * hours, "partitions": partitions,
            }  # fmt: skip
            for stage, outcome in outcomes.items():
                row[f"{stage}_s"], row[f"{stage}_bottleneck"] = outcome.seconds, outcome.bottleneck
            rows.append(row)
            stages = "  ".join(f"{stage} {outcome.seconds / 3600:.2f} ({outcome.bottleneck})"
                               for stage, outcome in outcomes.items())  # fmt: skip
            print(f"{row['name']:<40} {hours:6.2f} h  {gpus * hours:6.1f} GPU h  {stages}")
    print("\nembedding by the number of image partitions, hours")
    print(f"{'GPUs':>6}" + "".join(f"{count:>8}" for count in PARTITION_COUNTS))
    for gpus in (1, 8, 64):
        found = best_partitions(size, costs, gpus, PARTITION_COUNTS)
        print(f"{gpus:>6}" + "".join(f"{found[count] / 3600:8.2f}" for count in PARTITION_COUNTS))
        rows.append(
            {"name": f"ours-partitions-{gpus}", "size": gpus}
            | {str(count): seconds for count, seconds in found.items()}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="skip the comparisons")
    parser.add_argument("--parts", default="catalogue,runs,model")
    parser.add_argument("--sizes", default="1000,3000,10000", help="partition files of the catalogue")
    parser.add_argument("--matching", default="40000x200000", help="clips × images of the runs")
    parser.add_argument("--photographs", type=int, default=1000, help="in each of the two image partitions")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the runs; medians are reported")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    parts = given.parts.split(",")
    rows: list[dict[str, Any]] = []
    if "catalogue" in parts:
        rows += measure_catalogue([int(size) for size in given.sizes.split(",")], given.ours)
    if "runs" in parts:
        clips, images = (int(number) for number in given.matching.split("x"))
        rows += measure_runs(clips, images, given.photographs, given.rounds)
    if "model" in parts:
        rows += model_rows(costs_from(rows))
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
