"""Published rows as Hugging Face lays them out, with media in the rows: made by the tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEELINGS = "33% Sad, depressing, 22% Awe-inspiring, amazing"
RATINGS = "4.1,5.2,4.4,4.9,5.0,6.1,4.8,3.2,5.5,4.7,3.9"


def tone(pitch: float, rate: int = 44_100, seconds: float = 1.1, form: str = "WAV") -> bytes:
    """A tone that no other pitch gives."""
    buffer = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)
    soundfile.write(buffer, samples.astype(np.float32), rate, format=form)
    return buffer.getvalue()


def picture(level: int) -> bytes:
    """A grey picture that no other level gives."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (level, 255 - level, level // 2)).save(buffer, format="PNG")
    return buffer.getvalue()


def row(
    name: str | None,
    audio: bytes | None,
    images: Sequence[tuple[str | None, bytes | None, str]] = (),
    genre: str | None = "K",
    feeling: str | None = FEELINGS,
    emotion: str | None = RATINGS,
    original: bool | None = True,
) -> dict[str, Any]:
    """A row with up to three images, each (name, bytes, tag)."""
    cells: dict[str, Any] = {
        "Audio_Filename": {"bytes": audio, "path": name},
        "genre": genre,
        "feeling": feeling,
        "emotion": emotion,
    }
    for slot in range(3):
        image, content, tag = images[slot] if slot < len(images) else (None, None, None)
        held = None if image is None and content is None else {"bytes": content, "path": image}
        text = f"a picture of {tag}" if tag else None
        names = [f"Image{slot + 1}_{part}" for part in ("filename", "tag", "text")]
        cells |= dict(zip(names, (held, tag, text), strict=True))
    return cells | {"is_original_clip": original}


def write_rows(path: Path, rows: Sequence[dict[str, Any]], group_rows: int = 2) -> Path:
    """Write rows as a Parquet file of row groups of `group_rows`."""
    fields = [("Audio_Filename", MEDIUM), *((name, pa.string()) for name in ("genre", "feeling", "emotion"))]
    for slot in (1, 2, 3):
        fields += [(f"Image{slot}_filename", MEDIUM), (f"Image{slot}_tag", pa.string())]
        fields += [(f"Image{slot}_text", pa.string())]
    schema = pa.schema([*fields, ("is_original_clip", pa.bool_())])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=group_rows)
    return path


def good_rows(count: int) -> list[dict[str, Any]]:
    """Rows without any trap: one source each, three images, of which neighbours share one."""
    return [
        row(
            f"song{number}.wav",
            tone(220 + number),
            [(f"p{number + offset}.png", picture(10 * (number + offset)), "awe") for offset in range(3)],
            emotion=RATINGS.replace("4.1", f"{2 + number / 10:.1f}"),
        )
        for number in range(count)
    ]
