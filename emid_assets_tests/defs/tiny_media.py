"""A media folder that takes no time: a few seconds of noise, a few small pictures."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

CLIPS = ("sad/a.wav", "sad/b.wav", "calm/c.wav", "calm/d.wav")
IMAGES = ("awe/e.png", "awe/f.png", "fear/g.png", "fear/h.png")


def write_clip(path: Path, seed: int) -> None:
    """Three seconds of coloured noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(3 * 8000)
    soundfile.write(path, 0.1 * np.convolve(noise, np.ones(1 + seed), "same"), 8000)


def write_image(path: Path, seed: int) -> None:
    """A small picture that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((96, 96)).save(path)


def write_media(folder: Path) -> Path:
    """Two emotions of music with two clips each, two of images with two each; the folder."""
    for seed, name in enumerate(CLIPS):
        write_clip(folder / "music" / name, seed)
    for seed, name in enumerate(IMAGES):
        write_image(folder / "images" / name, seed)
    return folder
