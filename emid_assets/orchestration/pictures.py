"""Pictures in Markdown metadata, stored where the web UI can show them.

Dagster's web UI (1.13) drops `data:` URIs from Markdown, and requests anything else from its own server. That
server serves files only from the folder of the runs' captured logs, so pictures are stored there.
"""

import base64
import hashlib
import re
from pathlib import Path

from dagster import DagsterInstance

from emid_assets.store.files import make_folder, write_in_place

FOLDER = "pictures"
_DATA_URI = re.compile(r"\(data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)\)")


def with_kept_pictures(markdown: str, instance: DagsterInstance) -> str:
    """The same Markdown with each picture replaced by a file that the instance's web UI serves.

    Unchanged if the instance does not store its captured logs in a local folder.
    """
    from emid_assets.runs.dagster_internals import LocalComputeLogManager

    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return markdown

    def kept(found: re.Match[str]) -> str:
        kind, content = found.group(1), base64.b64decode(found.group(2))
        key = [FOLDER, hashlib.sha256(content).hexdigest()[:32]]
        path = Path(str(manager.get_captured_local_path(key, kind)))
        if path.exists():
            path.touch()  # it is in use again: see `old_runs`
        else:
            make_folder(path.parent)
            write_in_place(path, content)
        return f"(/logs/{'/'.join(key)}/{kind})"

    return _DATA_URI.sub(kept, markdown)
