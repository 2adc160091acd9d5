"""The page of pairs: for each clip what the semantic term alone, the α in use and the adapter show.

Belongs here: from the frame of `evaluation.top_images` to one HTML page that stays usable with many
thousands of clips. It holds every clip as data, and the script in `pairs.js` builds only the rows that
are in view. Small sets embed their media; larger ones link to the media folder.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from markupsafe import Markup

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS
from emid_assets.evaluation.top_images import ADAPTER, FUSED, SEMANTIC
from emid_assets.media.lake_tables import LakeTables
from emid_assets.report import style
from emid_assets.report.gallery import PLAYER_SECONDS, Copies, Copy, attributions
from emid_assets.report.self_contained import data_for_script, digest, templates
from emid_assets.store.layout import REPORT_PAGE

SHOWN = 3
"""Images of a clip and system, at most."""
MOST_CLIPS = 15_000
"""Clips on the page, at most: browsers cannot draw a much longer page."""
_BYTES_OF_A_SECOND = 5_000
_BYTES_OF_AN_IMAGE = 12_000
_DIGITS = 4
_SYSTEMS = (SEMANTIC, FUSED, ADAPTER)


def render_pairs(
    tables: LakeTables, network: str, alpha: float, *, media: Copies, beside: Path, embed_bytes: int
) -> str:
    """The page as one HTML document.

    Args:
        tables: clips, images and top_images, whose first `SHOWN` ranks are shown.
        network: whose choices the adapter's are.
        alpha: the one in use.
        media: makes the copies of their files that are embedded.
        beside: the folder that will hold the page: media that are not embedded are linked relative to it.
        embed_bytes: media are embedded if they total no more than about this.

    Returns:
        HTML to be written as UTF-8, of at most `MOST_CLIPS` clips, spread evenly over all. A medium
        that cannot be read is replaced by a sentence that says so.
    """
    music_clips, images = tables.music_clips, tables.images
    shown = tables.top_images.filter(pl.col("rank") <= SHOWN)
    paired = music_clips.join(shown.select("clip_id").unique(), on="clip_id", how="semi").sort("clip_id")
    clips = paired.gather_every(max(1, math.ceil(paired.height / MOST_CLIPS)))
    shown = shown.join(clips.select("clip_id"), on="clip_id", how="semi")
    pictures = images.join(shown.select("image_id").unique(), on="image_id", how="semi").sort("image_id")
    seconds = clips["duration_s"].clip(upper_bound=PLAYER_SECONDS).sum()
    inside = seconds * _BYTES_OF_A_SECOND + pictures.height * _BYTES_OF_AN_IMAGE <= embed_bytes
    root = quote(Path(os.path.relpath(media.media, beside)).as_posix())
    if inside:
        sounds = [
            media.player(file, start, duration)
            for file, start, duration in clips.select("file", "start_s", "duration_s").iter_rows()
        ]
        looks = [media.thumbnail(file) for file in pictures["file"]]
    else:
        sounds = [
            Copy(f"{root}/{quote(file)}#t={start:g},{start + duration:g}")
            for file, start, duration in clips.select("file", "start_s", "duration_s").iter_rows()
        ]
        looks = [Copy(f"{root}/{quote(file)}") for file in pictures["file"]]
    data = {
        "alpha": alpha,
        "clips": [
            [*row, sound.uri, sound.problem]
            for row, sound in zip(
                clips.select("clip_id", "emotion", "duration_s").rows(), sounds, strict=True
            )
        ],
        "images": [
            [*row, look.uri, look.problem]
            for row, look in zip(pictures.select("image_id", "tag").rows(), looks, strict=True)
        ],
        "picks": _picks(shown, clips["clip_id"].to_list(), pictures["image_id"].to_list()),
    }
    credits = [
        attributions(clips, "clip_id", clips["clip_id"].to_list()),
        attributions(pictures, "image_id", pictures["image_id"].to_list()),
    ]
    return _html(
        data, clips, alpha=alpha, network=network, inside=inside, report=REPORT_PAGE,
        credits=credits if inside else [], n_paired=paired.height,
    )  # fmt: skip


def _picks(shown: pl.DataFrame, clip_ids: list[str], image_ids: list[str]) -> list[list[list[float]]]:
    """For each clip and each system, image, S, E, T of its images one after the other."""
    place = {image_id: number for number, image_id in enumerate(image_ids)}
    row_of = {clip_id: number for number, clip_id in enumerate(clip_ids)}
    column_of = {system: number for number, system in enumerate(_SYSTEMS)}
    picks: list[list[list[float]]] = [[[] for _ in _SYSTEMS] for _ in clip_ids]
    columns = (
        "clip_id", "system", "image_id", "semantic_similarity", "emotional_similarity", "fused_score"
    )  # fmt: skip
    for clip_id, system, image_id, S, E, T in shown.sort("rank").select(columns).iter_rows():
        picks[row_of[clip_id]][column_of[system]] += [
            place[image_id], float(f"{S:.3g}"), round(E, _DIGITS), round(T, _DIGITS)
        ]  # fmt: skip
    return picks


def _html(data: Mapping[str, Any], clips: pl.DataFrame, **shown: Any) -> str:
    here = Path(__file__).parent
    script = (here / "pairs.js").read_text(encoding="utf-8")
    counts = dict(clips.group_by("emotion").len().iter_rows())
    return (
        templates(here)
        .get_template("pairs.html.j2")
        .render(
            theme=style.THEME,
            script=Markup(script),
            script_digest=digest(script),
            data=data_for_script(data),
            emotions=[(emotion, counts[emotion.key]) for emotion in MUSIC_EMOTIONS if emotion.key in counts],
            tags=IMAGE_EMOTION_KEYS,
            n_clips=clips.height,
            **shown,
        )
    )
