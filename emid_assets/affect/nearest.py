"""The emotion that lies nearest a point of the valence-arousal scales.

Belongs here: from measured or predicted points to one of the 13 categories or of Mikels' eight, for
media that nobody labelled.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS

Floats = npt.NDArray[np.float64]


class _Emotion(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def valence(self) -> float: ...
    @property
    def arousal(self) -> float: ...


def nearest_music_emotions(va: npt.ArrayLike) -> list[str]:
    """The key of the Cowen category nearest each point.

    Both lie on the scale of the ratings, 1 to 9. Distances are Euclidean after each axis is divided by the
    spread of the 13 categories on it, so that neither axis decides alone (a choice). Equal distances
    go to the earlier letter.

    Args:
        va: (n, 2) valence and arousal, 1 to 9.
    """
    return _nearest(va, MUSIC_EMOTIONS, None, None)


def nearest_image_emotions(va: npt.ArrayLike, centre: npt.ArrayLike, spread: npt.ArrayLike) -> list[str]:
    """The one of Mikels' eight emotions nearest each point, each population by its own centre and spread.

    The tags' places are those of words, which fill another part of the scale than ratings of pictures do:
    compared as they stand, few pictures would reach the arousal of any tag but sadness. So points are
    standardized by the population of rated images, tags by their own (a choice, the one that
    `valence_arousal.fit_alignment` makes too).
    Equal distances go to the earlier tag.

    Args:
        va: (n, 2) valence and arousal, 0 to 1.
        centre: (2,) mean of the rated images.
        spread: (2,) their standard deviation, above 0.
    """
    return _nearest(va, IMAGE_EMOTIONS, centre, spread)


def _nearest(
    va: npt.ArrayLike,
    emotions: Sequence[_Emotion],
    centre: npt.ArrayLike | None,
    spread: npt.ArrayLike | None,
) -> list[str]:
    points = np.asarray(va, dtype=np.float64).reshape(-1, 2)
    places = np.array([(emotion.valence, emotion.arousal) for emotion in emotions])
    own_centre, own_spread = places.mean(axis=0), places.std(axis=0)
    centre = own_centre if centre is None else np.asarray(centre)
    spread = own_spread if spread is None else np.asarray(spread)
    away = ((points - centre) / spread)[:, None] - ((places - own_centre) / own_spread)[None]
    return [emotions[place].key for place in np.hypot(away[..., 0], away[..., 1]).argmin(axis=1)]
