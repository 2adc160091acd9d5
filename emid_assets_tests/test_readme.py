"""The README: every command and query in it works, and its table of settings is the settings'."""

import re
import subprocess
from pathlib import Path

import duckdb
import pytest

from emid_assets.settings import Settings, allowed_range
from emid_assets_tests.conftest import REPOSITORY, Checkout, clean_environment

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RUN_BY_OTHER_TESTS = {
    "make demo": "the fixture `demo`",
    "make test": "whoever runs this",
    "make ui": "test_web_ui",
    "make lint": "continuous integration",
    ".venv/bin/emid study": "test_server, and defs.test_study on the demo",
}
QUESTIONS = ("emid query", "emid sweep", "emid tune", "emid status", "study power")
"""Commands that are tried on the demo."""


def blocks(language: str) -> list[str]:
    return [match.strip() for match in re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)]


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
QUERIES = blocks("sql")


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_every_query_works_on_the_demo(demo: Checkout, query: str) -> None:
    with duckdb.connect(str(demo.demo_lake / "lake.duckdb"), read_only=True) as connection:
        rows = connection.execute(query).fetchall()
    assert rows or "rejected_media" in query


def test_there_are_five_queries() -> None:
    assert len(QUERIES) == 5


@pytest.mark.parametrize("verb", ["demo", "test", "ui", "lint"])
def test_every_verb_of_the_readme_is_a_verb_of_the_makefile(verb: str) -> None:
    assert f"make {verb}" in COMMANDS
    shown = subprocess.run(
        ["make", "-n", verb],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    assert ".venv/bin/" in shown.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if "emid build" in command])
def test_every_build_command_works(demo: Checkout, sample_media: Path, command: str) -> None:
    (demo.folder / "my-media").mkdir(exist_ok=True)
    for kind, label, count in (("music", "sad", 2), ("images", "awe", 4)):
        folder = demo.folder / "my-media" / kind / label
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted((sample_media / kind).iterdir())[:count]:
            (folder / file.name).write_bytes(file.read_bytes())
    printed = demo.run(command)
    lakes = list((demo.folder / ".emid").glob("my-media-*"))
    assert len(lakes) == 1
    assert str(lakes[0] / "report.html") in printed.replace("\n", "")
    assert (lakes[0] / "report.html").exists()


@pytest.mark.parametrize("command", [line for line in COMMANDS if any(word in line for word in QUESTIONS)])
def test_every_question_works_on_the_demo(demo: Checkout, command: str) -> None:
    assert demo.run(command).strip()


def test_no_command_is_left_untested() -> None:
    for command in COMMANDS:
        verb = " ".join(command.split()[:2])
        on_the_demo = any(word in command for word in ("emid build", *QUESTIONS))
        assert verb in RUN_BY_OTHER_TESTS or on_the_demo, command


def test_the_table_of_settings_is_that_of_the_settings() -> None:
    for name, field in Settings.model_fields.items():
        default = (
            "the sample" if name == "media" else f"`{field.default}`" if field.default != "" else "empty"
        )
        assert f"| `{name}` | {default} | {allowed_range(name)} | {field.description} |" in README


def test_every_picture_of_the_readme_exists() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert len(pictures) >= 2
    for picture in pictures:
        assert (REPOSITORY / picture).is_file(), picture
