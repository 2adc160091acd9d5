"""Makes `music_reference.json`: the reference population for a clip's signed sums of tags.

    python -m tools.make_music_reference FOLDER

Belongs here: mean and spread of the signed sums over a population of freely licensed music. It is the
population of `make_bundled_reference`, whose docstring also says how to fill FOLDER: a clip of 20 s from
every minute of every track. Four numbers are kept.
"""

import json
import sys
from pathlib import Path

import numpy as np

from emid_assets.prediction.music_rule import REFERENCE_FILE, RULE_VERSION, signed_sums
from emid_assets.prediction.musicnn import MusicTagger
from tools.make_bundled_reference import reference_clips


def main(folder: Path) -> None:
    """Compute the population's figures and write the file beside the module `music_rule`."""
    tagger = MusicTagger("cpu")
    clips = reference_clips(folder)
    sums = signed_sums(np.concatenate([tagger.encode_music([tagger.prepare_music(clip)]) for clip in clips]))
    stored = {
        "made_by": "python -m tools.make_music_reference FOLDER",
        "population": f"{len(clips)} clips of 20 s of the music of seven Debian packages",
        "tagger": tagger.fingerprint,
        "rule": RULE_VERSION,
        "axes": ["valence", "arousal"],
        "mean": [round(float(value), 4) for value in sums.mean(axis=0)],
        "spread": [round(float(value), 4) for value in sums.std(axis=0)],
    }
    REFERENCE_FILE.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(stored, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
