"""Loads an encoder by name, with its weights.

Belongs here: the list of encoders. No network, no file reading; only the requested encoder's module imports
torch.
"""

from functools import cache
from pathlib import Path
from typing import get_args

from emid_assets.encoders.interface import Encoder, EncoderUnavailableError
from emid_assets.media.kinds import READER_VERSION
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
        precision: of ImageBind's products: `float32`, `bf16`, or `auto` (bf16 where the device's hardware
            makes it faster). The bundled networks are always float32.
        checkpoint: ImageBind's checkpoint; None searches the usual places.

    Raises:
        EncoderUnavailableError: says what is missing and which command installs it.
    """
    if name == "bundled":
        from emid_assets.encoders.bundled.encoder import load_bundled

        return load_bundled(device)
    if name == "imagebind":
        from emid_assets.encoders.imagebind.encoder import load_imagebind

        return load_imagebind(device, precision=precision, checkpoint=checkpoint)
    raise EncoderUnavailableError(f"unknown encoder {name!r}; allowed: {', '.join(ENCODER_NAMES)}")


def encoder_from(settings: Settings) -> Encoder:
    """The encoder named in the settings, loaded once per process.

    Raises:
        EncoderUnavailableError: as `load_encoder`.
    """
    return _loaded(settings.encoder, settings.device, settings.precision, settings.imagebind_checkpoint)


def encoder_identity(settings: Settings) -> str:
    """Differs where the encoder in the settings makes other vectors; found without loading its weights."""
    if settings.encoder == "bundled":
        from emid_assets.encoders.bundled.fingerprint import REFERENCE_FILE, fingerprint

        return fingerprint(REFERENCE_FILE.read_bytes())
    from emid_assets.encoders.imagebind.checkpoint import checkpoint_sha256, find_checkpoint
    from emid_assets.encoders.imagebind.encoder import CODE_VERSION
    from emid_assets.encoders.imagebind.preprocessing import PREPROCESSING_VERSION

    try:
        checkpoint = find_checkpoint(_checkpoint(settings.imagebind_checkpoint))
    except EncoderUnavailableError as error:
        return str(error)
    versions = f"{CODE_VERSION}-{PREPROCESSING_VERSION}-{READER_VERSION}"
    return f"imagebind-{versions}-{checkpoint_sha256(checkpoint)}"


def _checkpoint(setting: str) -> Path | None:
    return Path(setting) if setting else None


@cache
def _loaded(name: EncoderName, device: str, precision: Precision, imagebind_checkpoint: str) -> Encoder:
    checkpoint = _checkpoint(imagebind_checkpoint)
    return load_encoder(name, device=device, precision=precision, checkpoint=checkpoint)
