"""Real music and images for the acceptance run: Debian packages, unpacked into a cache.

Belongs here: downloading and unpacking the packages, and creating a media folder from the two
committed tables, `music_titles.csv` and `image_folders.csv`, which provide every label. Nothing is
installed, and none of the media become part of the project.
"""

import csv
import os
import shutil
import subprocess
from pathlib import Path
from typing import TypeVar

import soundfile

Row = TypeVar("Row")

HERE = Path(__file__).parent
TITLES = HERE / "music_titles.csv"
FOLDERS = HERE / "image_folders.csv"

CLIP_S = 10.0
"""Length of a source clip; the rest of its track is used for expansion."""
WHOLE_BELOW_S = 25.0
"""Shorter tracks are one clip."""

PARTS_ABOVE = 4
"""Number of leading folders in a package's image paths, such as usr/share/tuxpaint/stamps."""


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of one of the committed tables."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def packages() -> list[str]:
    """The Debian packages that the tables name."""
    return sorted({row["package"] for table in (TITLES, FOLDERS) for row in read_rows(table)})


def fetch(cache: Path) -> Path:
    """Download and unpack missing packages; return the folder with one folder for each package.

    Raises:
        SystemExit: a package cannot be downloaded; names it.
    """
    archives, unpacked = cache / "packages", cache / "unpacked"
    archives.mkdir(parents=True, exist_ok=True)
    for package in packages():
        folder = unpacked / package
        if folder.is_dir():
            continue
        if not any(archives.glob(f"{package}_*.deb")):
            print(f"downloading {package}", flush=True)
            if subprocess.run(["apt-get", "download", "-qq", package], cwd=archives).returncode:
                raise SystemExit(
                    f"apt-get download {package} failed: is this Debian 12, and apt-get update run?"
                )
        (archive,) = archives.glob(f"{package}_*.deb")
        unfinished = unpacked / f"{package}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        subprocess.run(["dpkg", "-x", archive, unfinished], check=True)
        unfinished.rename(folder)
    return unpacked


def lay_out(unpacked: Path, media: Path, tracks: int | None = None, images: int | None = None) -> None:
    """Recreate the media folder: files linked or copied, and `music.csv` with labels and positions.

    A source clip is ten seconds, starting a third into its track and at 30 s at the latest, if the track is
    long enough.

    Args:
        unpacked: see `fetch`.
        media: the folder to create.
        tracks: number of tracks, evenly spaced in the table; all if None.
        images: number of images, in the same way.
    """
    shutil.rmtree(media, ignore_errors=True)
    (media / "music").mkdir(parents=True)
    titles = evenly(read_rows(TITLES), tracks)
    columns = ["file", "genre", "start_s", "duration_s", "source_id", "label_source", "licence", "author"]
    with (media / "music.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for row in titles:
            package, track = row["package"], unpacked / row["package"] / row["file"]
            name = f"{package}/{track.name}"
            put(track, media / "music" / name)
            start_s, duration_s = source_clip(track)
            table.writerow(
                {
                    "file": name,
                    "genre": row["genre"],
                    "start_s": start_s,
                    "duration_s": duration_s,
                    "source_id": name,
                    "label_source": "title hint (curated; not human-rated)",
                    "licence": f"see /usr/share/doc/{package}/copyright",
                    "author": f"Debian package {package}",
                }
            )
    pictures = [
        (picture, row)
        for row in read_rows(FOLDERS)
        for picture in sorted((unpacked / row["package"]).glob(row["files"]))
    ]
    for picture, row in evenly(pictures, images):
        below = Path(*picture.relative_to(unpacked / row["package"]).parts[PARTS_ABOVE:])
        put(picture, media / "images" / row["tag"] / row["package"] / below)


def source_clip(track: Path) -> tuple[float | str, float | str]:
    """Start and length of a track's source clip; both blank if it is the whole track.

    A file that cannot be opened is left whole, so that the build reports what is wrong with it.
    """
    try:
        length_s = soundfile.info(track).duration
    except soundfile.LibsndfileError:
        return "", ""
    if length_s < WHOLE_BELOW_S:
        return "", ""
    return round(min(length_s / 3, 30.0), 1), CLIP_S


def evenly(rows: list[Row], count: int | None) -> list[Row]:
    """`count` of the rows, evenly spaced; all of them if None."""
    if count is None or count >= len(rows):
        return rows
    return [rows[place * len(rows) // count] for place in range(count)]


def put(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system does not support that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)
