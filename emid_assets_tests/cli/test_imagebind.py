from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from emid_assets.cli.imagebind import imagebind as command
from emid_assets.encoders.imagebind import checkpoint as imagebind_checkpoint
from emid_assets.encoders.imagebind import encoder as imagebind
from emid_assets.encoders.imagebind.encoder import ImageBindEncoder
from emid_assets_tests.encoders.imagebind.small_imagebind import small_model, write_small_checkpoint


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_fetch_shows_the_licence_and_downloads_nothing_until_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagebind_checkpoint, "fetch", lambda *a, **k: pytest.fail("downloaded"))
    code, output = run("fetch", "--to", tmp_path / "a.pth")
    assert code == 1
    assert "CC-BY-NC-SA 4.0" in output
    assert "--accept-licence" in output


def test_fetch_says_where_the_checkpoint_is_or_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(target: Path, *, url: str, on_bytes: imagebind_checkpoint.OnBytes) -> Path:
        on_bytes(1000, imagebind_checkpoint.SIZE)
        if url == "bad":
            raise imagebind_checkpoint.FetchError("the line is cut")
        return target

    monkeypatch.setattr(imagebind_checkpoint, "fetch", fetch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code, output = run("fetch", "--accept-licence")
    assert code == 0
    assert f"{tmp_path}/hub/checkpoints/imagebind_huge.pth: complete" in output
    code, output = run("fetch", "--accept-licence", "--url", "bad")
    assert code == 1
    assert "Error: the line is cut" in output


def test_check_says_everything_that_is_wrong_with_a_file(tmp_path: Path) -> None:
    code, output = run("check", write_small_checkpoint(tmp_path / "small.pth"))
    assert code == 1
    assert "the official checkpoint 4803584173" in output
    assert "modality_heads.audio.2.weight has shape (64, 64), expected (1024, 768)" in output
    (tmp_path / "text.pth").write_text("not found")
    code, output = run("check", tmp_path / "text.pth")
    assert code == 1
    assert "it has 9 bytes" in output
    assert "cannot be read as a checkpoint" in output
    code, output = run("check", tmp_path / "gone.pth")
    assert code == 1
    assert "no such file" in output


def test_check_accepts_the_official_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"whole")
    monkeypatch.setattr(imagebind_checkpoint, "file_problems", lambda path: [])
    assert run("check", path) == (0, f"{path}: ImageBind's official checkpoint, complete\n")


@pytest.mark.parametrize(("off", "code"), [(0.0005, 0), (0.1, 1)])
def test_verify_compares_with_the_published_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, code: int
) -> None:
    encoder = ImageBindEncoder(small_model(), "sum", torch.device("cpu"), "float32", "torch")
    monkeypatch.setattr(imagebind, "load_imagebind", lambda *a, **k: encoder)
    monkeypatch.setattr(imagebind, "verify", lambda *a: np.array(imagebind.VERIFY_MATRIX) + off)
    got, output = run("verify", tmp_path)
    assert got == code
    assert "(0.8070)" in output
    assert ("as published" if code == 0 else "off by up to 0.1000") in output


def test_verify_without_the_assets_says_which_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ImageBindEncoder(small_model(), "sum", torch.device("cpu"), "float32", "torch")
    monkeypatch.setattr(imagebind, "load_imagebind", lambda *a, **k: encoder)
    code, output = run("verify", tmp_path)
    assert code == 1
    assert "lacks dog_image.jpg" in output
