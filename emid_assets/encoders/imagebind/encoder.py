"""The `imagebind` encoder: ImageBind-huge, vision and audio only.

Belongs here: running the model on a device. Its code and weights come from `model.py`, the checkpoint
file from `checkpoint.py`, the input from `preprocessing.py` and `images.py`.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emid_assets.encoders.imagebind import model as imagebind_model
from emid_assets.encoders.imagebind.checkpoint import LICENCE, checkpoint_sha256, find_checkpoint
from emid_assets.encoders.imagebind.images import prepare_image
from emid_assets.encoders.imagebind.model import HUGE, Architecture
from emid_assets.encoders.imagebind.preprocessing import (
    PREPROCESSING_VERSION,
    SUB_CLIPS,
    audio_input,
    normalise_pixels,
    prepare_music,
)
from emid_assets.encoders.interface import (
    EncoderOutOfMemoryError,
    EncoderUnavailableError,
    Float32Array,
    MediaItem,
    Prepared,
)
from emid_assets.encoders.linear_products import (
    LINEAR_PRODUCTS,
    PROBE_SIZE,
    LinearProduct,
    LinearProductName,
    ProductLinear,
    Size,
    fastest_linear_product,
    layer_sizes,
    linear_refusal,
    use_product,
)
from emid_assets.encoders.torch_device import choose_device, map_items, memory_errors
from emid_assets.media.kinds import READER_VERSION
from emid_assets.settings import Precision

CODE_VERSION = "1"
DEVICE_CHUNK = 32
"""Items that a GPU takes at once. Every chunk has this size, the last one padded with zeros: the kernels,
and with them the last bits of a row, depend on the size and not on the other items."""

BF16_GAIN = 1.5
"""`auto` uses bf16 on a CPU if the probe finds it faster than float32 by this factor."""

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

VERIFY_ASSETS = (
    "dog_image.jpg",
    "car_image.jpg",
    "bird_image.jpg",
    "dog_audio.wav",
    "car_audio.wav",
    "bird_audio.wav",
)
VERIFY_MATRIX = ((0.8070, 0.1088, 0.0842), (0.1036, 0.7884, 0.1079), (0.0018, 0.0022, 0.9960))
"""Softmax over the three sounds for each of the three images: the official README's `Vision x Audio`."""
VERIFY_TOLERANCE = {"float32": 0.002, "bf16": 0.02}


class ImageBindEncoder:
    """ImageBind on a device; see `emid_assets.encoders.interface.Encoder`.

    On a CPU, items go through the model one at a time, on as many threads as torch has: a row does
    not depend on its batch or the number of threads. On a GPU they go in chunks of fixed size.

    The fingerprint covers the precision, but neither the device nor the product: float32 rows of
    different products agree to about 1e-6.
    """

    name = "imagebind"
    licence = f"ImageBind weights and code: {LICENCE} (Meta Platforms)"

    def __init__(
        self,
        model: nn.Module,
        weights_sha256: str,
        device: torch.device,
        precision: Precision = "float32",
        product: LinearProductName | None = None,
    ) -> None:
        """Wrap a loaded model; its transformer blocks are changed in place.

        Args:
            model: from `imagebind_model.load` or `build`.
            weights_sha256: of the checkpoint, for the fingerprint.
            device: where it runs.
            precision: `float32`, `bf16`, or `auto`.
            product: of the linear layers; None probes for the fastest.

        Raises:
            EncoderUnavailableError: the device cannot compute the model in this precision and product.
        """
        self._device = device
        self.precision, self.product = choose_precision_and_product(
            device, precision, product, layer_sizes_of(model)
        )
        dtype = DTYPES[self.precision]
        if dtype != torch.float32 or self.product != "torch":
            for trunk in model.modality_trunks.values():  # type: ignore[operator]
                for block in trunk.blocks:
                    use_product(block, LINEAR_PRODUCTS[self.product], dtype)
            stem = model.modality_preprocessors["vision"].rgbt_stem  # type: ignore[index,union-attr]
            stem.proj = PatchProduct(stem.proj[1], LINEAR_PRODUCTS[self.product], dtype)
        self._model = model.to(device)
        self._chunk = DEVICE_CHUNK
        self.dimension = int(model.modality_heads["audio"][2].out_features)  # type: ignore[index,union-attr]
        parts = (CODE_VERSION, PREPROCESSING_VERSION, READER_VERSION, self.precision, weights_sha256)
        self.fingerprint = (
            f"imagebind-{CODE_VERSION}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"
        )

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        """Reads a clip: float32 (3, 1, 128, 204)."""
        return prepare_music

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        """Makes float32 (3, 1, 128, 204) from a clip's samples."""
        return audio_input

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        """Reads an image: uint8 (3, 224, 224)."""
        return prepare_image

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, 1024) float32: the mean of the sub-clips' vectors, each 20 × a unit vector."""
        return self._encode(batch, "audio", lambda x: x)

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        """(n, 1024) float32, rows of norm 1."""
        return self._encode(batch, "vision", normalise_pixels)

    def _encode(
        self, batch: Sequence[Prepared], modality: str, to_input: Callable[[Tensor], Tensor]
    ) -> Float32Array:
        @torch.inference_mode()
        def rows(prepared: Tensor) -> Tensor:
            result: Tensor = self._model({modality: to_input(prepared)})[modality]
            return result.to(torch.float32)

        if self._device.type == "cpu":
            with memory_errors(self._device):
                by_item = map_items(lambda item: rows(torch.from_numpy(item)[None]), batch, self._device)
            return torch.cat(by_item).numpy()
        try:
            with memory_errors(self._device):
                # Queue all chunks before waiting for the first result.
                chunks = [
                    rows(self._to_device(batch[start : start + self._chunk]))
                    for start in range(0, len(batch), self._chunk)
                ]
                result: Float32Array = torch.cat(chunks)[: len(batch)].cpu().numpy()
                return result
        except EncoderOutOfMemoryError:
            self._chunk = max(min(self._chunk, len(batch)) // 2, 1)
            raise

    def _to_device(self, items: Sequence[Prepared]) -> Tensor:
        """A chunk of items on the device, padded with zeros; the copy does not wait for the device."""
        shape = (self._chunk, *items[0].shape)
        dtype = torch.from_numpy(items[0]).dtype
        staged = torch.zeros(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        for row, item in zip(staged, items, strict=False):
            row.copy_(torch.from_numpy(item))
        return staged.to(self._device, non_blocking=True)


class PatchProduct(nn.Module):
    """The vision trunk's patch embedding of still images, as one product.

    The official code repeats an image to a video of two frames and convolves it with kernels as wide
    as their stride. That equals a product of each patch with the sum of the kernel's two frames.
    """

    def __init__(self, convolution: nn.Conv3d, product: LinearProduct, dtype: torch.dtype) -> None:
        super().__init__()
        self._side = convolution.kernel_size[1]
        self.linear = ProductLinear(patch_weight(convolution), None, product, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, s, s) to (n, width, patches), float32."""
        patches = functional.pixel_unshuffle(images, self._side)
        embedded: Tensor = self.linear(patches.flatten(2).transpose(1, 2))
        return embedded.to(torch.float32).transpose(1, 2)


def patch_weight(convolution: nn.Conv3d) -> Tensor:
    """(width, pixels of a patch): the patch embedding's kernels, each the sum of its two frames."""
    return convolution.weight.detach().sum(dim=2).flatten(1)


def layer_sizes_of(model: nn.Module) -> set[Size]:
    """Sizes of the products that `ImageBindEncoder` computes for one item."""
    parts: Any = model
    sizes: set[Size] = set()
    tokens = {
        modality: int(parts.modality_preprocessors[modality].pos_embedding_helper.num_tokens)
        for modality in imagebind_model.MODALITIES
    }
    for modality, sequences in (("vision", 1), ("audio", SUB_CLIPS)):
        for block in parts.modality_trunks[modality].blocks:
            sizes |= layer_sizes(block, sequences * tokens[modality])
    weight = patch_weight(parts.modality_preprocessors["vision"].rgbt_stem.proj[1])
    return sizes | {(tokens["vision"] - 1, weight.shape[1], weight.shape[0])}


def choose_precision_and_product(
    device: torch.device,
    precision: Precision,
    product: LinearProductName | None = None,
    sizes: Collection[Size] = (PROBE_SIZE,),
) -> tuple[Precision, LinearProductName]:
    """The precision that `auto` means on this device, and the fastest product in it.

    A GPU uses bf16 if its hardware supports it. A CPU uses bf16 if a probe of some milliseconds finds
    it clearly faster.

    Args:
        device: where the model runs.
        precision: `float32`, `bf16`, or `auto`.
        product: of the linear layers; None takes the fastest that works.
        sizes: of the linear layers; a product that fails at one of them is not taken.

    Raises:
        EncoderUnavailableError: the requested precision or product cannot be computed here.
    """
    if device.type != "cpu":
        if precision == "auto":
            gains = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if gains else "float32"
        chosen = product or "torch"
    else:
        found = {
            name: fastest_linear_product(dtype, sizes)
            for name, dtype in DTYPES.items()
            if precision in (name, "auto")
        }
        if precision == "auto":
            gains = found["float32"][1] >= BF16_GAIN * found["bf16"][1]
            precision = "bf16" if gains else "float32"
        chosen = product or found[precision][0]
    why = linear_refusal(chosen, device, DTYPES[precision], sizes)
    if why and product:
        raise EncoderUnavailableError(
            f"product {product!r} cannot be computed in {precision} on {device} here (torch "
            f"{torch.__version__}): {why}; use product torch, or None for the fastest that works"
        )
    if why:
        raise EncoderUnavailableError(
            f"precision {precision!r} cannot be computed on {device} here (torch {torch.__version__}): "
            f"{why}; set precision to float32 or auto"
        )
    return precision, chosen


def load_imagebind(
    device: str = "auto",
    *,
    precision: Precision = "auto",
    checkpoint: Path | None = None,
    architecture: Architecture = HUGE,
) -> ImageBindEncoder:
    """Load ImageBind with its weights.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: of the products: `float32`, `bf16`, or `auto`.
        checkpoint: the file; None searches the usual places, see `find_checkpoint`.
        architecture: sizes of the model in the checkpoint; anything but the default is for tests.

    Raises:
        EncoderUnavailableError: the model's code, the checkpoint or the device is missing, or the
            checkpoint is of another model (every difference is listed).
    """
    chosen = choose_device(device)
    path = find_checkpoint(checkpoint)
    model = imagebind_model.load(path, architecture)
    return ImageBindEncoder(model, checkpoint_sha256(path), chosen, precision)


def verify(encoder: ImageBindEncoder, assets: Path) -> Float32Array:
    """The matrix of the official README, computed by this encoder; compare it with `VERIFY_MATRIX`.

    Args:
        encoder: with the official checkpoint.
        assets: folder with the six files of the official repository's `.assets/`.

    Returns:
        (3, 3): softmax over the three sounds, for each of the three images.

    Raises:
        EncoderUnavailableError: names the files that are missing.
    """
    missing = [name for name in VERIFY_ASSETS if not (assets / name).is_file()]
    if missing:
        raise EncoderUnavailableError(
            f"{assets} lacks {', '.join(missing)}: copy them from the folder .assets of "
            "https://github.com/facebookresearch/ImageBind"
        )
    items = [MediaItem(name, assets / name, name) for name in VERIFY_ASSETS]
    images = encoder.encode_images([prepare_image(item) for item in items[:3]])
    sounds = encoder.encode_music([prepare_music(item) for item in items[3:]])
    scores = torch.from_numpy(images @ sounds.T)
    matrix: Float32Array = torch.softmax(scores, dim=1).numpy()
    return matrix
