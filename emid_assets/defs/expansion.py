"""The expansion: windows of the source recordings, and the choice of those that join the data set.

The windows are chosen from all partitions together, since one threshold applies to all of them. Their cosines
are stored, so the choice is cheap, and every partition makes the same one.
"""

import dagster as dg
import polars as pl

from emid_assets.defs.embeddings import (
    CHECKS,
    ENCODER_SETTINGS,
    GPU_POOL,
    OF_ENCODER,
    embed_partition,
    embedding_failures,
    media_items,
)
from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.media.expansion import (
    CHOICE_COLUMNS,
    choose_windows,
    counts_table,
    cut_windows,
    expanded_frame,
    expansion_counts,
    with_chosen,
    with_nearest_source,
)
from emid_assets.media.identity import is_passing
from emid_assets.orchestration.declared import Declared
from emid_assets.orchestration.partitions import MUSIC_EMOTION_PARTITIONS, every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import Lake

ALL_WINDOWS = dg.AssetDep("expansion_windows", partition_mapping=dg.AllPartitionMapping())
NAMED = 20
"""At most this many unusable windows are named for each reason."""


@table_asset(
    stage="embed_music",
    group_name="embeddings",
    kinds={"torch", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    pool=GPU_POOL,
    checks=CHECKS,
    declared=Declared(
        settings=(*ENCODER_SETTINGS, "expansion_window_s", "expansion_hop_s", "expansion_per_source"),
        outside=OF_ENCODER,
    ),
)
def expansion_windows(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    music_clips: pl.DataFrame,
    music_embeddings: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Windows of the recordings that clips were cut from, with the cosine to the nearest of these clips.

    Each window is decoded and encoded once; `expanded_clips` then decides which windows join the data set.
    """
    from emid_assets.encoders.load import encoder_from

    encoder = encoder_from(settings)
    clips = music_clips if settings.expansion_per_source else music_clips.clear()
    windows, unreadable = cut_windows(
        clips, settings.media_folder, settings.expansion_window_s, settings.expansion_hop_s
    )
    items = media_items(settings.media_folder, windows, "clip_id")
    embedded = embed_partition(context, settings, encoder, "music", items, "encoded windows")
    frame = with_nearest_source(windows, embedded.frame, music_clips, music_embeddings)
    unusable: dict[str, list[str]] = {}
    for window, reason in (*embedded.rejected.select("item_id", "reason").iter_rows(), *unreadable):
        unusable.setdefault(reason, []).append(window)
    why_unusable = [
        f"{reason} ({len(those)}: {', '.join(those[:NAMED])}{', …' if len(those) > NAMED else ''})"
        for reason, those in unusable.items()
    ]
    for why in why_unusable:
        context.log.warning(f"unusable windows: {why}")
    not_finite, not_unit = embedding_failures(frame, "clip_id")
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(frame_digest(frame.drop("embedding", "scale"), encoder.fingerprint)),
        metadata={
            "windows": frame.height,
            "recordings": windows["file"].n_unique(),
            "encoded": embedded.encoded,
            "reused": embedded.reused,
            "unusable": sum(map(len, unusable.values())),
            CHANGED_MEDIA: sum(len(windows) for reason, windows in unusable.items() if is_passing(reason)),
            "why_unusable": "; ".join(why_unusable),
            "fingerprint": encoder.fingerprint,
            "encoder_licence": encoder.licence,
        },
        check_results=[
            check_result("finite", not_finite, frame.height),
            check_result("unit_norm", not_unit, frame.height),
        ],
    )


@table_asset(
    stage="align",
    group_name="embeddings",
    kinds={"polars", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    deps=[ALL_WINDOWS],
    ins=every_partition("music_clips"),
    declared=Declared(settings=("expansion_threshold", "expansion_target", "expansion_per_source")),
    warnings={"target_reached": "The data set has as many clips as `expansion_target` asks for."},
)
def expanded_clips(
    context: dg.AssetExecutionContext, settings: SettingsResource, music_clips: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Expanded clips: windows that sound like a clip of the same recording, with the labels of that clip.

    EMID grew from 1,836 to 10,738 clips in this way. A window joins if its cosine to the source clip is at
    least the threshold, which is either given or chosen to reach a target size.
    """
    lake = Lake(settings.lake_folder)
    choice = choose_windows(
        lake.read("expansion_windows", columns=CHOICE_COLUMNS),
        music_clips,
        threshold=settings.expansion_threshold,
        per_source=settings.expansion_per_source,
        target=settings.expansion_target,
    )
    windows = lake.read("expansion_windows", [context.partition_key])
    expanded = expanded_frame(
        windows.join(choice.chosen, on=["clip_id", "source_clip_id"], how="semi"), music_clips
    )
    version = lake.current("expansion_windows", context.partition_key)
    fingerprint = str(version.metadata["fingerprint"]) if version else ""
    counts = expansion_counts(with_chosen(music_clips, choice))
    return dg.MaterializeResult(
        value=expanded,
        data_version=dg.DataVersion(frame_digest(expanded.drop("embedding", "scale"), fingerprint)),
        metadata={
            "expanded": expanded.height,
            "sources": expanded["source_id"].n_unique(),
            "threshold": choice.threshold,
            "data_set": choice.reached,
            "eligible_windows": choice.eligible,
            "counts_by_emotion": dg.MetadataValue.md(counts_table(counts)),
            "fingerprint": fingerprint,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="target_reached",
                passed=not choice.missing,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"wanted": choice.wanted, "reached": choice.reached},
            ),
        ],
    )
