"""A digest of a frame: equal for equal content, so that its dependents need no rebuild."""

import hashlib

import polars as pl


def frame_digest(frame: pl.DataFrame, *facts: str) -> str:
    """Hex sha256 of a frame's columns, types and values, and of further facts that shaped it.

    The values are hashed as JSON lines, because Arrow's bytes for equal frames depend on the chunking and on
    the bytes under a null. (NaN and null hash the same.)
    """
    digest = hashlib.sha256()
    for fact in (*facts, str(frame.schema)):
        digest.update(fact.encode() + b"\0")
    digest.update(frame.write_ndjson().encode())
    return digest.hexdigest()
