"""A pipeline that is built once, and copies of it to break."""

from pathlib import Path

import pytest

from emid_assets_tests.failures.tiny import Pipeline, make_media


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Built from nothing: read it, copy it, never break it."""
    folder = tmp_path_factory.mktemp("tiny")
    pipeline = Pipeline(make_media(folder / "media"), folder / "lake")
    assert pipeline.run_places() == ""
    return pipeline


@pytest.fixture
def pipeline(built: Pipeline, tmp_path: Path) -> Pipeline:
    """A copy to break."""
    return built.copy(tmp_path)
