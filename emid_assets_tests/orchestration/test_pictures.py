"""Pictures of Markdown metadata as files that the web UI's own server gives out."""

import base64
import hashlib
import re
from pathlib import Path

import dagster as dg

from emid_assets.orchestration.pictures import with_kept_pictures

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def test_a_picture_becomes_a_file_and_a_path_of_the_web_server_once(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        markdown = f"| a | ![b]({URI}) |\n| c | ![d]({URI}) |"
        kept = with_kept_pictures(markdown, instance)
        digest = hashlib.sha256(PNG).hexdigest()[:32]
        assert re.findall(r"\((.*?)\)", kept) == [f"/logs/pictures/{digest}/png"] * 2
        manager = instance.compute_log_manager
        path = Path(manager.get_captured_local_path(["pictures", digest], "png"))  # type: ignore[attr-defined]
        assert path.read_bytes() == PNG
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert with_kept_pictures(kept, instance) == kept


def test_an_instance_without_a_folder_for_logs_keeps_the_markdown_as_it_is() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert with_kept_pictures(f"![b]({URI})", instance) == f"![b]({URI})"
