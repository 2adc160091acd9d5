"""Fixtures that more than one folder of tests needs."""

from pathlib import Path

import pytest

import emid_assets

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def sample_media() -> Path:
    """The media folder that ships with the package: read it, never write to it."""
    return Path(emid_assets.__file__).resolve().parent / "sample"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data that stands beside a checkout and is no part of the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder}, which is not part of the project")
    return folder
