"""The two protocols that need networks of their own: known clips, and images that training never saw.

Belongs here: what is held out, and training each network once more without it. One training serves both: it
knows neither one pair of each training clip (*warm*: is it found again?) nor a share of the images (*cold
with unseen images*: clips of unseen sources among those). Measuring is `evaluate`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emid_assets.adapters.pair_data import PairData
from emid_assets.adapters.splits import TEST, TRAIN
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.ranking.metrics import Ids, Relevance

UNSEEN_IMAGES = 0.15
"""Share of the images that the second training never sees."""

FEWEST_QUERIES = 30
"""Clips that a protocol needs; with fewer, nothing is trained for it."""


@dataclass(frozen=True)
class HeldOut:
    """What the second training does not know.

    Attributes:
        data: everything.
        unseen: (M,) bool, images that are left out.
        kept: (P,) bool, pairs that are not left out.
        pairs: the held-out pair of each clip that has one, over all M images.
        known: the pairs in training, over all M images.
        unseen_pairs: pairs of test clips with unseen images.
    """

    data: PairData
    unseen: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    pairs: Relevance
    known: Relevance
    unseen_pairs: Relevance

    @classmethod
    def of(cls, data: PairData, seed: int) -> "HeldOut":
        """Drawn from a seed: images by their ids, and a seen pair of each training clip with two or more."""
        draw = [hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in data.image_ids]
        unseen = np.array([int.from_bytes(bits, "big") < UNSEEN_IMAGES * 2.0**64 for bits in draw], np.bool_)
        seen_pair = ~unseen[data.pair_images]
        learnable = seen_pair & (data.pair_parts == TRAIN)
        held = _one_of_each_clip(np.where(learnable, data.pair_clips, -1), seed)
        kept = seen_pair & ~held & (data.pair_parts != TEST)

        def relevance(pairs: NDArray[np.bool_]) -> Relevance:
            return Relevance.of_pairs(data.pair_clips[pairs], data.pair_images[pairs], len(unseen))

        of_test = ~seen_pair & (data.pair_parts == TEST)
        return cls(data, unseen, kept, relevance(held), relevance(learnable & ~held), relevance(of_test))

    def learnt(self) -> PairData:
        """The training data without what is held out.

        Raises:
            AdapterError: nothing is left to train on.
        """
        data, seen, kept = self.data, ~self.unseen, self.kept
        row_of = np.cumsum(seen) - 1
        return replace(
            data,
            image_ids=[name for name, known in zip(data.image_ids, seen, strict=True) if known],
            images=data.images[seen],
            image_va=data.image_va[seen],
            image_sd=None if data.image_sd is None else data.image_sd[seen],
            pair_clips=data.pair_clips[kept],
            pair_images=row_of[data.pair_images[kept]],
            fused_scores=data.fused_scores[kept],
            pair_parts=data.pair_parts[kept],
        )

    def train_again(self, weights: Mapping[str, Path]) -> dict[str, TrainedAdapter]:
        """Each network with its own settings and hyperparameters, on what is not held out; on the CPU."""
        trained, learnt = {}, self.learnt()
        for network, file in weights.items():
            first = TrainedAdapter.load(file)
            settings = replace(first.settings, device="cpu")
            trained[network] = train(network, learnt, settings, first.config)
        return trained


def _one_of_each_clip(clips: Ids, seed: int) -> NDArray[np.bool_]:
    """One pair, drawn at random, of each clip that has two or more; -1 marks pairs that are no candidates."""
    lot = np.random.default_rng([seed, 2]).random(len(clips))
    order = np.lexsort((lot, clips))
    ordered = clips[order]
    first = np.append(True, ordered[1:] != ordered[:-1]) if len(ordered) else np.zeros(0, np.bool_)
    counts = np.bincount(ordered + 1, minlength=1)[ordered + 1]
    held = np.zeros(len(clips), np.bool_)
    held[order[first & (counts > 1) & (ordered >= 0)]] = True
    return held
