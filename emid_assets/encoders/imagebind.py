"""The `imagebind` encoder: ImageBind-huge, vision and audio only."""

from pathlib import Path

from emid_assets.encoders.base import Encoder, EncoderUnavailableError, Precision


def load_imagebind(device: str, *, precision: Precision, checkpoint: Path | None) -> Encoder:
    """Load ImageBind.

    Raises:
        EncoderUnavailableError: always, for now.
    """
    raise EncoderUnavailableError("the imagebind encoder is not part of this version; use encoder bundled")
