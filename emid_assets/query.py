"""A new file against a built lake: the nearest images of a clip, or the nearest clips of an image.

Belongs here: what `emid query` needs from the lake, put together. The search itself is
`adapters.query`, encoding is `encoders`, the page is `report.results`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from emid_assets.media.expansion import all_clips, all_music_embeddings
from emid_assets.media.va_plane import image_alignment, music_alignment, on_plane
from emid_assets.settings import Settings
from emid_assets.store.duckdb_store import Lake

DEFAULT_NETWORK = "distilled"


class QueryError(ValueError):
    """The file cannot be compared with the lake; the message says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        kind: of the file that was asked with.
        file: it.
        network: whose new embeddings ranked.
        results: rank, item_id, file, label, score, S, E and T of each result, best first; of clips
            also start_s and duration_s, their place in the file.
    """

    kind: Literal["music", "image"]
    file: Path
    network: str
    results: pl.DataFrame


def query(
    kind: Literal["music", "image"],
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
        QueryError: the file cannot be read, or the lake was built with another encoder.
        LakeError: the lake has not been built so far.
    """
    from emid_assets.adapters.query import Catalogue, Mixing, search_images, search_music
    from emid_assets.adapters.training import TrainedAdapter
    from emid_assets.encoders.base import MediaItem, load_encoder
    from emid_assets.encoders.embed import unit_rows

    lake = Lake(settings.lake_folder)
    built_with = lake.versions("image_embeddings")[0].metadata if lake.partitions("image_embeddings") else {}
    checkpoint = Path(settings.imagebind_checkpoint) if settings.imagebind_checkpoint else None
    encoder = load_encoder(
        settings.encoder, device=settings.device, precision=settings.precision, checkpoint=checkpoint
    )
    if built_with.get("fingerprint", encoder.fingerprint) != encoder.fingerprint:
        raise QueryError(
            f"{lake.root} was built with the encoder {built_with.get('encoder')} "
            f"({built_with['fingerprint']}), not with {encoder.name} ({encoder.fingerprint}): "
            "name that encoder, or build again"
        )
    item = MediaItem(item_id=file.name, path=file, content_hash="", file=file.name)
    prepare, encode = (
        (encoder.prepare_music, encoder.encode_music)
        if kind == "music"
        else (encoder.prepare_image, encoder.encode_images)
    )
    try:
        raw = encode([prepare(item)])
    except (ValueError, OSError) as error:
        raise QueryError(f"{file}: {error}") from error
    units, scales, usable = unit_rows(raw)
    if not usable[0]:
        raise QueryError(f"{file}: its embedding is zero or not finite")

    music_clips, images = lake.read("music_clips"), lake.read("images")
    if kind == "music":
        embeddings = lake.read("image_embeddings")
        plane = on_plane(images, "image_id", image_alignment(images, settings.va_alignment))
        described = images.select(pl.col("image_id").alias("item_id"), "file", pl.col("tag").alias("label"))
    else:
        expanded = lake.read("expanded_clips")
        embeddings = all_music_embeddings(lake.read("music_embeddings"), expanded)
        clips = all_clips(music_clips, expanded)
        plane = on_plane(clips, "clip_id", music_alignment(music_clips, settings.va_alignment))
        described = clips.select(
            pl.col("clip_id").alias("item_id"),
            "file",
            pl.col("emotion").alias("label"),
            "start_s",
            "duration_s",
        )
    catalogue = Catalogue.of_frames(
        lake.read("adapted_embeddings", [network]), embeddings, plane, "image" if kind == "music" else "music"
    )
    weights = lake.root / lake.read("trained_adapter", [network])["weights_file"][0]
    mixing = Mixing(
        settings.alpha,
        settings.candidates,
        settings.semantic_rescaling,
        settings.emotion_kernel,
        settings.gaussian_sigma,
    )
    search = search_images if kind == "music" else search_music
    found = search(TrainedAdapter.load(weights), units[0], float(scales[0]), catalogue, top, mixing)
    return Answer(kind, file, network, found.join(described, on="item_id", how="left", maintain_order="left"))
