"""musicnn: two small networks that tag music, with the weights of the package of that name.

Belongs here: the networks (Pons and Serra 2019, arXiv 1909.06654) and their weights, which are TensorFlow
checkpoints. `musicnn_input.py` makes their input; `music_rule.py` lists their tags and derives valence and
arousal from them.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from emid_assets.encoders.bundled.encoder import read_weights
from emid_assets.encoders.interface import Float32Array, MediaItem, Prepared
from emid_assets.encoders.torch_device import choose_device, map_items, memory_errors
from emid_assets.media.kinds import READER_VERSION
from emid_assets.prediction.music_rule import ALL_TAGS, TAGS
from emid_assets.prediction.musicnn_input import PREPROCESSING_VERSION, music_input, prepare_tagging
from emid_assets.prediction.tensorflow_checkpoint import read_checkpoint

CODE_VERSION = "1"
LICENCE = "musicnn weights: ISC (as their package declares)"
CHECKPOINTS = {
    "MTT": (
        ("musicnn", "MTT_musicnn/.index",
         "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57"),
        ("musicnn", "MTT_musicnn/.data-00000-of-00001",
         "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab"),
    ),
    "MSD": (
        ("musicnn", "MSD_musicnn/.index",
         "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8"),
        ("musicnn", "MSD_musicnn/.data-00000-of-00001",
         "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6"),
    ),
}  # fmt: skip
"""Index and data of each network: package, path inside it, sha256."""

NORMALISATION_EPS = 1e-3

FRAMES_AT_ONCE = 16
"""On a CPU: of a front filter, so that what it sees and its products stay in the cache."""


class Musicnn(nn.Module):
    """Timbral and temporal filters over a log-mel patch, three dense layers over time, 50 tags."""

    TIMBRAL = (38, 67)  # bands that a timbral filter spans: 40 and 70 % of 96
    TEMPORAL = (128, 64, 32)  # frames that a temporal filter spans
    MIDDLE = 64

    def __init__(self) -> None:
        super().__init__()
        timbral, temporal, middle = 204, 51, self.MIDDLE
        front = timbral * len(self.TIMBRAL) + temporal * len(self.TEMPORAL)
        pooled = 2 * (front + 3 * middle)
        self.convolutions = nn.ModuleList(
            [
                *(nn.Conv2d(1, timbral, (7, bands)) for bands in self.TIMBRAL),
                *(nn.Conv2d(1, temporal, (frames, 1)) for frames in self.TEMPORAL),
                nn.Conv2d(1, middle, (7, front)),
                *(nn.Conv2d(1, middle, (7, middle)) for _ in range(2)),
            ]
        )
        sizes = [1, timbral, timbral, temporal, temporal, temporal, middle, middle, middle, pooled, 200]
        self.normalisations = nn.ModuleList(nn.BatchNorm1d(size, eps=NORMALISATION_EPS) for size in sizes)
        self.dense = nn.Linear(pooled, 200)
        self.tags = nn.Linear(200, 50)

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds of the tags (n, 50) of log-mel patches (n, frames, 96)."""
        x = self.normalisations[0](x[:, None].flatten(2)).unflatten(2, x.shape[1:])[:, 0]
        wide = functional.pad(x, (0, 0, 3, 3))
        front = [
            self._front(wide.unfold(1, 7, 1).unfold(2, bands, 1), place)
            for place, bands in enumerate(self.TIMBRAL)
        ]
        over_time = x.transpose(1, 2)
        for place, frames in enumerate(self.TEMPORAL, start=2):
            # TensorFlow puts the odd frame of padding at the end.
            before = (frames - 1) // 2
            padded = functional.pad(over_time, (before, frames - 1 - before))
            front.append(self._front(padded.unfold(2, frames, 1).transpose(1, 2), place))
        features = [torch.cat(front, 1)]  # (n, channels, frames)
        for place in (5, 6, 7):
            after = self._over_time(features[-1], place)
            features.append(after if place == 5 else after + features[-1])
        found = torch.cat(features, 1)
        # The maximum and the mean of a channel are adjacent.
        pooled = torch.stack([found.amax(2), found.mean(2)], 2).flatten(1)
        hidden = functional.relu(self.dense(self.normalisations[9](pooled)))
        tags: Tensor = self.tags(self.normalisations[10](hidden))
        return tags

    def _front(self, windows: Tensor, place: int) -> Tensor:
        """One front filter: convolve, ReLU, normalise, keep the largest over the bands: (n, c, frames).

        Args:
            windows: (n, frames, bands, …), a view of what the filter sees at each frame and band.
            place: of the filter.
        """
        convolution = cast(nn.Conv2d, self.convolutions[place])
        normalisation = cast(nn.BatchNorm1d, self.normalisations[place + 1])
        # What follows the product grows with it, or falls in a channel of negative weight: one end counts.
        sign = torch.where(normalisation.weight < 0, -1.0, 1.0)
        kernel = convolution.weight.flatten(1) * sign[:, None]
        frames = windows.shape[1]
        at_once = FRAMES_AT_ONCE if windows.device.type == "cpu" else frames
        ends = windows.new_empty(len(windows), frames, len(kernel))
        for patch in range(len(windows)):
            for start in range(0, frames, at_once):
                some = windows[patch, start : start + at_once]
                products = functional.linear(some.reshape(-1, kernel.shape[1]), kernel)
                some_ends = ends[patch, start : start + at_once]
                torch.amax(products.view(*some.shape[:2], -1), 1, out=some_ends)
        found = functional.relu(ends * sign + cast(Tensor, convolution.bias))
        normalised: Tensor = normalisation(found.transpose(1, 2))
        return normalised

    def _over_time(self, x: Tensor, place: int) -> Tensor:
        """One dense layer over 7 frames of (n, channels, frames)."""
        convolution = cast(nn.Conv2d, self.convolutions[place])
        kernel = convolution.weight[:, 0].transpose(1, 2)
        found = functional.relu(functional.conv1d(x, kernel, convolution.bias, padding=3))
        normalised: Tensor = self.normalisations[place + 1](found)
        return normalised

    def load_published(self, published: dict[str, NDArray[np.float32]]) -> None:
        """Load the weights of a checkpoint, whose kernels are (height, width, inputs, outputs)."""

        def taken(name: str, *order: int) -> Tensor:
            values = published[name]
            return torch.from_numpy(values.transpose(order) if order else values)

        def numbered(name: str, place: int) -> str:
            return f"{name}_{place}" if place else name

        state = {}
        for place in range(len(self.convolutions)):
            name = numbered("conv2d", place)
            state[f"convolutions.{place}.weight"] = taken(f"{name}/kernel", 3, 2, 0, 1)
            state[f"convolutions.{place}.bias"] = taken(f"{name}/bias")
        for place in range(len(self.normalisations)):
            name = numbered("batch_normalization", place)
            state[f"normalisations.{place}.weight"] = taken(f"{name}/gamma")
            state[f"normalisations.{place}.bias"] = taken(f"{name}/beta")
            state[f"normalisations.{place}.running_mean"] = taken(f"{name}/moving_mean")
            state[f"normalisations.{place}.running_var"] = taken(f"{name}/moving_variance")
            state[f"normalisations.{place}.num_batches_tracked"] = torch.tensor(0)
        for layer, name in (("dense", "dense"), ("tags", "dense_1")):
            state[f"{layer}.weight"] = taken(f"{name}/kernel", 1, 0)
            state[f"{layer}.bias"] = taken(f"{name}/bias")
        self.load_state_dict(state)


def load_musicnn(name: str) -> Musicnn:
    """The network `MTT` (MagnaTagATune) or `MSD` (Million Song Dataset), for inference.

    Raises:
        EncoderUnavailableError: the package is missing, or its weights differ.
    """
    index, data = (read_weights(file) for file in CHECKPOINTS[name])
    network = Musicnn()
    network.load_published(read_checkpoint(index, data))
    return network.eval().requires_grad_(False)


class MusicTagger:
    """Both networks as an encoder for `encoders.embed`, music only.

    A row is the mean log-odds of each tag over the clip's patches, in the order of `ALL_TAGS`.
    """

    name = "musicnn"
    licence = LICENCE
    dimension = len(ALL_TAGS)

    def __init__(self, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._networks = [load_musicnn(name).to(self._device) for name in TAGS]
        weights = (CHECKPOINTS[name][1][2] for name in TAGS)
        parts = (CODE_VERSION, PREPROCESSING_VERSION, READER_VERSION, *weights)
        self.fingerprint = (
            f"musicnn-{CODE_VERSION}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"
        )

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        """Reads a clip: float32 (patches, 187, 96)."""
        return prepare_tagging

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        """Makes float32 (patches, 187, 96) from a clip's samples."""
        return music_input

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        """Not supported: raises TypeError."""
        raise TypeError("musicnn reads music only")

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, 100) float32 log-odds of n prepared clips."""

        @torch.inference_mode()
        def row(item: Prepared) -> Float32Array:
            patches = torch.from_numpy(item).to(self._device)
            log_odds = [network(patches).double().mean(0) for network in self._networks]
            return torch.cat(log_odds).float().cpu().numpy()

        with memory_errors(self._device):
            return np.stack(map_items(row, batch, self._device))

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """Not supported: raises TypeError."""
        raise TypeError("musicnn reads music only")
