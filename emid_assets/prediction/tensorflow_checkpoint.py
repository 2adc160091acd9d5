"""Reads the tensors of a TensorFlow checkpoint without TensorFlow.

Belongs here: from the bytes of the two files of a single-shard checkpoint (`.index`,
`.data-00000-of-00001`) to arrays by name. The index is a sorted string table in LevelDB's format (see its
`table_format.md`); its values are messages `BundleEntryProto` of TensorFlow's `tensor_bundle.proto`.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
FLOAT32 = 1
_DTYPE, _SHAPE, _OFFSET, _SIZE = 1, 2, 4, 5


class CheckpointError(ValueError):
    """The bytes are not a checkpoint in the format that this module reads."""


def read_checkpoint(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """All float32 tensors of a checkpoint, by name.

    Raises:
        CheckpointError: another format, a compressed table, or a tensor beyond the end of the data.
    """
    if len(index) < FOOTER_BYTES or struct.unpack("<Q", index[-8:])[0] != TABLE_MAGIC:
        raise CheckpointError("the index does not end as a sorted string table does")
    footer = index[-FOOTER_BYTES:]
    _, place = _varint(footer, 0)  # two varints: the handle of the meta index, which is not read
    _, place = _varint(footer, place)
    tensors = {}
    for _, handle in _entries(index, *_handle(footer, place)):
        for name, message in _entries(index, *_handle(handle, 0)):
            numbers, messages = _fields(message)
            if not name or numbers.get(_DTYPE) != FLOAT32:  # the nameless first entry is the header
                continue
            _, sizes = _fields(messages.get(_SHAPE, [b""])[0])
            shape = [_fields(size)[0].get(1, 0) for size in sizes.get(2, [])]
            start, size = numbers.get(_OFFSET, 0), numbers[_SIZE]
            if start + size > len(data) or size != 4 * int(np.prod(shape)):
                raise CheckpointError(f"tensor {name.decode()} does not fit in the data as its entry says")
            values = np.frombuffer(data, "<f4", size // 4, start)
            tensors[name.decode()] = values.astype(np.float32).reshape(shape)
    return tensors


def _entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; keys are prefix-compressed against the key before."""
    block = table[offset : offset + size]
    if len(block) < size or table[offset + size] != 0:
        raise CheckpointError("the index has a block that is cut short or compressed")
    restarts = struct.unpack("<I", block[-4:])[0]
    key, place = b"", 0
    while place < size - 4 - 4 * restarts:
        shared, place = _varint(block, place)
        new, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + new]
        yield key, block[place + new : place + new + length]
        place += new + length


def _handle(data: bytes, place: int) -> tuple[int, int]:
    offset, place = _varint(data, place)
    return offset, _varint(data, place)[0]


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The integers of a protocol buffer message by field, and its submessages by field, in order."""
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            numbers[tag >> 3], place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            messages.setdefault(tag >> 3, []).append(message[place : place + length])
            place += length
        elif kind in (1, 5):  # a fixed-size field of 8 or 4 bytes, skipped
            place += 8 if kind == 1 else 4
        else:
            raise CheckpointError(f"a field has wire type {kind}, which these messages do not use")
    return numbers, messages


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
