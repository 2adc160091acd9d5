"""The emotion nearest to a point on the valence-arousal scales.

Belongs here: the step from a measured or predicted point to one of the 13 categories or one of Mikels'
eight, for media without a label.
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
    """The key of the Cowen category nearest to each point.

    Both are on the rating scale, 1 to 9. Distances are Euclidean after dividing each axis by the spread of
    the 13 categories on it, so that neither axis dominates (a choice). Ties go to the earlier letter.

    Args:
        va: (n, 2) valence and arousal, 1 to 9.
    """
    return _nearest(va, MUSIC_EMOTIONS, None, None)


def nearest_image_emotions(va: npt.ArrayLike, centre: npt.ArrayLike, spread: npt.ArrayLike) -> list[str]:
    """The one of Mikels' eight emotions nearest to each point, after standardizing points and tags.

    The tags have the positions of words, which occupy a different part of the scale than ratings of
    pictures: compared directly, few pictures would reach the arousal of any tag but sadness. So the points
    are standardized by the population of rated images, and the tags by their own (a choice, the same one as
    in `valence_arousal.fit_alignment`). Ties go to the earlier tag.

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
