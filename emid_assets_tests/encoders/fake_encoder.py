"""An encoder of four dimensions whose items are small text files: counts what it encodes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emid_assets.encoders.interface import (
    EncoderOutOfMemoryError,
    Float32Array,
    MediaItem,
    PreparationError,
    Prepared,
)
from emid_assets_tests.web import DEADLINE_S

WORKER_MARK = "a worker was here"
HANGING_MARK = "a worker hangs"


def prepare_numbers(item: MediaItem) -> Prepared:
    """Four numbers out of a text file; words in the file make it misbehave."""
    text = item.path.read_text()
    if "pytest" not in sys.modules:  # a worker: tells an encoder that waits for one
        (item.path.parent / WORKER_MARK).touch()
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "exit":
        os._exit(3)
    if text == "hang":
        (item.path.parent / HANGING_MARK).write_text(str(os.getpid()))
        signal.pause()
    if text == "crash":
        raise RuntimeError("a bug, not a bad file")
    if text == "bad":
        raise PreparationError("no picture in it")
    return np.array([float(word) for word in text.split()], dtype=np.float32)


def numbers_of_samples(samples: Float32Array, rate: int) -> Prepared:
    raise AssertionError("no item of these tests is one of several in a file")


class FakeEncoder:
    name = "fake"
    licence = "none"
    dimension = 4

    def __init__(
        self, fingerprint: str = "fake-1", room_for: int = 1000, wait_for: Path | None = None
    ) -> None:
        self.fingerprint = fingerprint
        self.room_for = room_for
        self.wait_for = wait_for
        self.batches: list[int] = []

    @property
    def prepare_music(self) -> Callable[[MediaItem], Prepared]:
        return prepare_numbers

    @property
    def music_input(self) -> Callable[[Float32Array, int], Prepared]:
        return numbers_of_samples

    @property
    def prepare_image(self) -> Callable[[MediaItem], Prepared]:
        return prepare_numbers

    def encode_music(self, batch: Sequence[Prepared]) -> Float32Array:
        return self.encode_images(batch) * np.float32(20)

    def encode_images(self, batch: Sequence[Prepared]) -> Float32Array:
        if len(batch) > self.room_for:
            raise EncoderOutOfMemoryError(f"room for {self.room_for}, asked for {len(batch)}")
        give_up = time.monotonic() + DEADLINE_S
        while self.wait_for is not None and not self.wait_for.exists():
            assert time.monotonic() < give_up, "no worker came"
            time.sleep(0.01)
        self.batches.append(len(batch))
        return np.stack(batch).astype(np.float32)


def write_items(folder: Path, texts: Sequence[str]) -> list[MediaItem]:
    """One file and item for each text; the content hash is the text."""
    items = []
    for index, text in enumerate(texts):
        path = folder / f"{index:04}.txt"
        path.write_text(text)
        items.append(MediaItem(f"item {index}", path, text, file=path.name))
    return items


def numbered(count: int) -> list[str]:
    return [f"{index + 1} 0 {index} 1" for index in range(count)]
