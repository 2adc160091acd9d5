"""Pairs as a set: the images of all clips, chosen together, so that none is used more often than a limit.

Belongs here: the maximum-weight b-matching over candidates. Does not belong here: T (`fusion.py`).

Clips and images are the two sides of a network, and a candidate is an edge of capacity one. Pairs are added
one at a time along the shortest augmenting path, found by Dijkstra's algorithm on costs that prices keep
non-negative: successive shortest paths (R. K. Ahuja, T. L. Magnanti, J. B. Orlin, *Network Flows*, 1993,
chapter 9), one clip after the other as in R. Jonker, A. Volgenant (*Computing* 38, 1987). All sums are of
integers, in a fixed order, so the result is exact and the same everywhere.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.matching.compiled import compiled
from emid_assets.matching.top_k_softmax import MatchingError
from emid_assets.store.schemas import FUSED_PAIRS

WEIGHT_BITS = 30
"""T enters in units of 2^-30, or in larger ones where there are so many images that sums would overflow."""

_MAGNITUDE_BITS = 60
"""No sum of weights along a path may reach 2^60: prices stay in int64."""

_FAR = 1 << 62

_Ints = NDArray[np.int64]


class _Edges(NamedTuple):
    """The candidates by clip, each clip's by descending weight."""

    first: _Ints  # (clips + 1,) where each clip's edges begin
    clip: _Ints
    image: _Ints
    weight: _Ints


class _Chosen(NamedTuple):
    """The pairs so far, with what proves that they are the best of their number.

    A taken edge has weight - price >= level of its clip, any other one weight - price <= level. Only an
    image that is used `limit` times has a price above 0.
    """

    taken: NDArray[np.bool_]
    pairs: _Ints  # of each clip
    uses: _Ints  # of each image
    first_user: _Ints  # (images + 1,) where each image's room in `users` begins
    users: _Ints  # the taken edges of each image
    place: _Ints  # of a taken edge in `users`
    price: _Ints  # of each image
    level: _Ints  # of each clip


class _Search(NamedTuple):
    """Dijkstra's state; nodes are the images, then the clips."""

    distance: _Ints
    reached_by: _Ints  # the edge of the path
    settled: NDArray[np.bool_]
    touched: _Ints
    keys: _Ints  # of the heap
    nodes: _Ints  # of the heap


def pairs_as_a_set(ranked: pl.DataFrame, m: int, limit: int) -> pl.DataFrame:
    """The pairs of all clips with the largest sum of T in which no image is used more often than `limit`.

    Args:
        ranked: columns of FUSED_PAIRS, a row for **every** candidate of every clip, in any order; `rank` is
            the candidate's among those of its clip.
        m: images per clip, at least 1.
        limit: how often an image may be used, at least 1.

    Returns:
        FUSED_PAIRS rows by clip id and rank, which counts each clip's pairs from 1. Where the images do not
        suffice, clips have fewer than m, or no row: see `assign`.
    """
    ranked = ranked.sort("clip_id", "rank")
    taken = assign(
        ranked["clip_id"].rle_id().to_numpy().astype(np.int64),
        ranked["image_id"].rank("dense").to_numpy().astype(np.int64) - 1,
        ranked["fused_score"].to_numpy(),
        m,
        limit,
    )
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("clip_id")
    return FUSED_PAIRS.check(ranked.filter(pl.Series(taken)).with_columns(rank=place))


def passed_over(ranked: pl.DataFrame, pairs: pl.DataFrame, m: int, limit: int) -> pl.DataFrame:
    """What a set that is not full could still take: a clip with fewer than m pairs, and a free candidate.

    Args:
        ranked: as in `pairs_as_a_set`.
        pairs: its result.
        m: images per clip.
        limit: how often an image may be used.

    Returns:
        clip_id, image_id; none for every result of `pairs_as_a_set`.
    """
    full = pairs.group_by("clip_id").len().filter(pl.col("len") >= m)
    used_up = pairs.group_by("image_id").len().filter(pl.col("len") >= limit)
    return (
        ranked.select("clip_id", "image_id")
        .join(full, on="clip_id", how="anti")
        .join(used_up, on="image_id", how="anti")
        .join(pairs, on=["clip_id", "image_id"], how="anti")
        .sort("clip_id", "image_id")
    )


def assign(
    clips: _Ints, images: _Ints, fused_score: NDArray[np.float64], m: int, limit: int
) -> NDArray[np.bool_]:
    """Which candidates become pairs: at most m a clip and `limit` an image, with the largest sum of T.

    If the images do not suffice, as many clips as possible get one image, then as many as possible two,
    and so on; among all such sets the sum of T is the largest.

    Of equal T, a clip's earlier candidate weighs more, by less than one unit of T. What is equal even so is
    settled by the order of clips and images: number them by id, and the result depends on nothing else.

    Args:
        clips: (n,) number of the clip of each candidate, ascending, from 0 without a gap.
        images: (n,) number of its image; no pair may stand twice.
        fused_score: (n,) T in [0, 1], each clip's candidates best first.
        m: pairs per clip, at least 1.
        limit: how often an image may be used, at least 1.

    Returns:
        (n,) True for the pairs.

    Raises:
        MatchingError: a T that is not in [0, 1].
    """
    if m < 1 or limit < 1:
        raise ValueError(f"m is {m} and the limit {limit}: both must be at least 1")
    if not len(clips):
        return np.zeros(0, dtype=np.bool_)
    if not ((fused_score >= 0) & (fused_score <= 1 + 1e-9)).all():
        raise MatchingError("a fused score is not in [0, 1]: build similarity_matrix and va_distances again")
    if ((np.diff(clips) == 0) & (np.diff(fused_score) > 0)).any():
        raise ValueError("a clip's candidates are not ordered by descending fused score")
    first = np.searchsorted(clips, np.arange(clips[-1] + 2)).astype(np.int64)
    number_of_images = int(images.max()) + 1
    weight = _weights(fused_score, np.arange(len(clips)) - first[clips], number_of_images)
    edges = _Edges(first, clips.astype(np.int64), images.astype(np.int64), weight)
    penalty = 2 * (number_of_images + 1) * (int(weight.max()) + 1)
    return _augment_all(edges, number_of_images, m, limit, penalty)


def _weights(fused_score: NDArray[np.float64], position: _Ints, images: int) -> _Ints:
    """T as whole units, minus the candidate's position as a fraction of one."""
    fraction = int(position.max()).bit_length()
    bits = min(WEIGHT_BITS, _MAGNITUDE_BITS - fraction - (2 * images + 2).bit_length())
    units: _Ints = np.rint(fused_score * (1 << bits)).astype(np.int64)
    return ((units + 1) << fraction) - 1 - position


@compiled
def _augment_all(edges: _Edges, images: int, m: int, limit: int, penalty: int) -> NDArray[np.bool_]:
    """Each clip's first pair, then each clip's second, and so on.

    Without a free image within reach, the clip goes without, or another clip of the round gives up a pair
    for it, if T gains; `penalty` is above any sum of weights along a path.
    """
    clips = len(edges.first) - 1
    room = np.minimum(np.bincount(edges.image, minlength=images), limit)
    first_user = np.zeros(images + 1, np.int64)
    first_user[1:] = np.cumsum(room)
    chosen = _Chosen(
        np.zeros(len(edges.clip), np.bool_),
        np.zeros(clips, np.int64),
        np.zeros(images, np.int64),
        first_user,
        np.empty(first_user[images], np.int64),
        np.empty(len(edges.clip), np.int64),
        np.zeros(images, np.int64),
        edges.weight[edges.first[:-1]].copy(),
    )
    pushes = len(edges.clip) + first_user[images] + 1
    search = _Search(
        np.full(images + clips, _FAR, np.int64),
        np.empty(images + clips, np.int64),
        np.zeros(images + clips, np.bool_),
        np.empty(images + clips, np.int64),
        np.empty(pushes, np.int64),
        np.empty(pushes, np.int64),
    )
    for wanted in range(1, m + 1):
        for clip in range(clips):
            if chosen.pairs[clip] == wanted - 1:
                _augment(edges, chosen, search, clip, limit, penalty)
    return chosen.taken


@compiled
def _augment(edges: _Edges, chosen: _Chosen, search: _Search, clip: int, limit: int, penalty: int) -> None:
    """One more pair for a clip, along the shortest path to a free image or to a pair that is given up."""
    images = len(chosen.uses)
    wanted = chosen.pairs[clip] + 1
    distance, reached_by = search.distance, search.reached_by
    settled, touched = search.settled, search.touched
    count, size = 1, _push(search, 0, 0, images + clip)
    distance[images + clip] = 0
    touched[0] = images + clip
    end, bound = images + clip, chosen.level[clip] + penalty  # the clip goes without
    while size and search.keys[0] < bound:
        here, node = search.keys[0], search.nodes[0]
        size = _pop(search, size)
        if settled[node]:
            continue
        settled[node] = True
        if node < images:
            for edge in chosen.users[chosen.first_user[node] : chosen.first_user[node] + chosen.uses[node]]:
                other = edges.clip[edge]
                length = here + edges.weight[edge] - chosen.price[node] - chosen.level[other]
                if length < min(bound, distance[images + other]):
                    if distance[images + other] == _FAR:
                        touched[count] = images + other
                        count += 1
                    distance[images + other] = length
                    reached_by[images + other] = edge
                    size = _push(search, size, length, images + other)
                    given_up = length + chosen.level[other] + penalty
                    if chosen.pairs[other] == wanted and given_up < bound:
                        end, bound = images + other, given_up
        else:
            other = node - images
            for edge in range(edges.first[other], edges.first[other + 1]):
                length = here + chosen.level[other] - edges.weight[edge]
                if length >= bound:
                    break  # prices are not negative, and lighter edges follow
                image = edges.image[edge]
                length += chosen.price[image]
                if not chosen.taken[edge] and length < min(bound, distance[image]):
                    if distance[image] == _FAR:
                        touched[count] = image
                        count += 1
                    distance[image] = length
                    reached_by[image] = edge
                    if chosen.uses[image] < limit:
                        end, bound = image, length
                    else:
                        size = _push(search, size, length, image)
    for node in touched[:count]:
        if distance[node] < bound and node < images:
            chosen.price[node] += bound - distance[node]
        elif distance[node] < bound:
            chosen.level[node - images] -= bound - distance[node]
    # Back along the path: each clip on it takes the edge that leads on, and releases the one that led to it.
    while end != images + clip:
        edge = reached_by[end]
        if end < images:
            _take(edges, chosen, edge)
            end = images + edges.clip[edge]
        else:
            _release(edges, chosen, edge)
            end = edges.image[edge]
    for node in touched[:count]:
        distance[node] = _FAR
        settled[node] = False


@compiled
def _take(edges: _Edges, chosen: _Chosen, edge: int) -> None:
    image = edges.image[edge]
    place = chosen.first_user[image] + chosen.uses[image]
    chosen.taken[edge] = True
    chosen.users[place] = edge
    chosen.place[edge] = place
    chosen.uses[image] += 1
    chosen.pairs[edges.clip[edge]] += 1


@compiled
def _release(edges: _Edges, chosen: _Chosen, edge: int) -> None:
    image = edges.image[edge]
    chosen.taken[edge] = False
    chosen.uses[image] -= 1
    chosen.pairs[edges.clip[edge]] -= 1
    last = chosen.users[chosen.first_user[image] + chosen.uses[image]]
    chosen.users[chosen.place[edge]] = last
    chosen.place[last] = chosen.place[edge]


@compiled
def _push(search: _Search, size: int, key: int, node: int) -> int:
    """Add a node to the heap; of equal keys, the lower node comes first."""
    keys, nodes = search.keys, search.nodes
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if keys[above] < key or (keys[above] == key and nodes[above] <= node):
            break
        keys[at], nodes[at] = keys[above], nodes[above]
        at = above
    keys[at], nodes[at] = key, node
    return size + 1


@compiled
def _pop(search: _Search, size: int) -> int:
    """Remove the first node of the heap."""
    keys, nodes = search.keys, search.nodes
    size -= 1
    key, node = keys[size], nodes[size]
    at, below = 0, 1
    while below < size:
        right = below + 1
        if right < size and (
            keys[right] < keys[below] or (keys[right] == keys[below] and nodes[right] < nodes[below])
        ):
            below = right
        if key < keys[below] or (key == keys[below] and node <= nodes[below]):
            break
        keys[at], nodes[at] = keys[below], nodes[below]
        at, below = below, 2 * below + 1
    keys[at], nodes[at] = key, node
    return size
