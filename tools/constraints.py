"""Writes `requirements/constraints.txt` from the versions that pip resolved: `make constraints`.

    python tools/constraints.py REPORT CONSTRAINTS

Belongs here: which of the resolved packages are written, and in which form. REPORT is the output of
`pip install --dry-run --ignore-installed --report`.
"""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = """\
# The versions that continuous integration has tested, written by `make constraints`. Every install of
# the Makefile is bound to them. What requirements/pretrained.txt installs is pinned there.
# A package that only other platforms or Python versions need is not bound.
"""


def constraints(report: dict[str, Any]) -> list[str]:
    """A line for every package except the project itself: normalized name and public version.

    A local version, as in `torch==2.13.0+cpu`, is dropped: `torch==2.13.0` matches every build of it.
    """
    lines = []
    for package in report["install"]:
        if "dir_info" not in package["download_info"]:
            name = str(package["metadata"]["name"]).lower().replace("_", "-").replace(".", "-")
            version = str(package["metadata"]["version"]).partition("+")[0]
            lines.append(f"{name}=={version}")
    return sorted(lines)


if __name__ == "__main__":
    report, written = map(Path, sys.argv[1:])
    written.write_text(HEADER + "\n".join(constraints(json.loads(report.read_text()))) + "\n")
