"""Files of trained heads in the lake: a file is named by its content and removed when no table names it.

Belongs here: keeping, storing and removing these files. What is in them is each head's own.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from emid_assets.store.files import put_in_place


def file_of(previous: pl.DataFrame | None, folder: Path) -> Path | None:
    """The file that a head's stored table names; None if there is no head.

    Args:
        previous: the table's stored version, at most one row.
        folder: of the heads, in the lake's folder.
    """
    return folder.parent / previous["weights_file"][0] if previous is not None and previous.height else None


def is_current(previous: pl.DataFrame | None, folder: Path, learnt_from: str) -> bool:
    """Whether the stored head was trained on what `learnt_from` is the digest of, and its file exists."""
    file = file_of(previous, folder)
    return (
        previous is not None
        and file is not None
        and previous["learnt_from"][0] == learnt_from
        and file.exists()
    )


def store_head(
    save: Callable[[Path], str], name: str, folder: Path, previous: pl.DataFrame | None
) -> tuple[str, str]:
    """Store a head and remove files of earlier ones, except the one that `previous` names.

    Args:
        save: writes the head to a path and returns the file's sha256.
        name: of the head's table; the file's name begins with it.
        folder: of the heads, in the lake's folder.
        previous: the table's stored version.

    Returns:
        The file's path below the lake's folder, and its sha256.
    """
    unnamed = folder / f"{name}.safetensors"
    sha256 = save(unnamed)
    weights = folder / f"{name}-{sha256[:12]}.safetensors"
    put_in_place(unnamed, weights)
    for old in folder.glob(f"{name}-*.safetensors"):
        if old not in (weights, file_of(previous, folder)):
            old.unlink()
    return weights.relative_to(folder.parent).as_posix(), sha256
