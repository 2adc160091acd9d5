"""Reading TensorFlow checkpoints without TensorFlow, against a writer made from the format's description."""

import struct

import numpy as np
import pytest

from emid_assets.encoders.bundled.encoder import read_weights
from emid_assets.prediction.musicnn import CHECKPOINTS
from emid_assets.prediction.tensorflow_checkpoint import CheckpointError, read_checkpoint

MAGIC = bytes.fromhex("57fb808b247547db")


def varint(value: int) -> bytes:
    written = b""
    while value >= 0x80:
        written += bytes([value & 0x7F | 0x80])
        value >>= 7
    return written + bytes([value])


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A table block with a restart point after every few entries, and its trailer."""
    body, restarts, before = b"", [], b""
    for place, (key, value) in enumerate(entries):
        if place % every == 0:
            restarts.append(len(body))
            before = b""
        shared = 0
        while shared < min(len(before), len(key)) and before[shared] == key[shared]:
            shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    body += b"".join(struct.pack("<I", place) for place in restarts or [0])
    return body + struct.pack("<I", len(restarts or [0]))


def table(blocks: list[list[tuple[bytes, bytes]]]) -> bytes:
    written, handles = b"", []
    for entries in blocks:
        body = block(entries)
        handles.append((entries[-1][0], varint(len(written)) + varint(len(body))))
        written += body + b"\0" + b"\xaa" * 4  # not compressed; the sum is not looked at
    ends = []
    for entries in ([], handles):
        body = block(entries, every=1)
        ends.append(varint(len(written)) + varint(len(body)))
        written += body + b"\0" + b"\xaa" * 4
    return written + b"".join(ends).ljust(40, b"\0") + MAGIC


def entry(values: np.ndarray, offset: int, dtype: int = 1) -> bytes:
    shape = b"".join(
        b"\x12" + varint(len(size)) + size for size in (b"\x08" + varint(n) for n in values.shape)
    )
    message = b"\x08" + varint(dtype) + b"\x12" + varint(len(shape)) + shape
    if offset:
        message += b"\x20" + varint(offset)
    return message + b"\x28" + varint(values.nbytes) + b"\x35" + struct.pack("<I", 1234)


def checkpoint(tensors: dict[str, np.ndarray], per_block: int = 3) -> tuple[bytes, bytes]:
    data, entries = b"", [(b"", b"\x08\x01")]
    for name in sorted(tensors):
        entries.append((name.encode(), entry(tensors[name], len(data))))
        data += tensors[name].tobytes()
    return table([entries[i : i + per_block] for i in range(0, len(entries), per_block)]), data


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "conv/kernel": (7, 300, 1, 2),
        "conv/kernel/Adam": (3,),
        "conv/bias": (2,),
        "step": (),
        "z": (1, 1),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("per_block", [1, 2, 100])
def test_every_tensor_comes_back_as_it_was_written(tensors: dict[str, np.ndarray], per_block: int) -> None:
    found = read_checkpoint(*checkpoint(tensors, per_block))
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].shape == values.shape
        np.testing.assert_array_equal(found[name], values)


def test_tensors_of_other_types_are_left_out() -> None:
    whole = np.arange(3, dtype=np.int64)
    index = table([[(b"", b"\x08\x01"), (b"counter", entry(whole, 0, dtype=9))]])
    assert read_checkpoint(index, whole.tobytes()) == {}


def test_what_is_no_checkpoint_is_an_error_that_says_so(tensors: dict[str, np.ndarray]) -> None:
    index, data = checkpoint(tensors)
    with pytest.raises(CheckpointError, match="sorted string table"):
        read_checkpoint(index[:-1] + b"x", data)
    with pytest.raises(CheckpointError, match="sorted string table"):
        read_checkpoint(b"", data)
    with pytest.raises(CheckpointError, match="does not fit in the data"):
        read_checkpoint(index, data[:-1])
    compressed = index[: index.index(b"\0\xaa\xaa")] + b"\1" + index[index.index(b"\0\xaa\xaa") + 1 :]
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(compressed, data)


@pytest.mark.parametrize("network", CHECKPOINTS)
def test_the_tensors_of_the_published_networks_fill_their_data_to_the_last_byte(network: str) -> None:
    index, data = (read_weights(file) for file in CHECKPOINTS[network])
    tensors = read_checkpoint(index, data)
    assert sum(values.nbytes for values in tensors.values()) == len(data)
    trained = {name: values.shape for name, values in tensors.items() if "Adam" not in name}
    assert len(trained) == 66  # 2 optimiser powers, 8 convolutions and 2 dense layers, 11 normalisations
    assert trained["conv2d_5/kernel"] == (7, 2 * 204 + 3 * 51, 1, 64)
    assert trained["dense/kernel"] == (2 * (561 + 3 * 64), 200)
    variances = [values for name, values in tensors.items() if name.endswith("moving_variance")]
    assert all((values > 0).all() for values in variances)
    assert abs(float(tensors["beta2_power"])) < 1
