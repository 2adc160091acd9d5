"""The published data set as a media folder of ours: tables, files, and the published pairs.

Belongs here: what of a published row is kept, mended or rejected, and why. Reading what was
published is `emid_source`'s, naming and placing files is `media_store`'s.

    music.csv, images.csv, music/, images/  what `emid build --media` takes
    pairs.csv                               the published pairs: clip_id, image_id, rank
    import.csv                              every row that was mended or rejected, and why
    .import/                                a journal of what is read: a stopped import goes on there
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emid_assets.affect.emotions import (
    RATINGS,
    UnknownLabelError,
    find_image_emotion,
    find_music_emotion,
)
from emid_assets.affect.ratings import (
    BLANK_WORDS,
    HIGHEST_RATING,
    LOWEST_RATING,
    RatingsError,
    parse_feelings,
    parse_ratings,
)
from emid_assets.media.folder import SUBFOLDERS
from emid_assets.release.emid_format import EXPANDED_MARK, MISSING
from emid_assets.release.emid_source import JOURNAL, Piece, PublishedRow
from emid_assets.release.media_store import MediaStore, Stored
from emid_assets.store.files import make_folder, put_in_place

PAIRS_FILE = "pairs.csv"
FINDINGS_FILE = "import.csv"
JOURNAL_FORMAT = 1
"""Part of each piece's name in the journal: another format is read anew."""

LICENCE = "CC-BY-NC-SA-4.0"
AUTHOR = "Zou et al. 2023 (EMID)"
LABEL_SOURCE = "EMID (arXiv 2308.07622)"

_EXPANDED_NAME = re.compile(rf"(?P<stem>.+){EXPANDED_MARK}\d+(?:\.\w+)?")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{2,4}$")


class ImportRefusedError(ValueError):
    """The import cannot be made where it was asked for; the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """Something about a row that was not as it should be.

    Attributes:
        outcome: `mended` or `rejected`.
        kind: a few words that are the same for findings of one kind.
        where: file and row.
        item: the clip or image, by its published name or the column it should stand in.
        reason: what was wrong, and what was done.
    """

    outcome: str
    kind: str
    where: str
    item: str
    reason: str


@dataclass
class ImportSummary:
    """What an import has made; `findings` names every row that was mended or rejected."""

    folder: Path
    rows: int = 0
    reused_rows: int = 0
    clips: int = 0
    originals: int = 0
    sources: int = 0
    images: int = 0
    pairs: int = 0
    sample_rates: Counter[int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


@dataclass
class _Image:
    slot: int
    published: str
    stored: Stored
    tag: str
    text: str


@dataclass
class _Row:
    """A row once its media are in their places."""

    where: str
    problem: str
    published: str
    audio: Stored
    genre: str
    feeling: str
    emotion: str
    is_original: bool | None
    images: list[_Image]


def import_emid(
    pieces: Sequence[Piece], folder: Path, on_progress: Callable[[int, int], None] | None = None
) -> ImportSummary:
    """Make a media folder of what was published.

    What an earlier import into the same folder has read is not read again, as long as its source and
    its files are the same. The same pieces give the same folder.

    Args:
        pieces: from `emid_source`.
        folder: the media folder; made where it is not there.
        on_progress: called with (rows read, all rows).

    Raises:
        ImportRefusedError: the folder holds media that no import has put there.
    """
    folder = folder.resolve()
    _open_folder(folder)
    stores = {kind: MediaStore(folder, kind) for kind in SUBFOLDERS}
    journal = {place: _read_journal(folder, piece, stores) for place, piece in enumerate(pieces)}
    summary = ImportSummary(folder)
    total, done = sum(piece.rows for piece in pieces), 0
    rows: list[_Row] = []
    for place, piece in enumerate(pieces):
        of_piece = journal[place]
        if of_piece is None:
            of_piece = []
            for row in piece.read():
                of_piece.append(_placed(row, stores))
                if on_progress is not None:
                    on_progress(done + len(of_piece), total)
            _write_journal(folder, piece, of_piece)
        else:
            summary.reused_rows += len(of_piece)
        done += piece.rows
        if on_progress is not None:
            on_progress(done, total)
        rows += of_piece
    summary.rows = len(rows)
    _write_tables(rows, summary)
    return summary


# ---------------------------------------------------------------------------- the folder and its journal


def _open_folder(folder: Path) -> None:
    taken = [name for name in ("music", "images", "music.csv", "images.csv") if (folder / name).exists()]
    if taken and not (folder / JOURNAL).is_dir():
        raise ImportRefusedError(
            f"{folder} holds {', '.join(taken)}, which no import has put there: give another folder"
        )
    make_folder(folder / JOURNAL)
    for name in SUBFOLDERS.values():
        make_folder(folder / name)


def _journal_path(folder: Path, piece: Piece) -> Path:
    digest = hashlib.sha256(f"{JOURNAL_FORMAT}:{piece.identity}".encode()).hexdigest()
    return folder / JOURNAL / f"{digest[:32]}.json"


def _read_journal(folder: Path, piece: Piece, stores: dict[str, MediaStore]) -> list[_Row] | None:
    """The rows of a piece that was read before and whose files are all there; else None."""
    try:
        written = json.loads(_journal_path(folder, piece).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    rows = [_row_of_json(row) for row in written]
    for row in rows:
        media = [("music", row.audio), *(("image", image.stored) for image in row.images)]
        if not all(stores[kind].is_there(stored) for kind, stored in media if stored.name):
            return None
    for row in rows:
        stores["music"].remember(row.audio)
        for image in row.images:
            stores["image"].remember(image.stored)
    return rows


def _write_journal(folder: Path, piece: Piece, rows: Sequence[_Row]) -> None:
    path = _journal_path(folder, piece)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([asdict(row) for row in rows], ensure_ascii=False), "utf-8")
    put_in_place(unfinished, path)


def _row_of_json(written: dict[str, object]) -> _Row:
    row = _Row(**written)  # type: ignore[arg-type]
    row.audio = _stored(row.audio)
    row.images = [_Image(**image) for image in row.images]  # type: ignore[arg-type]
    for image in row.images:
        image.stored = _stored(image.stored)
    return row


def _stored(written: object) -> Stored:
    assert isinstance(written, dict), "the journal's own form"
    return Stored(**{**written, "notes": tuple((kind, note) for kind, note in written["notes"])})


def _placed(row: PublishedRow, stores: dict[str, MediaStore]) -> _Row:
    audio = Stored(problem=row.problem) if row.problem else stores["music"].put(row.audio)
    images = [
        _Image(image.slot, image.medium.name, stores["image"].put(image.medium), image.tag, image.text)
        for image in row.images
    ]
    return _Row(
        row.where, row.problem, row.audio.name or audio.name, audio, row.genre, row.feeling, row.emotion,
        row.is_original, images,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- rows to tables


def _write_tables(rows: Sequence[_Row], summary: ImportSummary) -> None:
    """music.csv, images.csv, pairs.csv and import.csv; fills the summary."""
    findings = summary.findings
    tags = _image_tags(rows, findings)
    clips = _usable_clips(rows, findings)
    sources = _sources(clips, findings)
    music: list[list[str]] = []
    pairs: list[tuple[str, str, int]] = []
    for row in clips:
        music.append(
            [
                row.audio.name, find_music_emotion(row.genre).letter, _feeling(row, findings),
                _emotion(row, findings), str(bool(row.is_original)).lower(), sources[row.audio.name],
                LICENCE, AUTHOR, LABEL_SOURCE, row.where,
            ]
        )  # fmt: skip
        summary.sample_rates[row.audio.sample_rate] += 1
        pairs += _pairs(row, tags, findings)
    images = [[name, tag, text, LICENCE, AUTHOR, LABEL_SOURCE] for name, (tag, text) in sorted(tags.items())]
    music.sort()
    summary.clips, summary.images, summary.pairs = len(music), len(images), len(pairs)
    summary.originals = sum(bool(row.is_original) for row in clips)
    summary.sources = len(set(sources.values()))
    terms = ["licence", "author", "label_source"]
    columns = ["file", "genre", "feeling", "emotion", "is_original_clip", "source_id", *terms, "published_as"]
    folder = summary.folder
    _write_csv(folder / "music.csv", columns, music)
    _write_csv(folder / "images.csv", ["file", "tag", "text", *terms], images)
    _write_csv(folder / PAIRS_FILE, ["clip_id", "image_id", "rank"], sorted(pairs))
    _write_csv(
        folder / FINDINGS_FILE,
        ["outcome", "kind", "row", "item", "reason"],
        [[found.outcome, found.kind, found.where, found.item, found.reason] for found in findings],
    )


def _image_tags(rows: Sequence[_Row], findings: list[Finding]) -> dict[str, tuple[str, str]]:
    """Tag and caption of each usable image, by its name: those of the first row that has them."""
    tags: dict[str, tuple[str, str]] = {}
    told: set[str] = set()
    for row in rows:
        for image in row.images:
            item, name = f"image {image.slot} {image.published}".rstrip(), image.stored.name
            if not name:
                findings.append(
                    Finding("rejected", "image without content", row.where, item, image.stored.problem)
                )
                continue
            if name not in told:
                told.add(name)
                findings += [Finding("mended", kind, row.where, item, n) for kind, n in image.stored.notes]
            try:
                tag = find_image_emotion(image.tag).key
            except UnknownLabelError as error:
                findings.append(Finding("rejected", "image without a known tag", row.where, item, str(error)))
                continue
            first, text = tags.setdefault(name, (tag, image.text))
            if tag != first:
                findings.append(
                    Finding(
                        "mended", "image of two tags", row.where, item,
                        f"is tagged {tag}, and {first} in an earlier row: {first} stands",
                    )
                )  # fmt: skip
            if image.text and not text:
                tags[name] = (first, image.text)
    return tags


def _usable_clips(rows: Sequence[_Row], findings: list[Finding]) -> list[_Row]:
    """The rows whose audio and genre can be used, each content once, with `is_original` known."""
    usable: list[_Row] = []
    for row in rows:
        item = row.published or "audio"
        if row.problem:
            findings.append(Finding("rejected", "row of another shape", row.where, item, row.problem))
            continue
        if not row.audio.name:
            findings.append(Finding("rejected", "audio without content", row.where, item, row.audio.problem))
            continue
        try:
            find_music_emotion(row.genre)
        except UnknownLabelError as error:
            findings.append(Finding("rejected", "clip without a known genre", row.where, item, str(error)))
            continue
        if row.is_original is None:
            row.is_original = _EXPANDED_NAME.fullmatch(row.published) is None
            found = "original" if row.is_original else "expanded"
            findings.append(
                Finding(
                    "mended", "is_original_clip is missing", row.where, item,
                    f"{found}, by its name ({EXPANDED_MARK} and a number stand for expanded clips)",
                )
            )  # fmt: skip
        usable.append(row)
    kept: dict[str, _Row] = {}
    # Originals first: where an expanded clip has the same bytes, it is the one to go.
    for row in sorted(usable, key=lambda row: not row.is_original):
        first = kept.setdefault(row.audio.content_hash, row)
        if first is not row:
            findings.append(
                Finding(
                    "rejected", "clip that stands there already", row.where, row.published,
                    f"has the same content as {first.published} of {first.where}",
                )
            )  # fmt: skip
    for row in kept.values():
        for kind, note in row.audio.notes:
            findings.append(Finding("mended", kind, row.where, row.published, note))
    return list(kept.values())


def _sources(clips: Sequence[_Row], findings: list[Finding]) -> dict[str, str]:
    """The source of each clip, both by file name.

    Clips of equal (feeling, emotion) are of one source: expanded clips copy the labels of theirs,
    and their own names are mangled. Only a clip without ratings is grouped by its name.
    """
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in clips:
        is_rated = row.emotion.casefold() not in BLANK_WORDS
        key = (row.feeling, row.emotion) if is_rated else (_stem(row.published),)
        groups.setdefault(key, []).append(row)
    sources: dict[str, str] = {}
    for rows in groups.values():
        originals = [row for row in rows if row.is_original]
        source = min(originals or rows, key=lambda row: row.audio.name)
        names = {name for row in originals for name in (row.published, _SUFFIX.sub("", row.published))}
        for row in rows:
            sources[row.audio.name] = source.audio.name
            if row.is_original:
                continue
            if not originals:
                findings.append(
                    Finding(
                        "mended", "source is not among the rows", row.where, row.published,
                        f"kept together with the {len(rows)} clips of equal feeling and emotion, "
                        f"as source {source.audio.name}",
                    )
                )  # fmt: skip
            elif _stem(row.published) not in names:
                findings.append(
                    Finding(
                        "mended", "mangled name", row.where, row.published,
                        f"names {_stem(row.published)}, which is none: its source is {source.published}, "
                        "by equal feeling and emotion",
                    )
                )  # fmt: skip
    return sources


def _stem(published: str) -> str:
    """What an expanded clip's name says that its source is called: `143.m4a` of `143.m4a___58.mp3`."""
    match = _EXPANDED_NAME.fullmatch(published)
    return match["stem"] if match else _SUFFIX.sub("", published)


def _feeling(row: _Row, findings: list[Finding]) -> str:
    try:
        parse_feelings(row.feeling)
    except RatingsError as error:
        findings.append(
            Finding("mended", "unreadable feeling", row.where, row.published, f"{error}: left out")
        )
        return ""
    return "" if row.feeling.casefold() in BLANK_WORDS else row.feeling


def _emotion(row: _Row, findings: list[Finding]) -> str:
    """The ratings as they are published, `nan` for those that are none."""

    def mended(kind: str, reason: str) -> None:
        findings.append(Finding("mended", kind, row.where, row.published, reason))

    if row.emotion.casefold() in BLANK_WORDS:
        mended("no ratings", "has no ratings: its category's mean stands in")
        return ""
    cells = [cell.strip() for cell in row.emotion.strip("[]").split(",")]
    if len(cells) != len(RATINGS):
        mended("unreadable emotion", f"has {len(cells)} ratings, wanted are {len(RATINGS)}: all are left out")
        return ""
    for place, (name, cell) in enumerate(zip(RATINGS, cells, strict=True)):
        if cell.casefold() in BLANK_WORDS:
            cells[place] = MISSING
            mended("missing rating", f"the rating of {name} is missing: kept as {MISSING}")
            continue
        try:
            good = LOWEST_RATING <= float(cell) <= HIGHEST_RATING
        except ValueError:
            good = False
        if not good:
            cells[place] = MISSING
            mended("unreadable rating", f"the rating of {name} is {cell!r}: kept as {MISSING}")
    text = ",".join(cells)
    parse_ratings(text)
    return text


def _pairs(
    row: _Row, tags: dict[str, tuple[str, str]], findings: list[Finding]
) -> Iterable[tuple[str, str, int]]:
    """The published pairs of a clip: file names, and the slot as rank."""
    seen: set[str] = set()
    for image in row.images:
        name = image.stored.name
        if name not in tags:
            continue  # its rejection names the row already
        if name in seen:
            findings.append(
                Finding(
                    "mended", "image twice in a row", row.where, f"image {image.slot} {image.published}",
                    "stands in an earlier slot of the same row: that one stands",
                )
            )  # fmt: skip
            continue
        seen.add(name)
        yield row.audio.name, name, image.slot


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    put_in_place(unfinished, path)
