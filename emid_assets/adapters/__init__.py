"""EMI-Adapter: networks that learn new embeddings of music and images from the pairs.

`NETWORKS` names every network and where its class is; it is also the list of partition keys, so
this file imports nothing heavy. A network is one file with one class: see `bmf.py`, and the
`Network` protocol in `training.py` for what the class must offer.
"""

NETWORKS: dict[str, str] = {
    "bmf": "emid_assets.adapters.bmf:BMF",
    "ncf": "emid_assets.adapters.ncf:NCF",
    "svdpp": "emid_assets.adapters.svdpp:SVDPP",
    "distilled": "emid_assets.adapters.distilled:Distilled",
}
"""Network name → `module:class`."""
