"""The split into training, validation and test.

Two protocols. *Cold*: clips of unseen sources. Split by source clip, never by clip: expanded clips
have the labels of their source, so a random split leaks. *Warm*: every clip is known, and one of
its pairs is held out.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence

import polars as pl

from emid_assets.media.expansion import recording_of

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def split_by_source(
    source_ids: Sequence[str], seed: int, validation: float = 0.15, test: float = 0.15
) -> list[str]:
    """The part of each clip: `train`, `validation` or `test`, the same for all clips of a source.

    Sources are sorted by sha256(seed, source id) and cut by share, so the split does not depend on
    the order of the rows and changes little when sources are added. With three or more sources, each
    part has at least one; two sources give train and validation; a single source is all train, since
    no unseen source is left to measure with.

    Args:
        source_ids: (N,) the source of each clip.
        seed: another seed gives another split.
        validation: share of the sources used to choose the epoch.
        test: share of the sources used once, at the end.

    Raises:
        ValueError: the shares are negative or leave nothing to train on.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"shares of validation ({validation}) and test ({test}) must not be negative and must sum below 1"
        )
    sources = sorted(set(source_ids), key=lambda source: hashlib.sha256(f"{seed}:{source}".encode()).digest())
    n = len(sources)
    n_validation = min(max(1, round(n * validation)), n - 1) if n >= 2 and validation else 0
    n_test = min(max(1, round(n * test)), n - n_validation - 1) if n >= 3 and test else 0
    part = dict.fromkeys(sources, TRAIN)
    part.update(dict.fromkeys(sources[:n_validation], VALIDATION))
    part.update(dict.fromkeys(sources[n_validation : n_validation + n_test], TEST))
    return [part[source] for source in source_ids]


def divided_recordings(clips: pl.DataFrame, part_of: Mapping[str, str]) -> list[str]:
    """The recordings that a split divides, a line each; where their clips overlap, the line says so.

    A recording is told by the bytes of its file: copies of a file are one recording.

    Args:
        clips: MUSIC_CLIPS of originals and expanded clips, of which `clip_id`, `file`, `content_hash`,
            `start_s` and `duration_s` are read.
        part_of: clip id → its part; a clip without one is in no split.
    """
    placed = (
        clips.filter(pl.col("clip_id").is_in(list(part_of)))
        .select(
            "clip_id",
            "file",
            "start_s",
            recording_of("content_hash").alias("recording"),
            (pl.col("start_s") + pl.col("duration_s")).alias("end_s"),
            pl.col("clip_id").replace_strict(part_of, return_dtype=pl.String).alias("part"),
        )
        .sort("recording", "start_s", "clip_id")
    )
    divided = placed.filter(pl.col("part").n_unique().over("recording") > 1)
    lines = []
    for _, of_recording in divided.group_by("recording", maintain_order=True):
        rows = of_recording.rows(named=True)
        first = rows[0]
        other = next(row for row in rows if row["part"] != first["part"])
        for row, after in itertools.combinations(rows, 2):
            if row["part"] != after["part"] and after["start_s"] < row["end_s"]:
                first, other = row, after
                break
        overlap = " and overlaps it" if other["start_s"] < first["end_s"] else ""
        lines.append(
            f"{first['file']}: {first['clip_id']} is in {first['part']}, {other['clip_id']} of the same "
            f"recording in {other['part']}{overlap}"
        )
    return lines
