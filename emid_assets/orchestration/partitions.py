"""Partitions: 13 music emotions, 8 image emotions, one partition for each adapter network.

`shards_per_emotion` splits an emotion into several partitions (`sad-00`, `sad-01`, …) when one op
takes too long. The graph stays the same: see `emid_assets.definitions`.
"""

import hashlib

import dagster as dg
import polars as pl

from emid_assets.adapters import NETWORKS
from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS

MUSIC_EMOTION_PARTITIONS = dg.StaticPartitionsDefinition(list(MUSIC_EMOTION_KEYS))
IMAGE_EMOTION_PARTITIONS = dg.StaticPartitionsDefinition(list(IMAGE_EMOTION_KEYS))
NETWORK_PARTITIONS = dg.StaticPartitionsDefinition(list(NETWORKS))

IMAGE_SHARDS = dg.StaticPartitionsDefinition(["0"])
SHARD_PARTITIONS = dg.MultiPartitionsDefinition({"music": MUSIC_EMOTION_PARTITIONS, "images": IMAGE_SHARDS})


def image_shards(music: dg.StaticPartitionsDefinition, shards: int) -> dg.MultiPartitionsDefinition:
    """Every music partition combined with every one of `shards` shards of the images."""
    columns = dg.StaticPartitionsDefinition([str(shard) for shard in range(shards)])
    return dg.MultiPartitionsDefinition({"music": music, "images": columns})


def sharded(partitions: dg.PartitionsDefinition[str], shards: int) -> dg.StaticPartitionsDefinition:
    """The partitions of `partitions`, each split into `shards`; unchanged if `shards` is 1."""
    keys = partitions.get_partition_keys()
    if shards > 1:
        width = max(2, len(str(shards - 1)))
        keys = [f"{key}-{shard:0{width}}" for key in keys for shard in range(shards)]
    return dg.StaticPartitionsDefinition(keys)


def emotion_of(partition_key: str) -> str:
    """The emotion of a partition: `sad` for `sad` and for `sad-01`."""
    return partition_key.partition("-")[0]


def rows_of_shard(
    frame: pl.DataFrame, id_column: str, partition_key: str, partitions: dg.PartitionsDefinition[str]
) -> pl.DataFrame:
    """The rows of an emotion in the shard `partition_key`; a hash of the id assigns each row to a shard."""
    emotion, _, shard = partition_key.partition("-")
    if not shard:
        return frame
    shards = sum(emotion_of(key) == emotion for key in partitions.get_partition_keys())
    mine = [
        int.from_bytes(hashlib.sha256(item.encode()).digest()[:8]) % shards == int(shard)
        for item in frame[id_column]
    ]
    return frame.filter(pl.Series(mine, dtype=pl.Boolean))


def every_partition(*assets: str) -> dict[str, dg.AssetIn]:
    """Inputs that contain all partitions of each asset in one frame."""
    return {asset: dg.AssetIn(partition_mapping=dg.AllPartitionMapping()) for asset in assets}
