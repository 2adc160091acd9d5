"""On-disk journal of the rows that an embedding run has encoded, so that a killed run loses little.

Belongs here: the chunk files of one partition's run. The lake stores a partition when its run has
ended; until then its rows are kept here.

Each chunk is one immutable Parquet file: written to a temporary file, flushed to disk and renamed. Its
name identifies the encoder and the kind of media, so that no other run uses its rows.
"""

import hashlib
import io
import logging
import time
import uuid
from pathlib import Path

import polars as pl

from emid_assets.encoders.interface import Float32Array
from emid_assets.store.files import write_in_place

CHUNK_ITEMS = 256
CHUNK_SECONDS = 30.0

_LOG = logging.getLogger(__name__)


class Journal:
    """The rows that a run has encoded, in a dedicated folder.

    Args:
        folder: created if needed; must hold nothing but this journal.
        fingerprint: of the encoder.
        kind: music or image.
    """

    def __init__(self, folder: Path, fingerprint: str, kind: str) -> None:
        self._folder = folder
        self._prefix = hashlib.sha256(f"{fingerprint}|{kind}".encode()).hexdigest()[:16]
        self._waiting: list[pl.DataFrame] = []
        self._last_write = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, dimension: int, needed: frozenset[str]) -> tuple[list[str], Float32Array, Float32Array]:
        """Read all chunks of this encoder and kind, and remove chunks that are no longer needed.

        A chunk is removed if it is of another encoder or kind, or has no needed row. A chunk that
        cannot be read (full disk, power loss) is removed with a warning: its items are encoded again.

        Args:
            dimension: of the embeddings.
            needed: content hashes whose rows are needed.

        Returns:
            content hashes, unit embeddings (n, dimension) and scales (n,).
        """
        chunks = [pl.DataFrame(schema=_chunk_schema(dimension))]
        for path in sorted(self._folder.glob("*.parquet")):
            if not path.name.startswith(self._prefix):
                path.unlink()
                continue
            try:
                chunk = pl.read_parquet(path).cast(_chunk_schema(dimension))
            except (pl.exceptions.PolarsError, OSError) as error:
                _LOG.warning("journal chunk %s cannot be read (%s): its items are encoded again", path, error)
                path.unlink()
                continue
            if needed.isdisjoint(chunk["content_hash"]):
                path.unlink()
            else:
                chunks.append(chunk)
        table = pl.concat(chunks)
        return table["content_hash"].to_list(), table["embedding"].to_numpy(), table["scale"].to_numpy()

    def add(self, hashes: list[str], embeddings: Float32Array, scales: Float32Array) -> None:
        """Add a batch; a chunk is written after 256 rows or 30 seconds."""
        if hashes:
            self._waiting.append(
                pl.DataFrame(
                    {"content_hash": hashes, "embedding": embeddings, "scale": scales},
                    schema=_chunk_schema(embeddings.shape[1]),
                )
            )
        due = time.monotonic() - self._last_write >= CHUNK_SECONDS
        if due or sum(frame.height for frame in self._waiting) >= CHUNK_ITEMS:
            self.write()

    def write(self) -> None:
        """Write the rows added since the last chunk."""
        self._last_write = time.monotonic()
        if not self._waiting:
            return
        final = self._folder / f"{self._prefix}-{uuid.uuid4().hex}.parquet"
        chunk = io.BytesIO()
        pl.concat(self._waiting).write_parquet(chunk)
        write_in_place(final, chunk.getvalue())
        self._waiting = []


def _chunk_schema(dimension: int) -> pl.Schema:
    return pl.Schema(
        {
            "content_hash": pl.String(),
            "embedding": pl.Array(pl.Float32, dimension),
            "scale": pl.Float32(),
        }
    )
