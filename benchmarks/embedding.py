"""Throughput of the embedding stage, and of ImageBind's linear layers; prints ratios within one run.

    python benchmarks/embedding.py            # everything, ten minutes on two idle cores
    python benchmarks/embedding.py --ours     # this project's rows only, as a check after a change
    python benchmarks/embedding.py --sizes 64 --rounds 2 --json embedding.json

Three questions, each answered by interleaved rounds on the same device with the same weights:

stage   Does the model wait for media to be read? ImageBind's classes, sized so that an item takes
        20 ms on one thread: the whole stage, from files to rows, with one worker process,
        against the bare model on inputs in memory (target: at least 0.95 of its rate), and against
        the official order of work, one file after the other and then the batch (at least 1.3 ×).
layers  How much faster are the products? ImageBind-huge at full width, one block of each trunk:
        the probe's float32 product (at least 1.7 × torch's default, cosine at least .99999) and bf16
        (at least 3 ×), in CPU seconds.
load    What does loading cost? A checkpoint of the official shapes, memory-mapped: memory beyond the
        file (at most 0.5 GB).
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import torch
from PIL import Image

from emid_assets.encoders.embed import embed
from emid_assets.encoders.imagebind import preprocessing
from emid_assets.encoders.imagebind.encoder import ImageBindEncoder
from emid_assets.encoders.imagebind.images import resize_and_crop
from emid_assets.encoders.imagebind.model import HUGE, Architecture, build
from emid_assets.encoders.interface import MediaItem
from emid_assets.media.audio import read_audio, resample
from emid_assets.media.image import read_rgb

CPU = torch.device("cpu")
ITEM_S = 0.020
SAMPLE = Path(__file__).resolve().parents[1] / "emid_assets" / "sample"
PHOTO_SIZE = (1280, 960)
CLIP_S, CLIP_RATE = 30, 44_100
DIFFERENT_FILES = 24


def random_model(architecture: Architecture) -> torch.nn.Module:
    """A model of the official classes with small random weights."""
    model = build(architecture).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("log_logit_scale"):
                tensor.fill_(float(np.log(20.0)))
            elif tensor.ndim > 1:
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def write_media(folder: Path, count: int) -> dict[str, list[MediaItem]]:
    """`count` JPEG photographs of 1.2 megapixels and as many stereo mp3 clips of 30 s, from the sample."""
    photos = sorted((SAMPLE / "images").glob("*.jpg"))
    clips = sorted((SAMPLE / "music").glob("*.ogg"))
    images, music = [], []
    for index in range(min(count, DIFFERENT_FILES)):
        image, clip = folder / f"{index}.jpg", folder / f"{index}.mp3"
        photo = Image.open(photos[index % len(photos)]).convert("RGB")
        photo.resize(PHOTO_SIZE, Image.Resampling.LANCZOS).save(image, quality=90)
        images.append(MediaItem(image.name, image, image.name))
        samples, rate = read_audio(clips[index % len(clips)])
        one = np.resize(resample(samples[:1], rate, CLIP_RATE)[0], CLIP_S * CLIP_RATE)
        soundfile.write(clip, np.stack([one, np.roll(one, 99 * (index + 1))], axis=1), CLIP_RATE)
        music.append(MediaItem(clip.name, clip, clip.name))
    # The same files under other names, so that each is read and encoded.
    linked: dict[str, list[MediaItem]] = {"image": [], "music": []}
    for kind, items in (("image", images), ("music", music)):
        for i in range(count):
            item = items[i % len(items)]
            path = folder / f"{kind} {i}{item.path.suffix}"
            path.hardlink_to(item.path)
            linked[kind].append(replace(item, item_id=str(i), path=path, content_hash=path.name))
    return linked


def sized_for(item_s: float, kind: str) -> ImageBindEncoder:
    """An encoder that takes about `item_s` for one item of the kind on one thread."""
    inputs = {
        "image": np.zeros((3, 224, 224), np.uint8),
        "music": np.zeros((3, 1, 128, 204), np.float32),
    }[kind]
    best: tuple[float, ImageBindEncoder | None] = (float("inf"), None)
    for width in (128, 192, 256, 320, 384):
        for blocks in (1, 2, 3, 4):
            sizes = replace(
                HUGE, vision_embed_dim=width, vision_num_blocks=blocks, vision_num_heads=4,
                audio_embed_dim=width, audio_num_blocks=blocks, audio_num_heads=4,
            )  # fmt: skip
            encoder = ImageBindEncoder(random_model(sizes), "benchmark", CPU, "float32")
            encode = encoder.encode_images if kind == "image" else encoder.encode_music
            taken = min(timed(lambda encode=encode: encode([inputs] * 2))[1] / 2 for _ in range(3))
            if abs(taken - item_s) < best[0]:
                best = (abs(taken - item_s), encoder)
    assert best[1] is not None
    return best[1]


def official_way(items: list[MediaItem], kind: str) -> list[np.ndarray]:
    """Inputs as the official loading functions make them: one whole file after the other."""
    if kind == "image":
        return [resize_and_crop(read_rgb(item.path)) for item in items]
    return [preprocessing.audio_input(*read_audio(item.path)) for item in items]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process that `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each work in each round; the order rotates, so that no work is always first."""
    names = list(works)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(timed(works[name]))
    return seconds


def ratio(slower: list[tuple[float, float]], faster: list[tuple[float, float]], column: int) -> float:
    """Median over the rounds of how many times longer the first took."""
    return statistics.median(a[column] / b[column] for a, b in zip(slower, faster, strict=True))


def stage_rows(count: int, rounds: int, batch: int, ours_only: bool) -> list[dict[str, object]]:
    """The embedding stage against the bare model and the official order."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        media = write_media(Path(folder), count)
        for kind, items in media.items():
            encoder = sized_for(ITEM_S, kind)
            encode = encoder.encode_images if kind == "image" else encoder.encode_music
            different = official_way(items[:DIFFERENT_FILES], kind)
            inputs = [different[index % len(different)] for index in range(count)]

            def batches(arrays: list[np.ndarray], encode=encode) -> np.ndarray:  # type: ignore[no-untyped-def]
                return np.concatenate([encode(arrays[i : i + batch]) for i in range(0, len(arrays), batch)])

            def sequential(items=items, kind=kind, encode=encode) -> None:  # type: ignore[no-untyped-def]
                for start in range(0, len(items), batch):
                    encode(official_way(items[start : start + batch], kind))

            def stage(items=items, kind=kind, encoder=encoder):  # type: ignore[no-untyped-def]
                return embed(items, encoder, kind, batch_size=batch, workers=1)

            result = stage()
            rows_of_stage = result.frame["embedding"].to_numpy() * result.frame["scale"].to_numpy()[:, None]
            off = float(np.abs(rows_of_stage - batches(inputs)).max())
            works: dict[str, Callable[[], object]] = {"stage": stage}
            if not ours_only:
                works |= {"bare model": lambda b=batches, i=inputs: b(i), "official order": sequential}
            seconds = interleaved(works, rounds)
            row: dict[str, object] = {
                "name": f"ours stage, {kind}",
                "items": count,
                "per_second": count / statistics.median(wall for wall, _ in seconds["stage"]),
                "largest_difference": off,
            }
            if not ours_only:
                bare = statistics.median(wall for wall, _ in seconds["bare model"]) / count
                row |= {
                    "model_ms_an_item": 1000 * bare,
                    "of_bare_model": ratio(seconds["bare model"], seconds["stage"], 0),
                    "times_official_order": ratio(seconds["official order"], seconds["stage"], 0),
                    # In CPU seconds of this process, without the worker's: the ratio if the other core is
                    # idle. On a busy machine only this one is meaningful.
                    "of_bare_model_by_cpu": ratio(seconds["bare model"], seconds["stage"], 1),
                    "times_official_order_by_cpu": ratio(seconds["official order"], seconds["stage"], 1),
                }
            rows.append(row)
    return rows


def layer_rows(rounds: int, ours_only: bool) -> list[dict[str, object]]:
    """The products of ImageBind's linear layers, at full width and one block of each trunk."""
    model = random_model(replace(HUGE, vision_num_blocks=1, audio_num_blocks=1))
    ours = ImageBindEncoder(copy.deepcopy(model), "benchmark", CPU, "float32")
    encoders = {
        "default": ImageBindEncoder(copy.deepcopy(model), "benchmark", CPU, "float32", "torch"),
        "float32": ours,
        "bf16": ImageBindEncoder(model, "benchmark", CPU, "bf16"),
    }
    if ours_only:
        del encoders["default"]
    rng = np.random.default_rng(0)
    kinds = {
        "image": [rng.integers(0, 256, (3, 224, 224), dtype=np.uint8) for _ in range(2)],
        "music": [rng.normal(size=(3, 1, 128, 204)).astype(np.float32) for _ in range(2)],
    }
    rows: list[dict[str, object]] = []
    for kind, inputs in kinds.items():
        works = {
            name: partial(encoder.encode_images if kind == "image" else encoder.encode_music, inputs)
            for name, encoder in encoders.items()
        }
        vectors = {name: work() for name, work in works.items()}
        seconds = interleaved(works, rounds)
        for name in ("float32", "bf16"):
            row: dict[str, object] = {
                "name": f"ours layers, {kind}, {name}",
                "product": encoders[name].product,
                "cpu_ms_an_item": 1000 * statistics.median(cpu for _, cpu in seconds[name]) / len(inputs),
            }
            if not ours_only:
                a, b = (vectors[key].astype(np.float64) for key in ("default", name))
                cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                row |= {
                    "times_default_float32": ratio(seconds["default"], seconds[name], 1),
                    "least_cosine": float(cosine.min()),
                }
            rows.append(row)
    return rows


LOAD_PROGRAM = """
import sys, threading, time
from pathlib import Path

def memory(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024

import torch
from emid_assets.encoders.imagebind import model as imagebind_model
from emid_assets.encoders.imagebind.checkpoint import checkpoint_sha256
imagebind_model.official_code()
start, peak, done = memory("RssAnon"), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, memory("RssAnon"))
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
model = imagebind_model.load(Path(sys.argv[1]))
seconds = time.perf_counter() - began
done = True
watcher.join()
print(peak - start, memory("VmHWM"), seconds)
"""


def load_rows() -> list[dict[str, object]]:
    """Memory and time of loading a checkpoint of the official shapes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imagebind.pth"
        torch.save(random_model(HUGE).state_dict(), path)
        done = subprocess.run(
            [sys.executable, "-c", LOAD_PROGRAM, path], capture_output=True, text=True, check=True
        )
        peak, high_water, seconds = done.stdout.split()
        return [
            {
                "name": "ours load",
                "file_gb": path.stat().st_size / 1e9,
                "gb_beyond_the_file": int(peak) / 1e9,
                "high_water_gb": int(high_water) / 1e9,
                "seconds": float(seconds),
            }
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="measure only this project, without comparisons")
    parser.add_argument("--sizes", type=int, default=600, help="items of the stage's run (default 600)")
    parser.add_argument("--batch", type=int, default=16, help="items per batch (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--parts", nargs="*", default=["stage", "layers", "load"], help="stage, layers, load")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    if "stage" in arguments.parts:
        rows += stage_rows(arguments.sizes, arguments.rounds, arguments.batch, arguments.ours)
    if "layers" in arguments.parts:
        rows += layer_rows(2 * arguments.rounds, arguments.ours)
    if "load" in arguments.parts:
        rows += load_rows()
    for row in rows:
        facts = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
        )
        print("  ".join(facts))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
