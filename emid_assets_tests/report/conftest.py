"""Frames of a small build on the sample media: real files and labels, made-up embeddings."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.evaluation.pair_statistics import pair_statistics
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.report.page import BuildFacts, EncoderFacts
from emid_assets.store.schemas import TABLES

ALPHA, M, K = 0.6, 3, 12


def frame(table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as the table's frame; columns that a row leaves out are null."""
    schema = TABLES[table].empty().schema
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def clips_of(media: Path) -> pl.DataFrame:
    by_letter = {emotion.letter: emotion for emotion in MUSIC_EMOTIONS}
    rows = []
    for path in sorted((media / "music").glob("*.ogg")):
        facts = soundfile.info(path)
        emotion = by_letter[path.name.split("_")[1]]
        rows.append(
            {
                "clip_id": path.name, "file": f"music/{path.name}", "start_s": 0.0,
                "duration_s": facts.frames / facts.samplerate, "sample_rate": facts.samplerate,
                "channels": facts.channels, "content_hash": path.name,
                "label_source": "title hint (curated; not human-rated)", "is_original_clip": True,
                "source_id": path.name, "emotion": emotion.key, "genre": emotion.letter,
                "feelings": [
                    {"feeling": "Sad, depressing", "percent": 33.0}, {"feeling": "Dreamy", "percent": 67.0}
                ],
                "valence": emotion.valence, "arousal": emotion.arousal, "va_source": "category_mean",
                "licence": "CC-BY-SA-3.0", "author": "Somebody",
            }
        )  # fmt: skip
    return frame("music_clips", rows)


def images_of(media: Path) -> pl.DataFrame:
    by_key = {emotion.key: emotion for emotion in IMAGE_EMOTIONS}
    rows = []
    for path in sorted((media / "images").glob("*.jpg")):
        emotion = by_key[path.name.split("_")[0]]
        with Image.open(path) as image:
            width, height = image.size
        rows.append(
            {
                "image_id": path.name, "file": f"images/{path.name}", "width": width, "height": height,
                "content_hash": path.name, "label_source": "folder", "tag": emotion.key,
                "valence": emotion.valence, "arousal": emotion.arousal, "va_source": "tag",
                "licence": "public-domain", "author": "Various",
            }
        )  # fmt: skip
    return frame("images", rows)


def paired(clips: pl.DataFrame, images: pl.DataFrame, seed: int = 0) -> dict[str, pl.DataFrame]:
    """similarity_matrix, va_distances and fused_pairs by plain loops over random scores."""
    rng = np.random.default_rng(seed)
    plane = Plane.fit(clips, images, "standardize")
    to_plane = (
        plane.music.apply(clips.select("valence", "arousal").to_numpy()),
        plane.image.apply(images.select("valence", "arousal").to_numpy()),
    )
    # Two decimals, so that equal scores occur and the order of ties matters.
    scores = np.round(2 * rng.normal(size=(clips.height, images.height)), 1).astype(np.float32)
    ids = images["image_id"].to_list()
    candidates, distances, pairs = [], [], []
    for row, clip_id in enumerate(clips["clip_id"]):
        log_sum_exp = float(np.log(np.exp(scores[row].astype(np.float64)).sum()))
        order = sorted(range(len(ids)), key=lambda column: (-scores[row, column], ids[column]))[:K]
        S = {column: float(np.exp(scores[row, column] - log_sum_exp)) for column in order}
        low, high = min(S.values()), max(S.values())
        choice = []
        for rank, column in enumerate(order, start=1):
            key = {"clip_id": clip_id, "image_id": ids[column]}
            E = float(emotional_similarity(to_plane[0][row], to_plane[1][column]))
            rescaled = (S[column] - low) / (high - low)
            candidates.append(
                {**key, "rank": rank, "score": float(scores[row, column]), "semantic_similarity": S[column],
                 "log_sum_exp": log_sum_exp}
            )  # fmt: skip
            distances.append(
                {**key, "score": float(scores[row, column]), "emotional_similarity": E, "cosine": 2 * E - 1,
                 "euclidean": 0.0}
            )  # fmt: skip
            choice.append(
                {**key, "semantic_similarity": S[column], "rescaled_similarity": rescaled,
                 "emotional_similarity": E, "fused_score": ALPHA * rescaled + (1 - ALPHA) * E}
            )  # fmt: skip
        choice.sort(key=lambda pair: (-pair["fused_score"], -pair["semantic_similarity"], pair["image_id"]))
        pairs += [{**pair, "rank": rank} for rank, pair in enumerate(choice[:M], start=1)]
    return {
        "similarity_matrix": frame("similarity_matrix", candidates),
        "va_distances": frame("va_distances", distances),
        "fused_pairs": frame("fused_pairs", pairs),
    }


METRICS = ("precision_at_10", "recall_at_10", "map_at_10", "ndcg_at_10", "mrr_at_10", "hit_rate_at_10")


def trained(network: str, epochs: int = 20) -> pl.DataFrame:
    history = [
        {"epoch": epoch, "loss": 0.7 / epoch + 0.1,
         **{name: (1 - 1 / (epoch + 1)) * (0.3 + 0.1 * place) for place, name in enumerate(METRICS)}}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    row = {
        "network": network, "weights_file": "w.safetensors", "weights_sha256": "0", "dimension": 64,
        "parameters": 123456, "seed": 0, "best_epoch": epochs, "history": history,
    }  # fmt: skip
    return frame("trained_adapter", [row])


def swept() -> pl.DataFrame:
    """A sweep whose labels fit best at alpha 0.4, m = 3, K = 12, which alone has .9."""
    rows = [
        ("candidate_minmax", alpha / 10, m, count, 1 - alpha / 10, alpha / 10,
         0.9 if (alpha, m, count) == (4, 3, 12) else 0.5 - alpha / 100, 0.25, 1.0)
        for m in (1, 3) for count in (4, 12) for alpha in range(11)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=TABLES["alpha_sweep"].empty().schema, orient="row")


def studied(network: str) -> pl.DataFrame:
    values = [0.3, 0.2, 0.45, None, 0.4]
    states = ["complete", "pruned", "complete", "fail", "complete"]
    rows = [
        {"network": network, "study": "study", "trial": trial, "state": state, "ndcg_at_10": value,
         "epochs": 4, "hyperparameters": json.dumps({"learning_rate": 0.001 * (trial + 1)})}
        for trial, (state, value) in enumerate(zip(states, values, strict=True))
    ]  # fmt: skip
    return frame("tuning_trials", rows)


def measured(**systems: float) -> pl.DataFrame:
    """Section `retrieval_test`: each system's metrics, spread about the given value."""
    rows = [
        {"section": "retrieval_test", "system": system, "metric": name, "value": value * (1 + 0.1 * place)}
        for system, value in systems.items()
        for place, name in enumerate(METRICS)
    ]
    rows += [
        {"section": "retrieval_test", "system": system, "metric": "va_distance_at_10", "value": 1 - value}
        for system, value in systems.items()
    ]
    rows += [
        {"section": "retrieval_test", "system": system, "metric": "queries", "value": 3.0}
        for system in systems
    ]
    return frame("retrieval_metrics", rows)


BUILD = BuildFacts(
    settings={
        "alpha": ALPHA, "images_per_clip": M, "va_alignment": "standardize",
        "semantic_rescaling": "candidate_minmax",
    },
    meanings={"alpha": "Weight of the semantic term."},
    encoder=EncoderFacts("bundled", "Apache-2.0 and MIT", 1000, "abc123"),
    media=Path(),
)  # fmt: skip


@pytest.fixture(scope="session")
def make_tables(sample_media: Path) -> Callable[..., LakeTables]:
    """A whole lake on the sample media; keyword arguments replace tables."""

    def make(**replaced: Any) -> LakeTables:
        clips = replaced.get("music_clips", clips_of(sample_media))
        images = replaced.get("images", images_of(sample_media))
        tables = LakeTables(
            Plane.fit(clips, images, "standardize"),
            clips,
            images,
            rejected_media=frame(
                "rejected_media",
                [
                    {"kind": "music", "item_id": "a.mp3", "file": "music/a.mp3", "reason": "audio is empty"},
                    {"kind": "music", "item_id": "b.mp3", "file": "music/b.mp3", "reason": "audio is empty"},
                    {"kind": "image", "item_id": "c.png", "file": None, "reason": "missing from the disk"},
                ],
            ),
            **paired(clips, images),
            trained_adapter=trained("bmf"),
            retrieval_metrics=measured(bmf=0.4, semantic=0.3, structured=0.35, random=0.1, oracle=0.6),
            alpha_sweep=swept(),
            tuning_trials=studied("bmf"),
        )
        return replace(with_statistics(tables), **replaced)

    return make


def with_statistics(tables: LakeTables) -> LakeTables:
    """The same tables with what is counted of them."""
    return replace(tables, pair_statistics=pair_statistics(tables))


def emptied(tables: LakeTables) -> LakeTables:
    """The same tables without their rows."""
    return changed(tables, pl.DataFrame.clear)


def changed(tables: LakeTables, change: Callable[[pl.DataFrame], pl.DataFrame]) -> LakeTables:
    """The same tables, each as `change` makes it."""
    frames = {entry.name: getattr(tables, entry.name) for entry in fields(tables)}
    return replace(
        tables, **{name: change(value) for name, value in frames.items() if isinstance(value, pl.DataFrame)}
    )


@pytest.fixture(scope="session")
def build_facts(sample_media: Path) -> BuildFacts:
    """What the page says of the build of `make_tables`."""
    return replace(BUILD, media=sample_media)
