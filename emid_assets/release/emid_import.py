"""The published data set as a media folder of ours: tables, files, and the published pairs.

Belongs here: what of a published row is kept, mended or rejected, and why. Reading what was
published is `emid_source`'s, naming and placing files is `media_store`'s.

    music.csv, images.csv, music/, images/  what `emid build --media` takes
    pairs.csv                               the published pairs: clip_id, image_id, rank
    import.csv                              every row that was mended, kept with a fault, or rejected, and why
    .import/                                a journal of what is read: a stopped import goes on there
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

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
from emid_assets.media.audio import AUDIO_SUFFIXES
from emid_assets.media.folder import SUBFOLDERS
from emid_assets.media.imported import FINDINGS_COLUMNS, FINDINGS_FILE, REJECTED
from emid_assets.release.emid_format import EXPANDED_MARK, MISSING
from emid_assets.release.emid_source import JOURNAL, Piece, PublishedRow
from emid_assets.release.item_tables import CARRIED, Particulars
from emid_assets.release.media_store import MediaStore, Stored
from emid_assets.store.files import make_folder, put_in_place

PAIRS_FILE = "pairs.csv"
JOURNAL_FORMAT = 2
"""Part of each piece's name in the journal: another format is read anew."""

WRITTEN_FILE = "tables.sha256"
"""In the journal's folder: the sum of every table that an import has written, to tell a changed one."""

_EXPANDED_NAME = re.compile(rf"(?P<stem>.+){EXPANDED_MARK}\d+(?:\.\w+)?")
_UNLABELLED = "a build leaves it out until {0} is mended; a blank {0} may be predicted (predict_emotion = on)"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{2,4}$")


class ImportRefusedError(ValueError):
    """The import cannot be made where it was asked for; the message says what to do."""


@dataclass(frozen=True)
class Terms:
    """What is written for each item that no table beside the published rows lists: EMID's own terms."""

    licence: str = "CC-BY-NC-SA-4.0"
    author: str = "Zou et al. 2023 (EMID)"
    label_source: str = "EMID (arXiv 2308.07622)"

    def of(self, particulars: Particulars | None) -> list[str]:
        """Licence, author and source of an item's labels: as its own table has them, if it is listed."""
        own = asdict(self)
        return [(own if particulars is None else particulars)[name] for name in own]


EMID_TERMS = Terms()


@dataclass(frozen=True)
class Finding:
    """Something about a row that was not as it should be.

    Attributes:
        outcome: `mended`; `kept` with its fault, for the user to mend; or `rejected`.
        kind: a few words that are the same for findings of one kind.
        where: file and row.
        item: the clip or image, by its published name or the column it should stand in.
        reason: what was wrong, and what was done.
        medium: `music` or `image`.
    """

    outcome: str
    kind: str
    where: str
    item: str
    reason: str
    medium: str = "music"


@dataclass
class ImportSummary:
    """What an import has made; `findings` names every row with a fault, and what was done about it."""

    folder: Path
    rows: int = 0
    reused_rows: int = 0
    clips: int = 0
    originals: int = 0
    sources: int = 0
    images: int = 0
    pairs: int = 0
    listed_items: int = 0
    sample_rates: Counter[int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


@dataclass
class _Image:
    slot: int
    published: str
    stored: Stored
    tag: str
    text: str
    particulars: Particulars | None


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
    particulars: Particulars | None
    images: list[_Image]


def import_emid(
    pieces: Sequence[Piece],
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
    terms: Terms = EMID_TERMS,
    overwrite: bool = False,
) -> ImportSummary:
    """Make a media folder of what was published.

    What an earlier import into the same folder has read is not read again, as long as its source and
    its files are the same. The same pieces give the same folder.

    Args:
        pieces: from `emid_source`.
        folder: the media folder; made where it is not there.
        on_progress: called with (rows read, all rows).
        terms: of the items that no table beside the rows lists.
        overwrite: write tables anew that somebody has changed since an import wrote them.

    Raises:
        ImportRefusedError: the folder holds media that no import has put there, or a table has been
            changed since.
    """
    folder = folder.resolve()
    _open_folder(folder, overwrite)
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
    _write_tables(rows, summary, terms)
    return summary


# ---------------------------------------------------------------------------- the folder and its journal


def _open_folder(folder: Path, overwrite: bool) -> None:
    taken = [name for name in ("music", "images", "music.csv", "images.csv") if (folder / name).exists()]
    if taken and not (folder / JOURNAL).is_dir():
        raise ImportRefusedError(
            f"{folder} holds {', '.join(taken)}, which no import has put there: give another folder"
        )
    written = _written_sums(folder)
    changed = [
        name
        for name in ("music.csv", "images.csv", PAIRS_FILE)
        if (folder / name).exists() and _sum_line(folder / name, name) not in written
    ]
    if changed and not overwrite:
        raise ImportRefusedError(
            f"{folder}: {' and '.join(changed)} not as an import left them, and would be written anew: "
            "give another folder (--to), or --overwrite to lose the changes"
        )
    make_folder(folder / JOURNAL)
    for name in SUBFOLDERS.values():
        make_folder(folder / name)


def _written_sums(folder: Path) -> list[str]:
    path = folder / JOURNAL / WRITTEN_FILE
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _sum_line(path: Path, name: str) -> str:
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"


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
        _Image(
            image.slot, image.medium.name, stores["image"].put(image.medium), image.tag, image.text,
            image.medium.particulars,
        )
        for image in row.images
    ]  # fmt: skip
    return _Row(
        row.where, row.problem, row.audio.name or audio.name, audio, row.genre, row.feeling, row.emotion,
        row.is_original, row.audio.particulars, images,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- rows to tables


def _write_tables(rows: Sequence[_Row], summary: ImportSummary, terms: Terms) -> None:
    """music.csv, images.csv, pairs.csv and import.csv; fills the summary."""
    findings = summary.findings
    images = _usable_images(rows, findings)
    clips = _usable_clips(rows, findings)
    sources = _sources(clips, findings)
    music: list[list[str]] = []
    pairs: list[tuple[str, str, int]] = []
    for row in clips:
        music.append(
            [
                row.audio.name, _genre(row, findings), _feeling(row, findings), _emotion(row, findings),
                str(bool(row.is_original)).lower(), sources[row.audio.name], *terms.of(row.particulars),
                row.where,
            ]
        )  # fmt: skip
        summary.sample_rates[row.audio.sample_rate] += 1
        pairs += _pairs(row, images, findings)
    music.sort()
    pictures: list[list[str]] = []
    for name, image in sorted(images.items()):
        own = image.particulars or dict.fromkeys(CARRIED["image"], "")
        measured = [own[column] for column in ("valence", "arousal", "source_id")]
        pictures.append([name, image.tag, image.text, *measured, *terms.of(image.particulars)])
    summary.clips, summary.images, summary.pairs = len(music), len(pictures), len(pairs)
    summary.originals = sum(bool(row.is_original) for row in clips)
    summary.sources = len(set(sources.values()))
    particulars = [row.particulars for row in clips] + [image.particulars for image in images.values()]
    summary.listed_items = sum(listed is not None for listed in particulars)
    of_terms = ["licence", "author", "label_source"]
    of_music = ["file", "genre", "feeling", "emotion", "is_original_clip", "source_id", *of_terms]
    folder = summary.folder
    _write_csv(folder, "music.csv", [*of_music, "published_as"], music)
    _write_csv(
        folder, "images.csv", ["file", "tag", "text", "valence", "arousal", "source_id", *of_terms], pictures
    )
    _write_csv(folder, PAIRS_FILE, ["clip_id", "image_id", "rank"], sorted(pairs))
    _write_csv(
        folder,
        FINDINGS_FILE,
        FINDINGS_COLUMNS,
        [
            [found.outcome, found.kind, found.medium, found.where, found.item, found.reason]
            for found in findings
        ],
    )


def _usable_images(rows: Sequence[_Row], findings: list[Finding]) -> dict[str, _Image]:
    """Each usable image by its file name, with the first known tag and the first caption of its rows."""

    def told(outcome: str, kind: str, row: _Row, image: _Image, reason: str) -> None:
        item = f"image {image.slot} {image.published}".rstrip()
        findings.append(Finding(outcome, kind, row.where, item, reason, "image"))

    found: dict[str, list[tuple[_Row, _Image]]] = {}
    for row in rows:
        for image in row.images:
            if not image.stored.name:
                told(REJECTED, "image without content", row, image, image.stored.problem)
                continue
            places = found.setdefault(image.stored.name, [])
            if not places:
                for kind, note in image.stored.notes:
                    told("mended", kind, row, image, note)
            places.append((row, image))
    usable: dict[str, _Image] = {}
    for name, places in found.items():
        tags = [_known_tag(image.tag) for _, image in places]
        first = next((tag for tag in tags if tag), "")
        for (row, image), tag in zip(places, tags, strict=True):
            said = f"is tagged {image.tag}" if image.tag else "has no tag"
            if not first:
                told("kept", "image without a known tag", row, image, f"{said}: {_UNLABELLED.format('tag')}")
                break
            if tag != first:
                reason = f"{said}, and {first} in another row: {first} stands"
                told("mended", "image of two tags", row, image, reason)
        image = places[0][1]
        captions = [image.text for _, image in places if image.text]
        usable[name] = replace(image, tag=first or image.tag, text=(captions or [""])[0])
    return usable


def _known_tag(tag: str) -> str:
    try:
        return find_image_emotion(tag).key
    except UnknownLabelError:
        return ""


def _usable_clips(rows: Sequence[_Row], findings: list[Finding]) -> list[_Row]:
    """The rows whose audio can be used, each content once, with `is_original` known."""
    usable: list[_Row] = []
    for row in rows:
        item = row.published or "audio"
        if row.problem:
            findings.append(Finding(REJECTED, "row of another shape", row.where, item, row.problem))
            continue
        if not row.audio.name:
            findings.append(Finding(REJECTED, "audio without content", row.where, item, row.audio.problem))
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
                    REJECTED, "clip that stands there already", row.where, row.published,
                    f"has the same content as {first.published} of {first.where}",
                )
            )  # fmt: skip
    for row in kept.values():
        for kind, note in row.audio.notes:
            findings.append(Finding("mended", kind, row.where, row.published, note))
    return list(kept.values())


def _sources(clips: Sequence[_Row], findings: list[Finding]) -> dict[str, str]:
    """The source of each clip, both by file name; or the source that a table beside the rows tells.

    An expanded clip is of an original of equal (feeling, emotion): it has copied the labels, and its
    own name is mangled. Only clips without ratings are grouped by their names.
    """
    sources: dict[str, str] = {}
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in clips:
        told = (row.particulars or {}).get("source_id")
        if told:
            sources[row.audio.name] = told
            continue
        is_rated = row.emotion.casefold() not in BLANK_WORDS
        key = (row.feeling, row.emotion) if is_rated else (_bare_name(row.published),)
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        sources |= _sources_of_group(rows, findings)
    return sources


def _sources_of_group(rows: Sequence[_Row], findings: list[Finding]) -> dict[str, str]:
    """The sources of clips of equal labels: each original, but for those that one clip may be cut from."""
    originals = [row for row in rows if row.is_original]
    expanded = [row for row in rows if not row.is_original]
    if not originals:
        source = min(row.audio.name for row in rows)
        for row in rows:
            findings.append(
                Finding(
                    "mended", "source is not among the rows", row.where, row.published,
                    f"kept together with the {len(rows)} clips of equal feeling and emotion, "
                    f"as source {source}",
                )
            )  # fmt: skip
        return {row.audio.name: source for row in rows}
    sources = {row.audio.name: row.audio.name for row in originals}
    origins = {}
    for row in expanded:
        origins[row.audio.name] = origin = _possible_originals(row, originals)
        joined = {sources[one.audio.name] for one in origin}
        sources = {name: min(joined) if source in joined else source for name, source in sources.items()}
    for row in originals:
        if sources[row.audio.name] != row.audio.name:
            findings.append(
                Finding(
                    "mended", "originals of equal ratings", row.where, row.published,
                    f"an expanded clip of equal feeling and emotion could be cut from it or from "
                    f"{sources[row.audio.name]}: kept together as one source",
                )
            )  # fmt: skip
    for row in expanded:
        origin = origins[row.audio.name]
        sources[row.audio.name] = source = sources[origin[0].audio.name]
        if not any(_is_named_by(row, one) for one in origin):
            findings.append(
                Finding(
                    "mended", "mangled name", row.where, row.published,
                    f"names {_stem(row.published)}, which is none: its source is {source}, "
                    "by equal feeling and emotion",
                )
            )  # fmt: skip
    return sources


def _possible_originals(expanded: _Row, originals: Sequence[_Row]) -> list[_Row]:
    """What a clip of equal labels may be cut from: what its name says, else those of its genre."""
    named = [row for row in originals if _is_named_by(expanded, row)]
    of_genre = [row for row in originals if row.genre == expanded.genre]
    return named if len(named) == 1 else of_genre or list(originals)


def _is_named_by(expanded: _Row, original: _Row) -> bool:
    return _stem(expanded.published) in (original.published, _SUFFIX.sub("", original.published))


def _stem(published: str) -> str:
    """What an expanded clip's name says that its source is called: `143.m4a` of `143.m4a___58.mp3`."""
    match = _EXPANDED_NAME.fullmatch(published)
    return match["stem"] if match else _SUFFIX.sub("", published)


def _bare_name(published: str) -> str:
    """`143` of `143.m4a.mp3` and of `143.m4a___58.mp3`."""
    name = _stem(published)
    while PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES:
        name = PurePosixPath(name).stem
    return name


def _genre(row: _Row, findings: list[Finding]) -> str:
    """The letter of a known genre; one that is none stands as it is, for the build to tell."""
    try:
        return find_music_emotion(row.genre).letter
    except UnknownLabelError:
        said = f"genre is {row.genre!r}" if row.genre else "has no genre"
        findings.append(
            Finding(
                "kept", "clip without a known genre", row.where, row.published,
                f"{said}: {_UNLABELLED.format('genre')}",
            )
        )  # fmt: skip
        return row.genre


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
    row: _Row, images: Mapping[str, _Image], findings: list[Finding]
) -> Iterable[tuple[str, str, int]]:
    """The published pairs of a clip: file names, and the slot as rank."""
    seen: set[str] = set()
    for image in row.images:
        name = image.stored.name
        if name not in images:
            continue  # its rejection names the row already
        if name in seen:
            findings.append(
                Finding(
                    "mended", "image twice in a row", row.where, f"image {image.slot} {image.published}",
                    "stands in an earlier slot of the same row: that one stands", "image",
                )
            )  # fmt: skip
            continue
        seen.add(name)
        yield row.audio.name, name, image.slot


def _write_csv(folder: Path, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table beside its place, note its sum, and put it in place."""
    unfinished = folder / f".{name}.unfinished"
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    sums = _written_sums(folder)
    line = _sum_line(unfinished, name)
    if line not in sums:
        (folder / JOURNAL / WRITTEN_FILE).write_text("\n".join([*sums, line, ""]), "utf-8")
    put_in_place(unfinished, folder / name)
