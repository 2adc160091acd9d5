"""A release: the data set as a folder to hand on, in EMID's own columns.

Belongs here: which files a release has, and the order in which they are made. The table is
`emid_format`'s, media `release_media`'s, Parquet `parquet_files`'s, the card `dataset_card`'s.

A release is written beside its place and renamed: a reader sees the old one or the new one. The
same inputs give the same bytes. The folder is a media folder too: `emid build --media` takes it.
"""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from emid_assets.media.va_sources import is_by_program
from emid_assets.release.croissant import croissant
from emid_assets.release.dataset_card import CITATION, PRETTY_NAME, dataset_card, licence_counts, meanings
from emid_assets.release.emid_format import (
    AUDIO_COLUMN,
    ORIGINAL_COLUMN,
    emid_columns,
    emid_table,
    emotion_texts,
    feeling_texts,
    has_both_ratings,
    image_columns,
)
from emid_assets.release.emid_import import PAIRS_FILE
from emid_assets.release.parquet_files import AUDIO, IMAGE, pattern_of, write_parquet
from emid_assets.release.release_media import (
    FoundMedia,
    Placed,
    ReleaseError,
    place_clips,
    place_images,
)
from emid_assets.release.retrieval_form import FOLDER as RETRIEVAL_FOLDER
from emid_assets.release.retrieval_form import write_tasks
from emid_assets.store.files import put_folder_in_place, sha256_of
from emid_assets.store.schemas import EMID_RELEASE

FOLDER_FORM, PARQUET_FORM, RETRIEVAL_FORM = "folder", "parquet", "retrieval"
MEDIA_FOLDERS = ("music", "images")
TABLE_FILE = "EMID_data"
DATA_FOLDER = "data"
SUMS_FILE = "SHA256SUMS"
FORMAT = "6"
"""Part of what identifies an unchanged release: after a change of the layout it is rewritten."""

_DESCRIPTION = (
    "Clips of music, each with the images that feel alike: paired by what an encoder hears and sees and by "
    "valence and arousal, in the columns of EMID (arXiv 2308.07622)."
)


def write_release(
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    pairs: pl.DataFrame,
    media: FoundMedia,
    folder: Path,
    images_per_clip: int,
    made_with: Mapping[str, str],
    forms: Collection[str],
) -> pl.DataFrame:
    """Write the release and replace the previous one.

    Args:
        music_clips: frame MUSIC_CLIPS; clips without a pair are left out.
        images: frame IMAGES with `source_id`; images without a pair are left out.
        pairs: frame FUSED_PAIRS.
        media: the folder below which the frames' `file` columns are, and its inventory.
        folder: the release.
        images_per_clip: m: image slots of the table.
        made_with: settings and encoder, name → value, for the card.
        forms: what it holds the media as: FOLDER_FORM, PARQUET_FORM and RETRIEVAL_FORM, or some of them.

    Returns:
        Frame EMID_RELEASE: every file with its size and sum.

    Raises:
        ReleaseError: a media file is gone, or has changed since the inventory.
    """
    clips = music_clips.join(pairs, on="clip_id", how="semi").sort("genre", "clip_id")
    pictures = images.join(pairs, on="image_id", how="semi").sort("image_id")
    pairs = pairs.join(clips, on="clip_id", how="semi").join(pictures, on="image_id", how="semi")
    pairs = pairs.sort("clip_id", "rank")
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    clip_files = place_clips(clips, media, unfinished)
    image_files = place_images(pictures, media, unfinished)
    sums = {placed.file: placed for placed in (*clip_files.values(), *image_files.values())}
    clip_paths = {one: placed.file for one, placed in clip_files.items()}
    image_paths = {one: placed.file for one, placed in image_files.items()}

    table = emid_table(clips, pictures, pairs, clip_paths, image_paths, images_per_clip)
    columns = emid_columns(images_per_clip)
    table.select(columns).write_csv(unfinished / f"{TABLE_FILE}.csv")
    features = release_features(images_per_clip)
    table.select(columns).write_parquet(unfinished / f"{TABLE_FILE}.parquet")
    written: list[Path] = []
    if PARQUET_FORM in forms:
        written = write_parquet(table, features, unfinished, unfinished / DATA_FOLDER, "train", sums)
    _write_media_tables(clips, pictures, pairs, clip_paths, image_paths, unfinished)
    if RETRIEVAL_FORM in forms:
        captions = dict(pictures.select("image_id", pl.col("caption").fill_null("")).iter_rows())
        write_tasks(pairs, clip_paths, image_paths, captions, unfinished, sums)
    if FOLDER_FORM not in forms:  # the other forms have taken their bytes from there
        for top in MEDIA_FOLDERS:
            shutil.rmtree(unfinished / top, ignore_errors=True)
    licences = licence_counts(clips, pictures)["licence"].to_list()
    (unfinished / "croissant.json").write_text(
        croissant(
            PRETTY_NAME, _DESCRIPTION, CITATION, licences,
            _placed(unfinished / f"{TABLE_FILE}.csv", unfinished),
            [_placed(path, unfinished) for path in written],
            meanings(images_per_clip),
            FOLDER_FORM in forms,
        ),
        encoding="utf-8",
    )  # fmt: skip
    described = dict.fromkeys(forms, "")
    if PARQUET_FORM in forms:
        described[PARQUET_FORM] = f"{DATA_FOLDER}/{pattern_of(written)}"
    card = dataset_card(table, pairs, clips, pictures, features, made_with, images_per_clip, described)
    (unfinished / "README.md").write_text(card, encoding="utf-8")
    files = _manifest(unfinished, sums)
    (unfinished / SUMS_FILE).write_text(_sums(files), encoding="utf-8")
    _put_in_place(unfinished, folder)
    return files


def with_series(images: pl.DataFrame, media_inventory: pl.DataFrame) -> pl.DataFrame:
    """IMAGES with `source_id`, the series or theme that each belongs to."""
    usable = media_inventory.filter(pl.col("reason").is_null(), kind="image")
    series = usable.select("source_id", image_id="item_id")
    return images.join(series, on="image_id", how="left", maintain_order="left")


def release_features(images_per_clip: int) -> dict[str, str]:
    """Column → feature of the Parquet files whose rows hold the media."""
    media = {image_columns(slot)[0]: IMAGE for slot in range(1, images_per_clip + 1)} | {AUDIO_COLUMN: AUDIO}
    return {
        name: media.get(name, "bool" if name == ORIGINAL_COLUMN else "string")
        for name in emid_columns(images_per_clip)
    }


def is_whole(folder: Path, files: pl.DataFrame) -> bool:
    """Whether every file of a release (EMID_RELEASE) lies in `folder` with its size, and no other sums."""
    try:
        sizes = [(folder / file).stat().st_size for file in files["file"]]
        sums = (folder / SUMS_FILE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return sizes == files["size_bytes"].to_list() and sums == _sums(files)


def _write_media_tables(
    clips: pl.DataFrame,
    images: pl.DataFrame,
    pairs: pl.DataFrame,
    clip_files: Mapping[str, str],
    image_files: Mapping[str, str],
    folder: Path,
) -> None:
    """music.csv, images.csv and pairs.csv, as a media folder has them: ids, sources and terms of each.

    What is predicted, or written by a model, is marked as such. Valence and arousal are written where the
    other columns do not give them, so that the tables of a build from this folder have the same values.
    """

    def below(top: str, id_column: str, files: Mapping[str, str]) -> pl.Expr:
        names = pl.col(id_column).replace_strict(files, return_dtype=pl.String)
        return names.str.strip_prefix(f"{top}/").alias("file")

    given = pl.col("va_source").is_in(["ratings", "measured"]) | is_by_program()

    def own(is_own: pl.Expr) -> list[pl.Expr]:
        values = [pl.when(is_own).then(pl.col(axis)).alias(axis) for axis in ("valence", "arousal")]
        return [*values, pl.col("va_source"), pl.col("valence_sd"), pl.col("arousal_sd")]

    music = clips.select(
        "clip_id",
        below("music", "clip_id", clip_files),
        "genre",
        feeling_texts(clips),
        emotion_texts(clips),
        *own(given & ~has_both_ratings()),
        "is_original_clip", "source_id", "licence", "author", "label_source",
    )  # fmt: skip
    pictures = images.select(
        "image_id",
        below("images", "image_id", image_files),
        "tag",
        pl.col("caption").alias("text"),
        *own(given),
        "caption_source", "source_id", "licence", "author", "label_source",
    )  # fmt: skip
    music.write_csv(folder / "music.csv")
    pictures.write_csv(folder / "images.csv")
    pairs.write_csv(folder / PAIRS_FILE)


def _manifest(folder: Path, known: Mapping[str, Placed]) -> pl.DataFrame:
    """EMID_RELEASE: every file in `folder` by path, with the sums that are known already."""
    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        file = path.relative_to(folder).as_posix()
        placed = known.get(file) or _placed(path, folder)
        rows.append((file, _role(file), placed.size_bytes, placed.sha256))
    frame = pl.DataFrame(rows, schema=EMID_RELEASE.empty().schema, orient="row")
    return frame.sort("file")


def _sums(files: pl.DataFrame) -> str:
    """Lines as sha256sum has them: a name with a backslash or a line break is escaped, and marked so."""
    lines = []
    for file, sha256 in files.select("file", "sha256").iter_rows():
        escaped = file.replace("\\", "\\\\").replace("\n", "\\n")
        mark = "" if escaped == file else "\\"
        lines.append(f"{mark}{sha256}  {escaped}\n")
    return "".join(lines)


def _role(file: str) -> str:
    top = file.partition("/")[0]
    if top in MEDIA_FOLDERS:
        return "media"
    if top in (DATA_FOLDER, RETRIEVAL_FOLDER):
        return top
    return "table" if file.endswith((".csv", ".parquet")) else "card"


def _placed(path: Path, folder: Path) -> Placed:
    return Placed(path.relative_to(folder).as_posix(), sha256_of(path), path.stat().st_size)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename a finished release over the one before; a folder cannot be replaced in one step."""
    before = folder.with_name(folder.name + ".before")
    try:
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        put_folder_in_place(unfinished, folder)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise ReleaseError(f"cannot put the release into {folder}: {error}") from error
