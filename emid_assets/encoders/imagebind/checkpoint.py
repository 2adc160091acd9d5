"""ImageBind's checkpoint file: finding, downloading and verifying it.

Belongs here: paths, bytes and checksums. `model.py` handles the file's contents. No torch, so that the
command line can download without it.
"""

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.store.files import put_in_place, sha256_of, write_in_place

NAME = "imagebind_huge.pth"
URL = f"https://dl.fbaipublicfiles.com/imagebind/{NAME}"
SIZE = 4_803_584_173
SHA256 = "d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157"
LICENCE = "CC-BY-NC-SA 4.0"
LICENCE_TEXT = f"""\
ImageBind's weights are published by Meta Platforms under {LICENCE}:
https://github.com/facebookresearch/ImageBind/blob/main/LICENSE
You may not use them for commercial purposes; what you build with them must be shared under the same terms,
with attribution (Girdhar et al., ImageBind: One Embedding Space To Bind Them All, CVPR 2023)."""
ENVIRONMENT = "EMID_IMAGEBIND_CHECKPOINT"

_BLOCK = 1 << 20
_SPARE_BYTES = 64 << 20
# Pause before a retry after an attempt without new bytes; doubled after each further one.
_FIRST_PAUSE_S = 1.0

OnBytes = Callable[[int, int], None]
"""Called with the bytes received and the total."""


class FetchError(RuntimeError):
    """The checkpoint could not be downloaded; says why, and what happens to the bytes received."""


def hub_folder() -> Path:
    """Torch hub's checkpoint folder, which other programs may have filled."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def find_checkpoint(setting: Path | None = None) -> Path:
    """The checkpoint's path: the setting, the environment, torch hub's folder, `./.checkpoints/`.

    A path given by the setting or the environment must exist: no other place is tried.

    Raises:
        EncoderUnavailableError: lists the places searched and the command that downloads it.
    """
    given = setting or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if given is not None:
        if not given.expanduser().is_file():
            by = "the setting" if setting else f"the environment variable {ENVIRONMENT}"
            raise EncoderUnavailableError(f"{by} says that ImageBind's checkpoint is {given}: no such file")
        return given.expanduser()
    places = [hub_folder() / NAME, Path(".checkpoints") / NAME]
    for path in places:
        if path.is_file():
            return path
    raise EncoderUnavailableError(
        f"ImageBind's checkpoint is not on this machine: neither {places[0]} nor {places[1].absolute()} "
        f"exists, and neither a setting nor {ENVIRONMENT} names one. `emid imagebind fetch "
        f"--accept-licence` downloads it ({SIZE / 1e9:.1f} GB, {URL}, licence {LICENCE}); encoder bundled "
        "needs no download"
    )


def checkpoint_sha256(path: Path) -> str:
    """The file's sha256, from the record beside it if size and modification time match the record.

    A newly computed checksum is recorded if the folder is writable: the file has 4.8 GB.
    """
    record, facts = _record_path(path), _facts(path)
    try:
        recorded: dict[str, Any] = json.loads(record.read_text())
        if {name: recorded[name] for name in facts} == facts:
            return str(recorded["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no record, or a record of another file
    digest = sha256_of(path)
    _write_record(path, digest)
    return digest


def fetch(
    target: Path,
    *,
    url: str = URL,
    size: int = SIZE,
    sha256: str = SHA256,
    on_bytes: OnBytes | None = None,
    attempts: int = 5,
    pause: Callable[[float], None] = time.sleep,
    timeout_s: float = 60.0,
) -> Path:
    """Download the checkpoint to `target`; resumes an interrupted download.

    Received bytes are kept in `target` + `.partial`, which is renamed only when it is complete and its
    checksum is right. Proxies are taken from the environment, as `urllib` does.

    Args:
        target: the file to create.
        url: source.
        size: expected size in bytes.
        sha256: expected checksum.
        on_bytes: called with the bytes received and the total.
        attempts: attempts in a row without new bytes before giving up.
        pause: waits between attempts.
        timeout_s: seconds without data after which a connection counts as broken.

    Returns:
        `target`.

    Raises:
        FetchError: not enough disk space, an unexpected size or checksum, or a connection that stays broken.
    """
    if target.is_file() and checkpoint_sha256(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    there = partial.stat().st_size if partial.exists() else 0
    if there > size:
        partial.unlink()
        there = 0
    free = shutil.disk_usage(target.parent).free
    if free < size - there + _SPARE_BYTES:
        raise FetchError(
            f"{target.parent} has {free / 1e9:.2f} GB free, {(size - there) / 1e9:.2f} GB are needed: "
            "free some space, or choose another folder"
        )
    in_vain = 0
    while there < size:
        try:
            _download(url, partial, there, size, on_bytes, timeout_s)
            problem = "the connection ended early"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        before, there = there, partial.stat().st_size if partial.exists() else 0
        if there < size:
            in_vain = 0 if there > before else in_vain + 1
            if in_vain == attempts:
                raise FetchError(
                    f"{url}: {problem}; {there} of {size} bytes are downloaded and kept: run again to resume"
                )
            if in_vain:
                pause(_FIRST_PAUSE_S * 2 ** (in_vain - 1))
    found = checkpoint_sha256(partial)
    _record_path(partial).unlink(missing_ok=True)
    if found != sha256:
        partial.unlink()
        raise FetchError(
            f"{url} gave a file with sha256 {found}, expected {sha256}: it is not ImageBind's checkpoint and "
            "was deleted"
        )
    put_in_place(partial, target)
    _write_record(target, found)
    return target


def file_problems(path: Path, *, size: int = SIZE, sha256: str = SHA256) -> list[str]:
    """Problems of the file's bytes, one line each; empty if it is the official checkpoint."""
    if not path.is_file():
        return [f"{path}: no such file"]
    found = path.stat().st_size
    if found < size:
        with path.open("rb") as file:
            head = file.read(512).lstrip().lower()
        lines = [f"it has {found} bytes, the official checkpoint {size}: it is truncated, or another file"]
        if head.startswith((b"<!doctype", b"<html", b"<?xml")):
            lines.append(
                "it is a web page or an error message of a server, saved under the checkpoint's name"
            )
        return lines
    if found > size:
        return [f"it has {found} bytes, the official checkpoint {size}: it is another file"]
    digest = checkpoint_sha256(path)
    if digest != sha256:
        return [f"its sha256 is {digest}, the official checkpoint's {sha256}: some of its bytes are wrong"]
    return []


def _download(
    url: str, partial: Path, there: int, size: int, on_bytes: OnBytes | None, timeout_s: float
) -> None:
    """Append to `partial` the server's bytes from `there` on, up to `size`."""
    headers = {"User-Agent": "emid-assets", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        # A new opener: urlopen keeps the proxies that it found at its first call.
        opener = urllib.request.build_opener()
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code in (404, 403, 410, 401, 407):
            raise FetchError(f"{url}: the server says {error.code} {error.reason}") from error
        if error.code == 416:  # the partial file does not match the server's file: start over
            partial.unlink(missing_ok=True)
        raise
    with response:
        if response.status == 206:
            stated = response.headers.get("Content-Range", "")
            if not stated.startswith(f"bytes {there}-"):
                raise FetchError(f"{url}: asked for bytes from {there}, the server answers {stated!r}")
            total = stated.rpartition("/")[2]
        else:
            there = 0  # a server without range support sends the whole file
            total = response.headers.get("Content-Length", "")
        if total.isdigit() and int(total) != size:
            raise FetchError(
                f"{url}: the server's file has {total} bytes, ImageBind's checkpoint {size}: it is another "
                "file"
            )
        with partial.open("ab" if there else "wb") as file:
            while there < size and (block := response.read(min(_BLOCK, size - there))):
                file.write(block)
                there += len(block)
                if on_bytes is not None:
                    on_bytes(there, size)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _facts(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _write_record(path: Path, sha256: str) -> None:
    try:
        write_in_place(_record_path(path), json.dumps({"sha256": sha256, **_facts(path)}) + "\n")
    except OSError:
        return  # a read-only folder: the checksum is computed again next time
