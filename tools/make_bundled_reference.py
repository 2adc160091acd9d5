"""Makes `reference.safetensors`: the reference population of the bundled encoder's joint space.

    python -m tools.make_bundled_reference FOLDER

Belongs here: the freely licensed media of the population, and the mean and spread of each class's
log-probability over it. FOLDER holds one folder for each Debian package below, unpacked:

    apt-get download NAME && dpkg -x NAME_*.deb FOLDER/NAME

Images: the landscape photographs of endless-sky-data, and as many stamps of
tuxpaint-stamps-default, evenly spaced. Music: a clip of 20 s from every minute of every track.
Only the mean and the spread are kept: 16 kB, from which no medium can be recovered.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from emid_assets.encoders.bundled.encoder import (
    REFERENCE_FILE,
    image_log_probabilities,
    load_image_network,
    load_sound_network,
    sound_log_probabilities,
)
from emid_assets.encoders.bundled.preprocessing import WINDOW_S, prepare_image, prepare_music
from emid_assets.encoders.interface import MediaItem

PHOTOGRAPHS = "endless-sky-data/usr/share/games/endless-sky/images/land"
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
MUSIC = (
    "flare-game/usr/share/games/flare/mods/fantasycore/music",
    "freedroidrpg-data/usr/share/freedroidrpg/data/sound/music",
    "hyperrogue-music/usr/share/hyperrogue/music",
    "marsshooter-data/usr/share/games/marsshooter/audio/music",
    "naev-data/usr/share/naev/dat/snd/music",
    "singularity-music/usr/share/games/singularity/music",
    "wesnoth-1.16-music/usr/share/games/wesnoth/1.16/data/core/music",
)
FIRST_CLIP_S = 10.0
CLIP_EVERY_S = 60.0


def reference_images(folder: Path) -> list[MediaItem]:
    """The image population, in the order of the paths."""
    photographs = sorted((folder / PHOTOGRAPHS).glob("*.jpg"))
    # Letters, digits and coins are symbols, not pictures of things.
    stamps = [path for path in sorted((folder / STAMPS).rglob("*.png")) if "symbols" not in path.parts]
    chosen = np.linspace(0, len(stamps) - 1, len(photographs)).round().astype(int)
    return [MediaItem(path.name, path, "") for path in [*photographs, *(stamps[i] for i in chosen)]]


def reference_clips(folder: Path) -> list[MediaItem]:
    """The music population, in the order of packages and paths."""
    clips = []
    for track in (path for place in MUSIC for path in sorted((folder / place).rglob("*.ogg"))):
        last = soundfile.info(track).duration - WINDOW_S
        for start in np.arange(FIRST_CLIP_S, last, CLIP_EVERY_S):
            clips.append(MediaItem(track.name, track, "", float(start), float(WINDOW_S)))
    return clips


def mean_and_spread(rows: Iterable[torch.Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each column, computed in float64."""
    table = np.stack([row.numpy() for row in rows]).astype(np.float64)
    return table.mean(axis=0).astype(np.float32), table.std(axis=0).astype(np.float32)


def main(folder: Path) -> None:
    """Compute the population's figures and write the file beside the encoder's module."""
    images, clips = reference_images(folder), reference_clips(folder)
    print(f"{len(images)} images, {len(clips)} clips")
    image_network, sound_network = load_image_network(), load_sound_network()
    image_mean, image_spread = mean_and_spread(
        image_log_probabilities(image_network, torch.from_numpy(prepare_image(item))) for item in images
    )
    music_mean, music_spread = mean_and_spread(
        sound_log_probabilities(sound_network, torch.from_numpy(prepare_music(item))) for item in clips
    )
    save_file(
        {
            "image_mean": image_mean,
            "image_spread": image_spread,
            "music_mean": music_mean,
            "music_spread": music_spread,
        },
        REFERENCE_FILE,
    )
    print(f"wrote {REFERENCE_FILE}, {REFERENCE_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
