"""The encoder interface that the embedding stage works with.

Belongs here: the protocol, the item that an encoder receives, and the errors that encoders raise. `load.py`
loads one. No network, no file reading, no torch: worker processes import this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Prepared = NDArray[np.float32] | NDArray[np.uint8]


class EncoderUnavailableError(RuntimeError):
    """An encoder cannot be loaded: a package, its weights or the device is missing or wrong."""


class EncoderOutOfMemoryError(MemoryError):
    """A batch does not fit into the device's memory; a smaller one may."""


class PreparationError(ValueError):
    """One item cannot be encoded because of its own content.

    Attributes:
        reason: what is wrong, in a few words and without the item's name; goes into `rejected_media`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class MediaItem:
    """A music clip or an image to encode.

    Attributes:
        item_id: clip or image id.
        path: the file.
        content_hash: as in the inventory, window included: equal hashes mean equal embeddings, and the file
            is checked against it when it is read (see `media.identity`).
        start_s: music: where the clip starts in the file, in seconds.
        duration_s: music: length of the clip in seconds; None reads to the end.
        file: path relative to the media folder, as the tables store it; used in rejections. If empty,
            `path` is used.
    """

    item_id: str
    path: Path
    content_hash: str
    start_s: float = 0.0
    duration_s: float | None = None
    file: str = ""


class Encoder(Protocol):
    """Encodes music and images as vectors of one joint space.

    There are two steps. Preparing reads one file and makes the network's input; it needs no device
    and runs in worker processes. Encoding runs the network on a batch of such inputs. An item's
    vector does not depend on the other items of its batch.
    """

    @property
    def name(self) -> str:
        """Name of the encoder, as in the setting."""

    @property
    def licence(self) -> str:
        """Licence of the weights."""

    @property
    def dimension(self) -> int:
        """d: length of an embedding."""

    @property
    def fingerprint(self) -> str:
        """Identifies everything that determines an embedding; equal fingerprints give equal vectors."""

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        """Reads a clip and returns the network's input. A module-level function, so that it can be pickled.

        Raises:
            PreparationError, or another ValueError, for a file that cannot be encoded.
        """

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        """Makes the network's input from a clip's samples (channels, n) and their rate in Hz.

        A module-level function. Returns, bit for bit, what `prepare_music` does for a clip of these samples.

        Raises:
            PreparationError, or another ValueError, for samples that cannot be encoded.
        """

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        """Reads an image and returns the network's input; as `prepare_music`."""

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, d) float32 for n prepared clips, not normalised: the norm is X's scale.

        Raises:
            EncoderOutOfMemoryError: the batch does not fit; the encoder stays usable.
        """

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, d) float32 for n prepared images; as `encode_music`."""
