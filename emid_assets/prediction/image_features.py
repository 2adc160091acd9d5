"""Features of an image from EfficientNet-lite0, for the head that predicts emotion.

Belongs here: the network's pooled activations over the views of an image. The network and its weights are
the bundled encoder's (`encoders.bundled`); `image_views.py` makes the views.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from emid_assets.encoders.bundled.encoder import CLASSES, EfficientNetLite0, load_image_network
from emid_assets.encoders.bundled.fingerprint import IMAGE_WEIGHTS
from emid_assets.encoders.interface import Float32Array, MediaItem, Prepared
from emid_assets.encoders.torch_device import choose_device, map_items, memory_errors
from emid_assets.media.kinds import READER_VERSION
from emid_assets.prediction.image_views import VIEWS_VERSION, prepare_views

CODE_VERSION = "2"
LICENCE = "EfficientNet-lite0 weights: Apache-2.0 (as their package declares)"
MIDDLE = 10
"""Index, from 0, of the network's inner block that is used: it responds to textures, not yet to objects."""
FEATURE_BLOCKS = (112, 1280, 1280, CLASSES)
"""Lengths of the parts of a row: means of the inner block, means and maxima of the last layer, classes."""


def pooled_activations(network: EfficientNetLite0, pixels: Tensor) -> Tensor:
    """The network's pooled activations for some images, (n, 3672), see FEATURE_BLOCKS.

    Args:
        network: EfficientNet-lite0.
        pixels: (n, 3, 224, 224), see `encoders.bundled.preprocessing.image_input`.

    Returns:
        Each channel's mean, or maximum, over the image, and log-probabilities of the classes.
    """
    middle = network.blocks[: MIDDLE + 1](network.stem(pixels))
    last = network.head(network.blocks[MIDDLE + 1 :](middle))
    mean = last.mean((2, 3))
    classes = network.classifier(mean).log_softmax(1)
    return torch.cat([middle.mean((2, 3)), mean, last.amax((2, 3)), classes], 1)


class ImageFeatures:
    """The features as an encoder for `encoders.embed`, images only.

    A row is the mean over the views of an image and their mirror images.
    """

    name = "efficientnet-lite0"
    licence = LICENCE
    dimension = sum(FEATURE_BLOCKS)

    def __init__(self, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._network = load_image_network().to(self._device)
        parts = (CODE_VERSION, VIEWS_VERSION, READER_VERSION, IMAGE_WEIGHTS[2])
        digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
        self.fingerprint = f"{self.name}-{CODE_VERSION}-{digest[:16]}"

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        """Reads an image: uint8 (2, 224, 224, 3)."""
        return prepare_views

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        """Not supported: raises TypeError."""
        raise TypeError("EfficientNet-lite0 reads images only")

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        """Not supported: raises TypeError."""
        raise TypeError("EfficientNet-lite0 reads images only")

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, d) float32 of n prepared images."""

        @torch.inference_mode()
        def row(item: Prepared) -> Float32Array:
            pixels = torch.from_numpy(item).to(self._device).permute(0, 3, 1, 2)
            pixels = (pixels.float() - 127) / 128
            both = torch.cat([pixels, pixels.flip(3)])
            # One at a time: what the layers pass on then stays in the processor's cache.
            rows = [pooled_activations(self._network, one[None]) for one in both]
            return torch.cat(rows).mean(0).cpu().numpy()

        with memory_errors(self._device):
            return np.stack(map_items(row, batch, self._device))

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        """Not supported: raises TypeError."""
        raise TypeError("EfficientNet-lite0 reads images only")
