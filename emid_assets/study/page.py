"""The participants' page: one HTML file, and its media inside it or beside it.

Belongs here: from a design to the files that are handed out. The page holds opaque ids only, no
conditions, emotions or file names; markup, style and script are `study.html.j2`, `study.css`
and `study.js` beside this file, the words are `texts.csv`.
"""

import base64
import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from markupsafe import Markup

from emid_assets.report.gallery import Copy, attributions, picture, player
from emid_assets.report.self_contained import data_for_script, digest, templates
from emid_assets.store.files import make_folder, put_in_place, write_in_place
from emid_assets.store.layout import STUDY_PAGE
from emid_assets.study.design import Design, StudyError
from emid_assets.study.texts import load_texts

MEDIA_FOLDER = "media"
_SECONDS_TO_CHOOSE = 7
_HERE = Path(__file__).parent
_KINDS = {"mp3": "audio/mpeg", "jpg": "image/jpeg"}


@dataclass(frozen=True)
class WrittenPage:
    """What was written.

    Attributes:
        path: the page.
        media_files: media beside it; 0 where they are inside.
        media_bytes: of all media, before they are encoded as text.
    """

    path: Path
    media_files: int
    media_bytes: int


def write_page(
    design: Design,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    media: Path,
    folder: Path,
    *,
    seconds: float,
    embed_bytes: int,
    contact: str = "",
) -> WrittenPage:
    """Write the page of a design, and its media beside it where they are too large to be inside.

    Media of earlier pages stay for a day (`forget_media`): somebody may have one open.

    Args:
        design: what to show.
        music_clips: MUSIC_CLIPS rows of the design's clips.
        images: IMAGES rows of its images.
        media: the folder below which their files are.
        folder: where the page goes; created if missing.
        seconds: of each clip that are played, at most.
        embed_bytes: media of at most this many bytes in all are embedded in the page.
        contact: whom participants may ask; left out where it is empty.

    Raises:
        StudyError: a clip or an image can no longer be read; names it.
    """
    make_folder(folder)
    clip_of = {row["clip_id"]: row for row in music_clips.iter_rows(named=True)}
    file_of = dict(images.select("image_id", "file").iter_rows())
    lengths = {clip: min(seconds, row["duration_s"]) for clip, row in clip_of.items()}
    with TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
        copies = Path(temporary)
        names: dict[tuple[str, str], str] = {}
        for clip_id in {trial.clip_id: None for trial in design.trials}:
            clip = clip_of[clip_id]
            copy = player(media, clip["file"], clip["start_s"], clip["duration_s"], seconds)
            names["clip", clip_id] = _keep(copies, clip_id, "mp3", copy)
        shown = {option.image_id: None for trial in design.trials for option in trial.options}
        for image_id in shown:
            names["image", image_id] = _keep(copies, image_id, "jpg", picture(media, file_of[image_id]))
        files = sorted(copies.iterdir())
        total = sum(file.stat().st_size for file in files)
        inside = total <= embed_bytes
        if inside:
            references = {file.name: _data_uri(file) for file in files}
        else:
            make_folder(folder / MEDIA_FOLDER)
            for file in files:
                put_in_place(file, folder / MEDIA_FOLDER / file.name)
            references = {file.name: f"{MEDIA_FOLDER}/{file.name}" for file in files}
        authors = [
            *attributions(music_clips, "clip_id", {trial.clip_id for trial in design.trials}),
            *attributions(images, "image_id", shown),
        ]
        public = {
            **_public(design, names, lengths),
            "media": references,
            "contact": contact,
            "credits": sorted({f"{row['author'] or '–'}, {row['licence'] or '–'}" for row in authors}),
            "texts": load_texts(),
        }
        write_in_place(folder / STUDY_PAGE, _html(public))
    return WrittenPage(folder / STUDY_PAGE, 0 if inside else len(files), total)


def forget_media(folder: Path, grace_s: float) -> int:
    """Delete the media beside the page that it does not show, once nobody has an earlier page open.

    Args:
        folder: where `write_page` put the page; it need not exist.
        grace_s: seconds for which the page, and each file, must not have been written.

    Returns:
        How many files were deleted.
    """
    page, before = folder / STUDY_PAGE, time.time() - grace_s
    if not page.is_file() or page.stat().st_mtime > before:
        return 0
    shown = page.read_text(encoding="utf-8")
    old = [
        file
        for file in (folder / MEDIA_FOLDER).glob("*")
        if f"{MEDIA_FOLDER}/{file.name}" not in shown and file.stat().st_mtime <= before
    ]
    for file in old:
        file.unlink()
    return len(old)


def _public(
    design: Design, names: Mapping[tuple[str, str], str], lengths: Mapping[str, float]
) -> dict[str, object]:
    """What the page may know of a design: no conditions, emotions or names."""
    longest = sum(lengths[trial.clip_id] for trial in design.of_kind("trial"))
    each = longest / len(design.of_kind("trial")) + _SECONDS_TO_CHOOSE
    steps = len(design.forms[0]) + len(design.of_kind("check")) + len(design.of_kind("practice"))
    return {
        "design": design.hash,
        "minutes": math.ceil(steps * each / 60 + 1),
        "trials": {
            trial.trial_id: {
                "clip": names["clip", trial.clip_id],
                "seconds": round(lengths[trial.clip_id], 3),
                "options": [[option.option_id, names["image", option.image_id]] for option in trial.options],
            }
            for trial in design.trials
        },
        "forms": design.forms,
        "checks": [[trial.trial_id, trial.wanted] for trial in design.of_kind("check")],
        "practice": [trial.trial_id for trial in design.of_kind("practice")],
    }


def _keep(folder: Path, item: str, ending: str, copy: Copy) -> str:
    """Write a copy under a name that depends on its bytes alone."""
    if copy.problem:
        raise StudyError(f"{item} cannot be shown: {copy.problem}; materialize media_inventory again")
    content = copy.content
    name = f"{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
    (folder / name).write_bytes(content)
    return name


def _data_uri(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{_KINDS[file.suffix[1:]]};base64,{content}"


def _html(study: Mapping[str, object]) -> str:
    style = (_HERE / "study.css").read_text(encoding="utf-8")
    script = (_HERE / "study.js").read_text(encoding="utf-8")
    return (
        templates(_HERE)
        .get_template("study.html.j2")
        .render(
            texts=load_texts(),
            style=Markup(style),
            style_digest=digest(style),
            script=Markup(script),
            script_digest=digest(script),
            study=data_for_script(study),
        )
    )
