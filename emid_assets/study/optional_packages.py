"""The packages of the extra `experiment`, which only the statistics need."""

from importlib.util import find_spec

PACKAGES = ("scipy", "statsmodels", "krippendorff")


def missing_packages() -> str:
    """What is not installed and how to install it; empty if nothing is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    return f"needs {', '.join(missing)}: pip install 'emid-assets[experiment]'" if missing else ""
