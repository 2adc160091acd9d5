"""Cost of `emid build`: the first build, and the next one after each kind of change.

    python benchmarks/build.py                          # the sample, and 2,000 clips with 2,000 images
    python benchmarks/build.py --sizes sample --json build.json
    python benchmarks/build.py --sizes 200 --cases first,nothing

The cases are builds of one lake, one after another, each in a process of its own:

first     an empty lake
nothing   nothing has changed
image     one image more
clip      one clip more
alpha     another alpha
epochs    one epoch more

The sample is built with the bundled encoder, and a generated folder (sizes in clips, with as many small
images) with one that costs nothing. A row has the CPU seconds of the process and its workers; of these, the
overhead: all that was not spent in the assets' own functions; wall seconds; the runs; and the media that were
encoded.
"""

import argparse
import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.cli.main import set_up_process
from emid_assets.encoders.interface import MediaItem
from emid_assets.settings import SAMPLE_MEDIA, Settings
from emid_assets.store.lake import Lake

SAMPLE = "sample"
CASES = ("first", "nothing", "image", "clip", "alpha", "epochs")
DIMENSION = 64
EMBEDDED = ("music_embeddings", "image_embeddings", "expansion_windows")
GENERATED_EPOCHS = 2
"""Of the generated folder's networks, whose quality is not evaluated."""


class FreeEncoder:
    """An encoder whose vectors are the files' hashes."""

    name = "bundled"
    licence = "none"
    dimension = DIMENSION
    fingerprint = "hash"

    @staticmethod
    def prepare_music(item: MediaItem) -> Any:
        digest = hashlib.shake_128(item.path.read_bytes()).digest(4 * DIMENSION)
        vector = np.frombuffer(digest, np.uint32) / np.float32(2**31) - np.float32(1)
        return vector / np.linalg.norm(vector)

    prepare_image = prepare_music

    @staticmethod
    def encode_music(batch: Sequence[Any]) -> Any:
        return np.stack(batch) * np.float32(20)

    encode_images = staticmethod(np.stack)


def write_clip(media: Path, number: int) -> None:
    import soundfile

    folder = media / "music" / MUSIC_EMOTION_KEYS[number % len(MUSIC_EMOTION_KEYS)]
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(number).uniform(-0.5, 0.5, 8000)
    soundfile.write(folder / f"{number:05}.wav", samples, 8000)


def write_image(media: Path, number: int) -> None:
    from PIL import Image

    folder = media / "images" / IMAGE_EMOTION_KEYS[number % len(IMAGE_EMOTION_KEYS)]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:05}.png")


def cpu_seconds() -> float:
    """Of this process and the children that it has waited for."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def build_here(options: dict[str, Any], free_encoder: bool) -> dict[str, float]:
    """Build as the command does; CPU seconds of this process, and those outside of the assets' functions."""
    set_up_process()
    from emid_assets.orchestration import table_asset

    timed = table_asset._with_timing
    own = 0.0

    def measured(compute: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compute)
        def counted(*args: Any, **inputs: Any) -> Any:
            nonlocal own
            start = cpu_seconds()
            try:
                return compute(*args, **inputs)
            finally:
                own += cpu_seconds() - start

        return timed(counted)

    table_asset._with_timing = measured  # before the assets are defined
    if free_encoder:
        from emid_assets.encoders import load

        load.load_encoder = lambda *_, **__: FreeEncoder()  # type: ignore[assignment]
    from emid_assets.build.stage_by_stage import run_build
    from emid_assets.runs.instance import environment_of, prepare_instance

    settings = Settings(**options)
    os.environ.update(environment_of(settings, prepare_instance(settings)))
    run_build(options)
    everything = cpu_seconds()
    return {"cpu_seconds": everything, "overhead_seconds": everything - own}


def runs_of(home: Path) -> int:
    from dagster import DagsterInstance

    os.environ["DAGSTER_HOME"] = str(home)
    with DagsterInstance.get() as instance:
        return instance.get_runs_count()


def measure(size: str, cases: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """A row for each case, of a lake below `folder`."""
    media, lake = folder / "media", Lake(folder / "lake")
    options: dict[str, Any] = {"media": str(media), "lake": str(lake.root)}
    clips = 0
    if size == SAMPLE:
        shutil.copytree(SAMPLE_MEDIA, media)
    else:
        clips = int(size)
        for number in range(clips):
            write_clip(media, number)
            write_image(media, number)
        options |= {"workers": 0, "epochs": GENERATED_EPOCHS}
    changes: dict[str, Callable[[], Any]] = {
        "image": lambda: write_image(media, clips),
        "clip": lambda: write_clip(media, clips),
        "alpha": lambda: options.update(alpha=0.7),
        "epochs": lambda: options.update(epochs=options.get("epochs", Settings().epochs) + 1),
    }
    rows = []
    runs = 0
    for case in cases:
        changes.get(case, lambda: None)()
        began, start = time.time(), time.monotonic()
        command = [sys.executable, __file__, "--build", json.dumps(options)]
        said = subprocess.run(
            [*command, *(["--free-encoder"] if size != SAMPLE else [])],
            check=True, stdout=subprocess.PIPE, text=True, cwd=folder,
        ).stdout  # fmt: skip
        wall = time.monotonic() - start
        written = [
            version
            for table in EMBEDDED
            for version in lake.versions(table)
            if version.path.stat().st_mtime >= began
        ]
        before, runs = runs, runs_of(lake.root / "dagster")
        rows.append(
            {
                "name": f"ours-{size}-{case}",
                "size": size,
                **json.loads(said.splitlines()[-1]),
                "wall_seconds": wall,
                "runs": runs - before,
                "encoded": sum(int(str(version.metadata["encoded"])) for version in written),
            }
        )
        print(
            "{name:24} {cpu_seconds:8.1f} s CPU, of it {overhead_seconds:6.1f} s overhead, "
            "{wall_seconds:7.1f} s wall, {runs:3} runs, {encoded:5} encoded".format(**rows[-1]),
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="no effect: there are no peers to skip")
    parser.add_argument("--sizes", default=f"{SAMPLE},2000", help="of: sample, or a number of clips")
    parser.add_argument("--cases", default=",".join(CASES), help="in this order; begin with first")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--build", type=json.loads, help=argparse.SUPPRESS)  # one case, in this process
    parser.add_argument("--free-encoder", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(build_here(arguments.build, arguments.free_encoder)))
        return
    rows = []
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(size, arguments.cases.split(","), Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
