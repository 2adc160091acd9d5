"""The alignment stage up to S: each music partition against the images of all image partitions.

The softmax of a clip's row includes every image, so no image partition can be left out. If one op over all
images takes too long, `image_shards` splits the columns: `similarity_shards` matches each music partition
against each shard of images in a separate run, and `similarity_matrix` merges the results, with the
same bits.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import dagster as dg
import polars as pl

from emid_assets.health.verdict import data_version
from emid_assets.media.expansion import all_music_embeddings
from emid_assets.orchestration.declared import Declared
from emid_assets.orchestration.partitions import MUSIC_EMOTION_PARTITIONS, SHARD_PARTITIONS
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import Settings
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import Lake, Version
from emid_assets.store.schemas import SIMILARITY_MATRIX, SIMILARITY_SHARDS

ROW_SUM_TOLERANCE = 1e-3
ROWS_SUMMED = 64
ALL_IMAGES = dg.AssetDep("image_embeddings", partition_mapping=dg.AllPartitionMapping())
CHECKS = {
    "rows_sum_to_one": "exp(score - log_sum_exp) over all images sums to one within 1e-3 "
    "(a sample of rows, in float64)."
}


@dataclass(frozen=True)
class StoredImages:
    """Image embeddings as they were stored at one time; each call streams the same rows again."""

    lake: Lake
    versions: Sequence[Version]
    rows_at_once: int

    def __call__(self) -> Iterator[pl.DataFrame]:
        """A new stream of frames: image_id, embedding, scale."""
        columns = ["image_id", "embedding", "scale"]
        return self.lake.read_batches("image_embeddings", columns, self.rows_at_once, self.versions)

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(version.rows for version in self.versions)


def require_one_encoder(versions: Sequence[Version]) -> None:
    """Check that one encoder made all embedding partitions.

    Raises:
        dg.Failure: there are several; names the partitions of each, and what to materialize again.
    """
    made_by: dict[str, list[str]] = {}
    for version in versions:
        names = made_by.setdefault(str(version.metadata["fingerprint"]), [])
        names.append(f"{version.table}[{version.partition}]")
    if len(made_by) > 1:
        groups = "; ".join(f"{fingerprint}: {', '.join(names)}" for fingerprint, names in made_by.items())
        raise dg.Failure(
            f"embeddings of different encoders cannot be compared ({groups}); "
            "materialize music_embeddings and image_embeddings again for all partitions, with one encoder",
            allow_retries=False,
        )


def matching_plan(settings: Settings, music: pl.DataFrame, partition: str) -> tuple[int, int, StoredImages]:
    """Threads, clips to process at once, and the images; the sizes stay within the memory setting.

    Only the music of its own partition has to be of the images' encoder: in a build with another encoder,
    the other partitions' expanded clips still wait for theirs.
    """
    from emid_assets.matching.top_k_softmax import fit_memory, usable_processors

    lake = Lake(settings.lake_folder)
    versions = lake.versions("image_embeddings")
    of_music = [lake.current(table, partition) for table in ("music_embeddings", "expanded_clips")]
    require_one_encoder([*filter(None, of_music), *versions])
    threads = settings.matching_threads or usable_processors()
    dimension = cast(pl.Array, music.schema["embedding"]).shape[0]
    clips, images = fit_memory(settings.matching_memory_mb, dimension, settings.candidates, threads)
    return threads, clips, StoredImages(lake, versions, images)


def _device(settings: Settings) -> str:
    """Where the product `device` is computed: CUDA, or the CPU (mps has no float64 for the sums)."""
    if settings.matching_product != "device":
        return "cpu"
    from emid_assets.encoders.torch_device import choose_device

    device = choose_device(settings.device)
    return "cpu" if device.type == "mps" else str(device)


def _result(
    settings: Settings, similarity: pl.DataFrame, music: pl.DataFrame, images: StoredImages
) -> dg.MaterializeResult[pl.DataFrame]:
    from emid_assets.matching.frames import measure_fast_mode
    from emid_assets.matching.row_sums import row_sums

    fast_mode = {}
    if settings.matching_product == "int8":
        error = measure_fast_mode(music, images, similarity, settings.candidates)
        fast_mode = {f"fast_mode_{name}": value for name, value in asdict(error).items()}
    sums = row_sums(similarity, music.head(ROWS_SUMMED), images())
    wrong = sums.filter((pl.col("row_sum") - 1).abs() > ROW_SUM_TOLERANCE)
    return dg.MaterializeResult(
        value=similarity,
        data_version=dg.DataVersion(frame_digest(similarity)),
        metadata={
            "clips": music.height,
            "images": images.rows,
            "candidates_per_clip": min(settings.candidates, images.rows),
            **fast_mode,
        },
        check_results=[
            check_result(
                "rows_sum_to_one", [f"{clip}: {total:.6f}" for clip, total in wrong.rows()], sums.height
            ),
        ],
    )


@table_asset(
    stage="align",
    group_name="alignment",
    kinds={"torch", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    deps=[ALL_IMAGES],
    declared=Declared(code=2, settings=("candidates", "matching_product")),
    checks=CHECKS,
)
def similarity_matrix(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    music_embeddings: pl.DataFrame,
    expanded_clips: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Semantic similarity S = softmax(X·Yᵀ): each clip's K largest entries, and its row's log-sum-exp.

    Neither the whole matrix nor all images are in memory at once: the images are streamed from the store. The
    log-sum-exp allows any other entry to be recomputed.
    """
    from emid_assets.matching.frames import similarity_frame

    music = all_music_embeddings(music_embeddings, expanded_clips)
    threads, clips_at_once, images = matching_plan(settings, music, context.partition_key)
    device = _device(settings)
    parts = [
        similarity_frame(
            clips,
            images,
            settings.candidates,
            threads=threads,
            product=settings.matching_product,
            device=device,
        )
        for clips in music.iter_slices(clips_at_once)
    ]
    similarity = pl.concat([SIMILARITY_MATRIX.empty(), *parts])
    return _result(settings, similarity, music, images)


@table_asset(
    stage="match_shards",
    group_name="alignment",
    kinds={"torch", "duckdb"},
    partitions_def=SHARD_PARTITIONS,
    deps=[ALL_IMAGES],
    declared=Declared(code=2, settings=("candidates", "matching_product", "image_shards")),
)
def similarity_shards(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    music_embeddings: pl.DataFrame,
    expanded_clips: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Each clip's best images in one shard of the images, and its part of the softmax denominator.

    The data version is that of what it is made from: the last bits of these scores and sums depend on what
    computed them, and `similarity_matrix` settles them.
    """
    from emid_assets.matching.frames import embedding_matrix, similarity_shard_frame

    key = cast(dg.MultiPartitionKey, context.partition_key).keys_by_dimension
    shard = int(key["images"])
    music = all_music_embeddings(music_embeddings, expanded_clips)
    threads, _, images = matching_plan(settings, music, key["music"])
    mine = StoredImages(images.lake, images.versions[shard :: settings.image_shards], images.rows_at_once)
    found = SIMILARITY_SHARDS.empty()
    made_from = [str(settings.candidates), settings.matching_product, *map(data_version, mine.versions)]
    if mine.rows and music.height:
        made_from.append(hashlib.sha256(embedding_matrix(music).tobytes()).hexdigest())
        found = similarity_shard_frame(
            music,
            pl.concat(mine()),
            settings.candidates,
            threads=threads,
            product=settings.matching_product,
            device=_device(settings),
        ).with_columns(shard=pl.lit(shard, pl.Int32))
    return dg.MaterializeResult(
        value=found,
        data_version=dg.DataVersion(frame_digest(music.select("clip_id"), *made_from)),
        metadata={"clips": music.height, "images": mine.rows},
    )


@table_asset(
    stage="align",
    table="similarity_matrix",
    group_name="alignment",
    kinds={"torch", "duckdb"},
    partitions_def=MUSIC_EMOTION_PARTITIONS,
    deps=[ALL_IMAGES],
    declared=Declared(code=2, settings=("candidates", "matching_product")),
    checks=CHECKS,
)
def similarity_matrix_of_shards(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    music_embeddings: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    similarity_shards: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Semantic similarity S = softmax(X·Yᵀ): each clip's K largest entries, and its row's log-sum-exp.

    Merged from the shards of images; the same bits as without shards.
    """
    from emid_assets.matching.frames import merge_similarity_shards

    music = all_music_embeddings(music_embeddings, expanded_clips)
    _, _, images = matching_plan(settings, music, context.partition_key)
    similarity = SIMILARITY_MATRIX.empty()
    if music.height:
        shards = similarity_shards.partition_by("shard", maintain_order=True)
        similarity = merge_similarity_shards(shards, music, images, settings.candidates)
    return _result(settings, similarity, music, images)
