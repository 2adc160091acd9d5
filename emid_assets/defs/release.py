"""The release stage: the data set as a folder to share. Also the table of published pairs."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from emid_assets.health.mixtures import (
    UNRECORDED,
    Used,
    digest_of_used,
    in_words,
    mixtures,
    settings_of,
)
from emid_assets.health.recipes import RECIPE, Recipe, digest_of
from emid_assets.health.verdict import data_version
from emid_assets.media.expansion import all_clips
from emid_assets.orchestration.declared import Declared, Outside
from emid_assets.orchestration.io_manager import previous_version
from emid_assets.orchestration.partitions import every_partition
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import Settings
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import WHOLE_TABLE, Lake, Version
from emid_assets.store.layout import RELEASE_FOLDER

MADE_WITH = (
    "method", "alpha", "images_per_clip", "image_reuse_limit", "candidates", "semantic_rescaling",
    "emotion_kernel", "gaussian_sigma", "uncertainty_weight", "va_alignment", "expansion_window_s",
    "expansion_hop_s", "expansion_threshold", "expansion_target", "expansion_per_source",
)  # fmt: skip
"""Settings that the dataset card names: those that affect the clips and the pairs."""

TABLES_OF_PAIRS = (
    "fused_pairs", "va_distances", "similarity_matrix", "expanded_clips", "expansion_windows",
    "music_embeddings", "image_embeddings",
)  # fmt: skip
"""Tables whose recipes hold these settings, and the encoder's name."""


class MixedSettingsError(RuntimeError):
    """The pairs to release were built with different settings."""


def _used(settings: Settings) -> Used:
    """What the stored pairs were built with: MADE_WITH, and the encoder."""
    found = Lake(settings.lake_folder).survey(TABLES_OF_PAIRS)
    versions = [version for version in found.values() if isinstance(version, Version)]
    of_pairs = {
        version.partition: recipe.inputs
        for version in versions
        if version.table == "fused_pairs" and (recipe := Recipe.of_text(version.metadata.get(RECIPE)))
    }
    of_table: dict[str, dict[str, str]] = {}
    for version in versions:
        of_table.setdefault(version.table, {})[version.partition] = data_version(version)

    def is_as_it_was_read(version: Version) -> bool:
        if WHOLE_TABLE in of_pairs:  # the pairs of a set, which read every partition
            read, now = of_pairs[WHOLE_TABLE], digest_of(of_table[version.table])
        else:
            read, now = of_pairs.get(version.partition, {}), data_version(version)
        return read.get(version.table) in (None, now)

    # S or E was built again without the pairs: what the pairs were built with is not known any more.
    versions = [
        version if is_as_it_was_read(version) else replace(version, metadata={}) for version in versions
    ]
    return {
        name: values
        for name, values in settings_of(versions).items()
        if name in (*MADE_WITH, "encoder", UNRECORDED)
    }


def _digest_of_used(settings: Settings, _: str) -> str:
    return digest_of_used(_used(settings))


def _digest_of_pairs(settings: Settings, _: str) -> str:
    from emid_assets.release.emid_import import PAIRS_FILE

    path = settings.media_folder / PAIRS_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@table_asset(
    stage="inventory",
    group_name="release",
    kinds={"polars", "duckdb"},
    declared=Declared(outside=Outside("pairs.csv", _digest_of_pairs)),
    warnings={"known": "The clip and image of every published pair are in the media folder."},
)
def published_pairs(
    settings: SettingsResource, media_inventory: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """The pairs in the media folder's pairs.csv, such as the published EMID's, for comparison in the report.

    Without that file the table has no rows, and nothing else changes.
    """
    from emid_assets.release.published_pairs import read_published_pairs

    pairs = read_published_pairs(settings.media_folder)
    unknown = [
        f"{id_column} {one}"
        for id_column, kind in (("clip_id", "music"), ("image_id", "image"))
        for one in sorted(
            set(pairs[id_column]) - set(media_inventory.filter(pl.col("kind") == kind)["item_id"])
        )
    ]
    return dg.MaterializeResult(
        value=pairs,
        data_version=dg.DataVersion(frame_digest(pairs)),
        metadata={"pairs": pairs.height, "clips": pairs["clip_id"].n_unique()},
        check_results=[
            check_result("known", unknown, pairs.height, dg.AssetCheckSeverity.WARN),
        ],
    )


@table_asset(
    stage="release",
    group_name="release",
    kinds={"parquet", "huggingface", "duckdb"},
    ins=every_partition("music_clips", "expanded_clips", "images", "fused_pairs"),
    # The captions are not in the data version of `images`.
    declared=Declared(
        code=3,
        settings=(*MADE_WITH, "caption_model", "mixed_settings", "release_forms"),
        outside=Outside("what the pairs were built with", _digest_of_used),
        writes=(RELEASE_FOLDER,),
    ),
    checks={"every_pair_released": "Every pair is in the released table."},
)
def emid_release(
    settings: SettingsResource,
    music_clips: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    images: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    media_inventory: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The data set with EMID's own columns, as a folder: CSV, Parquet, media, card, Croissant and checksums.

    The folder is `release/` in the lake folder. `datasets.load_dataset` loads it with audio and images, and
    `emid build --media` accepts it too. It is only rewritten if something has changed.
    """
    from emid_assets.release.emid_release import FORMAT, is_whole, with_series, write_release
    from emid_assets.release.published_pairs import read_published_pairs
    from emid_assets.release.release_media import FoundMedia

    lake = Lake(settings.lake_folder)
    folder = lake.root / RELEASE_FOLDER
    clips = all_clips(music_clips, expanded_clips)
    images = with_series(images, media_inventory)
    used = _used(settings)
    if (mixed := mixtures(used)) and not settings.mixed_settings:
        raise MixedSettingsError(
            f"the pairs were built with different settings ({'; '.join(mixed)}): build them with the same "
            "ones (emid build), or set mixed_settings to release them as they are"
        )
    made_with = {name: in_words(values) for name, values in sorted(used.items())} | _licence(lake)
    forms = settings.release_forms.split(",")
    inputs = frame_digest(
        fused_pairs, frame_digest(clips), frame_digest(images), str(sorted(made_with.items())), FORMAT,
        *sorted(set(forms)),
    )  # fmt: skip
    previous = previous_version(lake, "emid_release", WHOLE_TABLE)
    is_same = previous is not None and previous.metadata.get("inputs") == inputs
    files = lake.read("emid_release") if is_same else None
    if files is None or not is_whole(folder, files):
        files = write_release(
            clips,
            images,
            fused_pairs,
            FoundMedia.of_inventory(settings.media_folder, media_inventory),
            folder,
            max(used.get("images_per_clip") or fused_pairs["rank"].to_list() or [1]),
            made_with,
            forms,
        )
    released = read_published_pairs(folder)
    missing = fused_pairs.join(released, on=["clip_id", "image_id"], how="anti")
    lost = [f"{clip} and {image}" for clip, image in missing.select("clip_id", "image_id").rows()]
    return dg.MaterializeResult(
        value=files,
        data_version=dg.DataVersion(frame_digest(files)),
        metadata={"inputs": inputs, **_contents(folder, files, fused_pairs)},
        check_results=[check_result("every_pair_released", lost, fused_pairs.height)],
    )


def _contents(folder: Path, files: pl.DataFrame, fused_pairs: pl.DataFrame) -> dict[str, Any]:
    """What the release contains, and its card."""
    return {
        "folder": dg.MetadataValue.path(folder),
        "clips": fused_pairs["clip_id"].n_unique(),
        "images": fused_pairs["image_id"].n_unique(),
        "pairs": fused_pairs.height,
        "files": files.height,
        "bytes": int(files["size_bytes"].sum()),
        "card": dg.MetadataValue.md((folder / "README.md").read_text("utf-8").split("---\n", 2)[2]),
    }


def _licence(lake: Lake) -> dict[str, str]:
    """The licence of the encoder's weights, as the embeddings tell it."""
    told = {version.metadata.get("encoder_licence") for version in lake.versions("music_embeddings")}
    return {"licence of its weights": "; ".join(sorted(map(str, told - {None})))} if told - {None} else {}
