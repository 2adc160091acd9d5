"""The card of a release: README.md with the front matter that Hugging Face reads, and the statistics.

Belongs here: words and tables about a data set that is already written.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS, RATINGS
from emid_assets.media.licences import spdx_of
from emid_assets.media.va_sources import meaning_of
from emid_assets.release.emid_format import AUDIO_COLUMN, ORIGINAL_COLUMN, image_columns
from emid_assets.release.parquet_files import yaml_features

PRETTY_NAME = "Emotionally paired music and images"
CITATION = """@inproceedings{zou2023emid,
  title = {EMID: An Emotional Aligned Dataset in Audio-Visual Modality},
  author = {Zou, Jialing and Mei, Jiahao and Ye, Guangze and Huai, Tianyu and Shen, Qiwei and Dong, Daoguo},
  booktitle = {Proceedings of the 1st International Workshop on Multimedia Content Generation and Evaluation},
  year = {2023},
  doi = {10.1145/3607541.3616821}
}"""
UNKNOWN_LICENCE = "not stated"

_FORM_ROWS = {
    "folder": "| `music/`, `images/` | the media; where the file system allows it, hard links to the files "
    "that the release was made from, which take no space: copy the folder before you edit one |",
    "parquet": "| `data/` | the same rows with the media inside, for `datasets.load_dataset` |",
    "retrieval": "| `retrieval/` | queries, corpus and qrels, in both directions |",
}
"""Form of the media → its row in the list of files."""

_HUB_LICENCES = frozenset(
    f"cc-by{part}-{version}"
    for part in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd")
    for version in ("2.0", "2.5", "3.0", "4.0")
) | {"cc0-1.0", "gpl-2.0", "gpl-3.0", "mit", "apache-2.0"}
"""Licences that the hub knows by name, of those that media come under."""


def meanings(images_per_clip: int) -> dict[str, str]:
    """Every column of the table, and what it holds."""
    found = {
        AUDIO_COLUMN: "The clip's file, as a path below this folder.",
        "genre": "Letter of one of 13 categories of music, A to M (Cowen et al. 2020).",
        "feeling": "Percentages of listeners over 28 named feelings; empty where nobody was asked.",
        "emotion": f"Mean ratings from 1 to 9, comma-separated: {', '.join(RATINGS)}; "
        "nan where one is missing, empty where nobody was asked.",
    }
    for slot in range(1, images_per_clip + 1):
        filename, tag, text = image_columns(slot)
        found[filename] = f"The clip's image of rank {slot}, as a path below this folder."
        found[tag] = "Its emotion, one of Mikels' eight."
        found[text] = "Its caption; empty where there is none."
    found[ORIGINAL_COLUMN] = "False for an expanded clip, which has taken over its source's labels."
    return found


def licence_counts(music_clips: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """`licence`, `clips`, `images`: how many of each are under which licence, by SPDX name."""
    counts = pl.concat(
        [
            frame.select(licence=pl.col("licence").fill_null(UNKNOWN_LICENCE), kind=pl.lit(kind))
            for kind, frame in (("clips", music_clips), ("images", images))
        ]
    ).with_columns(pl.col("licence").map_elements(spdx_of, return_dtype=pl.String))
    return counts.group_by("licence").agg(
        *((pl.col("kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in ("clips", "images"))
    ).sort("licence")  # fmt: skip


def dataset_card(
    table: pl.DataFrame,
    pairs: pl.DataFrame,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    features: Mapping[str, str],
    made_with: Mapping[str, str],
    images_per_clip: int,
    forms: Mapping[str, str],
) -> str:
    """The card as Markdown.

    Args:
        table: frame of `emid_format.emid_table`.
        pairs: clip_id, image_id of the release.
        music_clips: MUSIC_CLIPS rows of the release's clips.
        images: IMAGES rows of its images.
        features: column → feature of the Parquet files.
        made_with: settings and encoder, name → value.
        images_per_clip: m.
        forms: each form of the media that the release has, and for `parquet` the pattern of its files.
    """
    licences = licence_counts(music_clips, images)
    hub, extra = _hub_licence(licences["licence"].to_list())
    lines = [
        "---",
        f"pretty_name: {json.dumps(PRETTY_NAME)}",
        f"license: {hub}",
        *extra,
        "size_categories:",
        f"- {_size_category(table.height)}",
        "tags:",
        *(f"- {tag}" for tag in ("music", "image", "emotion", "cross_modal")),
        "dataset_info:",
        "  features:",
        *yaml_features(features),
        *_default_config(forms),
        "---",
        "",
        f"# {PRETTY_NAME}",
        "",
        f"{table.height:,} clips of music, each with up to {images_per_clip} images that feel alike, from "
        f"{images.height:,} images: {pairs.height:,} pairs, in the columns of EMID.",
        "The pairs were chosen by an algorithm (arXiv 2308.07622), not by people.",
        "",
        "| file | what it holds |",
        "|---|---|",
        "| `EMID_data.csv`, `EMID_data.parquet` | one row for each clip, media as paths below this folder |",
        *(_FORM_ROWS[form] for form in _FORM_ROWS if form in forms),
        "| `music.csv`, `images.csv` | the source, author and licence of each clip and image |",
        "| `pairs.csv` | each pair with its scores |",
        "| `croissant.json` | what the files hold, for machines |",
        "| `SHA256SUMS` | `sha256sum -c SHA256SUMS` checks them all |",
        "",
        "**Split by source, never by clip**: expanded clips have the labels of their source, and a random",
        "split leaks. The column `source_id` of `music.csv` says which clips belong together.",
        "",
        "## Columns",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in meanings(images_per_clip).items()),
        "",
        "## Clips",
        "",
        *_clips_by_letter(music_clips),
        "",
        "## Pairs by category of music and tag of image",
        "",
        *_pairs_by_emotion(pairs, music_clips, images),
        "",
        "## Labels",
        "",
        *_label_sources(music_clips, images),
        "",
        "## Licences",
        "",
        "Each clip and image keeps its own terms: `music.csv` and `images.csv` name them and the authors.",
        "",
        "| licence | clips | images |",
        "|---|---:|---:|",
        *(f"| {_cell(row[0])} | {row[1]:,} | {row[2]:,} |" for row in licences.iter_rows()),
        "",
        "## How it was made",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {_cell(name)} | {_cell(value)} |" for name, value in made_with.items()),
        "",
        "## Citation",
        "",
        "```bibtex",
        CITATION,
        "```",
        "",
    ]
    return "\n".join(lines)


def _default_config(forms: Mapping[str, str]) -> list[str]:
    if "parquet" not in forms:
        return []
    config = ["configs:", "- config_name: default", "  data_files:", "  - split: train"]
    return [*config, f"    path: {forms['parquet']}"]


def _hub_licence(licences: Sequence[str]) -> tuple[str, list[str]]:
    """The front matter's licence: one that the hub knows, where all rows have it."""
    names = [licence.lower().removesuffix("-only") for licence in licences]
    if len(names) == 1 and names[0] in _HUB_LICENCES:
        return names[0], []
    return "other", ["license_name: one-for-each-row", "license_link: images.csv"]


def _size_category(rows: int) -> str:
    for limit, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def _clips_by_letter(clips: pl.DataFrame) -> list[str]:
    originals = dict(clips.filter("is_original_clip").group_by("genre").len().iter_rows())
    every = dict(clips.group_by("genre").len().iter_rows())
    rows = [
        ("original", [originals.get(emotion.letter, 0) for emotion in MUSIC_EMOTIONS]),
        ("all", [every.get(emotion.letter, 0) for emotion in MUSIC_EMOTIONS]),
    ]
    return [
        "| | " + " | ".join(emotion.letter for emotion in MUSIC_EMOTIONS) + " | total |",
        "|---|" + "---:|" * (len(MUSIC_EMOTIONS) + 1),
        *(f"| {name} | " + " | ".join(f"{n:,}" for n in [*row, sum(row)]) + " |" for name, row in rows),
        "",
        "; ".join(f"{emotion.letter} {emotion.name}" for emotion in MUSIC_EMOTIONS) + ".",
    ]


def _pairs_by_emotion(pairs: pl.DataFrame, clips: pl.DataFrame, images: pl.DataFrame) -> list[str]:
    joined = pairs.join(clips.select("clip_id", "genre"), on="clip_id").join(
        images.select("image_id", "tag"), on="image_id"
    )
    found = {(letter, tag): n for letter, tag, n in joined.group_by("genre", "tag").len().iter_rows()}
    rows = [
        (emotion.letter, [found.get((emotion.letter, tag), 0) for tag in IMAGE_EMOTION_KEYS])
        for emotion in MUSIC_EMOTIONS
    ]
    rows.append(("all", [sum(column) for column in zip(*(row for _, row in rows), strict=True)]))
    return [
        "| | " + " | ".join(IMAGE_EMOTION_KEYS) + " | total |",
        "|---|" + "---:|" * (len(IMAGE_EMOTION_KEYS) + 1),
        *(f"| {name} | " + " | ".join(f"{n:,}" for n in [*row, sum(row)]) + " |" for name, row in rows),
    ]


def _label_sources(clips: pl.DataFrame, images: pl.DataFrame) -> list[str]:
    lines = []
    for name, frame in (("Clips", clips), ("Images", images)):
        counts = frame.select(
            pl.col("label_source").fill_null("not stated"), pl.col("va_source").fill_null("unknown")
        )
        for source, va, number in counts.group_by(pl.all()).len().sort(pl.all()).iter_rows():
            place = _cell(meaning_of(va))
            lines.append(f"- {name}, {number:,}: labels: {_cell(source)}; valence and arousal: {place}.")
    captions = images.group_by("caption_source").len().drop_nulls().sort("caption_source")
    lines += [f"- Captions, {number:,}: by {_cell(source)}." for source, number in captions.iter_rows()]
    return lines


def _cell(text: str) -> str:
    """Text escaped for a table cell: licences and authors come from the user's tables."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())
