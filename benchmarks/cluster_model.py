"""A discrete-event model of a build on a cluster: runs that wait for nodes, for the shared folder, for locks.

Belongs here: the model and its assumptions. Measured costs are passed in as `Costs`; `scaling.py` measures
them and prints the tables.

A stage is a list of runs. A run is launched (the build process launches them one after the other), waits for
a node, starts up, reads its inputs, computes, writes its table, and triggers a rebuild of the catalogue. A
node is a server for one run (or one run per GPU); the shared folder is one server with a bandwidth; the
catalogue is one server, where one rebuild serves all waiting runs. A stage starts when the previous one has
ended, as in `emid build`.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Costs:
    """Costs in seconds; those marked (measured) come from `scaling.py`, the others are assumed."""

    launch_s: float = 0.3
    """To create a run and submit it to Ray: one after the other (measured)."""
    startup_s: float = 7.2
    """Overhead of a run on a node, at its start and end (measured)."""
    image_s: float = 1 / 1000
    """An image on a GPU (assumed): ImageBind's image trunk takes .34 TFLOP per image, so 340 TFLOP/s."""
    clip_s: float = 1 / 300
    """A clip on a GPU (assumed): eight processors decode it in 27 ms each."""
    flops: float = 400e12
    """Sustained speed of the product on a device, tf32; `cores_flops` is the speed on CPUs."""
    passes_s: float = 8e-12
    """For each score, on a device: 24 bytes at 3 TB/s."""
    cores_flops: float = 16 * 168e9
    """Speed of the product on the 16 CPU cores of a node (168 GFLOP/s each, measured, overhead included)."""
    write_s: float = 0.022
    """To write a version, whatever its size (measured)."""
    byte_write_s: float = 9e-9
    """For each byte of it, on one CPU core (measured: .38 s for 10,000 rows of 1,024 numbers)."""
    folder_bytes_s: float = 2 * GB
    """Bandwidth of the shared folder, all nodes together."""
    image_bytes: float = 150e3
    """A photograph as JPEG."""
    clip_bytes: float = 480e3
    """Thirty seconds as mp3."""
    rebuild_s: Callable[[int], float] = lambda files: 0.12 + 3.6e-5 * files
    """To rebuild the catalogue over this many partition files (measured)."""


@dataclass(frozen=True)
class Size:
    """Size of the build."""

    clips: float = 1e6
    images: float = 1e7
    dimension: int = 1024
    candidates: int = 50


@dataclass(frozen=True)
class Run:
    """Costs of one run, in seconds and bytes."""

    compute_s: float
    read_bytes: float
    write_bytes: float


@dataclass(frozen=True)
class Outcome:
    """How long a stage took, and the share of that time that each part was busy."""

    seconds: float
    busy: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The part that was busy for the largest share."""
        return max(self.busy, key=lambda part: self.busy[part])


def simulate(runs: Sequence[Run], nodes: int, costs: Costs, files_before: int = 0) -> Outcome:
    """Simulate the runs of one stage."""
    free = [(0.0, node) for node in range(nodes)]
    heapq.heapify(free)
    launcher = folder = 0.0
    busy = dict.fromkeys(("launching", "nodes", "shared folder", "catalogue"), 0.0)
    # Events are (time, order, step, run). A run requests its next resource when it has finished with the
    # last one, so requests are served in the order in which they arrive.
    events: list[tuple[float, int, str, int]] = []
    taken: dict[int, tuple[int, float]] = {}
    for order in range(len(runs)):
        launcher += costs.launch_s
        busy["launching"] += costs.launch_s
        heapq.heappush(events, (launcher, order, "node", order))
    waiting: list[int] = []  # runs without a node, in the order of their launch
    rebuilding_until, rebuild_begins, next_rebuild, end = 0.0, 0.0, 0.0, 0.0
    done = 0
    while events:
        now, _, step, index = heapq.heappop(events)
        run = runs[index]
        if step == "node":
            if not free:
                waiting.append(index)
                continue
            since, node = heapq.heappop(free)
            taken[index] = (node, max(now, since))
            heapq.heappush(events, (max(now, since) + costs.startup_s, index, "read", index))
        elif step == "read":
            folder = max(folder, now) + run.read_bytes / costs.folder_bytes_s
            busy["shared folder"] += run.read_bytes / costs.folder_bytes_s
            # Reading and computing overlap: the longer of the two counts.
            ready = max(folder, now + run.compute_s)
            heapq.heappush(events, (ready, index, "write", index))
        elif step == "write":
            seconds = run.write_bytes / costs.folder_bytes_s
            folder = max(folder, now) + seconds
            busy["shared folder"] += seconds
            written = max(folder, now + costs.write_s + run.write_bytes * costs.byte_write_s)
            heapq.heappush(events, (written, index, "catalogue", index))
        elif step == "catalogue":
            done += 1
            seconds = costs.rebuild_s(files_before + done)
            if now <= rebuild_begins:  # one is about to start, and will serve this run too
                finished = next_rebuild
            elif now < rebuilding_until:  # one is in progress: the next starts after it
                rebuild_begins, next_rebuild = rebuilding_until, rebuilding_until + seconds
                rebuilding_until = finished = next_rebuild
                busy["catalogue"] += seconds
            else:
                rebuild_begins, next_rebuild = now, now + seconds
                rebuilding_until = finished = next_rebuild
                busy["catalogue"] += seconds
            heapq.heappush(events, (finished, index, "end", index))
        else:
            node, since = taken.pop(index)
            busy["nodes"] += (now - since) / nodes
            end = max(end, now)
            heapq.heappush(free, (now, node))
            if waiting:
                heapq.heappush(events, (now, index, "node", waiting.pop(0)))
    return Outcome(end, {part: seconds / end for part, seconds in busy.items()} if end else busy)


def embedding(size: Size, costs: Costs, partitions: int) -> list[Run]:
    """The runs of embed_images and embed_music, as one stage: each item is read once."""
    row = 4 * size.dimension
    images, clips = size.images / partitions, size.clips / max(1, partitions // 8)
    of_images = Run(images * costs.image_s, images * costs.image_bytes, images * row)
    of_clips = Run(clips * costs.clip_s, clips * costs.clip_bytes, clips * row)
    return [of_images] * partitions + [of_clips] * max(1, partitions // 8)


def matching(size: Size, costs: Costs, rows: int, columns: int, *, on_device: bool) -> list[Run]:
    """The runs of the matching: row shards × column shards, each of which reads its images once."""
    clips, images = size.clips / rows, size.images / columns
    flop = 2 * clips * images * size.dimension
    compute = flop / costs.cores_flops
    if on_device:
        compute = flop / costs.flops + clips * images * costs.passes_s
    read = 4 * size.dimension * (clips + images)
    states = clips * (size.candidates + 16)
    return [Run(compute, read, states * 80)] * (rows * columns)


def merging(size: Size, costs: Costs, rows: int, columns: int) -> list[Run]:
    """The runs that merge the column shards of each row shard; near-ties re-read 1 % of the images."""
    clips = size.clips / rows
    states = clips * (size.candidates + 16)
    pairs = clips * size.candidates
    compute = columns * states * 1e-6 + pairs * 3e-6
    read = columns * states * 80 + 0.01 * 4 * size.dimension * size.images
    return [Run(compute, read, pairs * 60)] * rows


def build(
    size: Size, costs: Costs, gpus: int, partitions: int, rows: int, columns: int, *, on_device: bool
) -> dict[str, Outcome]:
    """The large stages of a build, by name."""
    outcomes = {"embedding": simulate(embedding(size, costs, partitions), gpus, costs)}
    files = partitions
    outcomes["matching"] = simulate(
        matching(size, costs, rows, columns, on_device=on_device), gpus, costs, files_before=files
    )
    files += rows * columns
    outcomes["merging"] = simulate(merging(size, costs, rows, columns), gpus, costs, files_before=files)
    return outcomes


def best_partitions(size: Size, costs: Costs, gpus: int, counts: Sequence[int]) -> dict[int, float]:
    """Seconds of the embedding stage by the number of image partitions."""
    return {count: simulate(embedding(size, costs, count), gpus, costs).seconds for count in counts}
