"""The evaluation report: one self-contained HTML page.

Belongs here: what the page says and in which order, from frames to HTML. The numbers come from
the lake's tables, the figures from `figures`, the embedded media from `gallery`; markup and style are in
`page.html.j2` beside this file, its few lines of script in `page.js`. The page loads nothing from the
network, and equal inputs give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure

from emid_assets.adapters.tuning import best_trial
from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import VaAlignment
from emid_assets.evaluation.evaluate import NOT_MEASURED
from emid_assets.evaluation.methods import methods_table
from emid_assets.evaluation.pair_statistics import (
    SECTION_OF_OVERLAP,
    SECTION_OF_USE,
    counts_by_emotion,
    pairs_per_clip,
)
from emid_assets.evaluation.sweep import NO_JUDGE, selected_point
from emid_assets.health.mixtures import Used, in_words, usual
from emid_assets.media.expansion import expansion_counts
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_sources import va_origin
from emid_assets.release.published_pairs import Agreement
from emid_assets.report import figures, study, style
from emid_assets.report.gallery import Copies, Copy, attributions
from emid_assets.report.predicted import predicted_section, predicted_warning
from emid_assets.report.self_contained import digest, templates
from emid_assets.report.tables import RANKING_METRICS, gallery_clips, metric_table, rejections, va_plane
from emid_assets.settings import LOCAL_PATHS, Settings, in_use, setting_text

_REFERENCES = ("random", "oracle", "ceiling")
"""Systems that no method competes with: never marked as the best."""
_SYSTEMS = {
    "semantic": "the encoder alone, X·Y",
    "structured": "T with valence and arousal predicted from the clip's embedding: for clips without labels",
    "ncf_reranked": "ncf's inner product retrieves 100 images, the whole NeuMF puts them in order: "
    "what serving ncf by an index alone costs",
    "random": "images in random order",
    "oracle": "T with the clip's own valence and arousal, which made the pairs: a bound, not a method",
    "ceiling": "the best value that any ranking could have on these pairs",
}
_RESULTS = {
    "retrieval_test": "Test clips",
    "retrieval_test_given": "Test clips whose emotion was given (measured or derived), not predicted",
    "retrieval_validation": "Validation clips, which chose the best epoch",
    "retrieval_validation_given": "Validation clips whose emotion was given, likewise",
    "retrieval_warm": "Known clips: a pair of each was held out, and is to be found again",
    "retrieval_cold_images": "Test clips, among images that training never saw",
    "retrieval_train": "Training clips: there are no others",
    "released_tasks": "The retrieval tasks as the release holds them: every pair, as mteb would measure",
    "public_tasks": "The tasks of the public benchmark (mteb), by their own definitions",
}
_FEW_CLIPS = 30


@dataclass(frozen=True)
class EncoderFacts:
    """The encoder of the joint space, as it describes itself.

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

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "EncoderFacts":
        """Of the metadata of embeddings that it made."""
        named = ("encoder", "encoder_licence", "dimension", "fingerprint")
        return cls(*(metadata[name] for name in named))


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


@dataclass(frozen=True)
class BuildFacts:
    """What the page says about the build that it shows.

    Attributes:
        settings: name → value, shown in this order; holds at least `alpha`, the weight of S̃.
        meanings: name of a setting → what it means.
        encoder: the encoder of the joint space.
        media: the folder below which the files of clips and images are.
        copies: of these media, where they are kept from page to page.
        mixed: name of a setting that partitions were built with different values of → these, in words.
    """

    settings: Mapping[str, object]
    meanings: Mapping[str, str]
    encoder: EncoderFacts
    media: Path
    copies: Copies | None = None
    mixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """The weight of S̃; of several, that of the most partitions."""
        return _number(self.settings, "alpha")

    def built_with(self, used: Used) -> "BuildFacts":
        """With the settings that the tables were built with instead of those of the run."""
        return replace(
            self,
            settings={
                name: usual(used[name]) if name in used else value for name, value in self.settings.items()
            },
            mixed={
                name: in_words(values)
                for name, values in sorted(used.items())
                if len(values) > 1 and name not in LOCAL_PATHS
            },
        )

    @classmethod
    def of(cls, settings: Settings, encoder: EncoderFacts) -> "BuildFacts":
        """Those of a build's settings, without paths of its machine."""
        shown = {name: field for name, field in Settings.model_fields.items() if name not in LOCAL_PATHS}
        return cls(
            settings={name: setting_text(in_use(settings, name)) for name in shown},
            meanings={name: field.description or "" for name, field in Settings.model_fields.items()},
            encoder=encoder,
            media=settings.media_folder,
        )


@dataclass(frozen=True)
class GalleryLimits:
    """How much the gallery shows.

    Attributes:
        clips_per_emotion: clips of one emotion, at most.
        clips: clips, at most.
        embedded_bytes: bytes of embedded media, at most, give or take one clip with its images.
    """

    clips_per_emotion: int = 3
    clips: int = 39
    embedded_bytes: int = 11_000_000


LIMITS = GalleryLimits()


def render_page(
    tables: LakeTables, build: BuildFacts, limits: GalleryLimits = LIMITS, pairs_page: str = ""
) -> str:
    """The whole report as one HTML document.

    Args:
        tables: the tables of a whole lake; any of them may be empty.
        build: the settings and the encoder in use.
        limits: of the gallery.
        pairs_page: link to the page of pairs, where there is one.

    Returns:
        HTML to be written as UTF-8. A media file that is missing or cannot be read is
        replaced by a placeholder that says so.

    Raises:
        ValueError: a setting that the page needs is missing, or a metric is given twice.
    """
    alpha = build.alpha
    cards = _gallery(tables, alpha, build.copies or Copies(build.media), limits)
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
        pairs_page=pairs_page,
        settings=build.settings,
        meanings=build.meanings,
        encoder=build.encoder,
        mixed=build.mixed,
        warnings=[*_mixed_settings(build.mixed), *_warnings(build.encoder, tables)],
        **_media(tables),
        **_pairs(tables, alpha),
        **_published(tables, alpha),
        networks=_networks(tables.trained_adapter),
        studies=_studies(tables.tuning_trials),
        results=_results(tables.retrieval_metrics),
        study=study.study_section(tables.study_results),
        predicted=predicted_section(
            tables.music_clips,
            tables.images,
            tables.fused_pairs,
            tables.image_emotion_head,
            tables.music_emotion_head,
        ),
        gallery=[
            (emotion, [card for card in cards if card.emotion == emotion.key]) for emotion in MUSIC_EMOTIONS
        ],
        n_shown=len(cards),
        attributions=_attributions(tables, cards),
    )


def _media(tables: LakeTables) -> dict[str, object]:
    """Clips, images and what was rejected."""
    clips, images, rejected = tables.music_clips, tables.images, tables.rejected_media
    return {
        "n_clips": clips.height,
        "n_images": images.height,
        "n_pairs": tables.fused_pairs.height,
        "n_rejected": rejected.height,
        "origins": [
            (name, frame.group_by(origin=va_origin()).len().sort("origin").rows())
            for name, frame in (("clips", clips), ("images", images))
            if frame.height
        ],
        "emotions": MUSIC_EMOTIONS,
        "tags": IMAGE_EMOTION_KEYS,
        "clips_of": dict(clips.group_by("emotion").len().iter_rows()),
        "images_of": dict(images.group_by("tag").len().iter_rows()),
        "expansion": expansion_counts(clips),
        "joined_windows": tables.joined_windows,
        "rejections": rejections(rejected).rows(named=True),
        "rejected": rejected.sort("kind", "file", "item_id").head(200).rows(named=True),
    }


def _pairs(tables: LakeTables, alpha: float) -> dict[str, object]:
    """The pairs by emotion, the plane that E is taken on, and what each term alone would choose."""
    m = pairs_per_clip(tables.fused_pairs)
    used = counts_by_emotion(tables.pair_statistics, "fused")
    semantic_only = counts_by_emotion(tables.pair_statistics, "semantic")
    largest = max(_largest(used), _largest(semantic_only))
    overlap = tables.pair_statistics.filter(section=SECTION_OF_OVERLAP)
    use = tables.pair_statistics.filter(section=SECTION_OF_USE)
    plane = va_plane(tables.music_clips, tables.images, tables.plane)
    return {
        "m": m,
        "heat_maps": [
            (key, title, frame, figures.pair_counts_figure(frame, title, largest))
            for key, title, frame in (
                ("used", f"Chosen pairs (α = {alpha:g})", used),
                ("semantic", "Semantic only (α = 1)", semantic_only),
            )
        ],
        "alignment_fell_back": bool(tables.plane.axes_without_spread),
        "planes": [(name, figures.va_plane_figure(plane, name == "aligned")) for name in ("raw", "aligned")],
        "overlap": {(system, metric): value for _, system, metric, value in overlap.iter_rows()},
        "image_use": {(system, metric): value for _, system, metric, value in use.iter_rows()},
        "most_used": _most_used(tables),
        "overlap_figure": figures.overlap_figure(overlap, alpha) if overlap.height else None,
        "sweep": _sweep(tables.alpha_sweep, alpha, m),
        "methods": methods_table(tables.pair_statistics),
    }


def _most_used(tables: LakeTables) -> str:
    """The file of the image that is in the most pairs, the first by id if there are several."""
    uses = tables.fused_pairs.group_by("image_id").len().sort("len", "image_id", descending=[True, False])
    files = uses.head(1).join(tables.images, on="image_id")["file"].to_list()
    return files[0] if files else ""


def _published(tables: LakeTables, alpha: float) -> dict[str, object]:
    """The published pairs beside ours; nothing where none are."""
    agreement = Agreement.of_frame(tables.published_agreement)
    if agreement is None:
        return {"agreement": None}
    return {
        "agreement": agreement,
        "agreement_figure": figures.agreement_figure(agreement.by_alpha, agreement.comparable, alpha),
        "agreement_best": agreement.best_of_each(),
    }


def _attributions(tables: LakeTables, cards: list[_ClipCard]) -> list[tuple[str, object]]:
    shown_images = {image.image_id for card in cards for image in card.images}
    return [
        ("music", attributions(tables.music_clips, "clip_id", {card.clip_id for card in cards})),
        ("images", attributions(tables.images, "image_id", shown_images)),
    ]


def _gallery(tables: LakeTables, alpha: float, media: Copies, limits: GalleryLimits) -> list[_ClipCard]:
    """Cards of a few clips of each emotion, until the bytes are spent, in the order of their ids."""
    shown_images = tables.images.select("image_id", "file", "tag", "caption", "valence", "arousal")
    pairs = tables.fused_pairs.join(shown_images, on="image_id")
    clips = gallery_clips(tables.music_clips, tables.fused_pairs, limits.clips_per_emotion, limits.clips)
    copies: dict[str, Copy] = {}
    cards: list[_ClipCard] = []
    spent = 0
    for clip in clips.iter_rows(named=True):
        if spent > limits.embedded_bytes:
            break
        of_clip = pairs.filter(pl.col("clip_id") == clip["clip_id"]).sort("rank")
        shown = []
        for pair in of_clip.iter_rows(named=True):
            if pair["file"] not in copies:
                copies[pair["file"]] = media.thumbnail(pair["file"])
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
                    place=_place(tables.plane.image, pair),
                )
            )
        card = _ClipCard(
            clip_id=clip["clip_id"],
            emotion=clip["emotion"],
            seconds=clip["duration_s"],
            copy=media.player(clip["file"], clip["start_s"], clip["duration_s"]),
            feelings=_feelings(clip["feelings"] or []),
            place=_place(tables.plane.music, clip),
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


def _mixed_settings(mixed: Mapping[str, str]) -> list[tuple[str, str]]:
    if not mixed:
        return []
    named = "; ".join(f"{name}: {words}" for name, words in mixed.items())
    return [
        (
            "Mixed settings",
            f"Partitions were built with different settings ({named}). What the page says of one α, m or K "
            "holds for most partitions only. emid build builds all with the same.",
        )
    ]


def _warnings(encoder: EncoderFacts, tables: LakeTables) -> list[tuple[str, str]]:
    """What a reader must know before trusting a number: (title, sentence)."""
    music_clips, images = tables.music_clips, tables.images
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
        ("music", music_clips, tables.plane.music),
        ("images", images, tables.plane.image),
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


def _sweep(sweep: pl.DataFrame, alpha: float, m: int) -> dict[str, object] | None:
    """The grid's figures, and the point that labels alone would choose."""
    if sweep.is_empty():
        return None
    of_m = sweep.filter(pl.col("images_per_clip") == m)
    return {
        "selected": selected_point(sweep),
        "no_judge": NO_JUDGE.format(1 - sweep["independent_labels"][0]),
        "figures": [
            ("sweep-labels", figures.sweep_figure(sweep, alpha)),
            *([("sweep-overlap", figures.sweep_overlap_figure(of_m, alpha))] if of_m.height else []),
        ],
    }


def _studies(trials: pl.DataFrame) -> list[dict[str, object]]:
    """One study for each tuned network."""
    studies = []
    for place, network in enumerate(trials["network"].unique().sort()):
        rows = trials.filter(pl.col("network") == network).sort("study", "trial")
        best = best_trial(rows)
        if best is not None:
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


def _results(metrics: pl.DataFrame) -> list[dict[str, object]]:
    """The sections of RETRIEVAL_METRICS, test clips first."""
    given = metrics["section"].unique(maintain_order=True).to_list()
    order = [name for name in _RESULTS if name in given] + [name for name in given if name not in _RESULTS]
    return [_result(section, metrics) for section in order]


def _result(section: str, metrics: pl.DataFrame) -> dict[str, object]:
    """One section of metrics as the template shows it: title, systems, rows, figure."""
    of_section = metrics.filter(pl.col("section") == section)
    queries = of_section.filter(pl.col("metric") == "queries")["value"].to_list()
    needed = of_section.filter(system=NOT_MEASURED, metric="queries_needed")["value"].to_list()
    of_section = of_section.filter(pl.col("system") != NOT_MEASURED)
    ends = {
        (system, metric): (low, high)
        for system, metric, low, high in of_section.select("system", "metric", "low", "high").iter_rows()
        if _is_number(low) and _is_number(high)
    }
    table = metric_table(of_section.filter(pl.col("metric") != "queries"), section)
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
                    (
                        value if _is_number(value) else None,
                        name not in _REFERENCES and value == best,
                        ends.get((name, row["metric"])),
                    )
                    for name, value in ((name, row[name]) for name in systems)
                ],
            }
        )
    drawn = table.filter(pl.col("metric").is_in(RANKING_METRICS))
    return {
        "name": section,
        "title": _RESULTS.get(section, section.replace("_", " ").capitalize()),
        "queries": max(queries, default=None),
        "needed": max(needed, default=None),
        "intervals": bool(ends),
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
