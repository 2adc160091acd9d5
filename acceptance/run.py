"""The acceptance run: the whole graph on 170 real tracks and 1,000 real images, measured.

    python acceptance/run.py [--cache DIR] [--tracks N] [--images N] [--again]

Belongs here: running `emid build` on the folder that `real_media` creates, measuring its memory, and
reporting the result. It fails if the result does not meet the targets.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
from dagster import DagsterInstance
from real_media import TITLES, fetch, lay_out, read_rows

from emid_assets.media.expansion import counts_table, expansion_counts
from emid_assets.store.lake import Lake

HOP_S = 7.5
"""A third as many windows as with the default: enough to choose 2,300 from."""
EXPANDED = 2_300
LEAST_EXPANDED = 2_000
LEAST_IMAGES = 1_000
MINUTES = 40
SAMPLE_EVERY_S = 0.1


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process and its children over time: seconds since 1970, and MB."""

    times: list[float]
    megabytes: list[float]

    def peak(self, start: float, end: float) -> float:
        """The largest sample between two times, or a neighbouring one if there is none between."""
        first = min(bisect_left(self.times, start), len(self.times) - 1)
        last = max(bisect_right(self.times, end), first + 1)
        return max(self.megabytes[first:last])


def watch(process: subprocess.Popen[bytes], memory: Memory) -> None:
    """Sample the memory of a process and its children until it ends."""
    page = os.sysconf("SC_PAGE_SIZE")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        total = 0
        try:
            tree = [str(process.pid)]
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                tree += (task / children.name).read_text().split()
            for pid in tree:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        except (FileNotFoundError, ProcessLookupError):
            continue  # one of them ended in the meantime
        memory.times.append(time.time())
        memory.megabytes.append(total / 1e6)
        time.sleep(SAMPLE_EVERY_S)


def build(media: Path, lake: Path, target: int, measured: Path) -> None:
    """Run `emid build`; write its seconds, CPU seconds and memory over time to the file `measured`.

    Raises:
        SystemExit: the build failed.
    """
    command = [sys.executable, "-m", "emid_assets", "build", "--media", media, "--lake", lake]
    command += ["--expansion-hop-s", str(HOP_S), "--expansion-target", str(target)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMID_")}
    environment.pop("DAGSTER_HOME", None)
    memory = Memory([], [])
    start = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env=environment)
    watcher = threading.Thread(target=watch, args=(process, memory))
    watcher.start()
    status = process.wait()
    watcher.join()
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"emid build ended with exit status {status}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory": asdict(memory)}
    measured.write_text(json.dumps(found))


def print_assets(lake: Path, memory: Memory) -> None:
    """Print time and peak memory of every asset, over all its partitions, from Dagster's records."""
    seconds: dict[str, float] = defaultdict(float)
    peaks: dict[str, float] = defaultdict(float)
    partitions: dict[str, int] = defaultdict(int)
    with DagsterInstance.from_config(str(lake / "dagster")) as instance:
        for run in reversed(instance.get_runs()):
            for step in instance.get_run_step_stats(run.run_id):
                if step.start_time is None or step.end_time is None:
                    continue
                seconds[step.step_key] += step.end_time - step.start_time
                peaks[step.step_key] = max(peaks[step.step_key], memory.peak(step.start_time, step.end_time))
                partitions[step.step_key] += 1
    print(f"\n{'asset':<22}{'partitions':>11}{'seconds':>10}{'peak MB':>10}")
    for asset in seconds:
        print(f"{asset:<22}{partitions[asset]:>11}{seconds[asset]:>10.1f}{peaks[asset]:>10.0f}")


def main() -> None:
    """Download, create the media folder, build, and report the result."""
    parser = argparse.ArgumentParser(description="The whole graph on real music and images, measured.")
    parser.add_argument("--cache", type=Path, default=Path(".emid/acceptance"), help="Folder for all files.")
    parser.add_argument("--tracks", type=int, help="Use only this many tracks; targets are not checked.")
    parser.add_argument("--images", type=int, help="Use only this many images; targets are not checked.")
    parser.add_argument("--again", action="store_true", help="Only repeat the report of the last run.")
    given = parser.parse_args()
    cache = given.cache.resolve()
    media, lake_folder, measured = cache / "media", cache / "lake", cache / "measured.json"
    is_whole = given.tracks is None and given.images is None
    if not given.again:
        lay_out(fetch(cache), media, given.tracks, given.images)
        shutil.rmtree(lake_folder, ignore_errors=True)
        tracks = given.tracks or len(read_rows(TITLES))
        build(media, lake_folder, tracks + (EXPANDED if is_whole else 5 * tracks), measured)
    found = json.loads(measured.read_text())
    seconds, cpu_seconds, memory = found["seconds"], found["cpu_seconds"], Memory(**found["memory"])

    lake = Lake(lake_folder)
    clips, expanded, images = lake.read("music_clips"), lake.read("expanded_clips"), lake.read("images")
    rejected, pairs = lake.read("rejected_media"), lake.read("fused_pairs")
    # The encoder also rejects media, such as a track whose channels cancel out when mixed.
    clips = clips.join(rejected, left_on="clip_id", right_on="item_id", how="anti")
    columns = ["emotion", "is_original_clip"]
    tracks = sum(1 for path in (media / "music").rglob("*") if path.is_file())
    print(f"\n{tracks} tracks, {clips.height} usable; {images.height} usable images")
    print(f"{expanded.height} expanded clips, {pairs.height} pairs\n")
    print(counts_table(expansion_counts(pl.concat([clips.select(columns), expanded.select(columns)]))))
    by_tag = images.group_by("tag").len().sort("tag").rows()
    print("\nimages:", ", ".join(f"{tag} {count}" for tag, count in by_tag))
    print(f"\nrejected: {rejected.height}")
    for item, reason in rejected.select("item_id", "reason").rows():
        print(f"  {item}: {reason}")
    print_assets(lake_folder, memory)
    print(
        f"\n{seconds / 60:.1f} minutes, {cpu_seconds / 60:.1f} CPU minutes on {os.cpu_count()} processors, "
        f"peak {max(memory.megabytes):.0f} MB "
        f"(the process and its workers together, sampled every {SAMPLE_EVERY_S:g} s)"
    )
    print(f"report: {lake_folder / 'report.html'}")
    if is_whole:
        promises = {
            f"at least {LEAST_EXPANDED} expanded clips": expanded.height >= LEAST_EXPANDED,
            f"at least {LEAST_IMAGES} images": images.height >= LEAST_IMAGES,
            f"at most {MINUTES} minutes": seconds <= 60 * MINUTES,
            "every clip paired": pairs["clip_id"].n_unique() == clips.height + expanded.height,
            "a reason for each rejection": rejected["reason"].null_count() == 0,
        }
        for promise, is_kept in promises.items():
            print(f"{'kept' if is_kept else 'BROKEN'}: {promise}")
        if not all(promises.values()):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
