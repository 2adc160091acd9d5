"""Who imports whom: the contracts of pyproject.toml, which `make lint` checks too."""

import ast
from pathlib import Path

from importlinter.cli import lint_imports

import emid_assets
from emid_assets_tests.conftest import REPOSITORY

INTERNALS = "runs/dagster_internals.py"


def test_imports_run_downwards_only_and_in_no_circle() -> None:
    assert lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True) == 0


def internals_of_dagster(file: Path) -> set[str]:
    """What a file imports, anywhere in it, from Dagster that is not one of its public names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for module in modules:
            package, *rest = module.split(".")
            private = package.startswith("dagster") and any(part.startswith("_") for part in rest)
            if private or package == "dagster_shared":
                found.add(module)
    return found


def test_only_one_module_knows_what_dagster_keeps_to_itself() -> None:
    package = Path(emid_assets.__file__).parent
    found = {
        file.relative_to(package).as_posix() for file in package.rglob("*.py") if internals_of_dagster(file)
    }
    assert found == {INTERNALS}
