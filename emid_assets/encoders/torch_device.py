"""The device that a network runs on: choosing it, and detecting that its memory is full.

Belongs here: device code that everything with torch shares. No network, no numerics.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from emid_assets.encoders.interface import EncoderOutOfMemoryError, EncoderUnavailableError

T = TypeVar("T")
R = TypeVar("R")


def choose_device(setting: str) -> torch.device:
    """The device for the setting `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    `auto` prefers CUDA, then Apple's mps, then the CPU.

    Raises:
        EncoderUnavailableError: this machine does not have the requested device.
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
    """Turn torch's out-of-memory errors into `EncoderOutOfMemoryError` and release cached memory."""
    try:
        yield
    except RuntimeError as error:
        # The CPU allocator has no exception class; only the message identifies it.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        message = str(error).splitlines()[0]
    else:
        return
    # Outside the except clause: the traceback, and the tensors it holds, are freed by now.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise EncoderOutOfMemoryError(f"{device}: {message}")


def map_items(function: Callable[[T], R], items: Sequence[T], device: torch.device) -> list[R]:
    """Apply a network to each item by itself, so that a result depends only on its item, bit for bit.

    On a CPU the items are spread over as many threads as torch would use inside an operator, and each
    operator uses one thread: torch splits some sums by the number of threads, and on busy cores its
    threads cost five times the work that they share.
    """
    threads = min(torch.get_num_threads(), len(items))
    if device.type != "cpu":
        return [function(item) for item in items]
    with _one_thread_inside(), ThreadPoolExecutor(max(threads, 1), initializer=_use_one_thread) as pool:
        return list(pool.map(function, items))


def _use_one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def _one_thread_inside() -> Iterator[None]:
    # The setting is per thread, but a new thread inherits the last value set by any thread.
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
