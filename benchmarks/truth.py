"""How far apart the human ratings of a clip and of its images are: the product's pairs of unlabelled media.

    python benchmarks/truth.py --ours --json truth.json
    python benchmarks/truth.py --data FOLDER --seeds 1 --shrink 10      # a quick check after a change

FOLDER holds clips with ratings, tags and the bundled encoder's embeddings (music_ratings_dev.csv,
music_embeddings_dev.npz) and rated photographs (oasis_dev.csv, oasis_dev/). No clip has a label. The themes
of the photographs are split in halves: one is rated, the other has no label. Two cases:

half    all photographs may be chosen; the head learns from the rated half and predicts the other
none    the same head, but only the photographs that it predicts may be chosen

The head reads the words of the file names if the extra `text` is installed, unless --no-words is given.

Each half is the rated one once; figures are means over the splits of --seeds. A distance is between the mean
human ratings of a clip and of its image, both standardised over all clips and over all images, and means over
the 3 or 10 first images of each clip. share_rated: of the first 3 images, those that are rated. coverage:
the share of the images that may be chosen that are among the first 3 of any clip.

ours-paper        method `paper`
ours-calibrated   method `calibrated`
random, oracle    what chance gives, and the nearest images by the human ratings
"""

import argparse
import csv
import hashlib
import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.encoders.bundled.encoder import load_bundled
from emid_assets.encoders.embed import unit_rows
from emid_assets.encoders.interface import MediaItem
from emid_assets.matching.frames import (
    candidate_pairs,
    fused_pairs_frame,
    similarity_frame,
    va_distance_frame,
)
from emid_assets.matching.fusion import Formula
from emid_assets.media.inventory import image_manifest, music_manifest
from emid_assets.media.va_plane import Plane
from emid_assets.prediction.gaussian_process import folds_of
from emid_assets.prediction.image_blocks import BUNDLED, ImageBlocks, Source, image_blocks
from emid_assets.prediction.image_features import FEATURE_BLOCKS, ImageFeatures
from emid_assets.prediction.image_head import fit_head
from emid_assets.prediction.image_text import (
    TEXT_DIMENSION,
    TextEncoder,
    text_encoder_identity,
    text_features_of,
)
from emid_assets.prediction.music_rule import ALL_TAGS
from emid_assets.prediction.predict import predict_emotion
from emid_assets.settings import Method, Settings
from emid_assets.store.schemas import MEDIA_INVENTORY

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FIRST, MOST = 3, 10
CASES = ("half", "none")
METHODS: tuple[Method, ...] = get_args(Method)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Media:
    """Clips and photographs with their ratings, and what the networks make of them.

    Attributes:
        clips, images: ids.
        groups, themes: of each clip and image.
        music_va: (N, 2) ratings from 1 to 9. image_va: (M, 2) from 0 to 1.
        log_odds: (N, 100) of the tags.
        music, pictures: embeddings, with the columns that `similarity_frame` reads.
        blocks: features of the images, in their order, for the head.
    """

    clips: list[str]
    images: list[str]
    groups: list[str]
    themes: list[str]
    music_va: Floats
    image_va: Floats
    log_odds: NDArray[np.float32]
    music: pl.DataFrame
    pictures: pl.DataFrame
    blocks: ImageBlocks

    @classmethod
    def read(cls, folder: Path, shrink: int, with_words: bool) -> "Media":
        with (folder / "music_ratings_dev.csv").open(newline="") as file:
            clips = list(csv.DictReader(file))
        with (folder / "oasis_dev.csv").open(newline="", encoding="utf-8-sig") as file:
            images = list(csv.DictReader(file))
        theme_of = {row["image"]: re.sub(r"[\s\d]+$", "", row["theme"]) for row in images}
        wanted = set(sorted(set(theme_of.values()))[::shrink])
        images = [row for row in images if theme_of[row["image"]] in wanted]
        names = [row["image"] for row in images]
        of_clips = np.array([[row["valence_1_5"], row["arousal_1_5"]] for row in clips], dtype=np.float64)
        of_images = np.array([[row["valence_mean"], row["arousal_mean"]] for row in images], dtype=np.float64)
        ids = [f"clip {row['clip']}" for row in clips]
        with np.load(folder / "music_embeddings_dev.npz") as stored:
            rows, scale = stored["embedding"].astype(np.float32), stored["scale"]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)  # stored as float16
        embedded, features = seen(folder / "oasis_dev", names)
        return cls(
            ids,
            names,
            [row["genre_group"] for row in clips],
            [theme_of[name] for name in names],
            2 * of_clips - 1,
            (of_images - 1) / 6,
            np.array([[row[tag] for tag in ALL_TAGS] for row in clips], dtype=np.float32),
            pl.DataFrame({"clip_id": ids, "embedding": unit, "scale": scale}),
            pl.DataFrame({"image_id": names, "embedding": embedded[0], "scale": embedded[1]}),
            blocks_of(names, features, with_words),
        )

    def distances(self) -> Floats:
        """(N, M) between the standardised ratings of each clip and each image."""
        a, b = (
            (ratings - ratings.mean(axis=0)) / ratings.std(axis=0)
            for ratings in (self.music_va, self.image_va)
        )
        apart: Floats = np.hypot(*(a[:, None, axis] - b[None, :, axis] for axis in range(2)))
        return apart

    def inventory(self, rated: NDArray[np.bool_]) -> pl.DataFrame:
        """MEDIA_INVENTORY of the clips, without ratings, and of the images, of which some are rated."""
        clips = pl.DataFrame({"item_id": self.clips, "source_id": self.groups}).with_columns(
            kind=pl.lit("music"), is_original_clip=pl.lit(True)
        )
        valence, arousal = (
            pl.Series(name, self.image_va[:, axis]) for axis, name in enumerate(("valence", "arousal"))
        )
        images = pl.DataFrame({"item_id": self.images, "source_id": self.themes}).with_columns(
            kind=pl.lit("image"),
            valence=pl.when(pl.Series(rated)).then(valence),
            arousal=pl.when(pl.Series(rated)).then(arousal),
            va_source=pl.when(pl.Series(rated)).then(pl.lit("measured")),
        )
        both = pl.concat([clips, images], how="diagonal").with_columns(
            file="item_id", content_hash="item_id", label_source=pl.lit("predicted")
        )
        return pl.concat([MEDIA_INVENTORY.empty(), both], how="diagonal").select(
            list(MEDIA_INVENTORY.columns)
        )


def seen(folder: Path, names: list[str]) -> tuple[tuple[Any, Any], NDArray[np.float32]]:
    """Unit embeddings with their scale, and features, of the images; kept among the temporary files."""
    encoder, network = load_bundled("cpu"), ImageFeatures("cpu")
    identity = json.dumps([encoder.fingerprint, network.fingerprint, str(folder), names])
    kept = (
        Path(tempfile.gettempdir()) / f"emid-truth-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
    )
    if not kept.exists():
        items = [MediaItem(name, folder / name, "") for name in names]
        unit, scale, _ = unit_rows(
            np.concatenate([encoder.encode_images([encoder.prepare_image(item)]) for item in items])
        )
        features = np.concatenate([network.encode_images([network.prepare_image(item)]) for item in items])
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".npz", delete=False) as file:
            np.savez(file, unit=unit, scale=scale, features=features)
        Path(file.name).replace(kept)
    with np.load(kept) as stored:
        return (stored["unit"], stored["scale"]), stored["features"]


def blocks_of(names: list[str], features: NDArray[np.float32], with_words: bool) -> ImageBlocks:
    """The features as the head reads them, with those of the words in the file names."""
    no_reason = pl.lit(None, pl.String).alias("reason")
    table = pl.DataFrame({"image_id": names, "content_hash": names, "features": features})
    words = None
    if with_words:
        files = pl.DataFrame({"item_id": names, "file": names}).with_columns(
            pl.lit(None, pl.String).alias("caption")
        )
        words = Source(text_features_of(files, TextEncoder())[0], (TEXT_DIMENSION,), "")
    return image_blocks({BUNDLED: Source(table.with_columns(no_reason), FEATURE_BLOCKS, "")}, words)


def frames(media: Media, rated: NDArray[np.bool_], may_be_chosen: NDArray[np.bool_]) -> list[pl.DataFrame]:
    """MUSIC_CLIPS and IMAGES, with what the product predicts of everything that is not rated."""
    themes = [theme for theme, is_rated in zip(media.themes, rated, strict=True) if is_rated]
    matrix = media.blocks.frame["features"].to_numpy()
    head = fit_head(matrix[rated], media.image_va[rated], themes, media.blocks).head
    inventory = media.inventory(rated)
    tags = pl.DataFrame({"clip_id": media.clips, "content_hash": media.clips, "log_odds": media.log_odds})
    tags = tags.with_columns(pl.lit(None, pl.String).alias("reason"))
    predicted = predict_emotion(inventory, tags, media.blocks, head)
    clips = pl.concat([music_manifest(inventory, key, predicted) for key in MUSIC_EMOTION_KEYS])
    images = pl.concat([image_manifest(inventory, key, predicted) for key in IMAGE_EMOTION_KEYS])
    chosen = pl.Series(media.images).filter(pl.Series(may_be_chosen))
    return [clips, images.filter(pl.col("image_id").is_in(chosen.implode()))]


def first_images(
    settings: Settings, media: Media, clips: pl.DataFrame, images: pl.DataFrame
) -> NDArray[np.int64]:
    """(N, MOST) rows of the images in the order of T."""
    formula = replace(Formula.of(settings), images_per_clip=MOST)
    plane = Plane.fit(clips, images, settings.va_alignment)
    pictures = media.pictures.join(images.select("image_id"), on="image_id", how="semi")
    similarity = similarity_frame(media.music, pictures, formula.candidates)
    points = plane.clips(clips), plane.images(images)
    candidates = candidate_pairs(similarity, *points, formula, media.music, pictures)
    pairs = fused_pairs_frame(similarity, va_distance_frame(candidates, *points, formula), formula)
    row_of = {name: row for row, name in enumerate(media.images)}
    by_clip = dict(pairs.group_by("clip_id").agg(pl.col("image_id").sort_by("rank")).iter_rows())
    return np.array([[row_of[image] for image in by_clip[clip]] for clip in media.clips])


def figures(
    picks: NDArray[np.int64], apart: Floats, rated: NDArray[np.bool_], may_be_chosen: NDArray[np.bool_]
) -> dict[str, float]:
    """Of one ranking, the columns of a row."""
    distances = np.take_along_axis(apart, picks, axis=1)
    first = picks[:, :FIRST]
    return {
        "distance_at_3": float(distances[:, :FIRST].mean()),
        "distance_at_10": float(distances.mean()),
        "share_rated": float(rated[first].mean()),
        "coverage": len(np.unique(first)) / int(may_be_chosen.sum()),
    }


def systems_of(
    media: Media, rated: NDArray[np.bool_], may_be_chosen: NDArray[np.bool_], ours: bool
) -> Iterable[tuple[str, dict[str, float]]]:
    """Each system's figures, where the images of `rated` are rated."""
    apart = media.distances()
    clips, pictures = frames(media, rated, may_be_chosen)

    def measured(picks: NDArray[np.int64]) -> dict[str, float]:
        return figures(picks, apart, rated, may_be_chosen)

    for method in METHODS:
        picks = first_images(Settings(method=method, images_per_clip=MOST), media, clips, pictures)
        yield f"ours-{method}", measured(picks)
    if not ours:
        yield "oracle", measured(np.argsort(np.where(may_be_chosen, apart, np.inf), axis=1)[:, :MOST])
        distance, images = float(apart[:, may_be_chosen].mean()), int(may_be_chosen.sum())
        found = {"share_rated": float(rated[may_be_chosen].mean())}
        found["coverage"] = 1 - (1 - FIRST / images) ** len(apart)
        yield "random", {"distance_at_3": distance, "distance_at_10": distance, **found}


def rows_of(media: Media, seeds: int, ours: bool, show: Callable[..., None]) -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(seeds):
            half = folds_of(media.themes, 2, seed)
            for side in range(2):
                rated = half == side
                may_be_chosen = np.ones_like(rated) if case == "half" else ~rated
                for name, measured in systems_of(media, rated, may_be_chosen, ours):
                    found.setdefault(name, []).append(measured)
        means = {
            name: {key: statistics.mean(one[key] for one in measured) for key in measured[0]}
            for name, measured in found.items()
        }
        for name, row in means.items():
            ratio = row["distance_at_3"] / means["ours-paper"]["distance_at_3"]
            rows.append({"name": name, "case": case, "splits": 2 * seeds, **row, "ratio": ratio})
            show(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the development data")
    parser.add_argument("--seeds", type=int, default=3, help="of the halves")
    parser.add_argument("--shrink", type=int, default=1, help="use only every Nth theme")
    parser.add_argument("--no-words", action="store_true", help="the head does not read the file names")
    parser.add_argument("--ours", action="store_true", help="this project's rows only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "music_ratings_dev.csv").is_file():
        parser.error(
            f"{arguments.data} has no music_ratings_dev.csv: name the folder of the development data with "
            "--data; the data is not part of the project"
        )
    with_words = bool(text_encoder_identity()) and not arguments.no_words
    media = Media.read(arguments.data, arguments.shrink, with_words)
    print(f"{len(media.clips)} clips, {len(media.images)} images in {len(set(media.themes))} themes")
    print(f"{'':8}{'':18}@3 distance @10   rated  coverage  @3 to paper's")

    def show(row: dict[str, Any]) -> None:
        shown = "   ".join(
            f"{row[key]:7.3f}"
            for key in ("distance_at_3", "distance_at_10", "share_rated", "coverage", "ratio")
        )
        print(f"{row['case']:8}{row['name']:16}{shown}", flush=True)

    rows = [{**row, "words": with_words} for row in rows_of(media, arguments.seeds, arguments.ours, show)]
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
