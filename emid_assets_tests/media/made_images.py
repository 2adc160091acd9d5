"""Pictures of every format, mode, depth and orientation made from a seed, and what they show.

Belongs here: making files whose right pixels are known from the numbers that were written, or from another
decoder where the format loses some. `made_files` damages files, and checks seeds.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms

from emid_assets.media.image import probe_image, read_rgb
from emid_assets.media.limits import MediaError
from emid_assets_tests.media.ffmpeg import decode_image

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


def picture(height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> Values:
    """Smooth colours with an edge, (height, width, channels), 0 to 1: no two corners are alike."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [0.2 + 0.6 * x, 0.9 - 0.8 * y, 0.5 + 0.4 * x * y, 0.3 + 0.7 * (x > y)]
    planes[1][: height // 3, : width // 2] *= 0.5
    return np.stack([np.roll(planes[c], seed, axis=1) for c in range(channels)], axis=-1)


def on_white(values: Values) -> Values:
    """Values from 0 to 1 of 1 to 4 channels as RGB from 0 to 255; alpha laid on white."""
    channels = values.shape[-1]
    if channels in (2, 4):
        alpha = values[..., -1:]
        values = values[..., :-1] * alpha + 1 - alpha
    rgb = values if values.shape[-1] == 3 else np.repeat(values, 3, axis=-1)
    return 255 * rgb


def as_type(values: Values, dtype: str) -> npt.NDArray[np.generic]:
    """Values from 0 to 1 over the whole range of an integer type; as they are for floats."""
    if dtype.startswith("f"):
        return values.astype(dtype)
    info = np.iinfo(dtype)
    return np.rint(values * (info.max - info.min) + info.min).clip(info.min, info.max).astype(dtype)


def upright(stored: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """How pixels with an EXIF orientation are shown (EXIF 2.32, tag 274)."""
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    turn_x, turn_y = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return stored[:: -1 if turn_y else 1, :: -1 if turn_x else 1]


@dataclass(frozen=True)
class MadeImage:
    """A picture, and what is right.

    Attributes:
        content: the file's bytes.
        suffix: of its name.
        story: how it was made, in words.
        expected: RGB from 0 to 255, upright.
        is_lossless: whether each pixel must be right, or only the mean of them.
    """

    content: bytes
    suffix: str
    story: str
    expected: npt.NDArray[np.generic]
    is_lossless: bool


_FORMATS = ("png", "png", "tif", "tif", "tif", "jpg", "jpg", "webp", "avif", "heic", "jxl", "bmp", "gif")
_PROFILES: tuple[bytes | None, ...] = (
    None,
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
)
_DECODERS: dict[str, Callable[[bytes], npt.NDArray[np.generic]]] = {
    "jpg": imagecodecs.jpeg8_decode,
    "webp": imagecodecs.webp_decode,
    "avif": imagecodecs.avif_decode,
}


def make_image(seed: int) -> MadeImage:
    """A picture."""
    rng = random.Random(seed)
    form, orientation = rng.choice(_FORMATS), rng.choice((1, 1, 2, 3, 4, 5, 6, 7, 8))
    profile = rng.choice(_PROFILES)
    size = rng.randrange(8, 90), rng.randrange(8, 90)
    if form in ("avif", "heic"):  # which lose much of the colours of few pixels
        size = size[0] + 24, size[1] + 24
    shift = rng.randrange(64)
    story = [form, f"{size[1]} × {size[0]}"]
    if form in ("jpg", "webp", "avif", "heic"):
        made = _with_pillow(form, picture(*size, 3, shift), orientation, profile, rng)
    else:
        made = _LOSSLESS[form](size, shift, orientation, rng, story)
    content, expected, is_lossless = made
    if form in ("bmp", "gif", "jxl"):
        orientation = 1
    story += [f"orientation {orientation}", "profile" if profile else "no profile"]
    return MadeImage(content, form, ", ".join(story), upright(expected, orientation), is_lossless)


Made = tuple[bytes, npt.NDArray[np.generic], bool]


def _with_pillow(
    form: str, values: Values, orientation: int, profile: bytes | None, rng: random.Random
) -> Made:
    """A camera's formats: where Pillow and its plugins put the orientation is what a camera does too."""
    if form == "heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    pixels = as_type(values, "u1").view(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"icc_profile": profile, "quality": 95}
    if form == "jpg":
        options |= {"subsampling": rng.choice((0, 1, 2)), "progressive": rng.random() < 0.5}
        options["quality"] = rng.choice((60, 80, 95))
    if form == "webp":
        options |= {"lossless": rng.random() < 0.5}
    target = io.BytesIO()
    Image.fromarray(pixels).save(
        target, {"jpg": "JPEG", "heic": "HEIF"}.get(form, form), exif=exif.tobytes(), **options
    )
    content = target.getvalue()
    if form in ("jpg", "webp"):  # another decoder, which turns nothing
        return content, _DECODERS[form](content), False
    return content, 255 * values, False


def _png(size: tuple[int, int], shift: int, orientation: int, rng: random.Random, story: list[str]) -> Made:
    dtype, channels = rng.choice(("u1", "u2")), rng.choice((1, 2, 3, 4))
    story += [dtype, f"{channels} channels"]
    values = picture(*size, channels, shift)
    numbers = as_type(values, dtype)
    content = imagecodecs.png_encode(numbers if channels > 1 else numbers[..., 0])
    body = b"eXIf" + b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 274, 3, 1, orientation, 0, 0)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return content[:33] + chunk + content[33:], on_white(values), True  # behind the header


def _tif(size: tuple[int, int], shift: int, orientation: int, rng: random.Random, story: list[str]) -> Made:
    mode = rng.choice(("grey", "white is zero", "rgb", "alpha", "inks", "deep grey"))
    dtype = rng.choice(("i2", "u4", "i4")) if mode == "deep grey" else "u1" if rng.random() < 0.5 else "u2"
    if mode in ("rgb", "alpha"):
        dtype = "u1"  # Pillow reads no colours of more bits out of a TIFF
    compression = rng.choice((None, "lzw", "zlib", "packbits"))
    story += [mode, dtype, f"{compression} compression"]
    channels = {"rgb": 3, "alpha": 4, "inks": 4}.get(mode, 1)
    values = picture(*size, channels, shift)
    numbers = as_type(values, dtype)
    photometric = {"white is zero": "miniswhite", "inks": "separated"}.get(
        mode, "rgb" if channels > 1 else "minisblack"
    )
    target = io.BytesIO()
    tifffile.imwrite(
        target,
        numbers if channels > 1 else numbers[..., 0],
        photometric=photometric,
        extrasamples=["unassalpha"] if mode == "alpha" else None,
        compression=compression,
        byteorder=rng.choice("<>"),
        extratags=[(274, "H", 1, orientation, True)],
        metadata=None,
    )
    if mode == "inks":
        return target.getvalue(), 255 * (1 - values[..., :3]) * (1 - values[..., 3:]), True
    return target.getvalue(), on_white(1 - values if mode == "white is zero" else values), True


def _jxl(size: tuple[int, int], shift: int, orientation: int, rng: random.Random, story: list[str]) -> Made:
    dtype, channels = rng.choice(
        (("u1", 1), ("u1", 2), ("u1", 3), ("u1", 4), ("u2", 1), ("u2", 3), ("u2", 4))
    )
    story += [dtype, f"{channels} channels"]
    values = picture(*size, channels, shift)
    numbers = as_type(values, dtype)
    content = imagecodecs.jpegxl_encode(
        numbers if channels > 1 else numbers[..., 0], lossless=True, usecontainer=rng.random() < 0.5
    )
    return content, on_white(values), True


def _bmp(size: tuple[int, int], shift: int, orientation: int, rng: random.Random, story: list[str]) -> Made:
    channels = rng.choice((1, 3))
    story += [f"{channels} channels"]
    values = picture(*size, channels, shift)
    numbers = as_type(values, "u1")
    return imagecodecs.bmp_encode(numbers if channels > 1 else numbers[..., 0]), on_white(values), True


def _gif(size: tuple[int, int], shift: int, orientation: int, rng: random.Random, story: list[str]) -> Made:
    values = np.rint(picture(*size, 1, shift) * 255) / 255
    target = io.BytesIO()
    first = Image.fromarray(as_type(values, "u1").view(np.uint8)[..., 0])
    others = [Image.new("L", first.size, 9)] * rng.randrange(3)
    story += [f"{len(others)} more frames"]
    first.save(target, "GIF", save_all=bool(others), append_images=others)
    return target.getvalue(), on_white(values), True


_LOSSLESS: dict[str, Callable[..., Made]] = {
    "png": _png, "tif": _tif, "jxl": _jxl, "bmp": _bmp, "gif": _gif,
}  # fmt: skip


def image_difference(image: MadeImage, path: Path) -> str | None:
    """How what we read differs from what is right; None where it does not."""
    path.write_bytes(image.content)
    try:
        facts = probe_image(path)
        read = np.asarray(read_rgb(path)).astype(np.float64)
    except MediaError as error:
        is_rare = "deep grey" in image.story or "white is zero, u2" in image.story
        is_told = image.suffix == "tif" and "whose pixels are of an unknown kind" in error.reason
        return None if is_rare and is_told else f"rejected: {error.reason}"
    if read.shape != (*image.expected.shape[:2], 3) or (facts.height, facts.width) != read.shape[:2]:
        return f"{read.shape}; right: {image.expected.shape}"
    off = np.abs(read - image.expected)
    if image.is_lossless:
        return f"pixels differ by {off.max():.3g}" if off.max() > 2 else None
    if off.mean() > 4:
        return f"pixels differ by {off.mean():.3g} in the mean"
    if image.suffix == "heic" and "orientation 1," in image.story:
        off = np.abs(read - decode_image(path)[: read.shape[0], : read.shape[1]])  # it shows whole blocks
        return f"pixels differ from FFmpeg's by {off.mean():.3g} in the mean" if off.mean() > 2 else None
    return None
