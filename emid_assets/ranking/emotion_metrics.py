"""How well the images ranked for a clip fit its emotion.

Belongs here: @k metrics of labels and of valence and arousal, not of the pairs. Report them with the
metrics in `metrics`, never alone: a ranking by labels alone wins here and loses there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emid_assets.affect.valence_arousal import va_cosine, va_euclidean

MUSIC_TO_IMAGE_EMOTION = {
    "amusing": "amusement",
    "annoying": "disgust",
    "anxious": "fear",
    "beautiful": "awe",
    "calm": "contentment",
    "dreamy": "contentment",
    "energizing": "excitement",
    "erotic": "excitement",
    "indignant": "anger",
    "joyful": "amusement",
    "sad": "sadness",
    "scary": "fear",
    "triumphant": "excitement",
}
"""Which of Mikels' eight emotions an image should carry for a clip of each Cowen category.

A choice by the meaning of the words and not by VA, so that it is independent of T.
"""


def emotion_metrics_at_k(
    ranked: NDArray[np.int64],
    clip_emotions: Sequence[str],
    clip_va: NDArray[np.float64],
    image_tags: Sequence[str],
    image_va: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Emotion metrics of each query's k places.

    Args:
        ranked: (n, k) image rows, -1 in empty places; each query has at least one image.
        clip_emotions: n Cowen keys.
        clip_va: (n, 2) aligned VA of the queries.
        image_tags: M of Mikels' eight.
        image_va: (M, 2) aligned VA.

    Returns:
        One (n,) float64 array each. `label_precision` and `label_mrr`: an image is right if its tag is
        the one in MUSIC_TO_IMAGE_EMOTION (empty places count as wrong). `nearest_tag`: share of images
        with the tag nearest to the clip's VA. Means over the images: `va_distance` (smaller is better),
        `va_cosine` (NaN if it is undefined in every place because a vector is zero) and `quadrant`, the
        share in the clip's quadrant of the plane.
    """
    k = ranked.shape[1]
    present = ranked >= 0
    count = present.sum(axis=1)
    items = np.maximum(ranked, 0)
    tags = np.asarray(image_tags, dtype=np.str_)
    wanted = np.asarray([MUSIC_TO_IMAGE_EMOTION[emotion] for emotion in clip_emotions], dtype=np.str_)
    fits = (tags[items] == wanted[:, None]) & present

    names = np.unique(tags)
    centres = np.stack([image_va[tags == name].mean(axis=0) for name in names])
    nearest = names[np.argmin(va_euclidean(clip_va[:, None], centres[None]), axis=1)]

    found_va = image_va[items]
    cosine = np.where(present, va_cosine(clip_va[:, None], found_va), np.nan)
    defined = np.isfinite(cosine)
    cosine_sum = np.where(defined, cosine, 0.0).sum(axis=1)
    same_quadrant = ((clip_va[:, None] > 0) == (found_va > 0)).all(axis=2) & present
    distance = np.where(present, va_euclidean(clip_va[:, None], found_va), 0.0)
    with np.errstate(invalid="ignore"):
        return {
            "label_precision": fits.sum(axis=1) / k,
            "label_mrr": (fits / np.arange(1, k + 1)).max(axis=1, initial=0.0),
            "nearest_tag": ((tags[items] == nearest[:, None]) & present).sum(axis=1) / count,
            "va_distance": distance.sum(axis=1) / count,
            "va_cosine": cosine_sum / np.where(defined.any(axis=1), defined.sum(axis=1), np.nan),
            "quadrant": same_quadrant.sum(axis=1) / count,
        }
