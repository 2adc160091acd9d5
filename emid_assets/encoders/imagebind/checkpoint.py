"""ImageBind's checkpoint as a file: where it is looked for, how it is fetched, whether it is whole.

Belongs here: paths, bytes and sums. What is inside the file is `model.py`'s. No torch, so
that the command line can fetch without it.
"""

import hashlib
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
from emid_assets.store.files import put_in_place, write_in_place

NAME = "imagebind_huge.pth"
URL = f"https://dl.fbaipublicfiles.com/imagebind/{NAME}"
SIZE = 4_803_584_173
SHA256 = "d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157"
LICENCE = "CC-BY-NC-SA 4.0"
LICENCE_TEXT = f"""\
ImageBind's weights are published by Meta Platforms under {LICENCE}:
https://github.com/facebookresearch/ImageBind/blob/main/LICENSE
You may not use them for commercial purposes; what you build with them is shared under the same terms,
with attribution (Girdhar et al., ImageBind: One Embedding Space To Bind Them All, CVPR 2023)."""
ENVIRONMENT = "EMID_IMAGEBIND_CHECKPOINT"

_BLOCK = 1 << 20
_SPARE_BYTES = 64 << 20
# A new attempt after a break that brought nothing new waits this long, then twice, and so on.
_FIRST_PAUSE_S = 1.0

OnBytes = Callable[[int, int], None]
"""Told how many bytes of how many there are."""


class FetchError(RuntimeError):
    """The checkpoint could not be fetched; says why, and what becomes of what has come."""


def hub_folder() -> Path:
    """Torch hub's folder of checkpoints, which other programs may have filled."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def find_checkpoint(setting: Path | None = None) -> Path:
    """The checkpoint's path: the setting, the environment, torch hub's folder, `./.checkpoints/`.

    A path that was given by setting or environment must exist: no other place is tried then.

    Raises:
        EncoderUnavailableError: says where it was looked for and how it is had.
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
        f"exists, and no setting and no {ENVIRONMENT} says where it is. `emid imagebind fetch "
        f"--accept-licence` downloads it ({SIZE / 1e9:.1f} GB, {URL}, licence {LICENCE}); encoder bundled "
        "needs no download"
    )


def checkpoint_sha256(path: Path) -> str:
    """The file's sha256; taken from the record beside it where size and modification time are the recorded.

    A new sum is recorded, where the folder can be written to: the file has 4.8 GB.
    """
    record, facts = _record_path(path), _facts(path)
    try:
        recorded: dict[str, Any] = json.loads(record.read_text())
        if {name: recorded[name] for name in facts} == facts:
            return str(recorded["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no record, or none of this file
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
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
    """Download the checkpoint to `target`, going on from what an earlier attempt left.

    What has come stands in `target` + `.partial` until it is whole and has the right sum; only then
    is it renamed. Proxies are taken from the environment, as `urllib` does.

    Args:
        target: the file to make.
        url: where from.
        size: bytes that it must have.
        sha256: sum that it must have.
        on_bytes: told the bytes that are there, and all.
        attempts: how often in a row a connection may bring nothing before it is given up.
        pause: waits between attempts.
        timeout_s: seconds of silence after which a connection counts as broken.

    Returns:
        `target`.

    Raises:
        FetchError: no room, another size or sum than expected, or a connection that stays broken.
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
            "make room, or give another folder"
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
                    f"{url}: {problem}; {there} of {size} bytes have come and are kept: start again to go on"
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
    """What is wrong with the file's bytes, one line each; empty where it is the official checkpoint."""
    if not path.is_file():
        return [f"{path}: no such file"]
    found = path.stat().st_size
    if found < size:
        with path.open("rb") as file:
            head = file.read(512).lstrip().lower()
        lines = [f"it has {found} bytes, the official checkpoint {size}: it is cut off, or another file"]
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
    """Append to `partial` what the server gives from byte `there` on, at most to `size`."""
    headers = {"User-Agent": "emid-assets", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        # An opener of its own: urlopen keeps the proxies that it found at its first call.
        opener = urllib.request.build_opener()
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code in (404, 403, 410, 401, 407):
            raise FetchError(f"{url}: the server says {error.code} {error.reason}") from error
        if error.code == 416:  # our beginning is none of its: start over
            partial.unlink(missing_ok=True)
        raise
    with response:
        if response.status == 206:
            stated = response.headers.get("Content-Range", "")
            if not stated.startswith(f"bytes {there}-"):
                raise FetchError(f"{url}: asked for bytes from {there}, the server answers {stated!r}")
            total = stated.rpartition("/")[2]
        else:
            there = 0  # a server that knows no ranges begins anew
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
        return  # a folder that only others write to: the sum is computed again next time
