"""Keeps messages that decoders write to the terminal out of it: they name no file.

Belongs here: libraries in C, which write to the C library's own `stderr`. What is wrong with a file is the
reason of its `MediaError`.
"""

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_lock = threading.Lock()
_users = 0
_original: int | None = None


@contextmanager
def unheard() -> Iterator[None]:
    """What C libraries write to `stderr` in this block is dropped; Python writes to it as before.

    mpg123, which decodes mp3 for libsndfile, knows no other way to be silent. The stream belongs to the
    process: the last of several threads puts the original one back. Does nothing with a C library whose
    `stderr` cannot be replaced.
    """
    global _users, _original
    stream = _stream()
    if stream is None:
        yield
        return
    with _lock:
        if _users == 0:
            _original, stream.value = stream.value, _null_stream()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                stream.value = _original


@cache
def _stream() -> ctypes.c_void_p | None:
    """The variable `stderr` of the C library; None where it is a constant or unknown."""
    if sys.platform != "darwin" and platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "__stderrp" if sys.platform == "darwin" else "stderr")


@cache
def _null_stream() -> int:
    """A stream to nowhere; never closed, since another thread may be writing to it."""
    open_stream = ctypes.CDLL(None).fopen
    open_stream.restype, open_stream.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    return int(open_stream(os.devnull.encode(), b"w"))
