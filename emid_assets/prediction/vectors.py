"""A network's output for each medium, as rows of a table: tags of music, features of images.

Belongs here: running the embedding stage (batches, workers, reuse of earlier content) for tables that store
vectors as they are, not as a direction and a length.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from emid_assets.encoders.embed import NOTHING_EARLIER, Earlier, Progress, embed
from emid_assets.encoders.interface import Encoder, MediaItem
from emid_assets.media.kinds import MediaKind
from emid_assets.store.schemas import TableSchema


def vectors_of(
    items: Sequence[MediaItem],
    network: Encoder,
    kind: MediaKind,
    schema: TableSchema,
    earlier: Earlier = NOTHING_EARLIER,
    *,
    batch_size: int = 32,
    workers: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[pl.DataFrame, int]:
    """One row for each item, and how many contents went through the network.

    Args:
        items: the media.
        network: with the interface of an encoder.
        kind: what the items are.
        schema: of the table: id, content hash, vector, reason.
        earlier: results of earlier runs; rows of the same network and content are kept.
        batch_size: items per network call.
        workers: processes that prepare.
        on_progress: called after each batch.

    Raises:
        EncoderOutOfMemoryError, WorkerDiedError, PreparationCrashError: as `embed`.
    """
    id_column, _, vector, _ = schema.columns
    media_id = "clip_id" if kind == "music" else "image_id"
    kept = None
    if earlier.frame is not None:
        # With a scale of one, embedding × scale is the vector, bit for bit.
        kept = earlier.frame.filter(pl.col(vector).is_not_null()).select(
            pl.col(id_column).alias(media_id),
            "content_hash",
            pl.col(vector).alias("embedding"),
            pl.lit(1.0, pl.Float32).alias("scale"),
        )
    embedded = embed(
        items, network, kind, replace(earlier, frame=kept),
        batch_size=batch_size, workers=workers, on_progress=on_progress,
    )  # fmt: skip
    columns = schema.empty(network.dimension).schema
    values = np.zeros((0, network.dimension), np.float32)
    if embedded.frame.height:
        values = embedded.frame["embedding"].to_numpy() * embedded.frame["scale"].to_numpy()[:, None]
    hashes = {item.item_id: item.content_hash for item in items}
    found = pl.DataFrame(
        {
            id_column: embedded.frame[media_id],
            "content_hash": embedded.frame["content_hash"],
            vector: pl.Series(values, dtype=columns[vector]),
            "reason": pl.Series([None] * embedded.frame.height, dtype=pl.String),
        },
        schema=columns,
    )
    rejected = pl.DataFrame(
        {
            id_column: embedded.rejected["item_id"],
            "content_hash": [hashes[item_id] for item_id in embedded.rejected["item_id"]],
            vector: pl.Series([None] * embedded.rejected.height, dtype=columns[vector]),
            "reason": embedded.rejected["reason"],
        },
        schema=columns,
    )
    return schema.check(pl.concat([found, rejected]).sort(id_column)), embedded.encoded
