"""A new file against a built lake: the nearest images of a clip, or the nearest clips of an image.

Belongs here: what `emid query` needs from the lake, put together. The search itself is
`nearest`, encoding is `encoders`, the page is `results_page`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import DEFAULT_NETWORK
from emid_assets.encoders.interface import MediaItem
from emid_assets.encoders.load import encoder_from
from emid_assets.media.audio import probe_audio
from emid_assets.media.image import probe_image
from emid_assets.media.kinds import MediaKind
from emid_assets.search.index_files import Searchable, searchable
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake


class QueryError(ValueError):
    """The file cannot be compared with the lake; the message says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        kind: of the query file.
        file: the query file.
        network: the one whose new embeddings rank.
        results: rank, item_id, file, label, score, S, E and T of each result, best first; of clips
            also start_s and duration_s, their place in the file.
    """

    kind: MediaKind
    file: Path
    network: str
    results: pl.DataFrame


def query(
    kind: MediaKind,
    file: Path,
    settings: Settings,
    network: str = DEFAULT_NETWORK,
    top: int = 10,
) -> Answer:
    """The images that a network ranks nearest to a clip, or the clips nearest to an image.

    Args:
        kind: `music` where `file` is a clip, `image` where it is an image.
        file: need not be in the media folder.
        settings: the lake, the encoder that it was built with, and alpha, K, S̃ and E for T.
        network: partition of `trained_adapter`.
        top: how many results.

    Raises:
        QueryError: an inventory would reject the file, or the lake was built with another encoder.
        LakeError: the lake has not been built yet.
    """
    from emid_assets.encoders.embed import unit_rows

    lake = Lake(settings.lake_folder)
    encoder = encoder_from(settings)
    searched = searchable(lake, "image" if kind == "music" else "music", network, settings.va_alignment)
    if (searched.built_with["fingerprint"] or encoder.fingerprint) != encoder.fingerprint:
        raise QueryError(
            f"{lake.root} was built with the encoder {searched.built_with['encoder']} "
            f"({searched.built_with['fingerprint']}), not with {encoder.name} ({encoder.fingerprint}): "
            "pass --encoder with that encoder, or build again"
        )
    item = MediaItem(item_id=file.name, path=file, content_hash="", file=file.name)
    probe, prepare, encode = (
        (probe_audio, encoder.prepare_music, encoder.encode_music)
        if kind == "music"
        else (probe_image, encoder.prepare_image, encoder.encode_images)
    )
    try:
        probe(file)
        raw = encode([prepare(item)])
    except (ValueError, OSError) as error:
        raise QueryError(f"{file}: {error}") from error
    units, scales, usable = unit_rows(raw)
    if not usable[0]:
        raise QueryError(f"{file}: its embedding is zero or not finite")
    return Answer(kind, file, network, nearest(searched, kind, units[0], float(scales[0]), settings, top))


def nearest(
    searched: Searchable,
    kind: MediaKind,
    embedding: NDArray[np.float32],
    scale: float,
    settings: Settings,
    top: int,
) -> pl.DataFrame:
    """What is nearest to an embedded file: the columns of `Answer.results`.

    Args:
        searched: images if the query is a clip, clips if it is an image.
        kind: of the file.
        embedding: (d,) unit embedding of the file.
        scale: norm that the encoder gave it.
        settings: alpha, K, S̃ and E for T.
        top: how many results.
    """
    from emid_assets.matching.fusion import Formula
    from emid_assets.search.nearest import search_images, search_music

    search = search_images if kind == "music" else search_music
    found = search(searched.adapter, embedding, scale, searched.catalogue, top, Formula.of(settings))
    described = searched.items.filter(pl.col("item_id").is_in(found["item_id"].implode()))
    return found.join(described, on="item_id", how="left", maintain_order="left")
