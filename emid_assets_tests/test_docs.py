"""README.md and docs/: every command, query, program and table in them works, and what they name exists.

What a fenced block's language means: bash, sql and python are run on a built demo, csv is a table of a
media folder, text is only shown (its `emid` commands must parse), mermaid and r are not run.
"""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import duckdb
import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.cli.main import main
from emid_assets.media.inventory import take_inventory
from emid_assets.store.schemas import TABLES
from emid_assets_tests.conftest import REPOSITORY, Checkout, clean_environment

README = REPOSITORY / "README.md"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [README, *REPOSITORY.glob("docs/*.md")]}
PACKAGE = REPOSITORY / "emid_assets"

LANGUAGES = {"bash", "sql", "python", "csv", "text", "mermaid", "r"}
RUN_BY_OTHERS = {
    "make demo": "the fixture `demo`",
    "make test": "whoever runs this",
    "make ui": "emid_assets_tests/test_web_ui.py",
    "emid study serve": "emid_assets_tests/study/test_server.py",
}
"""Commands that are not run here, and what runs them."""

QUESTIONS = ("emid query", "emid sweep", "emid tune", "emid status", "emid study power", "--dry-run")
"""Commands that are run on the demo as they stand."""

EMPTY_ON_THE_DEMO = ("rejected_media", "study_results")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


BLOCKS = [
    Block(name, language, text)
    for name, page in PAGES.items()
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
]


def blocks(language: str) -> list[Block]:
    """The blocks of a language, over all pages."""
    found = [block for block in BLOCKS if block.language == language]
    assert found, language
    return found


def lines(language: str) -> list[str]:
    """The lines of such blocks, each once, without comments."""
    of_all = (line for block in blocks(language) for line in block.text.splitlines())
    return list(dict.fromkeys(filter(None, (re.sub(r"\s+#.*", "", line) for line in of_all))))


def names(block: Block) -> str:
    """A block in the name of a test."""
    return f"{block.page}-{' '.join(block.text.split())[:40]}"


COMMANDS = lines("bash")


def test_every_block_says_its_language() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES


@pytest.mark.parametrize("query", blocks("sql"), ids=names)
def test_every_query_works_on_the_demo(demo: Checkout, query: Block) -> None:
    with duckdb.connect(str(demo.demo_lake / "lake.duckdb"), read_only=True) as connection:
        rows = connection.execute(query.text).fetchall()
    assert rows or any(table in query.text for table in EMPTY_ON_THE_DEMO)


@pytest.mark.parametrize("program", blocks("python"), ids=names)
def test_every_program_runs_on_the_demo(demo: Checkout, program: Block) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", program.text], cwd=demo.folder, env=demo.environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


BUILDS = [command for command in COMMANDS if "emid build" in command and "--dry-run" not in command]


@pytest.mark.parametrize("command", BUILDS)
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
        run_here = command in BUILDS or any(word in command for word in QUESTIONS)
        assert run_here or any(word in command for word in RUN_BY_OTHERS), command
    for other in RUN_BY_OTHERS.values():
        assert not other.endswith(".py") or (REPOSITORY / other).is_file(), other


@pytest.mark.parametrize("table", blocks("csv"), ids=names)
def test_every_table_is_one_of_a_media_folder(table: Block, tmp_path: Path) -> None:
    kind = "music" if table.text.startswith("file,genre") else "images"
    (tmp_path / f"{kind}.csv").write_text(table.text, encoding="utf-8")
    listed = pl.read_csv(table.text.encode(), infer_schema=False)
    drawn = np.random.default_rng(0)
    for name in listed["file"].unique():
        file = tmp_path / kind / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "music":
            soundfile.write(file, drawn.normal(0, 0.1, 8 * 8000), 8000)
        else:
            Image.fromarray(drawn.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    inventory = take_inventory(tmp_path)
    assert inventory["reason"].drop_nulls().to_list() == []
    assert inventory.height == listed.height
    assert inventory["partition"].null_count() == 0


SHOWN_COMMANDS = [
    re.split(r"\s{3,}", line.removeprefix(".venv/bin/"))[0]
    for line in lines("text") + COMMANDS
    if line.removeprefix(".venv/bin/").startswith("emid ")
]


@pytest.mark.parametrize("shown", dict.fromkeys(SHOWN_COMMANDS))
def test_every_emid_command_that_is_shown_has_these_options(shown: str) -> None:
    words = shlex.split(re.split(r"[>|]", shown)[0])[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    command.make_parser(click.Context(command)).parse_args(words)  # raises for an option that is not there


VERBS = sorted({verb for page in PAGES.values() for verb in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.M)})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_one_of_the_makefile(verb: str) -> None:
    subprocess.run(
        ["make", "-n", verb], cwd=REPOSITORY, capture_output=True, check=True, env=clean_environment()
    )


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = REPOSITORY if page == "README.md" else REPOSITORY / "docs"
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((.*?)\)", prose):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (folder / file).is_file(), target
        assert not anchor or anchor in anchors(PAGES[Path(file).name if file else page]), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_project_that_is_named_exists(page: str) -> None:
    for name in re.findall(r"`([\w./-]+\.py)`", PAGES[page]):
        beside = [] if "/" in name else [*PACKAGE.rglob(name), *REPOSITORY.glob(f"*/{name}")]
        assert beside or (REPOSITORY / name).is_file() or (PACKAGE / name).is_file(), name


def test_the_readme_is_short_has_two_pictures_and_leads_to_every_page() -> None:
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 160
    assert len(re.findall(r"^!\[", readme, flags=re.MULTILINE)) == 2
    assert set(re.findall(r"\]\(docs/(\w+\.md)\)", readme)) == set(PAGES) - {"README.md"}


@pytest.mark.parametrize("page", ["README.md", "architecture.md"])
def test_the_map_of_the_code_names_every_room(page: str) -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"`(\w+)/`", PAGES[page]))


def test_the_page_of_the_web_ui_names_every_table() -> None:
    assert set(TABLES) <= set(re.findall(r"`(\w+)`", PAGES["web_ui.md"]))


SECURITY = PAGES["security.md"]


def test_every_line_of_the_security_page_names_tests_that_exist() -> None:
    lines = [line for line in SECURITY.splitlines() if line.startswith("| ")]
    held = [line for line in lines if not line.startswith("| who |")]
    assert len(held) > 20
    for line in held:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", line.rpartition("| ")[2])
        assert named, line
        for file, test in named:
            module = ast.parse((REPOSITORY / "emid_assets_tests" / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}, test
