import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from emid_assets.encoders.imagebind import model as imagebind_model
from emid_assets.encoders.imagebind.model import build, differences, load, official_code
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets_tests.encoders.imagebind.small_imagebind import SMALL, small_model, write_small_checkpoint

REPOSITORY = Path(__file__).parents[3]


def run(program: str, *folders: Path) -> str:
    """What a program prints in a fresh interpreter, with `folders` before all others on its path."""
    path = os.pathsep.join(map(str, [*folders, REPOSITORY]))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_and_shapes_are_the_569_of_the_official_checkpoint(shared_data: Path) -> None:
    reference = json.loads((shared_data / "imagebind" / "state_dict_vision_audio.json").read_text())
    model = build()
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == reference
    assert len(reference) == 569


def test_building_takes_no_memory_for_weights() -> None:
    model = build()
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_the_small_model_has_half_a_million_parameters() -> None:
    assert 450_000 < sum(parameter.numel() for parameter in small_model().parameters()) < 550_000


def test_the_import_runs_no_package_that_is_not_needed_and_leaves_no_stand_in() -> None:
    printed = run(
        """
        import sys
        from emid_assets.encoders.imagebind.model import official_code
        assert official_code() is official_code()
        roots = {name.split(".")[0] for name in sys.modules}
        unwanted = {"imagebind", "timm", "torchvision", "torchaudio", "pytorchvideo", "ftfy", "iopath"}
        print(sorted(roots & unwanted))
        """
    )
    assert printed == "[]"


@pytest.mark.slow
def test_timm_is_used_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").touch()
    (tmp_path / "timm" / "layers.py").write_text(
        "from torch import nn\n"
        "class DropPath(nn.Identity):\n    def __init__(self, p): super().__init__()\n"
        "trunc_normal_ = nn.init.trunc_normal_\n"
    )
    program = """
        from emid_assets.encoders.imagebind.model import build
        print({type(block.drop_path).__module__ for block in build().modality_trunks["audio"].blocks[1:]})
        """
    assert run(program, tmp_path) == "{'timm.layers'}"
    if importlib.util.find_spec("timm") is None:
        assert run(program) == "{'emid_assets.encoders.imagebind.model'}"


def test_the_empty_package_of_the_same_name_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "imagebind").mkdir()
    (tmp_path / "imagebind" / "__init__.py").touch()
    printed = run(
        """
        from emid_assets.encoders.imagebind.model import official_code
        try:
            official_code()
        except Exception as error:
            print(type(error).__name__, error)
        """,
        tmp_path,
    )
    assert printed.startswith("EncoderUnavailableError the imagebind encoder needs")
    assert "pip install --no-deps -r requirements/pretrained.txt" in printed


def test_a_checkpoint_is_loaded_value_for_value_and_other_modalities_are_left_out(tmp_path: Path) -> None:
    model = load(write_small_checkpoint(tmp_path / "small.pth"), SMALL)
    expected = small_model().state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_every_difference_of_a_wrong_checkpoint_is_listed(tmp_path: Path) -> None:
    tensors = dict(small_model().state_dict())
    del tensors["modality_heads.audio.2.weight"]
    tensors["modality_heads.vision.2.weight"] = torch.zeros(2, 3)
    tensors["modality_heads.vision.0.bias"] = tensors["modality_heads.vision.0.bias"].double()
    tensors["modality_trunks.audio.blocks.9.norm_1.bias"] = torch.zeros(64)
    torch.save(tensors, tmp_path / "wrong.pth")
    with pytest.raises(EncoderUnavailableError, match="4 differences") as raised:
        load(tmp_path / "wrong.pth", SMALL)
    for line in (
        "modality_heads.audio.2.weight is missing",
        "modality_heads.vision.2.weight has shape (2, 3), expected (64, 96)",
        "modality_heads.vision.0.bias is torch.float64, expected torch.float32",
        "modality_trunks.audio.blocks.9.norm_1.bias is not part of the model",
    ):
        assert line in str(raised.value)


def test_a_small_checkpoint_is_not_the_huge_one() -> None:
    lines = differences(small_model().state_dict())
    assert "modality_preprocessors.vision.cls_token has shape (1, 1, 96), expected (1, 1, 1280)" in lines
    assert len(lines) > 500


@pytest.mark.parametrize("kind", ["cut off", "text", "number"])
def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path = write_small_checkpoint(tmp_path / "a.pth")
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "text":
        path.write_text("not found")
    else:
        torch.save(7, path)
    with pytest.raises(EncoderUnavailableError, match=r"a\.pth (cannot be read|is not a dictionary)"):
        load(path, SMALL)


def test_vision_and_audio_alone_equal_the_full_official_model_bit_for_bit(tmp_path: Path) -> None:
    full = official_code().ImageBindModel(
        **vars(SMALL), text_num_blocks=1, depth_num_blocks=1, thermal_num_blocks=1, imu_num_blocks=1
    )
    torch.save(full.state_dict(), tmp_path / "full.pth")
    ours = load(tmp_path / "full.pth", SMALL)
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "vision": torch.randn(2, 3, 224, 224, generator=generator),
        "audio": torch.randn(2, 3, 1, 128, 204, generator=generator),
    }
    with torch.inference_mode():
        expected, got = full.eval()(inputs), ours(inputs)
    assert torch.equal(got["vision"], expected["vision"])
    assert torch.equal(got["audio"], expected["audio"])


def test_training_with_the_stand_in_of_timm_is_refused() -> None:
    with pytest.raises(RuntimeError, match="for inference"):
        imagebind_model._DropPath().train()(torch.zeros(1))
