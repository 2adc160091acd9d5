"""Captions for the images of the table `images` that have none.

Belongs here: which images need a caption and which captions of the last build are kept. The captioner
writes the text; captions from the user's table are never changed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emid_assets.captions.interface import Captioner
from emid_assets.media.folder import path_within
from emid_assets.media.identity import is_passing, unchanged
from emid_assets.media.image import read_rgb
from emid_assets.media.limits import MediaError
from emid_assets.store.schemas import IMAGES

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioned:
    """Images with captions.

    Attributes:
        images: IMAGES in input order.
        written: captions that the captioner wrote in this call.
        reused: earlier captions of the same captioner and content.
        changed: images without a caption because their files had changed since the inventory.
    """

    images: pl.DataFrame
    written: int
    reused: int
    changed: int


def fill_captions(
    images: pl.DataFrame,
    media: Path,
    captioner: Captioner,
    previous: pl.DataFrame | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Captioned:
    """Write a caption for each image without one.

    Args:
        images: IMAGES.
        media: the media folder.
        captioner: see `emid_assets.captions.load.load_captioner`.
        previous: IMAGES of the partition's stored version: captions by the same captioner are kept for
            equal contents.
        on_progress: called with (captions written, captions to write).

    Returns:
        the images, with `caption_source` naming the captioner for captions that it wrote. An image that
        can no longer be read, or has changed since the inventory, gets no caption, with a warning.
    """
    known: dict[str, str] = {}
    if previous is not None:
        of_captioner = previous.filter(pl.col("caption_source") == captioner.fingerprint)
        known = dict(of_captioner.select("content_hash", "caption").iter_rows())
    wanted = images.filter(pl.col("caption").is_null()).select("content_hash", "file").rows()
    todo = {content_hash: file for content_hash, file in wanted if content_hash not in known}
    reused = len(wanted) - sum(content_hash in todo for content_hash, _ in wanted)
    written = changed = 0
    for done, (content_hash, file) in enumerate(todo.items(), start=1):
        try:
            path = path_within(media, file)
            with unchanged(path, content_hash):
                image = read_rgb(path)
            known[content_hash] = captioner.caption(image)
            written += 1
        except MediaError as error:
            _LOG.warning("no caption for %s: %s", file, error.reason)
            changed += is_passing(error.reason)
        if on_progress is not None:
            on_progress(done, len(todo))
    filled = pl.col("content_hash").replace_strict(known, default=None, return_dtype=pl.String)
    new = pl.col("caption").is_null() & filled.is_not_null()
    return Captioned(
        IMAGES.check(
            images.with_columns(
                caption=pl.when(new).then(filled).otherwise("caption"),
                caption_source=pl.when(new).then(pl.lit(captioner.fingerprint)).otherwise("caption_source"),
            )
        ),
        written,
        reused,
        changed,
    )
