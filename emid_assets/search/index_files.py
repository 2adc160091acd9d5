"""What `emid query` searches: memory-mapped files made from the tables.

Belongs here: making those files from the lake and finding them again. They are in the lake's folder
`search/`, named by the versions of the tables that they were made from. The first query after a build
makes new ones and removes the old ones. If they are lost, the next query takes a second or two longer.

    search/<image or music>-<versions>/   items.arrow   frozen.npy   encoder.json
        <network>-<versions>/             adapted.npy   adapter.safetensors
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from emid_assets.media.expansion import all_clips, all_music_embeddings
from emid_assets.media.kinds import MediaKind
from emid_assets.media.va_plane import image_alignment, music_alignment, on_plane
from emid_assets.settings import AlignmentMethod
from emid_assets.store.files import make_folder, put_folder_in_place
from emid_assets.store.lake import Lake
from emid_assets.store.layout import SEARCH_FOLDER

if TYPE_CHECKING:
    from emid_assets.adapters.trained_adapter import TrainedAdapter
    from emid_assets.search.nearest import Catalogue

ITEMS, FROZEN, ENCODER = "items.arrow", "frozen.npy", "encoder.json"
ADAPTED, ADAPTER = "adapted.npy", "adapter.safetensors"
FORMAT = " 2"
"""Changed where the files are written with other columns."""
MADE_FROM = {
    "image": ("image_embeddings", "images"),
    "music": ("music_embeddings", "music_clips", "expanded_clips"),
}


@dataclass(frozen=True)
class Searchable:
    """All images, or all clips, as one network's new embeddings find them.

    Attributes:
        catalogue: what is searched.
        items: `item_id`, `file` and `label` of each (and where a clip lies in its file), in the order of
            the catalogue.
        adapter: the network, without what it knows of single items.
        built_with: name and fingerprint of the encoder, under `encoder` and `fingerprint`.
    """

    catalogue: "Catalogue"
    items: pl.DataFrame
    adapter: "TrainedAdapter"
    built_with: Mapping[str, str | None]


def searchable(lake: Lake, kind: MediaKind, network: str, va_alignment: AlignmentMethod) -> Searchable:
    """The files of this kind and network; made now if there has been a build since.

    If the lake cannot be written to, they are made for this call only.

    Raises:
        LakeError: the lake has not been built yet.
    """
    try:
        return _searchable(lake.root / SEARCH_FOLDER, lake, kind, network, va_alignment)
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            return _searchable(Path(folder), lake, kind, network, va_alignment)


def _searchable(
    folder: Path, lake: Lake, kind: MediaKind, network: str, va_alignment: AlignmentMethod
) -> Searchable:
    from emid_assets.adapters.trained_adapter import TrainedAdapter
    from emid_assets.search.nearest import POINT, Catalogue

    made_from = [path for table in MADE_FROM[kind] for path in lake.current_files(table).values()]
    of_items = folder / f"{kind}-{_digest(made_from, va_alignment + FORMAT)}"
    _make(of_items, f"{kind}-*", lambda place: _write_items(lake, kind, va_alignment, place))
    tables = ("adapted_embeddings", "trained_adapter")
    made_from = [path for table in tables if (path := lake.current_files(table).get(network))]
    of_network = of_items / f"{network}-{_digest(made_from)}"
    _make(of_network, f"{network}-*", lambda place: _write_network(lake, kind, network, of_items, place))
    items = pl.read_ipc(of_items / ITEMS)
    return Searchable(
        Catalogue(
            ids=items["item_id"],
            adapted=np.load(of_network / ADAPTED, mmap_mode="r"),
            frozen=np.load(of_items / FROZEN, mmap_mode="r"),
            points=items.select(POINT).to_numpy(),
        ),
        items.drop(POINT),
        TrainedAdapter.load(of_network / ADAPTER),
        json.loads((of_items / ENCODER).read_text("utf-8")),
    )


def _digest(files: Iterable[Path], setting: str = "") -> str:
    """A digest of these immutable files and a setting."""
    names = ["/".join(path.parts[-3:]) for path in files]
    return hashlib.sha256("\n".join([*names, setting]).encode()).hexdigest()[:16]


def _make(folder: Path, others: str, write: Callable[[Path], None]) -> None:
    """Write a folder unless it exists: under another name, then renamed; the ones it replaces are removed."""
    if folder.exists():
        return
    make_folder(folder.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        write(unfinished)
        for old in folder.parent.glob(others):
            shutil.rmtree(old, ignore_errors=True)
        put_folder_in_place(unfinished, folder)
    except OSError:
        if not folder.exists():  # else another query was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_items(lake: Lake, kind: MediaKind, va_alignment: AlignmentMethod, folder: Path) -> None:
    table = f"{kind}_embeddings"
    embeddings = lake.read(table)
    if kind == "image":
        images = lake.read("images")
        plane = on_plane(images, "image_id", image_alignment(images, va_alignment))
        facts = images.select("image_id", "file", pl.col("tag").alias("label"))
    else:
        music_clips, expanded = lake.read("music_clips"), lake.read("expanded_clips")
        clips, embeddings = all_clips(music_clips, expanded), all_music_embeddings(embeddings, expanded)
        plane = on_plane(clips, "clip_id", music_alignment(music_clips, va_alignment))
        facts = clips.select("clip_id", "file", pl.col("emotion").alias("label"), "start_s", "duration_s")
    key = facts.columns[0]
    embeddings = embeddings.sort(key)
    items = (
        embeddings.select(key)
        .join(plane, on=key, how="left", maintain_order="left")
        .join(facts, on=key, how="left", maintain_order="left")
        .rename({key: "item_id"})
    )
    version = lake.current(table, next(iter(lake.current_files(table))))
    metadata = version.metadata if version else {}
    (folder / ENCODER).write_text(
        json.dumps({name: metadata.get(name) for name in ("encoder", "fingerprint")}), "utf-8"
    )
    items.write_ipc(folder / ITEMS, compression="uncompressed")
    np.save(folder / FROZEN, embeddings["embedding"].to_numpy() * embeddings["scale"].to_numpy()[:, None])


def _write_network(lake: Lake, kind: MediaKind, network: str, of_items: Path, folder: Path) -> None:
    from emid_assets.adapters import AdapterError
    from emid_assets.adapters.trained_adapter import TrainedAdapter

    items = pl.read_ipc(of_items / ITEMS, columns=["item_id"])
    adapted = lake.read("adapted_embeddings", [network]).filter(pl.col("kind") == kind)
    rows = items.join(adapted.select("item_id", "embedding"), on="item_id", how="left", maintain_order="left")
    missing = rows.filter(pl.col("embedding").is_null())
    if missing.height:
        raise AdapterError(
            f"{kind} {missing['item_id'][0]!r} has no adapted embedding of {network}: run `emid build` again"
        )
    np.save(folder / ADAPTED, np.ascontiguousarray(rows["embedding"].to_numpy()))
    weights = lake.root / lake.read("trained_adapter", [network])["weights_file"][0]
    TrainedAdapter.load(weights).without_known_items().save(folder / ADAPTER)
