"""Partitions and their shards."""

import dagster as dg
import polars as pl

from emid_assets.orchestration.partitions import emotion_of, rows_of_shard, sharded

EMOTIONS = dg.StaticPartitionsDefinition(["calm", "sad"])


def test_one_shard_leaves_the_partitions_as_they_are() -> None:
    assert sharded(EMOTIONS, 1).get_partition_keys() == ["calm", "sad"]


def test_shards_are_numbered_with_leading_zeros() -> None:
    keys = sharded(EMOTIONS, 3).get_partition_keys()
    assert keys == ["calm-00", "calm-01", "calm-02", "sad-00", "sad-01", "sad-02"]
    assert {emotion_of(key) for key in keys} == {"calm", "sad"}
    assert (
        len({len(key) for key in sharded(EMOTIONS, 150).get_partition_keys() if key.startswith("sad")}) == 1
    )


def test_every_row_is_in_exactly_one_shard_and_always_in_the_same() -> None:
    frame = pl.DataFrame({"clip_id": [f"clip {number}" for number in range(500)]})
    partitions = sharded(EMOTIONS, 3)
    shards = [rows_of_shard(frame, "clip_id", f"sad-0{shard}", partitions) for shard in range(3)]
    assert sorted(pl.concat(shards)["clip_id"]) == sorted(frame["clip_id"])
    assert min(shard.height for shard in shards) > 100
    again = rows_of_shard(frame.reverse(), "clip_id", "sad-01", partitions)
    assert sorted(again["clip_id"]) == sorted(shards[1]["clip_id"])


def test_an_emotion_that_is_not_cut_keeps_all_its_rows() -> None:
    frame = pl.DataFrame({"clip_id": ["a", "b"]})
    assert rows_of_shard(frame, "clip_id", "sad", EMOTIONS).equals(frame)
