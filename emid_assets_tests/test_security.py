"""What a hostile media folder, table, checkpoint or umask must not be able to do."""

import ast
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import soundfile
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image

import emid_assets
from emid_assets.cli import main as cli
from emid_assets.cli import ui
from emid_assets.definitions import build_definitions
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.media.folder import path_within
from emid_assets.media.limits import MediaError
from emid_assets.report.gallery import player, thumbnail
from emid_assets.store.lake import Lake

PACKAGE = Path(emid_assets.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
}
MARKUP = {"html_inline", "html_block", "link_open", "heading_open", "strong_open", "code_inline"}
HOSTILE = "<img src=x onerror=alert(1)>`|[x](javascript:alert(2))**b**.png"


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with the name that it is written with, such as `np.load`."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_pickle_is_read_from_a_file() -> None:
    """`serve` reads what its own parent process sends; SoundNet's bytes are checked against their sha256."""
    for name, tree in MODULES.items():
        for written, call in calls(tree):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if written == "torch.load":
                assert given.get("weights_only") == "True", name
            if written.endswith(("np.load", "numpy.load")) and "allow_pickle" in given:
                assert name == "encoders/bundled/encoder.py"
                assert "read_weights" in ast.unparse(tree)
            if written in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                assert (name, ast.unparse(call)) == (
                    "encoders/preparation.py", "pickle.loads(connection.recv_bytes())",
                )  # fmt: skip
            assert written not in (
                "eval",
                "exec",
                "marshal.loads",
                "shelve.open",
                "yaml.load",
                "os.system",
            ), name
            assert given.get("shell") != "True", name
    reading = {
        name for name, tree in MODULES.items() for written, _ in calls(tree) if written == "torch.load"
    }
    assert reading == {"encoders/bundled/encoder.py", "encoders/imagebind/model.py"}


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_that_is_a_trap_is_refused_and_does_not_go_off(tmp_path: Path) -> None:
    import torch

    from emid_assets.encoders.imagebind.model import map_checkpoint

    for name, write in {
        "plain.pth": lambda path: path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung"))),
        "zip.pth": lambda path: torch.save({"weight": Trap(tmp_path / "sprung")}, path),
    }.items():
        write(tmp_path / name)
        with pytest.raises(EncoderUnavailableError):
            map_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_sql_is_never_put_together_from_anything_but_checked_names() -> None:
    """Paths and texts are quoted, columns are identifiers, values are parameters; all else is told here."""
    speaks = {
        name
        for name, tree in MODULES.items()
        for written, _ in calls(tree)
        if written.endswith((".execute", ".executemany", "duckdb.sql", "connection.sql"))
    }
    assert {"store/lake.py", "study/answers.py"} <= speaks
    known = {
        "quoted(path)", "quoted(unfinished)", "quoted(message)", "create", "columns",
        "is_never", "_FORMAT", "block_bytes", "table", "select", "paths",
        "_all_of(members)", "_identifier(row[0])", "row[1]", "_streaming_memory_mib(version, batch_rows)",
        "', '.join(map(_identifier, columns))", "self._declared_columns(connection, table)",
        "', '.join(_IDENTITY)", "', '.join('?' * len(names))",
    }  # fmt: skip
    for name in speaks:
        for node in ast.walk(MODULES[name]):
            text = ast.unparse(node) if isinstance(node, ast.JoinedStr) else ""
            if any(
                word in text for word in ("SELECT ", "ATTACH ", "CREATE ", "DESCRIBE ", "SET ", "INSERT ")
            ):
                put_in = {
                    ast.unparse(part.value) for part in ast.walk(node) if isinstance(part, ast.FormattedValue)
                }
                assert put_in <= known, (name, text)


def test_a_link_that_takes_a_files_place_after_the_inventory_is_not_followed(tmp_path: Path) -> None:
    media, outside = tmp_path / "media", tmp_path / "secret.png"
    (media / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(outside)
    (media / "images" / "a.png").symlink_to(outside)
    soundfile.write(tmp_path / "secret.wav", np.ones(8000), 8000)
    (media / "a.wav").symlink_to(tmp_path / "secret.wav")
    for file in ("images/a.png", "../secret.png", str(outside)):
        with pytest.raises(MediaError, match="leads out"):
            path_within(media, file)
        assert thumbnail(media, file).uri == ""
    assert player(media, "a.wav", 0.0, 1.0).uri == ""
    (media / "images" / "b.png").symlink_to(media / "images" / "c.png")
    outside.rename(media / "images" / "c.png")
    assert thumbnail(media, "images/b.png").uri.startswith("data:image/jpeg")


def test_a_link_in_a_files_place_stops_the_embedding_and_is_named(tmp_path: Path) -> None:
    media = tmp_path / "media"
    (media / "images" / "awe").mkdir(parents=True)
    Image.effect_mandelbrot((64, 64), (-2, -1.2, 1, 1.2), 30).save(media / "images" / "awe" / "a.png")
    definitions = build_definitions(media=str(media), lake=str(tmp_path / "lake"), workers=0)
    with dg.DagsterInstance.ephemeral() as instance:
        assert definitions.resolve_job_def("inventory").execute_in_process(instance=instance).success
        outside = (media / "images" / "awe" / "a.png").rename(tmp_path / "a.png")
        (media / "images" / "awe" / "a.png").symlink_to(outside)
        job = definitions.resolve_job_def("embed_images")
        result = job.execute_in_process(instance=instance, partition_key="awe", raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "images/awe/a.png is a link that leads out" in str(failure.step_failure_data.error)


def test_names_and_captions_never_become_markup_in_the_web_ui(tmp_path: Path) -> None:
    media = tmp_path / "media"
    (media / "images" / "awe").mkdir(parents=True)
    picture = media / "images" / "awe" / HOSTILE.replace("/", "")
    Image.effect_mandelbrot((64, 64), (-2, -1.2, 1, 1.2), 30).save(picture)
    (media / "images" / "awe" / "<script>alert(3)<\u2215script>.txt").write_text("no image")
    table = pl.DataFrame({"file": [f"awe/{picture.name}"], "tag": ["awe"], "text": [f'"><b>{HOSTILE}\n# h']})
    table.write_csv(media / "images.csv")
    lake = tmp_path / "la`ke <b>'q' $(touch x)\n```\n<img src=y>"
    definitions = build_definitions(media=str(media), lake=str(lake), workers=0)
    shown = []
    with dg.DagsterInstance.ephemeral() as instance:
        inventory = definitions.resolve_job_def("inventory").execute_in_process(instance=instance)
        images = definitions.resolve_job_def("embed_images").get_subset(
            asset_selection={dg.AssetKey("images")}
        )
        result = images.execute_in_process(instance=instance, partition_key="awe")
    for event in [*inventory.all_events, *result.all_events]:
        if event.is_step_materialization:
            metadata = event.step_materialization_data.materialization.metadata
            shown += [
                value.value for value in metadata.values() if isinstance(value, dg.MarkdownMetadataValue)
            ]
    assert len(shown) >= 6
    assert any("onerror" in text for text in shown)
    for text in shown:
        for token in MarkdownIt("commonmark").enable("table").parse(text):
            for inner in token.children or [token]:
                if inner.type == "image":
                    assert str(inner.attrs["src"]).startswith("data:image/"), text
                else:
                    assert inner.type not in MARKUP, (inner.type, text)


@pytest.fixture
def open_umask() -> Any:
    old = os.umask(0)
    yield
    os.umask(old)


def writable_by_others(folder: Path) -> list[Path]:
    return [
        path
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o022
    ]


def test_nobody_else_may_write_to_the_lake_whatever_the_umask(tmp_path: Path, open_umask: None) -> None:
    lake = Lake(tmp_path / "below" / "lake", declared={})
    for value in (1, 2):
        lake.write("numbers", "all", pl.DataFrame({"n": [value]}))
        lake.rebuild_catalogue()
    lake.remove("numbers", "all")
    assert len(list(lake.root.rglob("*"))) > 6
    assert writable_by_others(tmp_path / "below") == []


def test_every_command_keeps_others_from_writing_to_what_it_makes(open_umask: None) -> None:
    assert CliRunner().invoke(cli.main, ["sweep", "--help"]).exit_code == 0
    assert os.umask(0) == 0o022
    os.umask(0o077)
    assert CliRunner().invoke(cli.main, ["sweep", "--help"]).exit_code == 0
    assert os.umask(0) == 0o077


@pytest.mark.parametrize(("options", "host"), [([], "127.0.0.1"), (["--host", "0.0.0.0"], "0.0.0.0")])
def test_the_web_ui_listens_on_the_loopback_unless_told_otherwise_and_then_warns(
    options: list[str], host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(ui.os, "execve", lambda path, command, environment: started.append(command))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = CliRunner().invoke(cli.main, ["ui", "--lake", str(tmp_path / "lake"), "--port", "0", *options])
    assert "0 is not in the range" in result.output
    with ui.socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = CliRunner().invoke(
        cli.main, ["ui", "--lake", str(tmp_path / "lake"), "--port", str(port), *options]
    )
    assert result.exit_code == 0, result.output
    ((*_, flag, address, _, _),) = started
    assert (flag, address) == ("-h", host)
    assert ("without a password" in result.output) == (host == "0.0.0.0")
