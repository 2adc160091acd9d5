"""Mikels' eight tags for images whose valence and arousal are uncertain: shares, and one tag for each image.

Belongs here: the step from predicted points to tags. `nearest` does it for points that were measured.

The tag nearest to a prediction is a poor choice for many images together. A prediction is drawn towards the
mean by everything that the predictor does not know, and the tag in the middle of the plane is *awe*: most
images would become that.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, IMAGE_EMOTIONS

Floats = npt.NDArray[np.float64]

NODES = 21
"""Points of the Gauss-Hermite rule on each axis."""
SWEEPS = 50
"""Most rounds over the tags in which the weights are found; about twenty are needed."""


def image_tag_shares(
    va: Floats,
    sd: Floats,
    centre: Floats,
    spread: Floats,
    labelled: Mapping[str, int],
) -> Floats:
    """(n, 8) probabilities of Mikels' tags, in their order, for images with uncertain points.

    Points and tags are standardized as in `nearest.nearest_image_emotions`. A tag is a Gaussian around its
    place; its standard deviation is the median distance of a tag to the nearest other one, .42 (a choice:
    tags that are closer cannot be told apart). The places are drawn towards the middle by as much as leaves
    the tags together a variance of 1, which is the population's. The share of a tag is its posterior
    probability by Bayes' rule, averaged over the Gaussian of where the point may be. Prior: each tag's count
    among the user's labelled images, plus one.

    Args:
        va: (n, 2) predicted valence and arousal, 0 to 1.
        sd: (n, 2) their standard deviations.
        centre: (2,) mean of the rated images.
        spread: (2,) their standard deviation, above 0.
        labelled: tag → images that people gave this tag; may lack tags.
    """
    places = np.array([(emotion.valence, emotion.arousal) for emotion in IMAGE_EMOTIONS])
    places = (places - places.mean(axis=0)) / places.std(axis=0)
    between = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    tag_spread = np.median(np.sort(between, axis=1)[:, 1])
    places = places * np.sqrt(1 - tag_spread**2)
    points = (va - centre) / spread
    unsure = sd / spread
    log_prior = np.log([labelled.get(key, 0) + 1 for key in IMAGE_EMOTION_KEYS])
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    shares = np.zeros((len(points), len(places)))
    for valence, of_valence in zip(nodes, weights, strict=True):
        for arousal, of_arousal in zip(nodes, weights, strict=True):
            away = (points + unsure * (valence, arousal))[:, None] - places[None]
            log_odds = log_prior - (away**2).sum(axis=2) / (2 * tag_spread**2)
            odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
            shares += of_valence * of_arousal * odds / odds.sum(axis=1, keepdims=True)
    return shares


def assigned_tags(shares: Floats) -> list[str]:
    """One tag for each image, such that each tag has as many images as its shares sum up to.

    Of all assignments with these counts, the one with the greatest product of shares (a transport problem).
    Its solution is: the tag with the largest share × weight, with one weight for each tag, so that equal
    shares give equal tags. The weights are found one tag at a time, until all counts are right. Where many
    images have equal shares the counts can be off, since these images get one tag.

    Args:
        shares: (n, 8), rows sum to 1.
    """
    if not len(shares):
        return []
    counts = _counts(shares)
    log_shares = np.log(np.maximum(shares, 1e-12))
    log_weights = np.zeros(shares.shape[1])
    for _ in range(SWEEPS):
        for tag, count in enumerate(counts):
            best_other = np.delete(log_shares + log_weights, tag, axis=1).max(axis=1)
            needed = np.sort(best_other - log_shares[:, tag])
            log_weights[tag] = np.mean(np.pad(needed, 1, mode="edge")[count : count + 2])
            log_weights[tag] += float(count == len(needed)) - float(count == 0)
        chosen = (log_shares + log_weights).argmax(axis=1)
        if (np.bincount(chosen, minlength=len(counts)) == counts).all():
            break
    return [IMAGE_EMOTION_KEYS[place] for place in chosen]


def _counts(shares: Floats) -> npt.NDArray[np.int64]:
    """Whole numbers closest to the sums of the shares, with the number of images as their sum."""
    wanted = shares.sum(axis=0)
    counts: npt.NDArray[np.int64] = np.floor(wanted).astype(np.int64)
    largest_rests = np.argsort(counts - wanted, kind="stable")
    counts[largest_rests[: len(shares) - counts.sum()]] += 1
    return counts
