"""Reading images: facts about a file, and its pixels as plain RGB.

Belongs here: one file in, facts or pixels out, and the limits that keep a hostile file from filling the
memory. Resizing and normalising belong to the encoder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from emid_assets.media.limits import MediaError, MediaLimits

DEFAULT_LIMITS = MediaLimits()

# Only these decoders see a file, whatever its name: fewer parsers are a smaller attack surface.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


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
        if image.mode == "I" or image.mode.startswith("I;16"):
            levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
            return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        # `convert` returns the same lazy object for RGB: a copy outlives the file.
        return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _opened(path: Path, max_pixels: int) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise MediaError("image file is empty (0 bytes)")
        image = Image.open(path, formats=_FORMATS)
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"image is too large: more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise MediaError(
            "image is unreadable: its contents are not JPEG, PNG, GIF, WebP, BMP or TIFF"
        ) from None
    except OSError as error:
        raise MediaError(f"image is unreadable: {_one_line(error)}") from error
    except Exception as error:  # a parser of hostile bytes may raise anything
        raise MediaError(f"image is unreadable: {_one_line(error)}") from error
    if image.width * image.height > max_pixels:
        size = f"{image.width} × {image.height}"
        image.close()
        raise MediaError(f"image is too large: {size} pixels, the maximum is {max_pixels:,} in total")
    if image.mode == "F":
        image.close()
        raise MediaError(
            "image has floating-point pixels, which have no fixed white: save it with 8 or 16 bits"
        )
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        reason = _one_line(error)
        word = "truncated" if "truncated" in reason or isinstance(error, EOFError) else "unreadable"
        raise MediaError(f"image is {word}: {reason}") from error


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is no reason to lose a picture that decodes
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
