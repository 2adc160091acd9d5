"""The inventory of a media folder, and the manifests made from it.

Belongs here: the items of a folder and its tables, their labels and positions on the VA scales, and the
reason for each item that cannot be used. `contents` opens files, `sources` groups clips by their source.

An item is a file, or a window of a file that the table names. The first reason found is kept; the order
is: path, disk, label, cells, contents, source, id, duplicate content.
"""

import math
import posixpath
import unicodedata
from collections.abc import Callable
from pathlib import Path

import polars as pl

from emid_assets.affect.emotions import (
    IMAGE_EMOTIONS,
    MUSIC_EMOTIONS,
    RATINGS,
    UnknownLabelError,
    find_image_emotion,
    find_music_emotion,
)
from emid_assets.affect.ratings import BLANK_WORDS, RatingsError, parse_feelings, parse_ratings
from emid_assets.media.contents import with_facts
from emid_assets.media.folder import SUBFOLDERS, FoundFile, find_files, is_inside, open_media_folder
from emid_assets.media.import_rejections import rejected_at_import
from emid_assets.media.limits import MediaLimits
from emid_assets.media.sources import find_sources
from emid_assets.media.tables import TABLE_COLUMNS, read_table
from emid_assets.media.va_sources import OTHER_MODEL, is_by_program
from emid_assets.media.with_predictions import PREDICTED, with_predictions
from emid_assets.store.schemas import (
    FEELINGS_TYPE,
    IMAGES,
    MEDIA_INVENTORY,
    MUSIC_CLIPS,
    PREDICTED_EMOTION,
    REJECTED_MEDIA,
)

DEFAULT_LIMITS = MediaLimits()
NOTHING_PREDICTED = PREDICTED_EMOTION.empty()

LABEL_COLUMN = {"music": "genre", "image": "tag"}
_EXAMPLE_FOLDER = {"music": "music/sad/", "image": "images/awe/"}

VA_SOURCES = ("ratings", "measured", PREDICTED, "category_mean", "tag")
"""What `va_source` of a table may say besides `model:NAME`. Only `predicted` adds to the other columns."""

_TRUE_WORDS, _FALSE_WORDS = ("true", "1", "yes"), ("false", "0", "no")
_RATING_COLUMNS = [f"rating_{name}" for name in RATINGS]


def take_inventory(
    media: Path,
    previous: pl.DataFrame | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    keep_unlabelled: bool = False,
) -> pl.DataFrame:
    """List everything in a media folder and its tables, with facts about each item or why it is unusable.

    A file that `previous` lists with the same size and modification time is neither hashed nor
    decoded again. Everything else (labels, duplicates, sources) is computed again.

    Args:
        media: folder with music/ and images/ (one of them may be absent), and optionally music.csv and
            images.csv.
        previous: the last inventory of this folder, taken with the same limits.
        limits: the limits that a file must respect.
        workers: threads that hash and decode; 0 uses the caller's thread.
        on_progress: called with (files examined, files to examine) after each file.
        keep_unlabelled: do not reject media without a label: they get neither `reason` nor `partition`, for
            `with_predictions.with_predictions`. An unknown label in a table is still a reason; an unknown
            sub-folder name then counts as no label.

    Returns:
        A frame with the columns of `MEDIA_INVENTORY`, sorted by kind and item id: one row for
        each item, usable (`reason` null) or not. Includes the items that an import of this folder
        rejected.

    Raises:
        MediaFolderError: the folder is not laid out as a media folder.
        TableError: a table cannot be read; names file and row.
    """
    root = open_media_folder(media)
    items = pl.concat(
        [_music_items(root, keep_unlabelled), _image_items(root, keep_unlabelled)], how="diagonal"
    )
    items = with_facts(items, root, previous, limits, workers, on_progress)
    items = items.with_columns(duration_s=pl.coalesce("clip_s", "duration_s"))
    items = _with_sources(items)
    items = _reject_repeated_ids(items)
    items = _reject_duplicates(items)
    items = pl.concat([items, rejected_at_import(root)], how="diagonal")
    # Names and cells may contain line breaks and megabytes; a reason must be one readable line.
    items = items.with_columns(pl.col("reason").str.replace_all(r"\p{Cc}+", " ").str.head(500))
    inventory = items.sort("kind", "item_id", "file", "row").select(
        pl.col(name).cast(dtype) for name, (dtype, _) in MEDIA_INVENTORY.columns.items()
    )
    return MEDIA_INVENTORY.check(inventory)


def music_manifest(
    inventory: pl.DataFrame, emotion_key: str, predicted: pl.DataFrame = NOTHING_PREDICTED
) -> pl.DataFrame:
    """The usable clips of one Cowen category, labelled or predicted: MUSIC_CLIPS, sorted by id."""
    emotion = find_music_emotion(emotion_key)
    clips = _usable(with_predictions(inventory, predicted), "music", emotion.key).rename(
        {"item_id": "clip_id"}
    )
    return MUSIC_CLIPS.check(
        clips.with_columns(emotion=pl.lit(emotion.key), genre=pl.lit(emotion.letter)).select(
            list(MUSIC_CLIPS.columns)
        )
    )


def image_manifest(
    inventory: pl.DataFrame, tag: str, predicted: pl.DataFrame = NOTHING_PREDICTED
) -> pl.DataFrame:
    """The usable images of one of Mikels' eight emotions, labelled or predicted: IMAGES, sorted by id."""
    emotion = find_image_emotion(tag)
    images = _usable(with_predictions(inventory, predicted), "image", emotion.key).rename(
        {"item_id": "image_id"}
    )
    return IMAGES.check(images.with_columns(tag=pl.lit(emotion.key)).select(list(IMAGES.columns)))


def rejected_manifest(inventory: pl.DataFrame, predicted: pl.DataFrame = NOTHING_PREDICTED) -> pl.DataFrame:
    """Everything that cannot be used, with its reason: the columns of `REJECTED_MEDIA`."""
    rejected = with_predictions(inventory, predicted).filter(pl.col("reason").is_not_null())
    return REJECTED_MEDIA.check(rejected.select(list(REJECTED_MEDIA.columns)))


def _usable(inventory: pl.DataFrame, kind: str, partition: str) -> pl.DataFrame:
    return inventory.filter(
        (pl.col("kind") == kind) & (pl.col("partition") == partition) & pl.col("reason").is_null()
    ).sort("item_id")


# ---------------------------------------------------------------- items: folder and table together


def _music_items(root: Path, keep_unlabelled: bool) -> pl.DataFrame:
    items = _labelled_items(root, "music", keep_unlabelled)
    items = _with_windows(items)
    items = _with_parsed(items, "emotion", _ratings_row, dict.fromkeys(_RATING_COLUMNS, pl.Float64))
    items = _with_parsed(items, "feeling", _feelings_row, {"feelings": FEELINGS_TYPE})
    original = pl.col("is_original_clip").str.to_lowercase()
    items = items.with_columns(
        is_original_clip=original.is_in(_TRUE_WORDS) | original.is_null(),
        reason=_else(
            pl.when(~original.is_in(_TRUE_WORDS + _FALSE_WORDS)).then(
                _cell("music", pl.format("is_original_clip is '{}': write true or false", "is_original_clip"))
            )
        ),
    )
    items = _with_own_va(items, "music", 1.0, 9.0)
    # A point needs both ratings: if one of them is missing, both values are the table's or the category's.
    rated = pl.col("rating_valence").is_not_null() & pl.col("rating_arousal").is_not_null()
    own = ~rated & pl.col("valence").is_not_null()
    by_program = is_by_program().fill_null(False)
    has_sd = own | (rated & ~by_program)  # a program's deviations say nothing of the clip's ratings
    mean = {
        axis: pl.col("partition").replace_strict(
            {emotion.key: getattr(emotion, axis) for emotion in MUSIC_EMOTIONS},
            default=None,
            return_dtype=pl.Float64,
        )
        for axis in ("valence", "arousal")
    }
    items = items.with_columns(
        valence=pl.when(rated).then("rating_valence").when(own).then("valence").otherwise(mean["valence"]),
        arousal=pl.when(rated).then("rating_arousal").when(own).then("arousal").otherwise(mean["arousal"]),
        va_source=pl.when(own & by_program)
        .then("va_source")
        .when(rated | own)
        .then(pl.lit("ratings"))
        .otherwise(pl.lit("category_mean")),
        valence_sd=pl.when(has_sd).then("valence_sd"),
        arousal_sd=pl.when(has_sd).then("arousal_sd"),
        item_id=pl.coalesce("clip_id", pl.concat_str("below", "window")),
    )
    return items.with_columns(va_source=pl.when(pl.col("valence").is_not_null()).then("va_source"))


def _image_items(root: Path, keep_unlabelled: bool) -> pl.DataFrame:
    items = _labelled_items(root, "image", keep_unlabelled)
    items = _with_own_va(items, "image", 0.0, 1.0)
    own = pl.col("valence").is_not_null()
    of_tag = {
        axis: pl.col("partition").replace_strict(
            {emotion.key: getattr(emotion, axis) for emotion in IMAGE_EMOTIONS},
            default=None,
            return_dtype=pl.Float64,
        )
        for axis in ("valence", "arousal")
    }
    return items.with_columns(
        valence=pl.when(own).then("valence").otherwise(of_tag["valence"]),
        arousal=pl.when(own).then("arousal").otherwise(of_tag["arousal"]),
        va_source=pl.when(own & is_by_program())
        .then("va_source")
        .when(own)
        .then(pl.lit("measured"))
        .when(pl.col("partition").is_not_null())
        .then(pl.lit("tag")),
        valence_sd=pl.when(own).then("valence_sd"),
        arousal_sd=pl.when(own).then("arousal_sd"),
        caption_source=pl.when(pl.col("text").is_not_null()).then(
            pl.coalesce("caption_source", pl.lit("table"))
        ),
        item_id=pl.coalesce("image_id", "below"),
        source_id=pl.coalesce("source_id", _series()),
        window=pl.lit(""),
    ).rename({"text": "caption"})


def _series() -> pl.Expr:
    """The series of an image: its folder and its name without the number at the end."""
    return pl.col("below").str.replace(r"\.[^./]*$", "").str.replace(r"[\s_.()-]*\d+[\s()]*$", "")


def _labelled_items(root: Path, kind: str, keep_unlabelled: bool) -> pl.DataFrame:
    """Every file and table row of a kind, with its label and the first reason to reject it.

    Columns: the table's as text; `row`; `kind`; `below` (path below the sub-folder, or the text
    of a table row without a file); `file`; `size_bytes`; `modified_ns`; `reason`; `partition`;
    `label_source`.
    """
    subfolder = SUBFOLDERS[kind]
    found = find_files(root, kind)
    files = pl.DataFrame(
        [(file.below, file.size_bytes, file.modified_ns, file.problem) for file in found],
        schema={"below": pl.String, "size_bytes": pl.Int64, "modified_ns": pl.Int64, "reason": pl.String},
        orient="row",
    )
    table_path = root / f"{subfolder}.csv"
    has_table = table_path.exists()
    if has_table:
        table = read_table(table_path, kind)
        below, problems = _find_rows(root, kind, table, found)
        listed = table.with_columns(
            pl.Series("below", below, dtype=pl.String), pl.Series("problem", problems, dtype=pl.String)
        )
        items = listed.join(files, on="below", how="left", maintain_order="left")
        unlisted = files.join(listed, on="below", how="anti", maintain_order="left")
        items = pl.concat([items, unlisted], how="diagonal")
    else:
        absent = {column.name: pl.lit(None, pl.String) for column in TABLE_COLUMNS[kind]}
        items = files.with_columns(row=pl.lit(None, pl.Int64), problem=pl.lit(None, pl.String), **absent)
    items = items.with_columns(
        kind=pl.lit(kind),
        file=pl.concat_str(
            pl.when(pl.col("problem").is_null()).then(pl.lit(f"{subfolder}/")).otherwise(pl.lit("")), "below"
        ),
        reason=pl.coalesce("problem", "reason"),
    ).drop("problem")
    return _with_labels(items, kind, has_table, keep_unlabelled)


def _find_rows(
    root: Path, kind: str, table: pl.DataFrame, found: list[FoundFile]
) -> tuple[list[str], list[str | None]]:
    """The file below the sub-folder that each table row refers to, or the row's own text and a problem."""
    subfolder = SUBFOLDERS[kind]
    on_disk = {file.below for file in found}
    by_lower = {name.casefold(): name for name in sorted(on_disk)}
    # Accented names may be composed (NFC) on the disk and decomposed in the table, or vice versa.
    by_composed: dict[str, set[str]] = {}
    for name in on_disk:
        if not name.isascii():
            by_composed.setdefault(unicodedata.normalize("NFC", name), set()).add(name)

    def place(written: str | None, row: int) -> tuple[str, str | None]:
        where = f"{subfolder}.csv row {row}"
        if written is None:
            return "", f"{where}: file is blank"
        if posixpath.isabs(written):
            return written, f"{where}: file is an absolute path; write the path below {subfolder}/"
        if ".." in written.split("/"):
            return written, f"{where}: file has .. in its path, which could lead out of the media folder"
        name = posixpath.normpath(written)
        for candidate in (name, name.removeprefix(f"{subfolder}/")):
            same = by_composed.get(unicodedata.normalize("NFC", candidate), set())
            if candidate in on_disk:
                return candidate, None
            if len(same) == 1:
                return next(iter(same)), None
        if "\0" not in name and not is_inside(root / subfolder / name, root):
            return written, f"{where}: file is behind a link that leads out of the media folder"
        cure = "; separate folders with /, not with \\" if "\\" in name else ""
        alike = by_lower.get(name.removeprefix(f"{subfolder}/").casefold())
        if alike is not None:
            cure = f"; {subfolder}/{alike} differs only in upper and lower case: write it like that"
        return name, f"{where}: file is missing from the disk ({subfolder}/{name}){cure}"

    places = [place(written, row) for written, row in table.select("file", "row").iter_rows()]
    return [below for below, _ in places], [problem for _, problem in places]


def _with_labels(items: pl.DataFrame, kind: str, has_table: bool, keep_unlabelled: bool) -> pl.DataFrame:
    """Add `partition` and `label_source`, from the table's label or else from the top sub-folder's name."""
    column, subfolder = LABEL_COLUMN[kind], SUBFOLDERS[kind]
    folder = pl.when(pl.col("below").str.contains("/", literal=True)).then(
        pl.col("below").str.split_exact("/", 1).struct.field("field_0")
    )
    items = items.with_columns(_label=pl.coalesce(column, folder), _folder=folder)
    find = find_music_emotion if kind == "music" else find_image_emotion
    partitions: dict[str, str] = {}
    problems: dict[str, str] = {}
    for label in items["_label"].drop_nulls().unique():
        try:
            partitions[label] = find(label).key
        except UnknownLabelError as error:
            problems[label] = str(error)
    unknown = pl.col("_label").replace_strict(problems, default=None, return_dtype=pl.String)
    from_table = pl.col(column).is_not_null()
    in_table = pl.col("row").is_not_null()
    example = f"put it into a sub-folder named after its emotion, such as {_EXAMPLE_FOLDER[kind]}"
    unlisted = (
        f"missing from {subfolder}.csv: list it there, or {example}"
        if has_table
        else f"has no label: {example}, or list it in {subfolder}.csv"
    ) + ", or have it predicted: predict_emotion = on"
    unlabelled = (
        pl.when(in_table)
        .then(_cell(kind, pl.lit(f"no {column}, and the file is in no sub-folder named after an emotion")))
        .when(pl.col("_folder").is_null() | pl.lit(has_table))
        .then(pl.lit(unlisted))
        .otherwise(pl.format("sub-folder: {}", unknown))
    )
    is_unlabelled = ~from_table & (pl.col("_label").is_null() | unknown.is_not_null())
    return items.with_columns(
        partition=pl.col("_label").replace_strict(partitions, default=None, return_dtype=pl.String),
        label_source=pl.when(~(is_unlabelled & keep_unlabelled)).then(
            pl.coalesce(
                pl.when(in_table).then("label_source"),
                pl.when(from_table).then(pl.lit("table")).otherwise(pl.lit("folder")),
            )
        ),
        reason=_else(
            pl.when(from_table & unknown.is_not_null())
            .then(_cell(kind, unknown))
            .when(is_unlabelled & (not keep_unlabelled))
            .then(unlabelled)
        ),
    ).drop("_label", "_folder")


def _with_windows(items: pl.DataFrame) -> pl.DataFrame:
    """Parse `start_s` and `duration_s`, and add `window`, which distinguishes the clips of one file."""
    items = _with_number(items, "music", "start_s", 0.0, math.inf)
    items = _with_number(items, "music", "duration_s", 0.0, math.inf)
    has_window = (pl.col("start_s").fill_null(0.0) > 0) | pl.col("duration_s").is_not_null()
    return items.with_columns(
        start_s=pl.col("start_s").fill_null(0.0),
        window=pl.when(has_window)
        .then(
            pl.format(
                "#t={}+{}",
                pl.col("start_s").fill_null(0.0),
                pl.col("duration_s").cast(pl.String).fill_null(""),
            )
        )
        .otherwise(pl.lit("")),
    )


def _with_number(items: pl.DataFrame, kind: str, column: str, low: float, high: float) -> pl.DataFrame:
    """Parse a text column as numbers; reject the items whose text is not a number from `low` to `high`."""
    text = pl.when(~pl.col(column).str.to_lowercase().is_in(list(BLANK_WORDS))).then(pl.col(column))
    number = text.cast(pl.Float64, strict=False)
    scale = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    good = number.is_finite() & number.is_between(low, high)
    problem = _cell(kind, pl.format(f"{column} is '{{}}', expected a number {scale}", text))
    return items.with_columns(
        pl.when(good).then(number).alias(column),
        reason=_else(pl.when(text.is_not_null() & ~good.fill_null(False)).then(problem)),
    )


def _with_own_va(items: pl.DataFrame, kind: str, low: float, high: float) -> pl.DataFrame:
    """Parse an item's own valence and arousal, null unless both are good, and what the table says of them.

    Columns: `valence`, `arousal`, `valence_sd`, `arousal_sd`, and `va_source` in lower case, but for the name
    of another model.
    """
    for axis in ("valence", "arousal"):
        items = _with_number(items, kind, axis, low, high)
        items = _with_number(items, kind, f"{axis}_sd", 0.0, high - low)
    both = pl.col("valence").is_not_null() & pl.col("arousal").is_not_null()
    half = pl.col("valence").is_not_null() ^ pl.col("arousal").is_not_null()
    said = pl.col("va_source").str.to_lowercase()
    name = pl.col("va_source").str.slice(len(OTHER_MODEL)).str.strip_chars()
    is_model = said.str.starts_with(OTHER_MODEL) & (name != "")
    unknown = pl.format(
        f"va_source is '{{}}': write one of {', '.join(VA_SOURCES)}, {OTHER_MODEL}NAME, or nothing",
        "va_source",
    )
    return items.with_columns(
        *(pl.when(both).then(axis).alias(axis) for axis in ("valence", "arousal")),
        va_source=pl.when(is_model).then(pl.lit(OTHER_MODEL) + name).otherwise(said),
        reason=_else(
            pl.when(half)
            .then(_cell(kind, pl.lit("has only one of valence and arousal: give both, or neither")))
            .when(~said.is_in(VA_SOURCES) & ~is_model)
            .then(_cell(kind, unknown))
        ),
    )


def _with_parsed(
    items: pl.DataFrame,
    column: str,
    parse: Callable[[str], tuple[object, ...]],
    schema: dict[str, pl.DataType | type[pl.DataType]],
) -> pl.DataFrame:
    """Parse a text column, each distinct text once: expanded clips repeat their source's text."""
    rows: list[tuple[object, ...]] = []
    for text in items[column].drop_nulls().unique():
        try:
            rows.append((text, *parse(text), None))
        except RatingsError as error:
            rows.append((text, *(None for _ in schema), str(error)))
    parsed = pl.DataFrame(rows, schema={column: pl.String, **schema, "_problem": pl.String}, orient="row")
    items = items.join(parsed, on=column, how="left", maintain_order="left")
    problem = pl.when(pl.col("_problem").is_not_null()).then(_cell("music", pl.col("_problem")))
    return items.with_columns(reason=_else(problem)).drop("_problem")


def _ratings_row(text: str) -> tuple[float | None, ...]:
    if text.casefold() in BLANK_WORDS:
        return (None,) * len(RATINGS)
    return tuple(None if math.isnan(rating) else rating for rating in parse_ratings(text))


def _feelings_row(text: str) -> tuple[list[dict[str, object]] | None]:
    feelings = parse_feelings(text)
    return ([{"feeling": name, "percent": percent} for name, percent in feelings.items()] or None,)


def _else(problem: pl.Expr) -> pl.Expr:
    """The existing reason, or else this one."""
    return pl.coalesce("reason", problem)


def _cell(kind: str, problem: pl.Expr) -> pl.Expr:
    """`problem` with its table and row."""
    return pl.format("{}.csv row {}: {}", pl.lit(SUBFOLDERS[kind]), "row", problem)


# ---------------------------------------------------------------------- sources, ids and duplicates


def _with_sources(items: pl.DataFrame) -> pl.DataFrame:
    """The sources of the clips, which are known once their contents are; images have theirs already."""
    is_music = pl.col("kind") == "music"
    music = items.filter(is_music)
    music = music.with_columns(find_sources(music))
    lost = pl.lit(
        "is an expanded clip (is_original_clip is false) whose source cannot be found: it has no ratings to "
        "compare, and no original is cut from its file; give its source_id"
    )
    music = music.with_columns(
        reason=_else(pl.when(pl.col("source_id").is_null()).then(_cell("music", lost)))
    )
    return pl.concat([music, items.filter(~is_music)], how="diagonal")


def _reject_repeated_ids(items: pl.DataFrame) -> pl.DataFrame:
    """Keep the first usable item of each id: table rows in their order, then files by path."""
    items = items.sort(pl.col("row").fill_null(2**62), "below").with_row_index("place")
    usable, place = pl.col("reason").is_null(), pl.col("place")
    first = place.filter(usable).min().over("kind", "item_id")
    holder = pl.col("file").filter(usable).first().over("kind", "item_id")
    return items.with_columns(
        reason=pl.when(usable & (place != first))
        .then(pl.format("its id '{}' is already used by {}: ids must be unique", "item_id", holder))
        .otherwise("reason")
    )


def _reject_duplicates(items: pl.DataFrame) -> pl.DataFrame:
    """Keep the first usable item of each content: labelled items first, then the table's, then originals."""
    items = (
        items.sort(
            pl.col("partition").is_null(),
            pl.col("row").is_null(),
            pl.col("is_original_clip").fill_null(True).not_(),
            "item_id",
        )
        .drop("place")
        .with_row_index("place")
    )
    usable, place = pl.col("reason").is_null(), pl.col("place")
    first = place.filter(usable).min().over("kind", "content_hash")
    holder = pl.col("item_id").filter(usable).first().over("kind", "content_hash")
    return items.with_columns(
        reason=pl.when(usable & (place != first))
        .then(pl.format("duplicate: same content as '{}'", holder))
        .otherwise("reason")
    )
