"""The media assets: what is in the media folder, which of it can be used, and why the rest cannot."""

import importlib.util
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.media.folder_changes import look_at
from emid_assets.media.identity import is_passing
from emid_assets.media.kinds import OPTIONAL_READERS, READER_VERSION
from emid_assets.media.limits import MediaFolderError
from emid_assets.media.va_sources import is_by_program
from emid_assets.media.with_predictions import unlabelled
from emid_assets.orchestration.declared import Declared, Outside
from emid_assets.orchestration.io_manager import previous_rows, previous_version
from emid_assets.orchestration.old_runs import forget_old_runs
from emid_assets.orchestration.partitions import (
    IMAGE_EMOTION_PARTITIONS,
    MUSIC_EMOTION_PARTITIONS,
    emotion_of,
    rows_of_shard,
)
from emid_assets.orchestration.progress import report_progress
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import table_asset
from emid_assets.settings import Settings, load_operations
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import sha256_of
from emid_assets.store.lake import GRACE_S, WHOLE_TABLE, Lake

if TYPE_CHECKING:
    from emid_assets.captions.fill import Captioned


def _folder_digest(settings: Settings, _: str) -> str:
    installed = [name for name in OPTIONAL_READERS if importlib.util.find_spec(name) is not None]
    try:
        look = look_at(settings.media_folder)
        # Tables count by their content too: an edit may keep size and time.
        tables = [sha256_of(settings.media_folder / name) for name in sorted(look.files) if "/" not in name]
        return f"{READER_VERSION} {installed} {look.digest} {' '.join(tables)}"
    except (MediaFolderError, OSError) as error:
        return str(error)


@table_asset(
    stage="inventory",
    group_name="media",
    kinds={"polars", "duckdb"},
    warnings={"every_channel_sounds": "No clip has a silent channel beside one that sounds."},
    declared=Declared(code=2, settings=("predict_emotion",), outside=Outside("media folder", _folder_digest)),
)
def media_inventory(
    context: dg.AssetExecutionContext, settings: SettingsResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every file in the media folder and every row of its tables: hash, label, facts, or why it is unusable.

    Materialize this after the media folder has changed; a file with unchanged size and modification
    time is not read again.
    """
    from emid_assets.media.inventory import take_inventory

    lake = Lake(settings.lake_folder)
    deleted = lake.collect_garbage(GRACE_S)
    forget_old_runs(context.instance, lake, load_operations().keep_runs)
    version = previous_version(lake, "media_inventory", WHOLE_TABLE)
    if version is not None and version.metadata.get("reader") != READER_VERSION:
        context.log.info("files are read in another way than in the last inventory: all are read again")
        version = None
    previous = previous_rows(context, lake, version)
    inventory = take_inventory(
        settings.media_folder,
        previous,
        workers=max(1, settings.workers),
        on_progress=report_progress(context, "read files"),
        keep_unlabelled=settings.predict_emotion,
    )
    usable = inventory.filter(pl.col("reason").is_null())
    return dg.MaterializeResult(
        value=inventory,
        data_version=dg.DataVersion(frame_digest(inventory.drop("modified_ns"))),
        metadata={
            "media_folder": dg.MetadataValue.path(settings.media_folder),
            "reader": READER_VERSION,
            "deleted_files": len(deleted),
            "music_clips": usable.filter(pl.col("kind") == "music").height,
            "images": usable.filter(pl.col("kind") == "image").height,
            "unlabelled": unlabelled(inventory).height,
            "rejected": inventory.height - usable.height,
            CHANGED_MEDIA: sum(map(is_passing, inventory["reason"].drop_nulls())),
        },
        check_results=[_listed("every_channel_sounds", usable.filter(pl.col("note").is_not_null()), "note")],
    )


def _listed(check: str, found: pl.DataFrame, column: str) -> dg.AssetCheckResult:
    """A warning that counts rows, and names the first of them with what `column` says."""
    lines = [f"{file}: {text}" for file, text in found.head(5).select("file", column).rows()]
    return dg.AssetCheckResult(
        check_name=check,
        passed=found.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"items": found.height},
        description="; ".join(lines),
    )


@table_asset(
    stage="embed_music",
    group_name="media",
    kinds={"polars", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
)
def music_clips(
    context: dg.AssetExecutionContext, media_inventory: pl.DataFrame, predicted_emotion: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """The usable music clips of one Cowen category: file, window, ratings, feelings, valence and arousal."""
    from emid_assets.media.inventory import music_manifest

    clips = rows_of_shard(
        music_manifest(media_inventory, emotion_of(context.partition_key), predicted_emotion),
        "clip_id",
        context.partition_key,
        context.assets_def.partitions_def,
    )
    return dg.MaterializeResult(
        value=clips,
        data_version=dg.DataVersion(frame_digest(clips)),
        metadata={
            "clips": clips.height,
            "seconds": float(clips["duration_s"].sum()),
            "human_rated": clips.filter(pl.col("va_source") == "ratings").height,
            "predicted": clips.filter(is_by_program()).height,
        },
    )


def _identity_of_captioner(settings: Settings, _: str) -> str:
    from emid_assets.captions.load import captioner_identity

    return captioner_identity(settings.caption_model)


@table_asset(
    stage="embed_images",
    group_name="media",
    kinds={"polars", "duckdb"},
    partitions_def=IMAGE_EMOTION_PARTITIONS,
    declared=Declared(settings=("caption_model",), outside=Outside("caption model", _identity_of_captioner)),
)
def images(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    media_inventory: pl.DataFrame,
    predicted_emotion: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The usable images of one of Mikels' eight emotions: file, size, caption, valence and arousal.

    Captions come from the table; if it has none, the model in the setting `caption_model` can write one.
    """
    from emid_assets.media.inventory import image_manifest
    from emid_assets.report.previews import images_preview

    usable = rows_of_shard(
        image_manifest(media_inventory, emotion_of(context.partition_key), predicted_emotion),
        "image_id",
        context.partition_key,
        context.assets_def.partitions_def,
    )
    written = {}
    if settings.caption_model:
        captioned = _captioned(context, settings, usable)
        usable = captioned.images
        written = {
            "captions_written": captioned.written,
            "captions_reused": captioned.reused,
            CHANGED_MEDIA: captioned.changed,
        }
    return dg.MaterializeResult(
        value=usable,
        # Without the captions: no embedding and no pair depends on them. What shows them reads the inventory.
        data_version=dg.DataVersion(frame_digest(usable.drop("caption", "caption_source"))),
        metadata={
            **written,
            "images": usable.height,
            "measured": usable.filter(pl.col("va_source") == "measured").height,
            "predicted": usable.filter(is_by_program()).height,
            "pictures": dg.MetadataValue.md(images_preview(usable, settings.media_folder)),
        },
    )


def _captioned(
    context: dg.AssetExecutionContext, settings: SettingsResource, images: pl.DataFrame
) -> "Captioned":
    from emid_assets.captions.fill import fill_captions
    from emid_assets.captions.load import load_captioner

    lake = Lake(settings.lake_folder)
    version = previous_version(lake, "images", context.partition_key)
    is_known = version is not None and "caption_source" in version.schema
    return fill_captions(
        images,
        settings.media_folder,
        load_captioner(settings.caption_model, settings.device),
        previous_rows(context, lake, version) if is_known else None,
        report_progress(context, "wrote captions"),
    )


@table_asset(
    stage="inventory",
    group_name="media",
    kinds={"polars", "duckdb"},
    warnings={
        "nothing_rejected": "No media file or table row was rejected; the warning counts those that were."
    },
)
def rejected_media(
    media_inventory: pl.DataFrame, predicted_emotion: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Media that cannot be used, each with the reason: nothing is dropped silently.

    Media that cannot be embedded later are added to the same table.
    """
    from emid_assets.media.inventory import rejected_manifest

    rejected = rejected_manifest(media_inventory, predicted_emotion)
    return dg.MaterializeResult(
        value=rejected,
        data_version=dg.DataVersion(frame_digest(rejected)),
        metadata={"rejected": rejected.height},
        check_results=[_listed("nothing_rejected", rejected, "reason")],
    )
