"""Accuracy of the image head's predicted emotion: cross-validated by series, on rated images.

    python benchmarks/emotion.py --images OASIS_IMAGES --ratings OASIS.csv
    python benchmarks/emotion.py --ours --seeds 1 --shrink 10      # a quick check after a change
    python benchmarks/emotion.py --json emotion.json

RATINGS is a table with the columns image (or file), valence and arousal (0 to 1) and optionally group; or
the table of OASIS (Kurdi, Lozano, Banaji 2017): image, theme, valence_mean and arousal_mean (1 to 7), with
numbered themes. No image is predicted by a head that saw another image of its group, and bandwidth and noise
are chosen again within each fold. Figures are means over seeds, each with its own folds.

ours       the head of the graph without words: target r of at least .60 for valence and for arousal on OASIS
ours_text  the head with the words of the file names: target r of at least .74 for valence, .72 for arousal
ridge      ridge regression on only the 1,280 features of the network's last layer, centre square
"""

import argparse
import csv
import json
import os
import re
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from emid_assets.encoders.bundled.encoder import load_image_network
from emid_assets.encoders.bundled.preprocessing import prepare_image
from emid_assets.encoders.interface import MediaItem
from emid_assets.prediction.gaussian_process import FOLDS, calibration, figures_of, folds_of
from emid_assets.prediction.image_blocks import BUNDLED, TEXT, ImageBlocks
from emid_assets.prediction.image_features import FEATURE_BLOCKS, ImageFeatures
from emid_assets.prediction.image_head import validate_head
from emid_assets.prediction.image_text import TEXT_DIMENSION, TextEncoder, text_encoder_identity
from emid_assets.prediction.image_words import words_in_name

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PENALTIES = 10.0 ** np.arange(1, 7)

Floats = NDArray[np.float64]


def read_ratings(path: Path) -> tuple[list[str], list[str], Floats]:
    """Names, groups and (n, 2) ratings from 0 to 1."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    names = [row.get("image") or row["file"] for row in rows]
    if "valence_mean" in rows[0]:
        themes = [re.sub(r"[\s\d]+$", "", row["theme"]) for row in rows]
        raw = np.array([[float(row["valence_mean"]), float(row["arousal_mean"])] for row in rows])
        return names, themes, (raw - 1) / 6
    groups = [row.get("group") or row.get("source_id") or name for row, name in zip(rows, names, strict=True)]
    return names, groups, np.array([[float(row["valence"]), float(row["arousal"])] for row in rows])


def last_layer(items: list[MediaItem]) -> NDArray[np.float32]:
    """(n, 1280) features of the centre square."""
    network = load_image_network()
    with torch.inference_mode():
        return np.stack(
            [
                network.head(network.blocks(network.stem(torch.from_numpy(prepare_image(item))[None])))
                .mean((2, 3))[0]
                .numpy()
                for item in items
            ]
        )


def of_names(items: list[MediaItem]) -> NDArray[np.float32]:
    """(n, 384) vectors of the words of the file names; NaN where a name has none."""
    encoder = TextEncoder()
    words = [words_in_name(item.item_id) for item in items]
    vectors = {text: encoder.encode(text) for text in set(words) if text}
    return np.stack([vectors.get(text, np.full(TEXT_DIMENSION, np.nan, np.float32)) for text in words])


def ridge(features: NDArray[np.float32], ratings: Floats, groups: list[str], seed: int) -> Floats:
    """Predictions of held-out groups; the penalty is chosen by the error on inner held-out groups."""

    def fit(x: Floats, y: Floats, asked: Floats) -> list[Floats]:
        """Predictions under each penalty."""
        centre, spread, level = x.mean(axis=0), x.std(axis=0) + 1e-6, y.mean(axis=0)
        x, asked = (x - centre) / spread, (asked - centre) / spread
        across, (values, vectors) = asked @ x.T, np.linalg.eigh(x @ x.T)
        turned = vectors.T @ (y - level)
        return [level + across @ (vectors @ (turned / (values + penalty)[:, None])) for penalty in PENALTIES]

    columns = features.astype(np.float64)
    fold = folds_of(groups, FOLDS, seed)
    found = np.empty_like(ratings)
    for held_out in range(FOLDS):
        test, kept = fold == held_out, fold != held_out
        inner = folds_of([group for group, keep in zip(groups, kept, strict=True) if keep], 5, seed)
        x, y = columns[kept], ratings[kept]
        errors = np.zeros((len(PENALTIES), 2))
        for part in range(5):
            out = inner == part
            for place, predicted in enumerate(fit(x[~out], y[~out], x[out])):
                errors[place] += ((predicted - y[out]) ** 2).sum(axis=0)
        under_each = fit(x, y, columns[test])
        for axis in range(2):
            found[test, axis] = under_each[errors[:, axis].argmin()][:, axis]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=SHARED / "oasis_dev", help="folder of the images")
    parser.add_argument("--ratings", type=Path, default=SHARED / "oasis_dev.csv", help="table of ratings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shrink", type=int, default=1, help="use only every Nth group")
    parser.add_argument("--ours", action="store_true", help="this project's row only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.ratings.is_file():
        parser.error(f"{arguments.ratings} does not exist: name a table of ratings with --ratings")

    names, groups, ratings = read_ratings(arguments.ratings)
    wanted = set(sorted(set(groups))[:: arguments.shrink])
    chosen = [place for place, group in enumerate(groups) if group in wanted]
    groups, ratings = [groups[place] for place in chosen], ratings[chosen]
    items = [MediaItem(names[place], arguments.images / names[place], "") for place in chosen]
    print(f"{len(items)} images in {len(wanted)} groups")

    start = time.process_time()
    network = ImageFeatures("cpu")
    features = np.concatenate([network.encode_images([network.prepare_image(item)]) for item in items])
    each = (time.process_time() - start) / len(items)
    print(f"features: {each:.3f} CPU s per image, {features.shape[1]} dimensions")

    rows = []
    names_of_rows = ["ours", *(["ours_text"] if text_encoder_identity() else [])]
    for name in names_of_rows + ([] if arguments.ours else ["ridge"]):
        start = time.process_time()
        matrix = features if name != "ridge" else last_layer(items)
        sources: dict[str, tuple[int, ...]] = {BUNDLED: FEATURE_BLOCKS}
        if name == "ours_text":
            matrix = np.concatenate([features, of_names(items)], axis=1)
            sources[TEXT] = (TEXT_DIMENSION,)
        blocks = ImageBlocks(pl.DataFrame(), sources, "")
        found: list[dict[str, float]] = []
        for seed in range(arguments.seeds):
            if name == "ridge":
                found.append(figures_of(ridge(matrix, ratings, groups, seed), ratings))
                continue
            validation = validate_head(matrix, ratings, groups, blocks, seed)
            covered = {
                f"{line['axis']}_within_{round(100 * float(line['nominal']))}": float(line["observed"])
                for line in calibration(validation.va, validation.sd, ratings)
            }
            found.append(figures_of(validation.va, ratings) | covered)
        row = {key: statistics.mean(figures[key] for figures in found) for key in found[0]}
        rows.append(
            {"name": name, "images": len(items), "groups": len(wanted), "seeds": arguments.seeds, **row}
        )
        print(f"\n{name} ({time.process_time() - start:.0f} CPU s)")
        for key, value in row.items():
            print(f"  {key:<18} {value:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
