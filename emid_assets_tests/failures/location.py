"""The code location with the encoder that costs nothing, for servers that launch many runs."""

from emid_assets.definitions import definitions
from emid_assets_tests.failures.tiny import use_hash_encoder

use_hash_encoder()
__all__ = ["definitions"]
