"""The tests that depend on the processor, under imitated ones: what fails there fails on laptops, not here.

Two variables take instruction sets away from torch and from the oneDNN in it; the BLAS of numpy and of
torch keep to the real processor.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emid_assets_tests.conftest import REPOSITORY

TESTS = Path(__file__).parent
FEWEST = 80
"""Tests that the marker `processor` selects, at least."""

PROGRAM = """
import sys, pytest, torch
print(torch.backends.cpu.get_cpu_capability(), torch.ops.mkldnn._is_mkldnn_bf16_supported())
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor to take instructions from")
@pytest.mark.parametrize(
    ("torch_isa", "onednn_isa", "is_imitated"),
    [
        ("avx2", "AVX2", r"AVX2 False"),
        ("avx2", "SSE41", r"AVX2 False"),
        ("default", "DEFAULT", r"DEFAULT (True|False)"),
    ],
)
def test_products_are_right_or_refused_on_this_processor(
    torch_isa: str, onednn_isa: str, is_imitated: str
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", PROGRAM, "-p", "no:cacheprovider", "-m", "processor and not gpu",
            *sorted(path for path in TESTS.rglob("test_*.py") if "mark.processor" in path.read_text()),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env=os.environ | {"ATEN_CPU_CAPABILITY": torch_isa, "ONEDNN_MAX_CPU_ISA": onednn_isa},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    assert re.fullmatch(is_imitated, first)
    passed = re.fullmatch(r"(\d+) passed, \d+ deselected in .*", last)  # none skipped
    assert passed, last
    assert int(passed[1]) >= FEWEST
