"""musicnn: two small networks that tag music, with the weights of the package of that name.

Belongs here: the networks (Pons and Serra 2019, arXiv 1909.06654) and their weights, which are TensorFlow
checkpoints. `musicnn_input.py` makes their input; `music_rule.py` lists their tags and derives valence and
arousal from them.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emid_assets.encoders.bundled.encoder import read_weights
from emid_assets.encoders.interface import Float32Array, MediaItem, Prepared
from emid_assets.encoders.torch_device import choose_device, map_items, memory_errors
from emid_assets.media.kinds import READER_VERSION
from emid_assets.prediction.music_rule import ALL_TAGS, TAGS
from emid_assets.prediction.musicnn_input import (
    FRAMES,
    PREPROCESSING_VERSION,
    music_input,
    prepare_tagging,
)
from emid_assets.prediction.tensorflow_checkpoint import read_checkpoint

CODE_VERSION = "2"
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
TIMBRAL = (38, 67)
"""Bands that a timbral filter spans: 40 and 70 % of 96. It spans 7 frames."""
TIMBRAL_FRAMES = 7
TEMPORAL = (128, 64, 32)
"""Frames that a temporal filter spans, in one band."""
BEFORE, AFTER = (max(TEMPORAL) - 1) // 2, max(TEMPORAL) // 2
"""Zeros around a patch: TensorFlow puts the odd frame of padding at the end."""
STEP = 11
"""Frames that one row of a temporal product computes: a divisor of FRAMES."""
BANDS_TOGETHER = 12
"""Bands of one temporal product, whose result stays in the processor's cache."""

Published = Mapping[str, NDArray[np.float32]]
"""The weights of a checkpoint by name; kernels are (frames, bands, inputs, outputs)."""


class Musicnn:
    """Networks of timbral and temporal filters over a log-mel patch, three layers over time, and 50 tags.

    The networks read the same patches, so a filter layer is computed for all of them at once: one matrix
    product for each band, of which only the largest response so far is kept. The responses to all bands
    would be 9 MB for each patch and layer, and the system would have to supply that memory anew each time.
    """

    def __init__(self, networks: Sequence[Published], device: torch.device) -> None:
        self._timbral = [_Filters(networks, place, device) for place in range(len(TIMBRAL))]
        self._temporal = [
            _Filters(networks, place, device) for place in range(len(TIMBRAL), len(TIMBRAL + TEMPORAL))
        ]
        self._backs = [_Back(published, device) for published in networks]
        self._steps = [_at_each_step(layer.kernel[:, 0]) for layer in self._temporal]

    @torch.inference_mode()
    def __call__(self, patches: Tensor) -> Tensor:
        """Log-odds of the tags (n, networks, 50) of log-mel patches (n, FRAMES, BANDS)."""
        fronts = torch.stack([self._front(patch) for patch in patches])
        return torch.stack([back(fronts[:, index]) for index, back in enumerate(self._backs)], 1)

    def _front(self, patch: Tensor) -> Tensor:
        """Responses of all filters to one patch: (networks, filters, FRAMES)."""
        padded = functional.pad(patch.T, (BEFORE, AFTER)).contiguous()
        found = [*self._timbral_responses(padded), *self._temporal_responses(padded)]
        return torch.cat([response.view(len(self._backs), -1, FRAMES) for response in found], 1)

    def _timbral_responses(self, padded: Tensor) -> Iterator[Tensor]:
        before = BEFORE - (TIMBRAL_FRAMES - 1) // 2
        near = padded[:, before : before + TIMBRAL_FRAMES - 1 + FRAMES]
        # Row (band, k) is the band k frames later: what a filter reads is a run of rows.
        shifted = near.unfold(1, FRAMES, 1).flatten(0, 1)
        for layer in self._timbral:
            kernel = layer.kernel.flatten(1)
            largest = kernel.new_full((len(kernel), FRAMES), -torch.inf)
            found = torch.empty_like(largest)
            for first in range(0, len(shifted) - kernel.shape[1] + 1, TIMBRAL_FRAMES):
                torch.mm(kernel, shifted[first : first + kernel.shape[1]], out=found)
                torch.maximum(largest, found, out=largest)
            yield layer.response(largest)

    def _temporal_responses(self, padded: Tensor) -> Iterator[Tensor]:
        windows = padded.unfold(1, BEFORE + AFTER + STEP, STEP)  # (BANDS, FRAMES / STEP, frames)
        for layer, kernel in zip(self._temporal, self._steps, strict=True):
            first = BEFORE - (layer.kernel.shape[2] - 1) // 2
            largest = None
            for some in torch.split(windows[:, :, first : first + len(kernel)], BANDS_TOGETHER):
                products = torch.mm(some.reshape(-1, len(kernel)), kernel)
                found = products.view(len(some), FRAMES // STEP, -1).amax(0)
                largest = found if largest is None else torch.maximum(largest, found, out=largest)
            assert largest is not None
            yield layer.response(largest.view(FRAMES, -1).T)


class _Filters:
    """One filter layer of the front, the filters of all networks one after the other.

    Its output is normalise(relu(filter(normalise(input)) + bias)), the largest over the bands. What is equal
    for all bands is applied after the maximum: the shift of the input, the bias and the second normalisation.
    Where that one reverses the order, the kernel is negated.

    Attributes:
        kernel: (filters, bands, frames).
    """

    def __init__(self, networks: Sequence[Published], place: int, device: torch.device) -> None:
        parts = [self._of_one(published, place) for published in networks]
        self.kernel, self._sign, self._offset, self._scale, self._shift = (
            torch.from_numpy(np.concatenate(part).astype(np.float32)).to(device)
            for part in zip(*parts, strict=True)
        )

    @staticmethod
    def _of_one(published: Published, place: int) -> tuple[NDArray[np.float64], ...]:
        name = _numbered("conv2d", place)
        kernel = published[f"{name}/kernel"][:, :, 0].astype(np.float64).transpose(2, 1, 0)
        frames = kernel.shape[2]
        (input_scale,), (input_shift,) = _normalisation(published, 0)
        scale, shift = _normalisation(published, place + 1)
        sign = np.where(scale < 0, -1.0, 1.0)
        # The input is padded after its normalisation, so that its shift is missing at the ends of a patch.
        inside = np.pad(np.ones(FRAMES), ((frames - 1) // 2, frames // 2))
        shifts = kernel.sum(1) @ np.lib.stride_tricks.sliding_window_view(inside, FRAMES) * input_shift
        offset = published[f"{name}/bias"].astype(np.float64)[:, None] + shifts
        column = (slice(None), None)
        return (
            kernel * (input_scale * sign)[:, None, None],
            sign[column],
            offset,
            scale[column],
            shift[column],
        )

    def response(self, largest: Tensor) -> Tensor:
        """The layer's output (filters, FRAMES), from the largest product of each filter over the bands."""
        return (largest * self._sign + self._offset).relu_() * self._scale + self._shift


class _Back:
    """The layers of one network after its front: three over 7 frames, pooling, and two dense ones."""

    def __init__(self, published: Published, device: torch.device) -> None:
        def tensor(values: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)

        def of_layer(place: int) -> tuple[Tensor, ...]:
            name = _numbered("conv2d", place)
            kernel = published[f"{name}/kernel"][:, :, 0].transpose(2, 1, 0)
            scale, shift = _normalisation(published, place + 1)
            bias = published[f"{name}/bias"]
            return tensor(kernel), tensor(bias), tensor(scale[:, None]), tensor(shift[:, None])

        def dense(name: str, normalisation: int) -> tuple[Tensor, Tensor]:
            """A dense layer that includes the normalisation of its input."""
            scale, shift = _normalisation(published, normalisation)
            kernel = published[f"{name}/kernel"].astype(np.float64)
            return tensor((kernel * scale[:, None]).T), tensor(published[f"{name}/bias"] + shift @ kernel)

        self._over_time = [of_layer(place) for place in (5, 6, 7)]
        self._dense, self._tags = dense("dense", 9), dense("dense_1", 10)

    def __call__(self, front: Tensor) -> Tensor:
        """Log-odds (n, 50) from the responses of the front (n, filters, FRAMES)."""
        features = [front]
        for kernel, bias, scale, shift in self._over_time:
            after = functional.conv1d(features[-1], kernel, bias, padding=3).relu_() * scale + shift
            features.append(after if len(features) == 1 else after + features[-1])
        found = torch.cat(features, 1)
        # The maximum and the mean of a channel are adjacent.
        pooled = torch.stack([found.amax(2), found.mean(2)], 2).flatten(1)
        return functional.linear(functional.linear(pooled, *self._dense).relu_(), *self._tags)


def _at_each_step(kernel: Tensor) -> Tensor:
    """Filters (n, frames) at each of STEP positions in a longer window: (frames + STEP - 1, STEP * n)."""
    count, frames = kernel.shape
    placed = kernel.new_zeros(frames + STEP - 1, STEP, count)
    for step in range(STEP):
        placed[step : step + frames, step] = kernel.T
    return placed.flatten(1)


def _numbered(name: str, place: int) -> str:
    return f"{name}_{place}" if place else name


def _normalisation(published: Published, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift of a batch normalisation, per channel."""
    name = _numbered("batch_normalization", place)
    gamma, beta, mean, variance = (
        published[f"{name}/{part}"].astype(np.float64)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + NORMALISATION_EPS)
    return scale, beta - mean * scale


def load_musicnn(names: Sequence[str], device: torch.device) -> Musicnn:
    """The networks `MTT` (MagnaTagATune) and `MSD` (Million Song Dataset), or one of them.

    Raises:
        EncoderUnavailableError: the package is missing, or its weights differ.
    """
    published = (read_checkpoint(*map(read_weights, CHECKPOINTS[name])) for name in names)
    return Musicnn(list(published), device)


class MusicTagger:
    """Both networks as an encoder for `encoders.embed`, music only.

    A row is the mean log-odds of each tag over the clip's patches, in the order of `ALL_TAGS`.
    """

    name = "musicnn"
    licence = LICENCE
    dimension = len(ALL_TAGS)

    def __init__(self, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._networks = load_musicnn(list(TAGS), self._device)
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
            log_odds = self._networks(torch.from_numpy(item).to(self._device))
            return log_odds.double().mean(0).flatten().float().cpu().numpy()

        with memory_errors(self._device):
            return np.stack(map_items(row, batch, self._device))

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """Not supported: raises TypeError."""
        raise TypeError("musicnn reads music only")
