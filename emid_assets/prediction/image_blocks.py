"""Features of images as blocks of one matrix: those of networks, and those of words.

Belongs here: joining the tables of features, so that the head gets the same columns for training and for
prediction. Nothing here computes features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from emid_assets.encoders.interface import Float32Array

BUNDLED, ENCODER, TEXT = "bundled", "encoder", "text"
"""Sources of features: EfficientNet-lite0, the chosen encoder, the words that come with an image."""


@dataclass(frozen=True)
class Source:
    """A table of features and what is known of it.

    Attributes:
        table: IMAGE_FEATURES or IMAGE_ENCODER_FEATURES; for words IMAGE_TEXT_FEATURES.
        blocks: lengths of the parts of a row of features.
        fingerprint: of the network.
    """

    table: pl.DataFrame
    blocks: Sequence[int]
    fingerprint: str


@dataclass(frozen=True)
class ImageBlocks:
    """The features of images.

    Attributes:
        frame: image_id, content_hash, features (null where a network could not read the image; NaN in the
            block of words of an image without any), reason (why there are none), text (its words, or null).
        sources: source → lengths of its blocks, in the order of the columns.
        fingerprint: of all networks.
    """

    frame: pl.DataFrame
    sources: dict[str, tuple[int, ...]]
    fingerprint: str

    def columns_of(self, sources: Sequence[str]) -> list[int]:
        """Places of the columns of some sources."""
        ends = dict(
            zip(self.sources, np.cumsum([sum(blocks) for blocks in self.sources.values()]), strict=True)
        )
        return [
            column
            for source in sources
            for column in range(int(ends[source]) - sum(self.sources[source]), int(ends[source]))
        ]


def image_blocks(networks: Mapping[str, Source], words: Source | None = None) -> ImageBlocks:
    """Join the features of images.

    Args:
        networks: source → its table; all have the same images.
        words: None without a text encoder. If no image has words, there is no block of words.
    """
    names = list(networks)
    frame = networks[names[0]].table.select(pl.col("image_id", "content_hash", "reason"))
    for name in names:
        table = networks[name].table
        described = table.select(
            "image_id", pl.col("features").alias(f"_{name}"), pl.col("reason").alias("_other")
        )
        frame = frame.join(described, on="image_id", how="left", maintain_order="left")
        frame = frame.with_columns(reason=pl.coalesce("reason", "_other")).drop("_other")
    sources = {name: tuple(source.blocks) for name, source in networks.items()}
    if words is not None and words.table.height:
        sources[TEXT] = tuple(words.blocks)
        described = words.table.select("image_id", "text", pl.col("features").alias(f"_{TEXT}"))
        frame = frame.join(described, on="image_id", how="left", maintain_order="left")
    else:
        frame = frame.with_columns(text=pl.lit(None, pl.String))
    matrix = np.concatenate(
        [_matrix(frame[f"_{name}"], sum(blocks)) for name, blocks in sources.items()], axis=1
    )
    readable = frame.select(pl.all_horizontal(pl.col(f"_{name}").is_not_null() for name in names)).to_series()
    dtype = pl.Array(pl.Float32, matrix.shape[1])
    features = pl.Series("features", matrix, dtype=dtype)
    frame = frame.select(
        "image_id",
        "content_hash",
        pl.when(readable).then(features).alias("features"),
        "reason",
        "text",
    )
    used = [source.fingerprint for source in networks.values()]
    return ImageBlocks(
        frame, sources, "|".join([*used, *([words.fingerprint] if words and TEXT in sources else [])])
    )


def _matrix(vectors: pl.Series, length: int) -> Float32Array:
    """(n, length), NaN where there is no vector."""
    found = np.full((len(vectors), length), np.nan, np.float32)
    there = vectors.is_not_null().to_numpy()
    if there.any():
        found[there] = vectors.drop_nulls().to_numpy()
    return found
