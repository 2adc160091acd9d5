"""The published data set as a media folder of ours: tables, files, and the published pairs.

Belongs here: what of a published row is kept, repaired or rejected, and why. Reading what was
published is `emid_source`'s, naming and placing files is `media_store`'s, the folder is
`import_folder`'s.

    music.csv, images.csv, music/, images/  what `emid build --media` takes
    pairs.csv                               the published pairs: clip_id, image_id, rank
    import.csv                              every row that was repaired, kept with a fault or rejected: why
    .import/                                a journal of finished rows, from which a stopped import resumes
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
    labels_of,
    parse_feelings,
    parse_ratings,
)
from emid_assets.media.import_rejections import FINDINGS_COLUMNS, FINDINGS_FILE, REJECTED
from emid_assets.media.sources import ClipFacts, sources_of
from emid_assets.release.emid_format import EXPANDED_MARK, MISSING
from emid_assets.release.emid_source import Piece, PublishedRow
from emid_assets.release.import_folder import ImportedImage, ImportedRow, ImportFolder
from emid_assets.release.item_tables import CARRIED, ItemTables, Listed
from emid_assets.release.media_store import MediaStore, Stored

PAIRS_FILE = "pairs.csv"
_EXPANDED_NAME = re.compile(rf"(?P<stem>.+){EXPANDED_MARK}\d+(?:\.\w+)?")
_UNLABELLED = (
    "a build leaves it out until {0} is corrected; a blank {0} may be predicted (predict_emotion = on)"
)
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{2,4}$")


@dataclass(frozen=True)
class Terms:
    """What is written for each item that no table beside the published rows lists: EMID's own terms."""

    licence: str = "CC-BY-NC-SA-4.0"
    author: str = "Zou et al. 2023 (EMID)"
    label_source: str = "EMID (arXiv 2308.07622)"

    def of(self, kind: str, listed: Listed | None) -> dict[str, str]:
        """The columns `CARRIED` of an item: as its own table has them, if it is listed."""
        return dict(listed.cells) if listed is not None else dict.fromkeys(CARRIED[kind], "") | asdict(self)


EMID_TERMS = Terms()
NO_TABLES = ItemTables()


@dataclass(frozen=True)
class Finding:
    """A fault of a row.

    Attributes:
        outcome: `repaired`; `kept` with its fault, for the user to correct; or `rejected`.
        kind: a few words that are the same for findings of one kind.
        where: file and row.
        item: the clip or image, by its published name or the column it should be in.
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
    """The result of an import; `findings` names every row with a fault, and what was done about it."""

    folder: Path
    rows: int = 0
    reused_rows: int = 0
    clips: int = 0
    originals: int = 0
    sources: int = 0
    images: int = 0
    pairs: int = 0
    listed_items: int = 0
    removed_files: int = 0
    sample_rates: Counter[int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def import_emid(
    pieces: Sequence[Piece],
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
    tables: ItemTables = NO_TABLES,
    terms: Terms = EMID_TERMS,
    overwrite: bool = False,
) -> ImportSummary:
    """Make a media folder of what was published.

    Pieces that an earlier import into the same folder has read are not read again, as long as their files
    are the same. The same pieces give the same folder: files of other pieces are removed.

    Args:
        pieces: from `emid_source`.
        folder: the media folder; created if missing.
        on_progress: called with (rows read, all rows).
        tables: what is known of single items, such as their licences.
        terms: of the items that `tables` does not list.
        overwrite: also replace files and tables that somebody has changed since an import wrote them.

    Raises:
        ImportRefusedError: the folder holds media that no import has put there, something was changed
            since, or another import is running.
    """
    folder = folder.resolve()
    summary = ImportSummary(folder)
    total, done = sum(piece.rows for piece in pieces), 0
    rows: list[ImportedRow] = []
    with ImportFolder.open(folder, pieces, overwrite) as place:
        known = [place.rows_of(piece) for piece in pieces]
        for piece, of_piece in zip(pieces, known, strict=True):
            if of_piece is None:
                of_piece = []
                for row in piece.read():
                    of_piece.append(_placed(row, place.stores))
                    if on_progress is not None:
                        on_progress(done + len(of_piece), total)
                place.keep(piece, of_piece)
            else:
                summary.reused_rows += len(of_piece)
            done += piece.rows
            if on_progress is not None:
                on_progress(done, total)
            rows += of_piece
        summary.rows, summary.removed_files = len(rows), place.removed
        _write_tables(rows, place, tables, terms, summary)
    return summary


def _placed(row: PublishedRow, stores: dict[str, MediaStore]) -> ImportedRow:
    audio = Stored(problem=row.problem) if row.problem else stores["music"].put(row.audio)
    images = [
        ImportedImage(
            image.slot, image.medium.name, image.medium.written, stores["image"].put(image.medium),
            image.tag, image.text,
        )
        for image in row.images
    ]  # fmt: skip
    return ImportedRow(
        row.where, row.problem, row.audio.name or audio.name, row.audio.written, audio, row.genre,
        row.feeling, row.emotion, row.is_original, images,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- rows to tables


def _write_tables(
    rows: Sequence[ImportedRow], place: ImportFolder, tables: ItemTables, terms: Terms, summary: ImportSummary
) -> None:
    """music.csv, images.csv, pairs.csv and import.csv; fills the summary."""
    findings = summary.findings
    listed = _listed(rows, tables, findings)
    images = _usable_images(rows, findings)
    clips = _usable_clips(rows, findings)
    sources = _sources(clips, listed["music"], findings)
    ids = {
        kind: {name: item.cells[CARRIED[kind][0]] or name for name, item in of_kind.items()}
        for kind, of_kind in listed.items()
    }
    music: list[list[str]] = []
    pairs: list[tuple[str, str, int]] = []
    for row in clips:
        name = row.audio.name
        carried = terms.of("music", listed["music"].get(name)) | {"source_id": sources[name]}
        music.append(
            [
                name, _genre(row, findings), _feeling(row, findings), _emotion(row, findings),
                str(bool(row.is_original)).lower(), *(carried[one] for one in CARRIED["music"]), row.where,
            ]
        )  # fmt: skip
        summary.sample_rates[row.audio.sample_rate] += 1
        pairs += [
            (ids["music"].get(clip, clip), ids["image"].get(image, image), rank)
            for clip, image, rank in _pairs(row, images, findings)
        ]
    music.sort()
    pictures: list[list[str]] = []
    for name, image in sorted(images.items()):
        carried = terms.of("image", listed["image"].get(name))
        pictures.append([name, image.tag, image.text, *(carried[column] for column in CARRIED["image"])])
    summary.clips, summary.images, summary.pairs = len(music), len(pictures), len(pairs)
    summary.originals = sum(bool(row.is_original) for row in clips)
    summary.sources = len(set(sources.values()) - {""})
    summary.listed_items = sum(name in listed["music"] for name in sources)
    summary.listed_items += sum(name in listed["image"] for name in images)
    of_music = ["file", "genre", "feeling", "emotion", "is_original_clip", *CARRIED["music"], "published_as"]
    place.write_table("music.csv", of_music, music)
    place.write_table("images.csv", ["file", "tag", "text", *CARRIED["image"]], pictures)
    place.write_table(PAIRS_FILE, ["clip_id", "image_id", "rank"], sorted(pairs))
    lines = [
        (found.outcome, found.kind, found.medium, found.where, found.item, found.reason) for found in findings
    ]
    place.write_table(FINDINGS_FILE, FINDINGS_COLUMNS, lines)


def _listed(
    rows: Sequence[ImportedRow], tables: ItemTables, findings: list[Finding]
) -> dict[str, dict[str, Listed]]:
    """What the tables beside the rows say: kind → file name → the item. Equal contents share it."""
    listed: dict[str, dict[str, Listed]] = {kind: {} for kind in CARRIED}
    for row in rows:
        media = [("music", row.written, row.audio)]
        media += [("image", image.written, image.stored) for image in row.images]
        for kind, written, stored in media:
            found = tables.find(kind, written)
            if stored.name and found is not None:
                listed[kind].setdefault(stored.name, found)
    for kind in CARRIED:
        told = {found.where for found in listed[kind].values()}
        unused = [item for item in tables.of_kind(kind) if item.where not in told]
        if unused:
            shown = ", ".join(item.file for item in unused[:3])
            findings.append(
                Finding(
                    "kept", "listed, but in no row", unused[0].where, unused[0].file,
                    f"{len(unused)} files of the table are in no published row: {shown}", kind,
                )
            )  # fmt: skip
    return listed


def _usable_images(rows: Sequence[ImportedRow], findings: list[Finding]) -> dict[str, ImportedImage]:
    """Each usable image by its file name, with the first known tag and the first caption of its rows."""

    def told(outcome: str, kind: str, row: ImportedRow, image: ImportedImage, reason: str) -> None:
        item = f"image {image.slot} {image.published}".rstrip()
        findings.append(Finding(outcome, kind, row.where, item, reason, "image"))

    found: dict[str, list[tuple[ImportedRow, ImportedImage]]] = {}
    for row in rows:
        for image in row.images:
            if not image.stored.name:
                told(REJECTED, "image without content", row, image, image.stored.problem)
                continue
            places = found.setdefault(image.stored.name, [])
            if not places:
                for kind, note in image.stored.notes:
                    told("repaired", kind, row, image, note)
            places.append((row, image))
    usable: dict[str, ImportedImage] = {}
    for name, places in found.items():
        tags = [_known_tag(image.tag) for _, image in places]
        first = next((tag for tag in tags if tag), "")
        for (row, image), tag in zip(places, tags, strict=True):
            said = f"is tagged {image.tag}" if image.tag else "has no tag"
            if not first:
                told("kept", "image without a known tag", row, image, f"{said}: {_UNLABELLED.format('tag')}")
                break
            if tag != first:
                reason = f"{said}, and {first} in another row: {first} is used"
                told("repaired", "image of two tags", row, image, reason)
        image = places[0][1]
        captions = [image.text for _, image in places if image.text]
        usable[name] = replace(image, tag=first or image.tag, text=(captions or [""])[0])
    return usable


def _known_tag(tag: str) -> str:
    try:
        return find_image_emotion(tag).key
    except UnknownLabelError:
        return ""


def _usable_clips(rows: Sequence[ImportedRow], findings: list[Finding]) -> list[ImportedRow]:
    """The rows whose audio can be used, each content once, with `is_original` known."""
    usable: list[ImportedRow] = []
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
                    "repaired", "is_original_clip is missing", row.where, item,
                    f"{found}, by its name ({EXPANDED_MARK} and a number stand for expanded clips)",
                )
            )  # fmt: skip
        usable.append(row)
    kept: dict[str, ImportedRow] = {}
    # Originals first: if an expanded clip has the same bytes, it is the one that is rejected.
    for row in sorted(usable, key=lambda row: not row.is_original):
        first = kept.setdefault(row.audio.content_hash, row)
        if first is not row:
            findings.append(
                Finding(
                    REJECTED, "clip that is already there", row.where, row.published,
                    f"has the same content as {first.published} of {first.where}",
                )
            )  # fmt: skip
    for row in kept.values():
        for kind, note in row.audio.notes:
            findings.append(Finding("repaired", kind, row.where, row.published, note))
    return list(kept.values())


def _sources(
    clips: Sequence[ImportedRow], listed: Mapping[str, Listed], findings: list[Finding]
) -> dict[str, str]:
    """The source of each clip, by its file name: the name of an original, or what a table says.

    Empty for an expanded clip whose source cannot be found. Names of clips say nothing: they are mangled.
    """
    told = {name: found.cells["source_id"] for name, found in listed.items() if found.cells["source_id"]}
    facts = [
        ClipFacts(
            row.audio.name, told.get(row.audio.name), bool(row.is_original), row.audio.content_hash,
            labels_of(row.feeling, row.emotion),
        )
        for row in clips
    ]  # fmt: skip
    sources = {fact.clip_id: source or "" for fact, source in zip(facts, sources_of(facts), strict=True)}
    groups: dict[str, list[ImportedRow]] = {}
    for row in clips:
        groups.setdefault(sources[row.audio.name], []).append(row)
    for source, rows in groups.items():
        untold = [row for row in rows if row.audio.name not in told]
        findings += _findings_of_source(source, [row for row in rows if row.is_original], untold, len(rows))
    return sources


def _findings_of_source(
    source: str, originals: Sequence[ImportedRow], untold: Sequence[ImportedRow], clips: int
) -> Iterator[Finding]:
    """What had to be concluded about the clips of a source that no table tells the source of."""

    def finding(outcome: str, kind: str, row: ImportedRow, reason: str) -> Finding:
        return Finding(outcome, kind, row.where, row.published, reason)

    for row in untold:
        if not source:
            yield finding(
                "kept", "source cannot be found", row,
                "is an expanded clip without ratings, and its name proves nothing: a build leaves it out "
                "until music.csv has its source_id",
            )  # fmt: skip
        elif row.is_original and row is not originals[0]:
            yield finding(
                "repaired", "originals of equal ratings", row,
                f"has the feeling and emotion of {originals[0].published}: kept together as one source",
            )  # fmt: skip
        elif not originals:
            yield finding(
                "repaired", "source is not among the rows", row,
                f"kept together with the {clips} clips of equal feeling and emotion, as source {source}",
            )  # fmt: skip
        elif not row.is_original and not any(_is_named_by(row, one) for one in originals):
            yield finding(
                "repaired", "mangled name", row,
                f"names {_stem(row.published)}, which is no original of equal feeling and emotion: its "
                f"source is {source}",
            )  # fmt: skip


def _is_named_by(expanded: ImportedRow, original: ImportedRow) -> bool:
    return _stem(expanded.published) in (original.published, _SUFFIX.sub("", original.published))


def _stem(published: str) -> str:
    """What an expanded clip's name says that its source is called: `143.m4a` of `143.m4a___58.mp3`."""
    match = _EXPANDED_NAME.fullmatch(published)
    return match["stem"] if match else _SUFFIX.sub("", published)


def _genre(row: ImportedRow, findings: list[Finding]) -> str:
    """The letter of a known genre; an unknown one is kept as it is, for the build to report."""
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


def _feeling(row: ImportedRow, findings: list[Finding]) -> str:
    try:
        parse_feelings(row.feeling)
    except RatingsError as error:
        findings.append(
            Finding("repaired", "unreadable feeling", row.where, row.published, f"{error}: left out")
        )
        return ""
    return row.feeling


def _emotion(row: ImportedRow, findings: list[Finding]) -> str:
    """The ratings as published, `nan` for those that are not numbers."""

    def repaired(kind: str, reason: str) -> None:
        findings.append(Finding("repaired", kind, row.where, row.published, reason))

    if not row.emotion:
        repaired("no ratings", "has no ratings: the mean of its category is used")
        return ""
    cells = [cell.strip() for cell in row.emotion.strip("[]").split(",")]
    if len(cells) != len(RATINGS):
        repaired(
            "unreadable emotion", f"has {len(cells)} ratings instead of {len(RATINGS)}: all are left out"
        )
        return ""
    for place, (name, cell) in enumerate(zip(RATINGS, cells, strict=True)):
        if cell.casefold() in BLANK_WORDS:
            cells[place] = MISSING
            repaired("missing rating", f"the rating of {name} is missing: kept as {MISSING}")
            continue
        try:
            good = LOWEST_RATING <= float(cell) <= HIGHEST_RATING
        except ValueError:
            good = False
        if not good:
            cells[place] = MISSING
            repaired("unreadable rating", f"the rating of {name} is {cell!r}: kept as {MISSING}")
    text = ",".join(cells)
    parse_ratings(text)
    return text


def _pairs(
    row: ImportedRow, images: Mapping[str, ImportedImage], findings: list[Finding]
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
                    "repaired", "image twice in a row", row.where, f"image {image.slot} {image.published}",
                    "is already in an earlier slot of the same row: the earlier one is kept", "image",
                )
            )  # fmt: skip
            continue
        seen.add(name)
        yield row.audio.name, name, image.slot
