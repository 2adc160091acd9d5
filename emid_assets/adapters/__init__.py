"""EMI-Adapter: networks that learn new embeddings of music and images from the pairs.

`NETWORKS` lists every network and the location of its class; it is also the list of partition keys, so
this file imports nothing heavy. A network is one file with one class: see `networks/bmf.py` for an
example, and the protocol `Network` in `networks/interface.py` for what the class must offer.
"""

NETWORKS: dict[str, str] = {
    "bmf": "emid_assets.adapters.networks.bmf:BMF",
    "ncf": "emid_assets.adapters.networks.ncf:NCF",
    "svdpp": "emid_assets.adapters.networks.svdpp:SVDPP",
    "distilled": "emid_assets.adapters.networks.distilled:Distilled",
}
"""Network name → `module:class`."""

DEFAULT_NETWORK = "distilled"
"""The network used for search if none is named."""


class AdapterError(ValueError):
    """An adapter cannot be trained, loaded or applied."""
