"""What every HTML page is made with: templates that escape values, and scripts whose digest the page names.

A page is one file that loads nothing from the network. Its Content-Security-Policy names the digest of its
script, so that nothing else runs in it, whatever titles and captions hold.
"""

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def templates(folder: Path) -> Environment:
    """The templates of a folder: values are escaped, and a missing one is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def digest(text: str) -> str:
    """SHA-256 of a script or style, as a Content-Security-Policy wants it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def data_for_script(data: object) -> Markup:
    """`data` as JSON that can stand in a `<script>` element: nothing in it can end the element."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
