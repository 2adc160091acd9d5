"""Files that a training writes beside the tables: its weights, named by their content, and its record.

Belongs here: both files, and deleting older ones. `trained_adapter` defines the weights file's contents.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.store.files import put_in_place, write_in_place

PACKAGES = ("emid-assets", "torch", "numpy")


def save_run(
    adapter: TrainedAdapter, folder: Path, configuration: Mapping[str, Any], keep: Iterable[Path] = ()
) -> tuple[Path, str]:
    """Write `{network}-{sha256[:12]}.safetensors` and, beside it, the record of the run as JSON.

    Equal runs give equal files: the record holds no times.

    Args:
        adapter: the trained adapter.
        folder: destination; files of the network's earlier runs are deleted there.
        configuration: the settings of the build.
        keep: weights of earlier runs to keep, with their records.

    Returns:
        The weights file and its sha256.
    """
    unnamed = folder / f"{adapter.network}.safetensors"
    sha256 = adapter.save(unnamed)
    weights = unnamed.with_name(f"{adapter.network}-{sha256[:12]}.safetensors")
    put_in_place(unnamed, weights)
    record = {
        "network": adapter.network,
        "weights_file": weights.name,
        "weights_sha256": sha256,
        "seed": adapter.settings.seed,
        "data_version": adapter.data_version,
        "hyperparameters": adapter.config,
        "configuration": dict(configuration),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "parameters": adapter.parameters,
        "best_epoch": adapter.best_epoch,
        "history": adapter.history,
    }
    write_in_place(weights.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    kept = {weights, *keep}
    for old in folder.glob(f"{adapter.network}-*.safetensors"):
        if old not in kept:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
    return weights, sha256
