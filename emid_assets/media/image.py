"""Reading images: facts about a file, and its pixels as plain RGB.

Belongs here: one file in, facts or pixels out, and the limits that keep a hostile file from filling the
memory. Resizing and normalising belong to the encoder.
"""

import importlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from emid_assets.media.jxl_header import jxl_size
from emid_assets.media.limits import MediaError, MediaLimits, MissingExtraError

DEFAULT_LIMITS = MediaLimits()

# What Pillow says of a file names no file; what is wrong with it is the reason of its MediaError.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Only these decoders see a file, whatever its name: fewer parsers are a smaller attack surface.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL_MARKS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_TIFF_MARKS = (b"II*\0", b"MM\0*")
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags


@dataclass(frozen=True)
class ImageFacts:
    """Size in pixels, after applying the EXIF orientation."""

    width: int
    height: int


def probe_image(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> ImageFacts:
    """Decode the whole image at `path` and return its size.

    Raises:
        MediaError: the file is empty, not a readable image, truncated, too small or too large.
    """
    with _opened(path, limits.max_pixels) as image:
        width, height = image.size
        if min(width, height) < limits.min_side:
            raise MediaError(
                f"image is too small: {width} × {height} pixels, the minimum is {limits.min_side} a side"
            )
        # Read a JPEG at an eighth of its size: this still decodes every byte, at a third of the cost.
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        _load(image)
        orientation = _orientation(image)
    # Orientations 5 to 8 rotate the picture by 90°.
    return ImageFacts(height, width) if orientation >= 5 else ImageFacts(width, height)


def read_rgb(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """The image at `path` as 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white, CMYK, palette, grey and 16-bit
    images are converted, and an animation is reduced to its first frame. Colour profiles are not
    applied.

    Raises:
        MediaError: the file is empty, not a readable image, truncated or too large.
    """
    with _opened(path, limits.max_pixels) as opened:
        _load(opened)
        image = ImageOps.exif_transpose(opened) if _orientation(opened) > 1 else opened
        if image.mode == "F":
            raise MediaError(
                "image has floating-point pixels, which have no fixed white: save it with 8 or 16 bits"
            )
        if image.mode == "I" or image.mode.startswith("I;16") or _is_signed_tiff(opened):
            return _grey(image, opened)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        # `convert` returns the same lazy object for RGB: a copy outlives the file.
        return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _grey(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, or signed, as 8-bit RGB: the whole range of its type becomes 0 to 255.

    Pillow returns the numbers of a TIFF as they are in the file.

    Args:
        image: the pixels.
        opened: the file that they come from.
    """
    tags = opened.tag_v2 if isinstance(opened, TiffImageFile) else {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    top = (1 << bits) - 1
    levels = np.asarray(image).astype(np.int64)
    if _is_signed_tiff(opened):
        # Pillow knows no signed 8-bit mode: it returns the bits as an unsigned number.
        levels = levels ^ 0x80 if bits == 8 else levels + (1 << bits - 1)
    levels &= top
    grey = (levels * 255 + top // 2) // top
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _is_signed_tiff(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and 2 in image.tag_v2.get(_SAMPLE_FORMAT, ())


def _formats(head: bytes) -> tuple[str, ...]:
    """The decoders for a file that starts with these bytes.

    Raises:
        MissingExtraError: its decoder is not installed.
    """
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _plugin("pillow_heif", "HEIC").register_heif_opener()
        return ("HEIF", "AVIF")
    if head.startswith(_JXL_MARKS):
        _plugin("pillow_jxl", "JPEG XL")
        return ("JXL",)
    return _FORMATS


def _plugin(module: str, name: str) -> Any:
    if importlib.util.find_spec(module) is None:
        extra = {"pillow_heif": "heic", "pillow_jxl": "jxl"}[module]
        raise MissingExtraError(f"image is {name}, which needs an extra: pip install 'emid-assets[{extra}]'")
    return importlib.import_module(module)


def _opened(path: Path, max_pixels: int) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise MediaError("image file is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(1 << 12)
        formats = _formats(head)
        if formats == ("JXL",):  # whose plugin decodes when it opens
            width, height = jxl_size(head)
            if width * height > max_pixels:
                raise _too_large(width, height, max_pixels)
        image = Image.open(path, formats=formats)
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"image is too large: more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        if head.startswith(_TIFF_MARKS):
            raise MediaError(
                "image is unreadable: it is TIFF whose pixels are of an unknown kind: save it as PNG"
            ) from None
        raise MediaError(
            "image is unreadable: its contents are not JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, HEIC or JPEG XL"
        ) from None
    except OSError as error:
        raise MediaError(f"image is unreadable: {_one_line(error)}") from error
    except Exception as error:  # a parser of hostile bytes may raise anything
        raise MediaError(f"image is unreadable: {_one_line(error)}") from error
    if isinstance(image, TiffImageFile):
        _correct_tiff(image)
    if image.width * image.height > max_pixels:
        image.close()
        raise _too_large(image.width, image.height, max_pixels)
    if image.format == "JXL" and image.mode == "LA" and _has_wide_samples(image):
        image.close()
        raise MediaError(
            "image is JPEG XL of grey with transparency and over 8 bits, which cannot be read: save it as PNG"
        )
    if image.mode == "F":
        image.close()
        raise MediaError(
            "image has floating-point pixels, which have no fixed white: save it with 8 or 16 bits"
        )
    return image


def _correct_tiff(image: TiffImageFile) -> None:
    """Correct two faults of Pillow 13 in an open TIFF, before it is decoded."""
    # Without a file name nothing is mapped into memory: a picture that is mapped and turned by 90° has the
    # width of the turned one.
    image.filename = ""
    # libtiff returns numbers in the machine's byte order; Pillow takes signed ones to be in the file's.
    image.tile = [
        tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


def _has_wide_samples(image: Image.Image) -> bool:
    """Whether the plugin hands 16-bit samples over as 8-bit ones, as pillow-jxl-plugin 1.3 does for LA."""
    return len(getattr(image, "_data", b"")) > image.width * image.height * len(image.getbands())


def _too_large(width: int, height: int, max_pixels: int) -> MediaError:
    return MediaError(
        f"image is too large: {width} × {height} pixels, the maximum is {max_pixels:,} in total"
    )


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        reason = _one_line(error)
        word = "truncated" if "truncated" in reason or isinstance(error, EOFError) else "unreadable"
        raise MediaError(f"image is {word}: {reason}") from error


def _orientation(image: Image.Image) -> int:
    # These decoders have turned the pixels, but not where a JPEG is inside the JPEG XL.
    if image.format == "HEIF" or (image.format == "JXL" and not getattr(image, "jpeg", False)):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is no reason to lose a picture that decodes
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
