"""A digest of a frame: equal for equal content, so that what depends on it can stay as it is."""

import hashlib

import polars as pl


def frame_digest(frame: pl.DataFrame, *facts: str) -> str:
    """Hex sha256 of a frame's columns, types and values, and of further facts that shaped it.

    The values are hashed as JSON lines: Arrow's bytes of equal frames differ with how they were
    cut and what stands under a null. (NaN and null read the same there.)
    """
    digest = hashlib.sha256()
    for fact in (*facts, str(frame.schema)):
        digest.update(fact.encode() + b"\0")
    digest.update(frame.write_ndjson().encode())
    return digest.hexdigest()
