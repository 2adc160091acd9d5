"""The device that a network runs on: choosing it, and telling when its memory is full.

Belongs here: what every torch encoder needs of a device. No network, no numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from emid_assets.encoders.base import EncoderOutOfMemoryError, EncoderUnavailableError


def choose_device(setting: str) -> torch.device:
    """The device for the setting `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    `auto` takes CUDA, then Apple's mps, then the CPU.

    Raises:
        EncoderUnavailableError: the device asked for is not on this machine.
    """
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise EncoderUnavailableError(
            f"device {setting!r} is not one of auto, cpu, cuda, cuda:1, mps"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EncoderUnavailableError(
                f"device {setting!r} was asked for, but torch {torch.__version__} sees {count} CUDA "
                "device(s); use device auto or cpu, or install a CUDA build of torch"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise EncoderUnavailableError(
            "device 'mps' was asked for, but torch sees none here; use device auto or cpu"
        )
    return device


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn torch's out-of-memory errors into `EncoderOutOfMemoryError` and give cached memory back."""
    try:
        yield
    except RuntimeError as error:
        # The CPU allocator has no class of its own; its message is the only sign.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        message = str(error).splitlines()[0]
    else:
        return
    # Outside the except clause: the traceback, and the tensors it holds, are gone by now.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise EncoderOutOfMemoryError(f"{device}: {message}")
