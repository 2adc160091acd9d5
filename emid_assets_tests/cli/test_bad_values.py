"""A setting with a value that it cannot have: one line that names it, and one exit code for all."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from emid_assets.cli.main import main


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--alpha", "7"], "alpha = '7': must be 0.0 to 1.0"),
        (["--images-per-clip", "abc"], "images_per_clip = 'abc': must be a whole number, 1 to 1000"),
        (["--encoder", "other"], "'other' is not one of 'bundled', 'imagebind'"),
        (["--media", "nowhere"], "media = 'nowhere': there is no such folder"),
        (["--lake", "back\\slash"], "has a backslash, which DuckDB takes for a /; rename it"),
        (["--lake", "what?"], "has a question mark, at which DuckDB cuts a path"),
        (["--lake", "."], "this is in the media folder"),
        (["--lake", "music/lake"], "choose a folder outside its music/ and images/"),
        (["--lake", "/proc/lake"], "cannot be created or written to (No such file or directory): choose a"),
    ],
)
def test_a_bad_value_is_named_and_ends_with_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], line: str
) -> None:
    (tmp_path / "music").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["build", "--media", ".", "--lake", "lake", *options])
    assert done.exit_code == 2
    assert line in done.output
