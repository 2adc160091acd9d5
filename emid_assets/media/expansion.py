"""Expanded clips: windows of the source recordings that join the data set with their source's labels.

Belongs here: cutting recordings into windows, choosing those that join, and combining the tables of
originals and expanded clips. `encoders` does the encoding. All of it is a **choice**: the published text says
that EMID's 1,836 clips became 10,738, but not how.

A recording is identified by the bytes of its file, so two copies of a file are one recording.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from emid_assets.affect.emotions import MUSIC_EMOTIONS
from emid_assets.media.folder import SUBFOLDERS, path_within
from emid_assets.media.identity import unchanged
from emid_assets.media.limits import MediaError
from emid_assets.store.schemas import EXPANDED_CLIPS, EXPANSION_WINDOWS, MUSIC_CLIPS, MUSIC_EMBEDDINGS

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

WINDOW_COLUMNS = ["clip_id", "file", "start_s", "duration_s", "content_hash"]
CHOICE_COLUMNS = ["clip_id", "start_s", "duration_s", "content_hash", "source_clip_id", "cosine"]

NOTHING_JOINS = 2.0
"""A threshold above every cosine, for a target that the original clips alone already reach."""

_TOUCHING_S = 1e-3
"""Windows that overlap by less than this only touch: lengths are rounded to whole samples."""


class ExpansionError(ValueError):
    """Windows and clips do not match; the message says what to rebuild."""


@dataclass(frozen=True)
class ChosenWindows:
    """The windows that join.

    Attributes:
        chosen: `clip_id` of each window and `source_clip_id` of its source clip.
        threshold: minimum cosine that a window needed.
        wanted: requested number of clips, originals included; 0 if the threshold was given.
        reached: resulting number of clips, originals included.
        eligible: windows that could have joined at some threshold.
    """

    chosen: pl.DataFrame
    threshold: float
    wanted: int
    reached: int
    eligible: int

    @property
    def missing(self) -> int:
        """How many clips short of the request."""
        return max(0, self.wanted - self.reached)


def recording_of(content_hash: str) -> pl.Expr:
    """The recording of each `content_hash`: the hash of the file, without the window."""
    return pl.col(content_hash).str.split("#").list.first()


def cut_windows(
    clips: pl.DataFrame, media: Path, window_s: float, hop_s: float
) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """The windows of these clips' recordings that do not overlap any of the clips.

    Windows start at whole multiples of the hop, so clips of one recording share them. Only original
    clips that are a window of their file have a recording to cut; a clip that is its whole file leaves
    nothing.

    Args:
        clips: MUSIC_CLIPS.
        media: the media folder; the recordings are hashed, and their headers read for their lengths.
        window_s: length of a window, seconds.
        hop_s: seconds between the starts of two windows.

    Returns:
        `WINDOW_COLUMNS`, sorted by file and start; and (file, reason) of recordings that cannot be read or
        have changed.
    """
    from emid_assets.media.audio import audio_length

    clips = clips.with_columns(recording=recording_of("content_hash")).sort("clip_id")
    sources = clips.filter(
        pl.col("is_original_clip") & (pl.col("content_hash") != pl.col("recording"))
    ).unique("recording", keep="first", maintain_order=True)
    places = {
        recording: _Places(of_recording["start_s"].to_numpy(), of_recording["duration_s"].to_numpy())
        for (recording,), of_recording in clips.group_by("recording")
    }
    rows: list[tuple[str, str, float, float, str]] = []
    unreadable: list[tuple[str, str]] = []
    for recording, file in sources.select("recording", "file").iter_rows():
        try:
            path = path_within(media, file)
            with unchanged(path, recording):
                length_s = audio_length(path)
        except MediaError as error:
            unreadable.append((file, error.reason))
            continue
        below = file.removeprefix(f"{SUBFOLDERS['music']}/")
        for number in range(max(0, math.floor((length_s - window_s) / hop_s + 1e-9) + 1)):
            start_s = round(number * hop_s, 6)
            if not places[recording].overlap(start_s, window_s):
                window = f"#t={start_s}+{window_s}"
                rows.append((f"{below}{window}", file, start_s, window_s, recording + window))
    schema = {name: EXPANSION_WINDOWS.columns[name][0] for name in WINDOW_COLUMNS}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("file", "start_s"), unreadable


class _Places:
    """Where the clips of a recording are; tells in the time of a search whether a window overlaps one."""

    def __init__(self, starts_s: "NDArray[float64]", lengths_s: "NDArray[float64]") -> None:
        order = starts_s.argsort(kind="stable")
        self._starts = starts_s[order]
        ends = (starts_s + lengths_s)[order]
        self._latest_end = [float(end) for end in itertools.accumulate(ends, max)]

    def overlap(self, start_s: float, length_s: float) -> bool:
        """Whether any clip begins before the window's end, and ends after its start."""
        before = int(self._starts.searchsorted(start_s + length_s - _TOUCHING_S, side="left"))
        return before > 0 and start_s < self._latest_end[before - 1] - _TOUCHING_S


def with_nearest_source(
    windows: pl.DataFrame, embedded: pl.DataFrame, clips: pl.DataFrame, music_embeddings: pl.DataFrame
) -> pl.DataFrame:
    """Windows with their embeddings and their nearest source clips.

    Args:
        windows: `WINDOW_COLUMNS`.
        embedded: MUSIC_EMBEDDINGS of the windows; a window without a row is left out.
        clips: MUSIC_CLIPS.
        music_embeddings: MUSIC_EMBEDDINGS of the clips; a clip without a row cannot be a source.

    Returns:
        EXPANSION_WINDOWS in the order of `windows`. Ties between clips go to the first by id.
    """
    import numpy as np

    windows = windows.with_columns(recording=recording_of("content_hash")).join(
        embedded.drop("content_hash"), on="clip_id", how="inner", maintain_order="left"
    )
    sources = (
        clips.filter("is_original_clip")
        .with_columns(recording=recording_of("content_hash"))
        .select("recording", "clip_id")
        .join(music_embeddings.select("clip_id", "embedding"), on="clip_id")
        .sort("clip_id")
    )
    nearest: list[str | None] = [None] * windows.height
    cosines: list[float | None] = [None] * windows.height
    vectors = windows["embedding"].to_numpy().astype(np.float64) if windows.height else np.empty((0, 1))
    rows_of = dict(windows.with_row_index("row").group_by("recording").agg("row").iter_rows())
    for (recording,), of_recording in sources.group_by("recording", maintain_order=True):
        rows = rows_of.get(recording, [])
        ids, source_vectors = of_recording["clip_id"].to_list(), of_recording["embedding"].to_numpy()
        # Sums of products, not a matrix product: the same bits with any number of threads.
        found = np.stack([(vectors[rows] * vector).sum(axis=1) for vector in source_vectors], axis=1)
        for row, best in zip(rows, found.argmax(axis=1), strict=True):
            nearest[row] = ids[best]
        for row, cosine in zip(rows, found.max(axis=1), strict=True):
            cosines[row] = float(cosine)
    claimed = windows.with_columns(
        pl.Series("source_clip_id", nearest, dtype=pl.String), pl.Series("cosine", cosines, dtype=pl.Float64)
    )
    return EXPANSION_WINDOWS.check(
        claimed.filter(pl.col("source_clip_id").is_not_null()).select(list(EXPANSION_WINDOWS.columns))
    )


def choose_windows(
    windows: pl.DataFrame, clips: pl.DataFrame, *, threshold: float, per_source: int, target: int
) -> ChosenWindows:
    """Choose the windows that join the data set from the windows of all partitions together.

    A window is eligible if it overlaps no clip of its recording, whatever the clip's label. If several clips
    claim a window, it goes to the nearest (then to the first by id), and only the `per_source` nearest
    windows of a source clip are eligible. Of these, all with a cosine of at least the threshold join.

    Args:
        windows: `CHOICE_COLUMNS` of all partitions.
        clips: MUSIC_CLIPS of all partitions.
        threshold: minimum cosine, if there is no target.
        per_source: maximum number of expanded clips for one source clip.
        target: number of clips that the data set should have. The threshold is then the highest that gives
            at least this many (windows with equal cosines join together); if there are too few windows,
            all eligible ones join. 0: use `threshold`.
    """
    eligible = (
        _without_overlap(windows, clips)
        .sort(["cosine", "source_clip_id", "clip_id"], descending=[True, False, False])
        .unique("content_hash", keep="first", maintain_order=True)
        .filter(pl.int_range(pl.len()).over("source_clip_id") < per_source)
    )
    if target:
        wanted = target - clips.height
        cosines = eligible["cosine"]
        if wanted <= 0:
            threshold = NOTHING_JOINS
        elif eligible.height:
            threshold = cosines[min(wanted, eligible.height) - 1]
    chosen = eligible.filter(pl.col("cosine") >= threshold)
    return ChosenWindows(
        chosen.select("clip_id", "source_clip_id").sort("clip_id"),
        threshold,
        target,
        clips.height + chosen.height,
        eligible.height,
    )


def _without_overlap(windows: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    places = clips.select(
        recording_of("content_hash").alias("recording"),
        pl.col("start_s").alias("clip_start_s"),
        (pl.col("start_s") + pl.col("duration_s")).alias("clip_end_s"),
    )
    overlapping = (
        windows.with_columns(recording=recording_of("content_hash"))
        .join(places, on="recording")
        .filter(
            (pl.col("start_s") < pl.col("clip_end_s") - _TOUCHING_S)
            & (pl.col("clip_start_s") < pl.col("start_s") + pl.col("duration_s") - _TOUCHING_S)
        )
    )
    return windows.join(overlapping, on=["clip_id", "source_clip_id"], how="anti", maintain_order="left")


def expanded_frame(windows: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    """Windows as clips with the labels of their source clips.

    Args:
        windows: EXPANSION_WINDOWS of the windows that join.
        clips: MUSIC_CLIPS with all their source clips.

    Returns:
        EXPANDED_CLIPS, sorted by id: `is_original_clip` is false, `source_id` is that of the source clip, so
        that a split by source keeps them together.

    Raises:
        ExpansionError: a source clip is gone, or a clip has the id of a window.
    """
    own = [*WINDOW_COLUMNS, "is_original_clip"]
    labels = clips.select(
        pl.col("clip_id").alias("source_clip_id"), *(name for name in MUSIC_CLIPS.columns if name not in own)
    )
    joined = windows.join(labels, on="source_clip_id", how="left", maintain_order="left")
    for lost in joined.filter(pl.col("source_id").is_null())["source_clip_id"].head(1):
        raise ExpansionError(f"source clip {lost!r} is gone: build expansion_windows again")
    for taken in joined.join(clips, on="clip_id", how="semi")["clip_id"].head(1):
        raise ExpansionError(f"a clip has the id {taken!r}, which names a window of a file: change its id")
    return EXPANDED_CLIPS.check(
        joined.with_columns(is_original_clip=pl.lit(False))
        .select(list(EXPANDED_CLIPS.columns))
        .sort("clip_id")
    )


def all_clips(music_clips: pl.DataFrame, expanded_clips: pl.DataFrame) -> pl.DataFrame:
    """MUSIC_CLIPS and EXPANDED_CLIPS as one frame of MUSIC_CLIPS: every clip of the data set."""
    return pl.concat([music_clips, expanded_clips.select(list(MUSIC_CLIPS.columns))])


def all_music_embeddings(music_embeddings: pl.DataFrame, expanded_clips: pl.DataFrame) -> pl.DataFrame:
    """MUSIC_EMBEDDINGS of every clip of the data set.

    Raises:
        ExpansionError: the two tables are from encoders with different dimensions.
    """
    expanded = expanded_clips.select(list(MUSIC_EMBEDDINGS.columns))
    if expanded.is_empty():
        return music_embeddings
    if expanded.schema != music_embeddings.schema:
        raise ExpansionError(
            "expanded_clips and music_embeddings are from different encoders: build both again with one"
        )
    return pl.concat([music_embeddings, expanded])


def with_chosen(music_clips: pl.DataFrame, choice: ChosenWindows) -> pl.DataFrame:
    """`emotion` and `is_original_clip` of the clips and of the chosen windows."""
    labels = music_clips.select(pl.col("clip_id").alias("source_clip_id"), "emotion")
    joining = choice.chosen.join(labels, on="source_clip_id")
    columns = ["emotion", "is_original_clip"]
    return pl.concat([music_clips.select(columns), joining.select("emotion", is_original_clip=pl.lit(False))])


def expansion_counts(clips: pl.DataFrame) -> pl.DataFrame:
    """Clips by Cowen category before and after expansion, like the table in EMID's README.

    Args:
        clips: every clip of the data set; only `emotion` and `is_original_clip` are used.

    Returns:
        13 rows by letter: `emotion`, `genre`, `before` (original clips), `after` (all clips); Int64.
    """
    before = dict(clips.filter("is_original_clip").group_by("emotion").len().iter_rows())
    after = dict(clips.group_by("emotion").len().iter_rows())
    return pl.DataFrame(
        [
            (emotion.key, emotion.letter, before.get(emotion.key, 0), after.get(emotion.key, 0))
            for emotion in MUSIC_EMOTIONS
        ],
        schema={"emotion": pl.String, "genre": pl.String, "before": pl.Int64, "after": pl.Int64},
        orient="row",
    )


def counts_table(counts: pl.DataFrame) -> str:
    """`expansion_counts` as a Markdown table with a row of totals."""
    rows: Iterable[tuple[object, ...]] = [
        *counts.select("genre", "emotion", "before", "after").rows(),
        ("", "all", counts["before"].sum(), counts["after"].sum()),
    ]
    header = ["| | emotion | before | after |", "|---|---|--:|--:|"]
    return "\n".join([*header, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])
