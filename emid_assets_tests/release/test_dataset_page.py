"""The PyTorch data set of docs/dataset.md, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from emid_assets_tests.conftest import REPOSITORY


def test_the_five_lines_of_the_page_read_a_release(release: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "dataset.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    definition = re.search(r"^class EMID.*?(?=\n\n)", code, flags=re.DOTALL | re.MULTILINE)
    assert definition is not None
    assert len(definition[0].splitlines()) == 5
    (tmp_path / ".emid" / "demo").mkdir(parents=True)
    (tmp_path / ".emid" / "demo" / "release").symlink_to(release)
    code += (
        "\nloader = torch.utils.data.DataLoader(EMID('.emid/demo/release'), batch_size=None, num_workers=0)\n"
        "for audio, image, row in loader:\n"
        "    print(tuple(audio.shape), audio.dtype, image.size, row['genre'], row['Image3_tag'])\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(printed) == 6
    assert printed[0].startswith("(1, 48510) torch.float32 (16, 16) K ")
    assert printed[5].startswith("(1, 48000) torch.float32 (16, 16) L ")
