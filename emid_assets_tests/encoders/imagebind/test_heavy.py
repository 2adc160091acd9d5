"""ImageBind at its full size, with random numbers: gigabytes and minutes, so only with `-m heavy`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from emid_assets.encoders.imagebind.model import load, official_code

pytestmark = pytest.mark.heavy

INPUTS_SEED = 1
LOAD_AND_WATCH = """
import sys, threading, time
from pathlib import Path
from emid_assets.encoders.imagebind import model as imagebind_model

def anonymous_memory():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

imagebind_model.official_code()
start, peak, done = anonymous_memory(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_memory())

watcher = threading.Thread(target=watch)
watcher.start()
model = imagebind_model.load(Path(sys.argv[1]))
done.set()
watcher.join()
print(max(peak, anonymous_memory()) - start)
"""


class LinspaceOnCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        changed = {"device": "cpu"} if function is torch.linspace else {}
        return function(*args, **{**(kwargs or {}), **changed})


def official_model_without_memory() -> nn.Module:
    with torch.device("meta"), LinspaceOnCpu():
        model: nn.Module = official_code().imagebind_huge()
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the official one: every modality, every name and shape, random numbers."""
    # Meta first, then random: the official initialisation of 1.2 billion numbers takes minutes.
    model = official_model_without_memory()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("log_logit_scale"):
                tensor.fill_(3.0)
            else:
                tensor.uniform_(-0.03, 0.03, generator=generator)
    path = tmp_path_factory.mktemp("imagebind") / "imagebind_huge.pth"
    torch.save(model.state_dict(), path)
    return path


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(INPUTS_SEED)
    return {
        "vision": torch.randn(1, 3, 224, 224, generator=generator),
        "audio": torch.randn(1, 3, 1, 128, 204, generator=generator),
    }


def test_loading_takes_less_than_half_a_gigabyte_beyond_the_mapped_file(checkpoint: Path) -> None:
    assert checkpoint.stat().st_size > 4.7e9
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_WATCH, checkpoint],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 0.5e9


def test_vision_and_audio_equal_the_full_official_model_bit_for_bit(checkpoint: Path) -> None:
    full = official_model_without_memory()
    full.load_state_dict(torch.load(checkpoint, mmap=True, weights_only=True), strict=True, assign=True)
    ours = load(checkpoint)
    with torch.inference_mode():
        expected, got = full.eval()(inputs()), ours(inputs())
    assert torch.equal(got["vision"], expected["vision"])
    assert torch.equal(got["audio"], expected["audio"])
    assert torch.isfinite(got["audio"]).all()
