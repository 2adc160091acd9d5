"""The pairs in the form that public retrieval benchmarks take: queries, corpus, qrels, in both directions.

Belongs here: files of the tasks' shape, under the tasks' names. What a system scores on them is
`evaluation.mteb_tasks`'s.

Each task is a folder that `datasets.load_dataset(folder, "queries" | "corpus" | "qrels")` and tools
like mteb read: ids and media in Parquet, and (query-id, corpus-id, score). The same in BEIR's plain
files: `queries.jsonl`, `corpus.jsonl` (with the media as paths) and `qrels/test.tsv`. As in the
published tasks there is one split, `test`, which holds every pair.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from emid_assets.release.parquet_files import AUDIO, IMAGE, pattern_of, write_parquet, yaml_features
from emid_assets.release.release_media import Placed, link_or_copy

FOLDER = "retrieval"
SPLIT = "test"
TASKS = {"EMIDA2IRetrieval": ("music", "image"), "EMIDI2ARetrieval": ("image", "music")}
"""Task → what its queries are, and its corpus."""

FEATURES = {"music": {"id": "string", "audio": AUDIO}, "image": {"id": "string", "image": IMAGE}}
QRELS = {"query-id": "string", "corpus-id": "string", "score": "int32"}


def write_tasks(
    pairs: pl.DataFrame,
    clip_files: Mapping[str, str],
    image_files: Mapping[str, str],
    captions: Mapping[str, str],
    release: Path,
    files: Mapping[str, Placed],
) -> None:
    """Write both tasks below `release/retrieval/`.

    Args:
        pairs: clip_id, image_id; every one is relevant, with score 1.
        clip_files: clip id → path below the release.
        image_files: image id → path below the release.
        captions: image id → caption, for BEIR's `text`.
        release: the folder of the release, which holds the media already.
        files: path below the release → its file.
    """
    paths = {"music": clip_files, "image": image_files}
    ids = {
        "music": pairs["clip_id"].unique().sort().to_list(),
        "image": pairs["image_id"].unique().sort().to_list(),
    }
    written: dict[str, list[Path]] = {}
    for task, (queries, corpus) in TASKS.items():
        folder = release / FOLDER / task
        patterns: dict[str, str] = {}
        for part, kind in (("queries", queries), ("corpus", corpus)):
            if kind in written:
                # The queries of one direction are the corpus of the other: one file under two names.
                for path in written[kind]:
                    link_or_copy(path, folder / part / path.name)
            else:
                medium = "audio" if kind == "music" else "image"
                table = pl.DataFrame(
                    {"id": ids[kind], medium: [paths[kind][one] for one in ids[kind]]},
                    schema={"id": pl.String, medium: pl.String},
                )
                written[kind] = write_parquet(table, FEATURES[kind], release, folder / part, SPLIT, files)
            patterns[part] = pattern_of(written[kind])
            # A clip may have the id of an image, whose caption would tell which image is its answer.
            texts = captions if kind == "image" else {}
            lines = [
                {"_id": one, "title": "", "text": texts.get(one, ""), "file": f"../../{paths[kind][one]}"}
                for one in ids[kind]
            ]
            (folder / f"{part}.jsonl").write_text(
                "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
            )
        columns = ("clip_id", "image_id") if queries == "music" else ("image_id", "clip_id")
        qrels = pairs.select(
            pl.col(columns[0]).alias("query-id"),
            pl.col(columns[1]).alias("corpus-id"),
            pl.lit(1, pl.Int32).alias("score"),
        ).sort("query-id", "corpus-id")
        patterns["qrels"] = pattern_of(write_parquet(qrels, QRELS, release, folder / "qrels", SPLIT, files))
        qrels.write_csv(folder / "qrels" / f"{SPLIT}.tsv", separator="\t")
        (folder / "README.md").write_text(_card(task, queries, corpus, patterns), encoding="utf-8")


def _card(task: str, queries: str, corpus: str, patterns: Mapping[str, str]) -> str:
    features = {"corpus": FEATURES[corpus], "queries": FEATURES[queries], "qrels": QRELS}
    lines = ["---", "dataset_info:"]
    for name, of_config in features.items():
        lines += [f"- config_name: {name}", "  features:", *yaml_features(of_config)]
    lines.append("configs:")
    for name in features:
        lines += [
            f"- config_name: {name}",
            "  data_files:",
            f"  - split: {SPLIT}",
            f"    path: {name}/{patterns[name]}",
        ]
    lines += [
        "---",
        "",
        f"# {task}",
        "",
        f"Queries are {'clips of music' if queries == 'music' else 'images'}, the corpus "
        f"{'clips of music' if corpus == 'music' else 'images'}; a pair of the data set two folders above is "
        "relevant (score 1).",
        "The shape is that of the public benchmark's task of this name; the pairs are this release's own:",
        "figures compare with each other and not with the benchmark's. An adapter that was trained on some",
        "of these pairs is measured on what it has learnt: leave those clips out.",
        "",
    ]
    return "\n".join(lines)
