"""The evaluation report: one self-contained HTML page.

Belongs here: what the page says and in which order, from frames to HTML. The numbers come from
`tables`, the figures from `figures`, the embedded media from `gallery`; markup, style and the few
lines of script are in `page.html.j2` beside this file. Nothing on the page asks the network for
anything, and equal inputs give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure

from emid_assets.adapters.tuning import best_trial
from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import VaAlignment
from emid_assets.evaluation.sweep import selected_point
from emid_assets.media.expansion import expansion_counts
from emid_assets.release.published_pairs import Agreement
from emid_assets.report import figures, study, style, tables
from emid_assets.report.gallery import Copy, attributions, player, thumbnail
from emid_assets.report.predicted import predicted_section, predicted_warning
from emid_assets.report.self_contained import digest, templates
from emid_assets.store.schemas import IMAGE_EMOTION_HEAD

_OWN_SECTIONS = (
    tables.SECTION_OF_COUNTS,
    tables.SECTION_OF_PAIRS,
    tables.SECTION_OF_OVERLAP,
    tables.SECTION_OF_SWEEP,
)
_REFERENCES = ("random", "oracle", "ceiling")
"""Systems that no method competes with: never marked as the best."""
_SYSTEMS = {
    "semantic": "the encoder alone, X·Y",
    "structured": "T with valence and arousal predicted from the clip's embedding: for clips without labels",
    "ncf_reranked": "ncf's inner product retrieves 100 images, the whole NeuMF puts them in order: "
    "what serving ncf by an index alone costs",
    "random": "images in random order",
    "oracle": "T with the clip's own valence and arousal, which made the pairs: a bound, no method",
    "ceiling": "the best value that any ranking could have on these pairs",
}
_RESULTS = {
    "retrieval_test": "Test clips",
    "retrieval_test_given": "Test clips whose emotion was given, not predicted",
    "retrieval_validation": "Validation clips, which chose the best epoch",
    "retrieval_validation_given": "Validation clips whose emotion was given, not predicted",
    "retrieval_train": "Training clips: there are no others",
    "released_tasks": "The retrieval tasks as the release holds them: every pair, as mteb would measure",
    "public_tasks": "The tasks of the public benchmark (mteb), by their own definitions",
}
_FEW_CLIPS = 30


@dataclass(frozen=True)
class EncoderFacts:
    """What the encoder of the joint space says of itself.

    Attributes:
        name: `bundled` or `imagebind`.
        licence: of its weights.
        dimension: length of its embeddings.
        fingerprint: identifies weights and preprocessing.
    """

    name: str
    licence: str
    dimension: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class _ImageCard:
    image_id: str
    tag: str
    alt: str
    caption: str
    copy: Copy
    semantic: float
    rescaled: float
    emotional: float
    fused: float
    semantic_part: float
    """Share of the bar, 0 to 1: α S̃, and below (1 - α) E; together they are T."""
    emotional_part: float
    place: tuple[float, float]
    """On the aligned plane."""


@dataclass(frozen=True)
class _ClipCard:
    clip_id: str
    emotion: str
    seconds: float
    copy: Copy
    feelings: str
    place: tuple[float, float]
    images: list[_ImageCard]


def render_page(
    *,
    music_clips: pl.DataFrame,
    joined_windows: int,
    images: pl.DataFrame,
    rejected_media: pl.DataFrame,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    trained_adapters: pl.DataFrame,
    metrics: pl.DataFrame,
    study_results: pl.DataFrame,
    settings: Mapping[str, object],
    meanings: Mapping[str, str] | None = None,
    encoder: EncoderFacts,
    media: Path,
    music_alignment: VaAlignment,
    image_alignment: VaAlignment,
    agreement: Agreement | None = None,
    image_emotion_head: pl.DataFrame | None = None,
    sweep: pl.DataFrame | None = None,
    tuning_trials: pl.DataFrame | None = None,
    clips_per_emotion: int = 3,
    clips_in_gallery: int = 39,
    gallery_bytes: int = 11_000_000,
    pairs_page: str = "",
) -> str:
    """The whole report as one HTML document.

    The frames are those of `store.schemas` under the same names, all partitions together; any of
    them may be empty.

    Args:
        music_clips: every usable clip.
        joined_windows: how many of them are windows that joined as expanded clips; other expanded
            clips are the table's.
        images: every usable image.
        rejected_media: what could not be used.
        similarity_matrix: the candidates of every clip.
        va_distances: E of every candidate.
        fused_pairs: the chosen pairs.
        trained_adapters: one row for each trained network.
        metrics: EVALUATION_REPORT rows to show as tables, one for each section; rows of the
            sections that `tables` counts by itself are left out here.
        study_results: figures of the listening study.
        settings: name → value, shown in this order; holds at least `alpha`, the weight of S̃.
        meanings: name of a setting → what it means.
        encoder: the encoder of the joint space.
        media: the folder below which the frames' `file` columns are.
        music_alignment: the alignment that E was computed with, music side.
        image_alignment: the same, image side.
        agreement: the published pairs beside ours; None where nothing is published.
        image_emotion_head: frame IMAGE_EMOTION_HEAD; None for no head.
        sweep: points of one S̃ (`evaluation.sweep.SWEEP_COLUMNS`), those of the pairs' m among them.
        tuning_trials: the studies of the networks' hyperparameters.
        clips_per_emotion: clips of one emotion in the gallery, at most.
        clips_in_gallery: clips in the gallery, at most.
        gallery_bytes: bytes of embedded media, at most, give or take one clip with its images.
        pairs_page: link to the page of pairs, where there is one.

    Returns:
        HTML to be written as UTF-8. A media file that is gone or cannot be read stands as a
        placeholder that says so.

    Raises:
        ValueError: a setting that the page needs is missing, a candidate has no E, or a metric
            is given twice.
    """
    alpha, m = _number(settings, "alpha"), tables.pairs_per_clip(fused_pairs)
    used = tables.pair_counts(fused_pairs, music_clips, images)
    semantic_only = tables.pair_counts(tables.semantic_pairs(similarity_matrix, m), music_clips, images)
    largest = max(_largest(used), _largest(semantic_only))
    plane = tables.va_plane(music_clips, images, music_alignment, image_alignment)
    overlap = tables.overlaps(fused_pairs, similarity_matrix, va_distances)
    cards = _gallery(
        tables.gallery_clips(music_clips, fused_pairs, clips_per_emotion, clips_in_gallery),
        fused_pairs.join(
            images.select("image_id", "file", "tag", "caption", "valence", "arousal"), on="image_id"
        ),
        alpha,
        media,
        music_alignment,
        image_alignment,
        gallery_bytes,
    )
    shown_images = {image.image_id for card in cards for image in card.images}

    environment = templates(Path(__file__).parent)
    environment.filters["svg"] = _svg
    environment.filters |= study.FILTERS
    environment.filters["compact"] = lambda value: f"{value:.3f}" if value >= 0.01 else f"{value:.3g}"
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        theme=style.THEME,
        script=Markup(script),
        script_digest=digest(script),
        alpha=alpha,
        m=m,
        pairs_page=pairs_page,
        settings=settings,
        meanings=meanings or {},
        encoder=encoder,
        warnings=_warnings(encoder, music_clips, images, music_alignment, image_alignment),
        n_clips=music_clips.height,
        n_images=images.height,
        n_pairs=fused_pairs.height,
        n_rejected=rejected_media.height,
        n_rated=music_clips.filter(pl.col("va_source") == "ratings").height,
        emotions=MUSIC_EMOTIONS,
        tags=IMAGE_EMOTION_KEYS,
        clips_of=dict(music_clips.group_by("emotion").len().iter_rows()),
        expansion=expansion_counts(music_clips),
        joined_windows=joined_windows,
        images_of=dict(images.group_by("tag").len().iter_rows()),
        rejections=tables.rejections(rejected_media).rows(named=True),
        rejected=rejected_media.sort("kind", "file", "item_id").head(200).rows(named=True),
        heat_maps=[
            (key, title, frame, figures.pair_counts_figure(frame, title, largest))
            for key, title, frame in (
                ("used", f"Chosen pairs (α = {alpha:g})", used),
                ("semantic", "Semantic only (α = 1)", semantic_only),
            )
        ],
        alignment_fell_back=bool(music_alignment.fixed_axes or image_alignment.fixed_axes),
        planes=[(name, figures.va_plane_figure(plane, name == "aligned")) for name in ("raw", "aligned")],
        overlap={(system, metric): value for _, system, metric, value in overlap.iter_rows()},
        overlap_figure=figures.overlap_figure(overlap, alpha) if overlap.height else None,
        agreement=agreement,
        agreement_figure=agreement
        and figures.agreement_figure(agreement.by_alpha, agreement.comparable, alpha),
        agreement_best=agreement.best_of_each() if agreement else [],
        sweep=_sweep(sweep, alpha, m),
        networks=_networks(trained_adapters),
        studies=_studies(tuning_trials),
        results=[_result(section, metrics) for section in _sections(metrics)],
        study=study.study_section(study_results),
        predicted=predicted_section(
            music_clips,
            images,
            fused_pairs,
            IMAGE_EMOTION_HEAD.empty() if image_emotion_head is None else image_emotion_head,
        ),
        gallery=[
            (emotion, [card for card in cards if card.emotion == emotion.key]) for emotion in MUSIC_EMOTIONS
        ],
        n_shown=len(cards),
        attributions=[
            ("music", attributions(music_clips, "clip_id", {card.clip_id for card in cards})),
            ("images", attributions(images, "image_id", shown_images)),
        ],
    )


def _gallery(
    clips: pl.DataFrame,
    pairs: pl.DataFrame,
    alpha: float,
    media: Path,
    music_alignment: VaAlignment,
    image_alignment: VaAlignment,
    most_bytes: int,
) -> list[_ClipCard]:
    """Cards of `clips`, taken in their order until the bytes are spent, then put in order of their ids."""
    copies: dict[str, Copy] = {}
    cards: list[_ClipCard] = []
    spent = 0
    for clip in clips.iter_rows(named=True):
        if spent > most_bytes:
            break
        of_clip = pairs.filter(pl.col("clip_id") == clip["clip_id"]).sort("rank")
        shown = []
        for pair in of_clip.iter_rows(named=True):
            if pair["file"] not in copies:
                copies[pair["file"]] = thumbnail(media, pair["file"])
            rescaled, emotional = pair["rescaled_similarity"], pair["emotional_similarity"]
            caption = pair["caption"] or ""
            shown.append(
                _ImageCard(
                    image_id=pair["image_id"],
                    tag=pair["tag"],
                    alt=f"{pair['tag']}: {caption or pair['image_id']}",
                    caption=caption,
                    copy=copies[pair["file"]],
                    semantic=pair["semantic_similarity"],
                    rescaled=rescaled,
                    emotional=emotional,
                    fused=pair["fused_score"],
                    semantic_part=alpha * rescaled,
                    emotional_part=(1.0 - alpha) * emotional,
                    place=_place(image_alignment, pair),
                )
            )
        card = _ClipCard(
            clip_id=clip["clip_id"],
            emotion=clip["emotion"],
            seconds=clip["duration_s"],
            copy=player(media, clip["file"], clip["start_s"], clip["duration_s"]),
            feelings=_feelings(clip["feelings"] or []),
            place=_place(music_alignment, clip),
            images=shown,
        )
        spent += len(card.copy.uri) + sum(len(image.copy.uri) for image in shown)
        cards.append(card)
    return sorted(cards, key=lambda card: card.clip_id)


def _feelings(feelings: list[dict[str, Any]]) -> str:
    """The three that most people named."""
    most = sorted(feelings, key=lambda feeling: (-feeling["percent"], feeling["feeling"]))[:3]
    return ", ".join(f"{feeling['percent']:.0f} % {feeling['feeling']}" for feeling in most)


def _place(alignment: VaAlignment, row: Mapping[str, float]) -> tuple[float, float]:
    x, y = alignment.apply(np.array([row["valence"], row["arousal"]])).tolist()
    return x, y


def _warnings(
    encoder: EncoderFacts,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    music_alignment: VaAlignment,
    image_alignment: VaAlignment,
) -> list[tuple[str, str]]:
    """What a reader must know before believing a number: (title, sentence)."""
    found = []
    if encoder.name == "bundled":
        found.append(
            (
                "Weak encoder",
                "Made with the bundled encoder: zero-shot and weak beside ImageBind. It shows that the whole "
                "graph runs on real networks. Read nothing about the method's quality from these numbers.",
            )
        )
    predicted = predicted_warning(music_clips, images)
    if predicted is not None:
        found.append(predicted)
    hinted: list[str] = []
    words: set[str] = set()
    for name, frame in (("clips", music_clips), ("images", images)):
        own_words = frame["label_source"].fill_null("").str.to_lowercase()
        hints = frame.filter(own_words.str.contains(r"hint|not human"))
        if hints.height:
            hinted.append(f"{hints.height:,} of {frame.height:,} {name}")
            words.update(hints["label_source"])
    if hinted:
        found.append(
            (
                "Labels are hints",
                f"The labels of {' and '.join(hinted)} are hints, not human ratings "
                f"({'; '.join(sorted(words)[:4])}). Good for a demonstration, never for a claim about "
                "quality.",
            )
        )
    for name, frame, alignment in (
        ("music", music_clips, music_alignment),
        ("images", images, image_alignment),
    ):
        if alignment.fixed_axes and frame.height:
            found.append(
                (
                    "Alignment fell back",
                    f"The {' and '.join(alignment.fixed_axes)} of {name} could not be standardized (no "
                    "spread in this population), so the ends of the scale were used instead.",
                )
            )
    return found


def _networks(trained_adapters: pl.DataFrame) -> list[dict[str, object]]:
    networks: list[dict[str, object]] = []
    for place, row in enumerate(trained_adapters.sort("network").iter_rows(named=True)):
        of_network = trained_adapters.filter(pl.col("network") == row["network"])
        history = of_network.select(pl.col("history").explode()).drop_nulls().unnest("history")
        curves = (("loss", figures.loss_figure), ("metrics", figures.metrics_figure))
        networks.append(
            {
                **row,
                "epochs": history.height,
                "figures": [
                    (f"network-{place}-{name}", draw(row["network"], history, row["best_epoch"]))
                    for name, draw in curves
                    if history.height and (name == "loss" or history["ndcg_at_10"].count())
                ],
                "losses": history["loss"].to_list(),
            }
        )
    return networks


def _sweep(sweep: pl.DataFrame | None, alpha: float, m: int) -> dict[str, object] | None:
    """The grid's figures, and the point that labels alone would choose."""
    if sweep is None or sweep.is_empty():
        return None
    of_m = sweep.filter(pl.col("images_per_clip") == m)
    return {
        "selected": selected_point(sweep),
        "figures": [
            ("sweep-labels", figures.sweep_figure(sweep, alpha)),
            *([("sweep-overlap", figures.sweep_overlap_figure(of_m, alpha))] if of_m.height else []),
        ],
    }


def _studies(trials: pl.DataFrame | None) -> list[dict[str, object]]:
    """One study for each tuned network."""
    if trials is None:
        return []
    studies = []
    for place, network in enumerate(trials["network"].unique().sort()):
        rows = trials.filter(pl.col("network") == network).sort("study", "trial")
        if rows.filter(pl.col("state") == "complete").height:
            best = best_trial(rows)
            studies.append(
                {
                    "network": network,
                    "trials": rows.height,
                    "best": best,
                    "hyperparameters": json.loads(best["hyperparameters"]),
                    "figure": (f"study-{place}", figures.tuning_figure(network, rows)),
                }
            )
    return studies


def _sections(metrics: pl.DataFrame) -> list[str]:
    """Sections of `metrics` that the page does not count by itself, test clips first."""
    given = [name for name in metrics["section"].unique(maintain_order=True) if name not in _OWN_SECTIONS]
    return [name for name in _RESULTS if name in given] + [name for name in given if name not in _RESULTS]


def _result(section: str, metrics: pl.DataFrame) -> dict[str, object]:
    """One section of metrics as the template shows it: title, systems, rows, figure."""
    of_section = metrics.filter(pl.col("section") == section)
    queries = of_section.filter(pl.col("metric") == "queries")["value"].to_list()
    table = tables.metric_table(of_section.filter(pl.col("metric") != "queries"), section)
    systems = table.columns[2:]
    rows = []
    for row in table.iter_rows(named=True):
        compared = [row[name] for name in systems if name not in _REFERENCES and _is_number(row[name])]
        best = (max if row["better"] == "higher" else min)(compared) if len(compared) > 1 else None
        rows.append(
            {
                "title": figures.metric_title(row["metric"]),
                "better": row["better"],
                "cells": [
                    (value if _is_number(value) else None, name not in _REFERENCES and value == best)
                    for name, value in ((name, row[name]) for name in systems)
                ],
            }
        )
    drawn = table.filter(pl.col("metric").is_in(tables.RANKING_METRICS))
    return {
        "name": section,
        "title": _RESULTS.get(section, section.replace("_", " ").capitalize()),
        "queries": max(queries, default=None),
        "few": max(queries, default=_FEW_CLIPS) < _FEW_CLIPS,
        "systems": systems,
        "rows": rows,
        "meanings": [(name, _SYSTEMS[name]) for name in systems if name in _SYSTEMS],
        "figure": figures.retrieval_figure(drawn) if drawn.height else None,
    }


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    return Markup(style.svg(figure, name, alt))


def _largest(counts: pl.DataFrame) -> int:
    return int(counts.select(IMAGE_EMOTION_KEYS).to_numpy().max())


def _number(settings: Mapping[str, object], name: str) -> float:
    value = settings.get(name)
    if not isinstance(value, int | float):
        raise ValueError(f"the report needs the setting {name} as a number, got {value!r}")
    return float(value)


def _is_number(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
