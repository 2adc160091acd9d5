"""Who imports whom: the contracts of pyproject.toml, which `make lint` checks too."""

from importlinter.cli import lint_imports

from emid_assets_tests.conftest import REPOSITORY


def test_imports_run_downwards_only_and_in_no_circle() -> None:
    assert lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True) == 0
