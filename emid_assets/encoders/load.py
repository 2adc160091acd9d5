"""Loading an encoder by its name, with its weights.

Belongs here: which encoders there are. No network, no file reading; torch is imported by the encoder that
is asked for.
"""

from functools import cache
from pathlib import Path
from typing import get_args

from emid_assets.encoders.interface import Encoder, EncoderUnavailableError
from emid_assets.settings import EncoderName, Precision, Settings

ENCODER_NAMES: tuple[EncoderName, ...] = get_args(EncoderName)


def load_encoder(
    name: EncoderName,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    checkpoint: Path | None = None,
) -> Encoder:
    """Load an encoder with its weights.

    Args:
        name: `bundled` or `imagebind`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: of ImageBind's products: `float32`, `bf16`, or `auto` (bf16 where the device gains by it
            on its own hardware). The bundled networks are always float32.
        checkpoint: ImageBind's checkpoint; None looks in the usual places.

    Raises:
        EncoderUnavailableError: says what is missing and which command brings it.
    """
    if name == "bundled":
        from emid_assets.encoders.bundled.encoder import load_bundled

        return load_bundled(device)
    if name == "imagebind":
        from emid_assets.encoders.imagebind.encoder import load_imagebind

        return load_imagebind(device, precision=precision, checkpoint=checkpoint)
    raise EncoderUnavailableError(f"unknown encoder {name!r}; allowed: {', '.join(ENCODER_NAMES)}")


def encoder_from(settings: Settings) -> Encoder:
    """The encoder that the settings name, loaded once in a process.

    Raises:
        EncoderUnavailableError: as `load_encoder`.
    """
    return _loaded(settings.encoder, settings.device, settings.precision, settings.imagebind_checkpoint)


@cache
def _loaded(name: EncoderName, device: str, precision: Precision, imagebind_checkpoint: str) -> Encoder:
    checkpoint = Path(imagebind_checkpoint) if imagebind_checkpoint else None
    return load_encoder(name, device=device, precision=precision, checkpoint=checkpoint)
