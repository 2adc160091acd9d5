"""A data set at EMID's scale with a structure that is known, for benchmarks and tests.

Belongs here: drawing clips, images and pairs from a seed. It says nothing about real music: it has
EMID's counts, its labels' places on the valence-arousal plane and its way of making pairs, so that
networks can be compared where the data set itself may not be passed on.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.formula import TaughtFormula
from emid_assets.adapters.pair_data import PairData
from emid_assets.adapters.splits import TRAIN, hold_out_one_pair, split_by_source
from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import emotional_similarity, fit_alignment
from emid_assets.matching.fusion import Formula, fuse, rescale
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.top_k_softmax import top_k_softmax

ORIGINALS = {"A": 45, "B": 80, "C": 54, "D": 131, "E": 306, "F": 174, "G": 367,
             "H": 86, "I": 36, "J": 124, "K": 129, "L": 105, "M": 199}  # fmt: skip
EXPANDED = {"A": 255, "B": 545, "C": 320, "D": 771, "E": 1531, "F": 889, "G": 1832,
            "H": 1036, "I": 323, "J": 1014, "K": 799, "L": 484, "M": 939}  # fmt: skip
"""EMID's clips per category, before and after expansion: 1,836 and 10,738."""


@dataclass(frozen=True)
class Recipe:
    """What is drawn; the defaults are EMID's scale.

    Attributes:
        images: number of images, spread evenly over the eight tags.
        shrink: every count of clips is divided by this, for tests.
        dimension: of the embeddings.
        topics, topic_dimension: places in the latent space that both modalities share.
        concentration: of the Dirichlet that draws each category's and tag's share of topics.
        item_spread: how far an item lies from its topic, in topic coordinates.
        window_spread: how far an expanded clip lies from its source.
        music_va_noise: of a clip's ratings about its category's mean, on the scale 1 to 9.
        image_va_noise: of an image's VA about its tag's, on the scale 0 to 1.
        topic_weight, va_weight, gap_weight, noise_weight: norms of an embedding's four parts.
        embedded_va_noise: of the VA that the embedding shows, on the aligned plane.
        scale: logit scale of the music embeddings.
        candidates, images_per_clip, alpha: of the pairs, which the raw formula makes.
    """

    images: int = 10_000
    shrink: int = 1
    dimension: int = 1024
    topics: int = 60
    topic_dimension: int = 32
    concentration: float = 0.7
    item_spread: float = 0.5
    window_spread: float = 0.15
    music_va_noise: float = 0.7
    image_va_noise: float = 0.08
    topic_weight: float = 1.0
    va_weight: float = 0.5
    gap_weight: float = 0.7
    noise_weight: float = 0.8
    embedded_va_noise: float = 0.18
    scale: float = 20.0
    candidates: int = 100
    images_per_clip: int = 3
    alpha: float = 0.6


@dataclass(frozen=True)
class GeneratedData:
    """N clips, M images and their pairs.

    Attributes:
        music: (N, d) float32 unit embeddings. images: (M, d) the same.
        sources: (N,) int64, the source of each clip.
        clip_emotions: N Cowen keys. image_tags: M of Mikels' eight.
        music_va: (N, 2) float64 aligned VA. image_va: (M, 2) the same.
        pair_clips, pair_images: (P,) int64.
        fused_scores: (P,) float64, T.
        image_ids: M names.
        recipe: what was drawn.
    """

    music: NDArray[np.float32]
    images: NDArray[np.float32]
    sources: NDArray[np.int64]
    clip_emotions: list[str]
    image_tags: list[str]
    music_va: NDArray[np.float64]
    image_va: NDArray[np.float64]
    pair_clips: NDArray[np.int64]
    pair_images: NDArray[np.int64]
    fused_scores: NDArray[np.float64]
    image_ids: list[str]
    recipe: Recipe

    @property
    def formula(self) -> Formula:
        """What made the pairs."""
        recipe = self.recipe
        return Formula(recipe.alpha, recipe.candidates, recipe.images_per_clip, "raw", "cosine", 0.5)


def generate(seed: int, recipe: Recipe | None = None) -> GeneratedData:
    """Draw a data set; the same seed and recipe give the same one.

    A category (of music) or tag (of images) has its own mixture over shared topics; an item is one
    topic of the mixture plus its own spread; an expanded clip is its source plus a little. The
    embedding is a linear map of that latent place, shared by both modalities, plus a tanh map of
    the item's noisy VA, plus the modality's constant gap, plus noise.
    """
    recipe = recipe or Recipe()
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(recipe.topics, recipe.topic_dimension))
    shared = rng.normal(size=(recipe.topic_dimension, recipe.dimension))

    letters, source_of = _clips(recipe, rng)
    source_letters = letters[np.unique(source_of, return_index=True)[1]]
    sources = topics[_topics_of(source_letters, recipe, rng)]
    sources = sources + recipe.item_spread * rng.normal(size=sources.shape)
    source_va = np.asarray([(e.valence, e.arousal) for e in MUSIC_EMOTIONS])[source_letters]
    source_va = np.clip(source_va + recipe.music_va_noise * rng.normal(size=source_va.shape), 1, 9)
    windows = rng.normal(size=(len(letters), recipe.topic_dimension))
    clips = sources[source_of] + recipe.window_spread * windows
    clip_va = source_va[source_of]

    tags = np.arange(recipe.images) % len(IMAGE_EMOTIONS)
    images = topics[_topics_of(tags, recipe, rng)]
    images = images + recipe.item_spread * rng.normal(size=images.shape)
    image_va = np.asarray([(e.valence, e.arousal) for e in IMAGE_EMOTIONS])[tags]
    image_va = np.clip(image_va + recipe.image_va_noise * rng.normal(size=image_va.shape), 0, 1)

    clip_labels = [MUSIC_EMOTIONS[letter].key for letter in letters]
    tag_labels = [IMAGE_EMOTIONS[tag].key for tag in tags]
    music_plane = fit_alignment(clip_va, clip_labels, 1, 9).apply(clip_va)
    image_plane = fit_alignment(image_va, tag_labels, 0, 1).apply(image_va)
    X = _embeddings(clips, music_plane, shared, recipe, rng)
    Y = _embeddings(images, image_plane, shared, recipe, rng)

    state = top_k_softmax(recipe.scale * X, Y, recipe.candidates)
    candidates = state.ids
    E = emotional_similarity(music_plane[:, None], image_plane[candidates])
    S = rescale(state.scores, log_sum_exp(state), "raw")
    fused = fuse(S, E, np.ones(S.shape, dtype=np.bool_), recipe.alpha, recipe.images_per_clip)
    return GeneratedData(
        music=X,
        images=Y,
        sources=source_of,
        clip_emotions=clip_labels,
        image_tags=tag_labels,
        music_va=music_plane,
        image_va=image_plane,
        pair_clips=np.repeat(np.arange(len(X)), recipe.images_per_clip),
        pair_images=np.take_along_axis(candidates, fused.slots, axis=1).ravel(),
        fused_scores=fused.fused_score.ravel(),
        image_ids=[f"image {row}" for row in range(recipe.images)],
        recipe=recipe,
    )


def split_images(data: GeneratedData, seed: int, unseen: float = 0.15) -> tuple[GeneratedData, GeneratedData]:
    """The data set as it would be without a share of its images, and those images alone.

    Each keeps the clips, and the pairs of its own images; K shrinks with the images, so that a
    candidate stays as likely as it was.
    """
    hidden = np.random.default_rng(seed).random(len(data.images)) < unseen
    return _only_images(data, ~hidden), _only_images(data, hidden)


def _only_images(data: GeneratedData, kept: NDArray[np.bool_]) -> GeneratedData:
    row_of = np.cumsum(kept) - 1
    rows = np.flatnonzero(kept)
    pairs = kept[data.pair_images]
    return replace(
        data,
        images=data.images[rows],
        image_tags=[data.image_tags[row] for row in rows],
        image_va=data.image_va[rows],
        image_ids=[data.image_ids[row] for row in rows],
        pair_clips=data.pair_clips[pairs],
        pair_images=row_of[data.pair_images[pairs]],
        fused_scores=data.fused_scores[pairs],
        recipe=replace(data.recipe, candidates=max(1, round(data.recipe.candidates * kept.mean()))),
    )


def pair_data(data: GeneratedData, protocol: Literal["warm", "cold"], seed: int) -> PairData:
    """What networks learn from: split by source (`cold`), or one pair of each clip held out (`warm`)."""
    sources = [str(source) for source in data.sources]
    if protocol == "cold":
        clip_parts = split_by_source(sources, seed)
        pair_parts = np.asarray(clip_parts, dtype=np.str_)[data.pair_clips]
    else:
        clip_parts = [TRAIN] * len(sources)
        pair_parts = hold_out_one_pair(data.pair_clips, sources, seed)
    return PairData(
        clip_ids=[f"clip {row}" for row in range(len(data.music))],
        image_ids=data.image_ids,
        source_ids=sources,
        music=data.music,
        images=data.images,
        music_va=data.music_va,
        image_va=data.image_va,
        pair_clips=data.pair_clips,
        pair_images=data.pair_images,
        fused_scores=data.fused_scores.astype(np.float32),
        pair_parts=pair_parts,
        clip_parts=clip_parts,
        formula=TaughtFormula(data.recipe.scale, data.formula),
    )


def _clips(recipe: Recipe, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Category and source of each clip: every source once, then windows of sources drawn at random."""
    letters, sources = [], []
    first = 0
    for category, emotion in enumerate(MUSIC_EMOTIONS):
        originals = max(1, ORIGINALS[emotion.letter] // recipe.shrink)
        clips = max(originals, EXPANDED[emotion.letter] // recipe.shrink)
        drawn = np.concatenate([np.arange(originals), rng.integers(originals, size=clips - originals)])
        letters.append(np.full(clips, category))
        sources.append(first + drawn)
        first += originals
    return np.concatenate(letters), np.concatenate(sources)


def _topics_of(labels: NDArray[np.int64], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.int64]:
    """A topic for each item, by its label's own mixture."""
    mixtures = rng.dirichlet([recipe.concentration] * recipe.topics, int(labels.max()) + 1)
    cumulative = np.cumsum(mixtures, axis=1)[labels]
    drawn = (rng.random(len(labels))[:, None] > cumulative).sum(axis=1)
    topics: NDArray[np.int64] = np.minimum(drawn, recipe.topics - 1)
    return topics


def _embeddings(
    places: NDArray[np.float64],
    va: NDArray[np.float64],
    shared: NDArray[np.float64],
    recipe: Recipe,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    d = recipe.dimension
    content = places @ shared / np.sqrt(d * recipe.topic_dimension * (1 + recipe.item_spread**2))
    noisy_va = va + recipe.embedded_va_noise * rng.normal(size=va.shape)
    feeling = np.tanh(noisy_va @ rng.normal(size=(2, d)) * 2) / np.sqrt(d)
    gap = rng.normal(size=d) / np.sqrt(d)
    noise = rng.normal(size=(len(places), d)) / np.sqrt(d)
    rows = (
        recipe.topic_weight * content
        + recipe.va_weight * feeling
        + recipe.gap_weight * gap
        + recipe.noise_weight * noise
    )
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
