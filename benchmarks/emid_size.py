"""EMID at its own size: cost of the import, of every stage, and of the pages in a browser.

    python benchmarks/emid_size.py                  # 10,738 clips, 3,240 images: an hour or so
    python benchmarks/emid_size.py --scale 0.1 --json emid.json

Draws a folder with EMID's counts from a seed: m4a clips of 2.6 s with ratings, of which those of one source
have the same, JPEG images, and EMID's own CSV. Imports it, builds it, and builds it again with one clip more.
A row is a stage or a measure: wall seconds and CPU seconds of the process and its workers, minor page faults;
or bytes; or, of the pages, seconds in Chromium (skipped where Playwright or Chromium is not installed).
"""

import argparse
import csv
import functools
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emid_assets.affect.emotions import FEELINGS, IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS, RATINGS
from emid_assets.cli.main import set_up_process
from emid_assets.settings import Settings
from emid_assets_tests.synthetic_emid import EXPANDED, ORIGINALS

IMAGES = 3240
SECONDS, RATE = 2.6, 44_100
CHROMIUM = Path("/usr/bin/chromium")


def usage() -> dict[str, float]:
    """Of this process and the children that it has waited for."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": time.monotonic(),
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in of),
        "page_faults": sum(each.ru_minflt for each in of),
    }


def spent(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in usage().items()}


def sound(source: np.random.Generator, offset: float) -> np.ndarray:
    """A window of a source: four decaying notes a second, each of six partials."""
    notes = source.uniform(110, 660, 16)
    decay, loudness = source.uniform(2, 12), source.uniform(0.05, 0.4)
    t = np.arange(round(SECONDS * RATE)) / RATE + offset
    note, since = notes[(4 * t).astype(int) % len(notes)], (4 * t) % 1 / 4
    partials = sum(np.sin(2 * np.pi * note * k * t) / k for k in range(1, 7))
    return (loudness * np.exp(-decay * since) * partials).astype(np.float32)


def write_m4a(path: Path, samples: np.ndarray) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono", bit_rate=64_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def write_image(path: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    width, height = rng.integers(240, 480, 2)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=85)


def clips(scale: float, seed: int) -> Iterator[tuple[str, str, str, str, bool, np.ndarray]]:
    """Name, letter, feeling, ratings, whether it is an original, and samples, in the order of the table."""
    for number, emotion in enumerate(MUSIC_EMOTIONS):
        originals, expanded = (
            max(1, round(counts[emotion.letter] * scale)) for counts in (ORIGINALS, EXPANDED)
        )
        for index in range(expanded):
            source = index % originals
            rng = np.random.default_rng([seed, number, source])
            ratings = rng.uniform(2, 8, len(RATINGS))
            ratings[RATINGS.index("valence")] = np.clip(rng.normal(emotion.valence, 0.8), 1, 9)
            ratings[RATINGS.index("arousal")] = np.clip(rng.normal(emotion.arousal, 0.8), 1, 9)
            feeling = f"{rng.integers(20, 60)}% {FEELINGS[int(rng.integers(len(FEELINGS)))]}"
            yield (
                f"{emotion.letter}{source:04}{f'___{index // originals}' if index >= originals else ''}.m4a",
                emotion.letter,
                feeling,
                ", ".join(f"{rating:.6f}" for rating in ratings),
                index < originals,
                sound(rng, 0.7 * (index // originals)),
            )


def write_emid(folder: Path, scale: float, seed: int = 0) -> Path:
    """EMID's CSV with its media beside it."""
    for name in ("audio", "pictures"):
        (folder / name).mkdir(parents=True)
    images = []
    for number in range(max(8, round(IMAGES * scale))):
        rng = np.random.default_rng([seed, 1, number])
        tag = IMAGE_EMOTION_KEYS[number % len(IMAGE_EMOTION_KEYS)]
        images.append((f"{tag}_{number:05}.jpg", tag, f"picture {number}"))
        write_image(folder / "pictures" / images[-1][0], rng)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    slots = [f"Image{slot}_{part}" for slot in (1, 2, 3) for part in ("filename", "tag", "text")]
    writer.writerow(["Audio_Filename", "genre", "feeling", "emotion", *slots, "is_original_clip"])
    for number, (name, letter, feeling, ratings, is_original, samples) in enumerate(clips(scale, seed)):
        write_m4a(folder / "audio" / name, samples)
        shown = [part for slot in range(3) for part in images[(3 * number + slot) % len(images)]]
        writer.writerow([name, letter, feeling, ratings, *shown, is_original])
    (folder / "EMID_data.csv").write_text(text.getvalue(), encoding="utf-8")
    return folder / "EMID_data.csv"


def build_here(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Build as the command does; a row for each stage, and one for all."""
    set_up_process()
    from emid_assets.build import stage_by_stage
    from emid_assets.runs.instance import environment_of, prepare_instance

    of_stage: dict[str, dict[str, float]] = {}
    run_wave = stage_by_stage._Runner.wave

    @functools.wraps(run_wave)
    def measured(self: Any, stage: str, assets_of: Any) -> None:
        before = usage()
        try:
            run_wave(self, stage, assets_of)
        finally:
            total = of_stage.setdefault(stage, {})
            for name, value in spent(before).items():
                total[name] = total.get(name, 0.0) + value

    stage_by_stage._Runner.wave = measured  # type: ignore[method-assign]
    before = usage()
    settings = Settings(**options)
    os.environ.update(environment_of(settings, prepare_instance(settings)))
    stage_by_stage.run_build(options)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    every = {"name": "all", **spent(before), "peak_mb": peak / 1024}
    return [*({"name": stage, **total} for stage, total in of_stage.items()), every]


def size_of(path: Path) -> int:
    """Bytes of a file or folder; a file with several names counts once."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum({(file.stat().st_dev, file.stat().st_ino): file.stat().st_size for file in files}.values())


def in_browser(page: Path) -> list[dict[str, Any]]:
    """Seconds until `pairs.html` is loaded and painted, and until a filter has been applied."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    if not CHROMIUM.exists():
        return []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        start = time.monotonic()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#list > *")
        opened = time.monotonic() - start
        filtered = tab.evaluate(FILTER)
        browser.close()
    return [
        {"name": "open pairs.html", "seconds": opened},
        {"name": "filter pairs.html", "seconds": filtered},
    ]


FILTER = """() => new Promise(done => {
  const select = document.querySelector("#emotion");
  const start = performance.now();
  select.selectedIndex = 1;
  select.dispatchEvent(new Event("input", {bubbles: true}));
  select.dispatchEvent(new Event("change", {bubbles: true}));
  requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
})"""


def measured_command(command: list[str], cwd: Path) -> dict[str, float]:
    before = usage()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
    return spent(before)


def measure(folder: Path, scale: float, settings: dict[str, Any], show: Callable[..., None]) -> None:
    table = write_emid(folder / "emid", scale)
    media, lake = folder / "media", folder / "lake"
    command = [sys.executable, "-m", "emid_assets", "import", "emid", "--csv", str(table)]
    show("import", **measured_command([*command, "--media", str(table.parent), "--to", str(media)], folder))
    options = {"media": str(media), "lake": str(lake), **settings}

    def build(prefix: str) -> None:
        command = [sys.executable, __file__, "--build", json.dumps(options)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
        for row in json.loads(said.splitlines()[-1]):
            show(f"{prefix}{row.pop('name')}", **row)

    build("")
    for name in ("release", "report.html", "pairs.html", "tables", "dagster"):
        show(f"size of {name}", bytes=size_of(lake / name))
    show("size of the media", bytes=size_of(media))
    for row in in_browser(lake / "pairs.html"):
        show(**row)
    write_m4a(media / "music" / "one more.m4a", sound(np.random.default_rng(7), 0.0))
    with (media / "music.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    with (media / "music.csv").open("a", newline="") as file:
        told = {"file": "one more.m4a", "genre": "K", "emotion": "sad", "licence": "CC0-1.0"}
        csv.writer(file).writerow([told.get(column, "") for column in columns])
    build("one clip more: ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="no effect: there are no peers to skip")
    parser.add_argument("--scale", type=float, default=1.0, help="share of EMID's clips and images")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the build, as JSON")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--folder", type=Path, help="work here and keep it; by default a temporary folder")
    parser.add_argument("--build", type=json.loads, help=argparse.SUPPRESS)  # in this process
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(build_here(arguments.build)))
        return
    rows: list[dict[str, Any]] = []

    def show(name: str, **measured: float) -> None:
        rows.append({"name": f"ours {name}", "scale": arguments.scale, **measured})
        shown = ", ".join(f"{value:,.1f} {what.replace('_', ' ')}" for what, value in measured.items())
        print(f"{name:32} {shown}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.folder or Path(temporary), arguments.scale, arguments.settings, show)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
