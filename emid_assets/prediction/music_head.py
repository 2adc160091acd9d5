"""The head that corrects the rule for music by the user's own rated clips: training, validation, its file.

Belongs here: Gaussian process regression on 100 tags whose prior mean is the rule of `music_rule`. Choosing
by left-out groups, folds and figures are `gaussian_process`'s. No network, no reading of audio.

A rating is the rule's, plus a level, plus a change of the rule's scale, plus a linear function of the tags,
plus noise. All but the noise are zero a priori, so that the head departs from the rule only as far as the
ratings ask for it. The kernel is linear: with some hundred clips it left smaller errors than a Gaussian one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from emid_assets.encoders.interface import Float32Array
from emid_assets.prediction.gaussian_process import (
    Places,
    calibration,
    cross_validate,
    figures_of,
    left_out_errors,
    members_by_size,
)
from emid_assets.prediction.head_files import is_current, store_head
from emid_assets.prediction.music_rule import RATING_MEAN, RULE_SD, predict_music, shipped_reference
from emid_assets.store.data_version import frame_digest
from emid_assets.store.files import make_folder
from emid_assets.store.schemas import MUSIC_EMOTION_HEAD

Floats = NDArray[np.float64]

HEAD_VERSION = "1"
MIN_CLIPS = 20
"""With fewer rated clips the rule alone predicts: so few cannot tell whether a correction helps."""
MOST_CLIPS = 400
"""Largest number of rated clips to learn from: each must be tagged, about one CPU second a clip."""
LEVELS = (0.0, 0.3)
"""Standard deviations, a priori, of the difference between the user's level and the rule's, 1 to 9."""
SCALE = 0.2
"""Standard deviation, a priori, of the relative change of the rule's scale."""
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
"""Variances, a priori, of the tags' linear function, relative to the noise."""
CLIPS_FOR_STRENGTH = 45
"""Clips for each unit of strength: few clips may not change the rule much."""
PRIOR_CLIPS = 10
"""Number of clips that the rule's own uncertainty counts for beside the errors of left-out groups."""


@dataclass(frozen=True)
class MusicEmotionHead:
    """A trained head, for each axis a linear function of 102 terms: one, the rule's value, and 100 tags.

    Attributes:
        centre: (100,) mean of the log-odds.
        unit: (100,) divisor of the log-odds: their standard deviation.
        prior: (2, 102) standard deviations of the terms' weights, relative to the noise.
        weights: (2, 102) means of the weights, of terms multiplied by `prior`.
        covariance: (2, 102, 102) of those weights, relative to the noise.
        noise: (2,) variance of the noise.
    """

    centre: Floats
    unit: Floats
    prior: Floats
    weights: Floats
    covariance: Floats
    noise: Floats

    def predict(self, log_odds: Float32Array) -> tuple[Floats, Floats]:
        """Valence and arousal (n, 2), 1 to 9, and standard deviations (n, 2) that include the noise.

        Args:
            log_odds: (n, 100) in the order of `ALL_TAGS`.
        """
        by_rule, _ = predict_music(log_odds, shipped_reference())
        va, sd = np.empty_like(by_rule), np.empty_like(by_rule)
        for axis in range(2):
            terms = _terms(log_odds, by_rule, axis, self.centre, self.unit) * self.prior[axis]
            va[:, axis] = by_rule[:, axis] + terms @ self.weights[axis]
            unsure = np.einsum("ij,jk,ik->i", terms, self.covariance[axis], terms, optimize=True)
            sd[:, axis] = np.sqrt(self.noise[axis] * (1 + np.maximum(unsure, 0.0)))
        return np.clip(va, 1.0, 9.0), sd

    def save(self, path: Path) -> str:
        """Write the head as safetensors; the same head gives the same bytes. Returns their sha256."""
        make_folder(path.parent)
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @staticmethod
    def load(path: Path) -> "MusicEmotionHead":
        """A head written by `save`."""
        return MusicEmotionHead(**load_file(path))


def fit_head(log_odds: Float32Array, ratings: Floats, groups: Sequence[str]) -> MusicEmotionHead:
    """Fit a head; level and strength of each axis are those with the least error on left-out groups.

    Args:
        log_odds: (n, 100) of the rated clips.
        ratings: (n, 2) valence and arousal, 1 to 9.
        groups: n names; clips of one group are left out together.
    """
    by_rule, _ = predict_music(log_odds, shipped_reference())
    columns = np.ascontiguousarray(log_odds, np.float64)
    spread = columns.std(axis=0)
    centre, unit = columns.mean(axis=0), np.where(spread > 1e-6, spread, 1.0)
    members = members_by_size(groups)
    found = []
    for axis, sd in enumerate(RULE_SD.values()):
        terms = _terms(log_odds, by_rule, axis, centre, unit)
        residuals = np.ascontiguousarray(ratings[:, [axis]] - by_rule[:, [axis]], np.float64)
        least = np.inf
        for level in LEVELS:
            for strength in _strengths(len(ratings)):
                tags = np.full(log_odds.shape[1], np.sqrt(strength / log_odds.shape[1]))
                tried = np.concatenate([[level / sd, SCALE / sd], tags])
                kernel = (terms * tried) @ (terms * tried).T
                values, vectors = np.linalg.eigh(kernel)
                errors, variances = left_out_errors(
                    np.maximum(values, 0.0) + 1.0, vectors, residuals, members
                )
                loss = float(np.mean(errors**2))
                if loss < least:
                    least, prior = loss, tried
                    excess = float(np.sum(errors[:, 0] ** 2 / variances))
                    noise = (excess + PRIOR_CLIPS * sd**2) / (len(ratings) + PRIOR_CLIPS)
        scaled = terms * prior
        inverse = np.linalg.inv(scaled @ scaled.T + np.eye(len(scaled)))
        weights = scaled.T @ inverse @ residuals[:, 0]
        covariance = np.eye(len(prior)) - scaled.T @ inverse @ scaled
        found.append((prior, weights, covariance, np.float64(noise)))
    return MusicEmotionHead(centre, unit, *(np.stack(part) for part in zip(*found, strict=True)))


def _strengths(clips: int) -> list[float]:
    return [strength for strength in STRENGTHS if strength <= max(clips / CLIPS_FOR_STRENGTH, STRENGTHS[0])]


def _terms(log_odds: Float32Array, by_rule: Floats, axis: int, centre: Floats, unit: Floats) -> Floats:
    """(n, 102): one, the rule's value without its mean, the standardized log-odds."""
    around = by_rule[:, axis] - list(RATING_MEAN.values())[axis]
    return np.column_stack([np.ones(len(log_odds)), around, (log_odds.astype(np.float64) - centre) / unit])


def head_frame(
    rated: pl.DataFrame,
    music_tags: pl.DataFrame,
    fingerprint: str,
    seed: int,
    folder: Path,
    previous: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Train, validate and store a head: a row of MUSIC_EMOTION_HEAD, and its file in `folder`.

    If the stored head was trained on the same data, it is kept.

    Args:
        rated: rows of MEDIA_INVENTORY: item_id, source_id, valence and arousal are read.
        music_tags: frame MUSIC_TAGS, with these clips and others.
        fingerprint: of the tags.
        seed: of the folds.
        folder: of the heads, in the lake's folder.
        previous: the table's stored version.

    Returns:
        The row; no row if fewer than MIN_CLIPS rated clips have tags.
    """
    tagged = music_tags.drop_nulls("log_odds").select(
        pl.col("clip_id").alias("item_id"), "content_hash", "log_odds"
    )
    joined = rated.select("item_id", "source_id", "valence", "arousal").join(tagged, on="item_id")
    joined = joined.sort("item_id")
    if joined.height < MIN_CLIPS:
        return MUSIC_EMOTION_HEAD.empty()
    learnt_from = frame_digest(joined.drop("log_odds"), HEAD_VERSION, fingerprint, str(seed))
    if previous is not None and is_current(previous, folder, learnt_from):
        return previous
    log_odds = joined["log_odds"].to_numpy()
    ratings = joined.select("valence", "arousal").to_numpy().astype(np.float64)
    groups = joined.select(pl.coalesce("source_id", "item_id"))["source_id"].to_list()

    def predict(kept: Places, kept_groups: Sequence[str], asked: Places) -> tuple[Floats, Floats]:
        return fit_head(log_odds[kept], ratings[kept], kept_groups).predict(log_odds[asked])

    validation = cross_validate(predict, groups, seed)
    by_rule = figures_of(predict_music(log_odds, shipped_reference())[0], ratings)
    file, sha256 = store_head(
        fit_head(log_odds, ratings, groups).save, "music_emotion_head", folder, previous
    )
    row = {
        "weights_file": file,
        "weights_sha256": sha256,
        "learnt_from": learnt_from,
        "clips": len(ratings),
        "groups": validation.groups,
        "grouped_by": "clip" if validation.singly else "source",
        **figures_of(validation.va, ratings),
        "rule_valence_r": by_rule["valence_r"],
        "rule_arousal_r": by_rule["arousal_r"],
        "calibration": calibration(validation.va, validation.sd, ratings),
    }
    return MUSIC_EMOTION_HEAD.check(pl.DataFrame([row], schema=MUSIC_EMOTION_HEAD.empty().schema))
