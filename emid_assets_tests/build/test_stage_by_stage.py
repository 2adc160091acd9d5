"""What stops a build before anything is computed."""

from pathlib import Path

import pytest

from emid_assets.build.stage_by_stage import BuildFailedError, run_build
from emid_assets.matching import product


def test_a_product_that_this_processor_cannot_compute_stops_the_build_before_anything_is_encoded(
    sample_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(product, "refusal", lambda name, *sizes: "could not create a primitive")
    lake = tmp_path / "lake"
    with pytest.raises(
        BuildFailedError,
        match=r"^matching_product 'onednn' cannot .* processor at \d+ dimensions: could not .*; set .* auto",
    ):
        run_build({"media": str(sample_media), "lake": str(lake), "matching_product": "onednn"})
    assert not lake.exists()
