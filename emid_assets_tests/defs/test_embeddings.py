"""The embedding assets on media that change between the inventory and the encoding."""

from pathlib import Path

import dagster as dg
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.media.identity import CHANGED
from emid_assets.store.lake import Lake
from emid_assets_tests.defs.tiny_media import write_image, write_media


@pytest.mark.slow
def test_a_file_replaced_after_the_inventory_is_rejected_and_encoded_once_it_is_put_back(
    tmp_path: Path,
) -> None:
    media, lake = write_media(tmp_path / "media"), Lake(tmp_path / "lake")
    definitions = build_definitions(lake=str(lake.root), media=str(media), workers=0)
    replaced = media / "images/awe/e.png"
    kept = replaced.read_bytes()

    def embed_again() -> tuple[int, object, list[tuple[str, ...]]]:
        """Rows of awe, how many files had changed, and what was rejected."""
        with dg.DagsterInstance.ephemeral() as instance:
            job = definitions.resolve_job_def("embed_images")
            job.execute_in_process(partition_key="awe", instance=instance)
        version = lake.current("image_embeddings", "awe")
        assert version is not None
        rejected = lake.read("rejected_media", ["image_embeddings-awe"]).select("kind", "file", "reason")
        return version.rows, version.metadata[CHANGED_MEDIA], rejected.rows()

    with dg.DagsterInstance.ephemeral() as instance:
        definitions.resolve_job_def("inventory").execute_in_process(instance=instance)
    write_image(replaced, 77)
    assert embed_again() == (1, 1, [("image", "images/awe/e.png", CHANGED)])
    replaced.write_bytes(kept)
    assert embed_again() == (2, 0, [])
