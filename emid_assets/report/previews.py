"""Small pictures for the web UI's metadata: a few pairs, or a few images, as Markdown.

Belongs here: what the UI shows of a partition at a glance. A medium that cannot be read is
replaced by the reason; names that users gave are escaped.
"""

from pathlib import Path

import polars as pl

from emid_assets.report.gallery import thumbnail
from emid_assets.report.markdown import escaped

SIDE = 72
"""Pixels: a picture takes about 3 kB of each materialization's event."""

CLIPS = 3
IMAGES_OF_A_CLIP = 3
IMAGES = 6


def pairs_preview(pairs: pl.DataFrame, images: pl.DataFrame, media: Path) -> str:
    """The best images of the clips with the highest T, as a Markdown table: a row for each clip.

    Args:
        pairs: frame FUSED_PAIRS.
        images: frame IMAGES.
        media: the folder below which the images' `file` column is.
    """
    if pairs.is_empty():
        return "no pairs"
    best = pairs.filter(pl.col("rank") == 1).sort(["fused_score", "clip_id"], descending=[True, False])
    columns = min(IMAGES_OF_A_CLIP, int(pairs["rank"].max() or 0))  # type: ignore[arg-type]
    lines = [
        "| clip | " + " | ".join(f"image {rank}" for rank in range(1, columns + 1)) + " |",
        "|---" * (columns + 1) + "|",
    ]
    with_files = pairs.join(images.select("image_id", "file", "tag"), on="image_id", how="left")
    for clip_id in best["clip_id"].head(CLIPS):
        chosen = with_files.filter((pl.col("clip_id") == clip_id) & (pl.col("rank") <= columns)).sort("rank")
        cells = [
            f"{_picture(media, file, tag)} {escaped(tag or '')}, T {score:.3f}"
            for file, tag, score in chosen.select("file", "tag", "fused_score").rows()
        ]
        lines.append(f"| {escaped(clip_id)} | " + " | ".join(cells + [""] * (columns - len(cells))) + " |")
    return "\n".join(lines)


def images_preview(images: pl.DataFrame, media: Path) -> str:
    """The first images of a partition in a row, each with its id below it."""
    if images.is_empty():
        return "no images"
    shown = images.head(IMAGES).rows(named=True)
    pictures = [_picture(media, row["file"], row["tag"]) for row in shown]
    lines = [pictures, ["---"] * len(shown), [escaped(row["image_id"]) for row in shown]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _picture(media: Path, file: str | None, tag: str | None) -> str:
    copy = thumbnail(media, file or "", SIDE)
    return f"![{escaped(tag or '')}]({copy.uri})" if copy.uri else escaped(copy.problem)
