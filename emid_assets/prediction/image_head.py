"""The head that predicts valence and arousal from an image's features: training, validation, its file.

Belongs here: which blocks of features the head uses, decided by held-out groups. The regression itself is
`gaussian_process`; the features come from `image_blocks`. No network, no reading of images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from emid_assets.prediction.gaussian_process import (
    GaussianProcess,
    Places,
    Validation,
    calibration,
    cross_validate,
    figures_of,
    fit_process,
)
from emid_assets.prediction.head_files import is_current, store_head
from emid_assets.prediction.image_blocks import TEXT, ImageBlocks
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import make_folder
from emid_assets.store.schemas import IMAGE_EMOTION_HEAD

Floats = NDArray[np.float64]

HEAD_VERSION = "2"
MOST_IMAGES = 1500
"""Largest number of rated images to train on: the cost grows with its cube."""
FEW_IMAGES = 200
"""With fewer rated images than this a head is warned of."""
LEARNING_CURVE = {40: (0.20, 0.35), 100: (0.35, 0.47), 200: (0.47, 0.57), 400: (0.60, 0.65)}
"""Rated photographs of OASIS → r of valence and of arousal on others, without their words."""


@dataclass(frozen=True)
class ImageEmotionHead:
    """A trained head.

    Attributes:
        plain: for images of which nothing but the picture is known.
        plain_columns: places of the features that it reads.
        worded: for images with words; None where words do not help.
        worded_columns: places of its features; empty without it.
    """

    plain: GaussianProcess
    plain_columns: Places
    worded: GaussianProcess | None
    worded_columns: Places

    def predict(self, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Valence and arousal (n, 2), 0 to 1, and standard deviations (n, 2) that include the ratings' noise.

        Args:
            features: (n, d) float32, as in `ImageBlocks`: NaN in the block of words where there are none.
        """
        va, sd = self.plain.predict(features[:, self.plain_columns])
        if self.worded is not None:
            of_worded = features[:, self.worded_columns]
            known = ~np.isnan(of_worded).any(axis=1)
            va[known], sd[known] = self.worded.predict(of_worded[known])
        return np.clip(va, 0.0, 1.0), sd

    def save(self, path: Path) -> str:
        """Write the head as safetensors; the same head gives the same bytes. Returns their sha256."""
        make_folder(path.parent)
        arrays = {"plain_columns": self.plain_columns, "worded_columns": self.worded_columns}
        for name in ("plain", "worded"):
            if (process := getattr(self, name)) is not None:
                arrays |= {
                    f"{name}.{key}": np.ascontiguousarray(value) for key, value in vars(process).items()
                }
        save_file(arrays, path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @staticmethod
    def load(path: Path) -> "ImageEmotionHead":
        """A head written by `save`."""
        arrays = load_file(path)

        def process(name: str) -> GaussianProcess:
            return GaussianProcess(*(arrays[f"{name}.{field.name}"] for field in fields(GaussianProcess)))

        worded = process("worded") if "worded.blocks" in arrays else None
        return ImageEmotionHead(process("plain"), arrays["plain_columns"], worded, arrays["worded_columns"])


@dataclass(frozen=True)
class Fitted:
    """A head and what was chosen for it.

    Attributes:
        head: the head.
        sources: whose features it uses, with `text` at the end if it uses words where there are some.
    """

    head: ImageEmotionHead
    sources: tuple[str, ...]


def fit_head(
    features: NDArray[np.float32], ratings: Floats, groups: Sequence[str], blocks: ImageBlocks
) -> Fitted:
    """Fit a head on the features, and the words, that predict held-out groups best.

    Where features of several networks are given, it uses one of them or several together, whichever has the
    least squared error of left-out groups (each axis divided by its variance). Images with words have
    a process of their own, with one block more, unless words made the errors of these images greater.

    Args:
        features: (n, d) of the rated images.
        ratings: (n, 2) valence and arousal, 0 to 1.
        groups: n names; images of one group are held out together.
        blocks: what the columns are.
    """
    variance = np.maximum(ratings.var(axis=0), 1e-12)

    def fit(sources: Sequence[str]) -> tuple[GaussianProcess, Floats]:
        lengths = list(chain.from_iterable(blocks.sources[source] for source in sources))
        process, errors = fit_process(features[:, blocks.columns_of(sources)], ratings, groups, lengths)
        return process, (errors**2 / variance).sum(axis=1)

    networks = [source for source in blocks.sources if source != TEXT]
    choices = list(chain.from_iterable(combinations(networks, n) for n in range(1, len(networks) + 1)))
    fitted = {sources: fit(sources) for sources in choices}
    sources = min(choices, key=lambda choice: fitted[choice][1].mean())
    plain, errors = fitted[sources]
    worded, with_text = None, (*sources, TEXT)
    if TEXT in blocks.sources:
        known = ~np.isnan(features[:, blocks.columns_of([TEXT])]).any(axis=1)
        if known.any():
            worded, errors_with_text = fit(with_text)
            if errors_with_text[known].mean() >= errors[known].mean():
                worded = None
    head = ImageEmotionHead(
        plain,
        np.array(blocks.columns_of(sources), np.int64),
        worded,
        np.array(blocks.columns_of(with_text) if worded else [], np.int64),
    )
    return Fitted(head, with_text if worded else sources)


def validate_head(
    features: NDArray[np.float32], ratings: Floats, groups: Sequence[str], blocks: ImageBlocks, seed: int
) -> Validation:
    """Predict every rated image with a head fitted without its group, choices included; see `fit_head`."""

    def predict(kept: Places, kept_groups: Sequence[str], asked: Places) -> tuple[Floats, Floats]:
        return fit_head(features[kept], ratings[kept], kept_groups, blocks).head.predict(features[asked])

    return cross_validate(predict, groups, seed)


def head_frame(
    rated: pl.DataFrame,
    blocks: ImageBlocks,
    seed: int,
    folder: Path,
    previous: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Train, validate and store a head: a row of IMAGE_EMOTION_HEAD, and its file in `folder`.

    If the stored head was trained on the same data, it is kept.

    Args:
        rated: rows of MEDIA_INVENTORY: item_id, source_id, valence and arousal are read.
        blocks: features of these images, and of others.
        seed: of the folds, and of the sample if more images are rated than used for training.
        folder: of the heads, in the lake's folder.
        previous: the table's stored version.

    Returns:
        The row; no row if fewer than two rated images have features.
    """
    joined = rated.select("item_id", "source_id", "valence", "arousal").join(
        blocks.frame.drop_nulls("features").select(
            pl.col("image_id").alias("item_id"), "content_hash", "features", "text"
        ),
        on="item_id",
    )
    joined = joined.sort("item_id")
    if joined.height > MOST_IMAGES:
        joined = joined.sample(MOST_IMAGES, seed=seed).sort("item_id")
    if joined.height < 2:
        return IMAGE_EMOTION_HEAD.empty()
    learnt_from = frame_digest(joined.drop("features"), HEAD_VERSION, blocks.fingerprint, str(seed))
    if previous is not None and is_current(previous, folder, learnt_from):
        return previous
    matrix = joined["features"].to_numpy()
    ratings = joined.select("valence", "arousal").to_numpy().astype(np.float64)
    groups = joined["source_id"].to_list()
    validation = validate_head(matrix, ratings, groups, blocks, seed)
    fitted = fit_head(matrix, ratings, groups, blocks)
    file, sha256 = store_head(fitted.head.save, "image_emotion_head", folder, previous)
    row = {
        "weights_file": file,
        "weights_sha256": sha256,
        "learnt_from": learnt_from,
        "images": len(ratings),
        "groups": validation.groups,
        "grouped_by": "image" if validation.singly else "series",
        "features": " + ".join(fitted.sources),
        "with_words": joined["text"].count(),
        **figures_of(validation.va, ratings),
        "calibration": calibration(validation.va, validation.sd, ratings),
    }
    return IMAGE_EMOTION_HEAD.check(pl.DataFrame([row], schema=IMAGE_EMOTION_HEAD.empty().schema))


def few_images(count: int) -> str | None:
    """What a head on few rated images can be expected to know; None if there are enough."""
    if count >= FEW_IMAGES:
        return None
    known = ", ".join(f"{n}: {v:.2f} / {a:.2f}" for n, (v, a) in LEARNING_CURVE.items())
    return (
        f"the head learns from {count} rated images; with photographs of OASIS, r of valence / arousal on "
        f"others was, by the number of rated images, {known}"
    )
