"""The embedding stages: encode every clip and image as a vector in the encoder's joint space.

Incremental by content: a row with an unchanged content hash and encoder fingerprint is kept, and only
new content is encoded.
"""

import contextlib
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.media.folder import path_within
from emid_assets.media.kinds import MediaKind
from emid_assets.media.limits import MediaError
from emid_assets.orchestration.declared import Declared, Outside, all_of
from emid_assets.orchestration.io_manager import previous_rows, previous_version, remove_other_partitions
from emid_assets.orchestration.partitions import IMAGE_EMOTION_PARTITIONS, MUSIC_EMOTION_PARTITIONS
from emid_assets.orchestration.progress import report_progress
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import Settings, load_operations
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import Lake, LakeError, Version
from emid_assets.store.layout import JOURNAL_FOLDER

if TYPE_CHECKING:
    from emid_assets.encoders.embed import Earlier, Embedded
    from emid_assets.encoders.interface import Encoder, MediaItem

GPU_POOL = "gpu"
UNIT_NORM_TOLERANCE = 1e-3
ROWS_AT_ONCE = 10_000
ENCODER_SETTINGS = ("encoder", "precision")
CHECKS = {
    "finite": "No embedding is missing, and all numbers are finite.",
    "unit_norm": "Every embedding is a unit vector.",
}


def _identity_of_encoder(settings: Settings, _: str) -> str:
    from emid_assets.encoders.load import encoder_identity

    return encoder_identity(settings)


OF_ENCODER = Outside("encoder", _identity_of_encoder)


def embedding_failures(frame: pl.DataFrame, id_column: str) -> tuple[list[str], list[str]]:
    """Names of the rows whose embedding is missing or not finite, and of those whose norm is not 1."""
    import numpy as np

    ids = frame[id_column].to_list()
    missing = frame["embedding"].is_null().to_numpy()
    vectors = frame["embedding"].to_numpy()[~missing] if frame.height else np.empty((0, 1), np.float32)
    present = np.flatnonzero(~missing)
    finite = np.isfinite(vectors).all(axis=1)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    not_finite = [f"{ids[row]}: no embedding" for row in np.flatnonzero(missing)]
    not_finite += [f"{ids[row]}: not finite" for row in present[~finite]]
    wrong = finite & (np.abs(norms - 1) > UNIT_NORM_TOLERANCE)
    not_unit = [
        f"{ids[row]}: norm {norm:.6f}" for row, norm in zip(present[wrong], norms[wrong], strict=True)
    ]
    return not_finite, not_unit


def _path_of(media: Path, file: str) -> Path:
    try:
        return path_within(media, file)
    except MediaError as error:
        raise dg.Failure(
            f"{file} {error.reason} since the inventory was taken: materialize media_inventory again",
            allow_retries=False,
        ) from error


def media_items(media: Path, frame: pl.DataFrame, id_column: str) -> "list[MediaItem]":
    """The rows of a media frame as items for an encoder.

    Args:
        media: the media folder.
        frame: has the id, `file`, `content_hash` and, for music, `start_s` and `duration_s`.
        id_column: name of the column with the clip's or image's id.
    """
    from emid_assets.encoders.interface import MediaItem

    return [
        MediaItem(
            item_id=row[id_column],
            path=_path_of(media, row["file"]),
            content_hash=row["content_hash"],
            start_s=row.get("start_s") or 0.0,
            duration_s=row.get("duration_s"),
            file=row["file"],
        )
        for row in frame.iter_rows(named=True)
    ]


def embed_partition(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    encoder: "Encoder",
    kind: MediaKind,
    items: "list[MediaItem]",
    doing: str,
) -> "Embedded":
    """Embed the items of this partition; rows of the same content are reused, also of other partitions."""
    from emid_assets.encoders.embed import embed

    encode = None
    if settings.embedding_actors:
        from emid_assets.encoders.load import encoder_from
        from emid_assets.encoders.ray_actors import on_actors

        plain = all_of(settings)
        encode = on_actors(
            partial(encoder_from, plain),
            encoder.fingerprint,
            kind,
            actors=settings.embedding_actors,
            gpus=load_operations().run_gpus,
            batch_size=settings.batch_size,
            workers=settings.workers,
        )
    table, partition = context.asset_key.path[-1], context.partition_key
    lake = Lake(settings.lake_folder)
    on_progress = report_progress(context, doing)
    earlier = earlier_rows(context, lake, previous_version(lake, table, partition))
    contents = {item.content_hash for item in items}
    return embed(
        items,
        encoder,
        kind,
        with_rows_elsewhere(earlier, lake, table, contents, encoder.fingerprint),
        batch_size=settings.batch_size,
        workers=settings.workers,
        on_progress=lambda progress: on_progress(progress.done, progress.total),
        encode=encode,
    )


def earlier_rows(context: dg.AssetExecutionContext, lake: Lake, version: Version | None) -> "Earlier":
    """What earlier runs left of this partition: its stored version, and the journal of a killed run."""
    from emid_assets.encoders.embed import Earlier

    folder = lake.root / JOURNAL_FOLDER / context.asset_key.path[-1]
    return Earlier(
        previous_rows(context, lake, version),
        str(version.metadata.get("fingerprint")) if version else None,
        folder / context.partition_key if context.has_partition_key else folder,
    )


def with_rows_elsewhere(
    earlier: "Earlier", lake: Lake, table: str, contents: Collection[str], fingerprint: str
) -> "Earlier":
    """`earlier` and the rows that any partition of the table has for contents that it lacks.

    So a window is not encoded twice where the clips of its recording have several emotions or are in several
    shards, and nothing is encoded again where the number of shards has changed.

    Args:
        earlier: what this partition has.
        lake: the lake.
        table: of embeddings, with one row for each content in a partition.
        contents: content hashes that are wanted.
        fingerprint: of the encoder; rows that another one made are of no use.
    """
    from emid_assets.encoders.embed import Earlier

    columns = ["content_hash", "embedding", "scale"]
    own = earlier.frame if earlier.fingerprint == fingerprint else None
    frames = [] if own is None or own.is_empty() else [own.select(columns)]
    missing = set(contents).difference(*(frame["content_hash"] for frame in frames))
    elsewhere = [*lake.survey([table]).values(), *lake.removed(table)] if missing else []
    for version in elsewhere:
        if isinstance(version, LakeError) or version.metadata.get("fingerprint") != fingerprint:
            continue
        if not version.rows:
            continue
        with contextlib.suppress(LakeError):  # a damaged partition is its own build's concern
            hashes = pl.concat(lake.read_batches(table, ["content_hash"], ROWS_AT_ONCE, [version]))
            if held := missing.intersection(hashes["content_hash"]):
                rows = pl.concat(lake.read_batches(table, columns, ROWS_AT_ONCE, [version]))
                frames.append(rows.filter(pl.col("content_hash").is_in(held)))
                missing -= held
    return Earlier(pl.concat(frames) if frames else None, fingerprint, earlier.journal)


def _embeddings(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    kind: MediaKind,
    media: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    from emid_assets.encoders.load import encoder_from

    id_column = "clip_id" if kind == "music" else "image_id"
    encoder = encoder_from(settings)
    items = media_items(settings.media_folder, media, id_column)
    embedded = embed_partition(context, settings, encoder, kind, items, "encoded")
    _store_rejected(context, Lake(settings.lake_folder), embedded.rejected)
    not_finite, not_unit = embedding_failures(embedded.frame, id_column)
    return dg.MaterializeResult(
        value=embedded.frame,
        data_version=dg.DataVersion(
            frame_digest(embedded.frame.select(id_column, "content_hash"), encoder.fingerprint)
        ),
        metadata={
            "encoded": embedded.encoded,
            "reused": embedded.reused,
            "rejected": embedded.rejected.height,
            CHANGED_MEDIA: embedded.changed,
            "encoder": encoder.name,
            "encoder_licence": encoder.licence,
            "dimension": encoder.dimension,
            "fingerprint": encoder.fingerprint,
        },
        check_results=[
            check_result("finite", not_finite, embedded.frame.height),
            check_result("unit_norm", not_unit, embedded.frame.height),
        ],
    )


def _store_rejected(context: dg.AssetExecutionContext, lake: Lake, rejected: pl.DataFrame) -> None:
    """Add the media that could not be embedded to the table of rejected media, as a partition of its own."""
    own = f"{context.asset_key.path[-1]}-"
    lake.write("rejected_media", own + context.partition_key, rejected)
    partitions = context.assets_def.partitions_def
    kept = [own + key for key in partitions.get_partition_keys()] if partitions else []
    remove_other_partitions(context, lake, "rejected_media", kept, own)


@table_asset(
    stage="embed_music",
    group_name="embeddings",
    kinds={"torch", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    pool=GPU_POOL,
    checks=CHECKS,
    declared=Declared(settings=ENCODER_SETTINGS, outside=OF_ENCODER),
)
def music_embeddings(
    context: dg.AssetExecutionContext, settings: SettingsResource, music_clips: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Each music clip as a unit vector, and its scale: embedding × scale is a row of X."""
    return _embeddings(context, settings, "music", music_clips)


@table_asset(
    stage="embed_images",
    group_name="embeddings",
    kinds={"torch", "duckdb"},
    partitions_def=IMAGE_EMOTION_PARTITIONS,
    pool=GPU_POOL,
    checks=CHECKS,
    declared=Declared(settings=ENCODER_SETTINGS, outside=OF_ENCODER),
)
def image_embeddings(
    context: dg.AssetExecutionContext, settings: SettingsResource, images: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Each image as a unit vector in the space of the music: a row of Y."""
    return _embeddings(context, settings, "image", images)
