"""Both methods side by side, against plain loops over their pairs."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from emid_assets.evaluation.methods import compare_methods, formulas, methods_table
from emid_assets.matching.frames import similarity_frame
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.emotion_metrics import MUSIC_TO_IMAGE_EMOTION
from emid_assets.settings import Settings
from emid_assets_tests.small_lake import make_lake

PAIRS_OF_PAPER = "c9cc536cbeee719897c057d6a4f49ffb2e59991b249a168d2ae13c4fb70b0193"
"""sha256 of the pairs of `make_lake` as they were before there were two methods."""


def test_the_other_method_is_compared_with_its_own_alpha_and_kernel() -> None:
    found = formulas(Settings(alpha=0.3, candidates=20, images_per_clip=2))
    assert found["calibrated"] == Formula.of(Settings(alpha=0.3, candidates=20, images_per_clip=2))
    assert found["paper"] == Formula(0.6, 20, 2, "candidate_minmax", "cosine", 0.5, 1.0, "paper")


def test_the_method_paper_gives_the_pairs_that_it_always_gave() -> None:
    pairs = make_lake().fused_pairs.sort("clip_id", "rank").select("clip_id", "image_id")
    text = "\n".join(f"{clip}|{image}" for clip, image in pairs.iter_rows())
    assert hashlib.sha256(text.encode()).hexdigest() == PAIRS_OF_PAPER


def of_tags(lake: LakeTables) -> LakeTables:
    """The lake with uncertain images, half of them rated, and S."""
    half = pl.int_range(pl.len()) % 2 == 0
    images = lake.images.with_columns(
        va_source=pl.when(half).then(pl.lit("measured")).otherwise(pl.lit("predicted")),
        valence_sd=pl.when(~half).then(0.3),
        arousal_sd=pl.when(~half).then(0.2),
    )
    similarity = similarity_frame(lake.music_embeddings, lake.image_embeddings, 20)
    return replace(lake, images=images, similarity_matrix=similarity)


def test_the_figures_of_each_method_are_means_over_its_pairs() -> None:
    tables = of_tags(make_lake())
    calibrated = Formula(0.0, 20, 3, "candidate_minmax", "gaussian", 0.5, 1.0, "calibrated")
    paper = Formula(0.6, 20, 3, "candidate_minmax", "cosine", 0.5, 1.0, "paper")
    table = methods_table(compare_methods(tables, {"paper": paper, "calibrated": calibrated}))
    assert table["all_images"] == {"rated": 0.5}
    clips = {row["clip_id"]: row for row in tables.music_clips.iter_rows(named=True)}
    images = {row["image_id"]: row for row in tables.images.iter_rows(named=True)}
    ranks = {(clip, image): rank for clip, image, rank, *_ in tables.similarity_matrix.iter_rows()}

    def emotional(clip: str, image: str) -> float:
        product = 1.0
        for axis in ("valence", "arousal"):
            widened = 0.25 + (images[image][f"{axis}_sd"] or 0.0) ** 2
            apart = clips[clip][axis] - images[image][axis]
            product *= 0.5 / math.sqrt(widened) * math.exp(-(apart**2) / 2 / widened)
        return product

    def by_emotion(clip: str) -> list[str]:
        return sorted(
            images, key=lambda image: (-round(emotional(clip, image), 9), ranks.get((clip, image), 21), image)
        )[:3]

    stored = tables.fused_pairs.select("clip_id", "image_id").rows()
    for method, pairs in (
        ("paper", stored),
        ("calibrated", [(clip, image) for clip in clips for image in by_emotion(clip)]),
    ):
        of = table[method]
        assert of["mean_emotional_similarity"] == pytest.approx(np.mean([emotional(*pair) for pair in pairs]))
        assert of["va_distance"] == pytest.approx(
            np.mean(
                [
                    math.dist(*([item["valence"], item["arousal"]] for item in (clips[clip], images[image])))
                    for clip, image in pairs
                ]
            )
        )
        assert of["label_precision"] == pytest.approx(
            np.mean([images[i]["tag"] == MUSIC_TO_IMAGE_EMOTION[clips[c]["emotion"]] for c, i in pairs])
        )
        if method == "paper":  # with the other one, ties among images beyond the K go by their score
            assert of["mean_semantic_rank"] == pytest.approx(np.mean([ranks[pair] for pair in pairs]))
            assert of["rated"] == np.mean([images[i]["va_source"] == "measured" for _, i in pairs])
            assert of["coverage"] == len({image for _, image in pairs}) / len(images)


def test_without_pairs_there_is_nothing_to_compare() -> None:
    assert compare_methods(make_lake(), formulas(Settings())).is_empty()
