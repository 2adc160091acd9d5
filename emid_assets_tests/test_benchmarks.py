"""Every benchmark runs at a small size, and writes rows of the form that tools read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emid_assets_tests.conftest import REPOSITORY, clean_environment

SMALL = {
    "matching": (
        ["--sizes", "64x400", "--rounds", "1", "--skip-extras"],
        {"size", "ratio", "extra_mb", "ids_equal"},
    ),
    "embedding": (["--sizes", "4", "--batch", "2", "--rounds", "1", "--parts", "stage"], set()),
    "adapter": (
        ["--shrink", "30", "--epochs", "1", "--seeds", "1", "--networks", "bmf", "--splits", "warm,cold"],
        {"split", "ndcg_at_10", "hit_at_10", "seconds_per_epoch"},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_writes_rows_with_names_of_ours(name: str, tmp_path: Path) -> None:
    arguments, keys = SMALL[name]
    target = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--ours", *arguments, "--json", str(target)],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    rows = json.loads(target.read_text())["rows"]
    ours = [row for row in rows if row["name"].startswith("ours")]
    assert ours
    for row in ours:
        assert keys <= row.keys()
