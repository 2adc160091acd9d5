"""What C libraries write to the terminal is dropped while a file is decoded, and nothing else is."""

import ctypes
import platform
import sys
import threading
from contextlib import suppress

import pytest

from emid_assets.media.decoder_messages import unheard

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def test_only_c_and_only_within_the_block_is_dropped_until_the_last_thread_leaves(
    capfd: pytest.CaptureFixture[str],
) -> None:
    say = ctypes.CDLL(None).perror
    inside, leave = threading.Event(), threading.Event()

    def decode() -> None:
        with unheard():
            inside.set()
            leave.wait()

    say(b"before")
    with unheard():
        other = threading.Thread(target=decode)
        other.start()
        inside.wait()
        say(b"in both")
        print("from Python", file=sys.__stderr__)
    say(b"in the other")
    leave.set()
    other.join()
    with suppress(ValueError), unheard():
        say(b"in an error")
        raise ValueError
    say(b"after")
    said = capfd.readouterr().err
    assert [word for word in ("before", "from Python", "after") if word not in said] == []
    assert [word for word in ("in both", "in the other", "in an error") if word in said] == []
