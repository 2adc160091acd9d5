"""Groups clips by their source recording, so that a split never divides a recording.

Belongs here: which clips are of one source, by the content of their recordings, their labels and what a table
says. A clip's name says nothing: names of expanded clips are mangled.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from emid_assets.affect.ratings import Labels, labels_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFacts:
    """What tells the source of a clip.

    Attributes:
        clip_id: its id.
        given: the source that a table gives; None if none does.
        is_original: whether it is no expanded clip.
        recording: equal for clips that are cut from files of the same bytes.
        labels: its feelings and ratings; None for a clip without ratings.
        is_whole: whether it is its whole file, not a window of it.
    """

    clip_id: str
    given: str | None
    is_original: bool
    recording: str
    labels: Labels | None
    is_whole: bool = True


def sources_of(clips: Sequence[ClipFacts]) -> list[str | None]:
    """The source of each clip; None for an expanded clip whose source cannot be found.

    Clips are of one source if

    - they are cut from one recording, whatever else is said of them: its audio would be on both sides of a
      split;
    - a table gives them the same source, or gives to one of them the id of the other and to that one nothing;
    - they have equal labels, since expanded clips copy those of their source, unless a table gives the source
      of every clip with these labels.

    Ratings alone would be enough as labels; feelings alone would not, since two sources may both be 100%
    Dreamy. A source is called what a table calls it, else by the id of its first original, else of its first
    clip. The source of an expanded clip cannot be found if the clip is a whole file and no original, no table
    and no rating says anything.
    """
    untold = {clip.labels for clip in clips if clip.given is None} - {None}
    named = {clip.given for clip in clips}
    parent: dict[tuple[str, object], tuple[str, object]] = {}

    def group(key: tuple[str, object]) -> tuple[str, object]:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    for clip in clips:
        joined: list[tuple[str, object]] = [("labels", clip.labels)] if clip.labels in untold else []
        if clip.given is not None:
            joined.append(("source", clip.given))
        elif clip.clip_id in named:
            joined.append(("source", clip.clip_id))
        for key in joined:
            parent[group(("recording", clip.recording))] = group(key)
    of_group: dict[tuple[str, object], list[ClipFacts]] = {}
    for clip in clips:
        of_group.setdefault(group(("recording", clip.recording)), []).append(clip)
    names = {key: _name(those) for key, those in of_group.items()}
    return [names[group(("recording", clip.recording))] for clip in clips]


def _name(clips: Sequence[ClipFacts]) -> str | None:
    """What the source of these clips is called."""
    given = sorted({clip.given for clip in clips if clip.given is not None})
    originals = [clip.clip_id for clip in clips if clip.is_original and clip.clip_id]
    if len(given) > 1:
        _LOG.warning(
            "sources %s are one, %s: their clips share a recording, or labels with a clip of unknown source",
            ", ".join(given), given[0],
        )  # fmt: skip
    if given or originals:
        return given[0] if given else min(originals)
    if all(clip.is_whole and clip.labels is None for clip in clips):
        return None
    return min((clip.clip_id for clip in clips if clip.clip_id), default=None)


def find_sources(items: pl.DataFrame) -> pl.Series:
    """`sources_of` the music items of an inventory that has their contents, as `source_id`.

    Items that could not be read are told by their file, and table rows without one by their row.
    """
    of_file = pl.col("content_hash").str.head(64).drop_nulls().first().over("file")
    no_file = pl.format("row {}", "row")
    recording = pl.coalesce(of_file, pl.when(pl.col("file") == "").then(no_file).otherwise("file"))
    facts = items.select(
        "item_id", "source_id", "is_original_clip", recording, pl.struct("feeling", "emotion"), "window"
    )
    labels: dict[tuple[str | None, str | None], Labels | None] = {}
    for texts in items.select("feeling", "emotion").unique().rows():
        labels[texts] = labels_of(*texts)
    clips = [
        ClipFacts(clip_id, given, original, recorded, labels[texts["feeling"], texts["emotion"]], not window)
        for clip_id, given, original, recorded, texts, window in facts.iter_rows()
    ]
    return pl.Series("source_id", sources_of(clips), dtype=pl.String)
