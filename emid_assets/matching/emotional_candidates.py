"""The first images of every clip by E, over all images, without a table of clips by images.

Belongs here: candidates of the method `calibrated`. `top_k_softmax.py` finds those by S, `fusion.py` chooses
among both.

**Why no other image can be among a clip's m best**, for α below 1. S̃ is 0 for an image x that is not among
the clip's K first by S, so T(x) = (1 - α) E(x). If x is not among the first L ≥ m images by (E descending,
score descending, id ascending) either, each of those L has at least x's E, and S̃ of at least 0, so that its T
is not smaller: the threshold bound of Fagin's algorithm. Where its T is equal, its E is equal as well
(`Formula.emotional` gives E in steps that (1 - α) E keeps apart). Then the larger score decides, and after it
the id, by which these L come before x. So at least m images come before x.

Images at one point of the plane with one uncertainty have one E, as all images have that only carry a tag.
They are counted as one point; their scores are computed only where the L-th place falls among them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.fusion import Formula
from emid_assets.matching.order import best_first, top_k
from emid_assets.matching.row_state import NO_COLUMN
from emid_assets.matching.top_k_softmax import Columns, column_parts

Ints = NDArray[np.int64]

ENTRIES = 1 << 20
"""Values of E, or scores, that are held at once."""


@dataclass(frozen=True)
class EmotionalCandidates:
    """Pairs of a clip and an image, by (clip, image).

    Attributes:
        clips: (p,) int64 row of the clip.
        images: (p,) int64 position of the image.
    """

    clips: Ints
    images: Ints


@dataclass
class _Contest:
    """Images of equal E at the last places of some clips: the larger scores win.

    Attributes:
        images: (t,) int64 positions, by id.
        clips: rows of the clips.
        places: how many of the images each of them takes.
    """

    images: Ints
    clips: list[Ints] = field(default_factory=list)
    places: list[Ints] = field(default_factory=list)


def emotional_candidates(
    formula: Formula,
    music_points: NDArray[np.float64],
    image_points: NDArray[np.float64],
    X: NDArray[np.float32],
    Y: Columns,
    column_ids: Ints,
) -> EmotionalCandidates:
    """The first L images of each clip by (E descending, score descending, id ascending); the formula says L.

    Args:
        formula: E, and L.
        music_points: (N, 4) aligned valence and arousal with their standard deviations.
        image_points: (M, 4) the same, by position in `Y`.
        X: (N, d) float32 music.
        Y: (M, d) float32 images, or a re-iterable over parts; read only where images tie at the last place.
        column_ids: (M,) int64 id of each position, which breaks ties.
    """
    wanted, n_images = formula.emotional_candidates, len(image_points)
    clips, images = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    contests: dict[bytes, _Contest] = {}
    places, of_clip = np.unique(music_points, axis=0, return_inverse=True)
    by_place = np.argsort(of_clip, kind="stable")
    first_clip = np.searchsorted(of_clip[by_place], np.arange(len(places) + 1))
    groups = _Groups.of(image_points, column_ids)
    step = max(1, ENTRIES // len(groups.points))
    for start in range(0, len(places), step):
        E = formula.emotional(places[start : start + step, None], groups.points[None])
        border, left = _border(E, groups.sizes, min(wanted, n_images))
        for row, place in enumerate(range(start, min(start + step, len(places)))):
            here = by_place[first_clip[place] : first_clip[place + 1]]
            ahead = groups.images(E[row] > border[row])
            tied = np.flatnonzero(E[row] == border[row])
            if groups.sizes[tied].sum() == left[row]:
                ahead = np.concatenate([ahead, groups.images(tied)])
            else:
                contest = contests.setdefault(tied.tobytes(), _Contest(groups.images(tied)))
                contest.clips.append(here)
                contest.places.append(np.full(len(here), left[row]))
            clips.append(np.repeat(here, len(ahead)))
            images.append(np.tile(ahead, len(here)))
    for won, positions in _settled(list(contests.values()), X, Y, column_ids):
        clips.append(won)
        images.append(positions)
    of_pairs, positions = np.concatenate(clips), np.concatenate(images)
    order = np.lexsort((positions, of_pairs))
    return EmotionalCandidates(of_pairs[order], positions[order])


@dataclass(frozen=True)
class _Groups:
    """Images by their point: those of group g are `members[starts[g] : starts[g + 1]]`, by id."""

    points: NDArray[np.float64]
    sizes: Ints
    members: Ints
    starts: Ints

    @classmethod
    def of(cls, points: NDArray[np.float64], column_ids: Ints) -> "_Groups":
        distinct, group, sizes = np.unique(points, axis=0, return_inverse=True, return_counts=True)
        members = np.lexsort((column_ids, group))
        return cls(distinct, sizes, members, np.concatenate([[0], np.cumsum(sizes)]))

    def images(self, chosen: NDArray) -> Ints:  # type: ignore[type-arg]
        """The images of the chosen groups, a mask or numbers."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        parts = [self.members[self.starts[g] : self.starts[g + 1]] for g in numbers]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _border(
    E: NDArray[np.float64], sizes: Ints, wanted: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """E of the last image of each row that is taken, and how many of those with that E are taken."""
    width = min(wanted, E.shape[1])
    best = np.argpartition(-E, width - 1, axis=1)[:, :width]
    values = np.take_along_axis(E, best, axis=1)
    order = np.argsort(-values, axis=1)
    filled = np.cumsum(np.take_along_axis(sizes[best], order, axis=1), axis=1)
    last = np.take_along_axis(order, (filled >= wanted).argmax(axis=1)[:, None], axis=1)
    border = np.take_along_axis(values, last, axis=1)
    return border[:, 0], wanted - (border < E) @ sizes


def _settled(
    contests: Sequence[_Contest], X: NDArray[np.float32], Y: Columns, column_ids: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """Rows of clips and positions of images: of each contest the images with the largest scores.

    Scores are rounded to float32, as those of S are, so that images with one embedding tie on every machine.
    """
    clips = [np.concatenate(contest.clips) for contest in contests]
    places = [np.concatenate(contest.places) for contest in contests]
    images = [contest.images[np.argsort(column_ids[contest.images])] for contest in contests]
    best = [np.full((len(rows), most.max()), NO_COLUMN) for rows, most in zip(clips, places, strict=True)]
    scores = [np.full(found.shape, -np.inf, dtype=np.float32) for found in best]
    for first, part in column_parts(Y, X) if contests else ():
        for number, rows in enumerate(clips):
            near = images[number]
            near = near[(near >= first) & (near < first + len(part))]
            if not near.size:
                continue
            wide = part[near - first].astype(np.float64).T
            step = max(1, ENTRIES // len(near))
            for start in range(0, len(rows), step):
                block = slice(start, start + step)
                found = (X[rows[block]].astype(np.float64) @ wide).astype(np.float32)
                top = top_k(found, min(best[number].shape[1], len(near)))
                every = np.hstack([scores[number][block], np.take_along_axis(found, top, axis=1)])
                positions = np.hstack([best[number][block], near[top]])
                kept = best_first(every, column_ids[positions])[:, : best[number].shape[1]]
                scores[number][block] = np.take_along_axis(every, kept, axis=1)
                best[number][block] = np.take_along_axis(positions, kept, axis=1)
    for rows, most, chosen in zip(clips, places, best, strict=True):
        yield np.repeat(rows, most), chosen[np.arange(chosen.shape[1]) < most[:, None]]
