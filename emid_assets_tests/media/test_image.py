"""Reading images: real files of every awkward sort, made here with Pillow."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emid_assets.media.image import ImageFacts, probe_image, read_rgb
from emid_assets.media.limits import MediaError, MediaLimits


def reason(path: Path) -> str:
    """The reason that both the probe and the reader give, or the probe's where only it checks."""
    with pytest.raises(MediaError) as raised:
        probe_image(path)
    assert "\n" not in raised.value.reason
    return raised.value.reason


def noise(mode: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(7).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def test_a_sample_image_is_what_pillow_says(sample_media: Path) -> None:
    for path in sorted((sample_media / "images").iterdir()):
        with Image.open(path) as image:
            assert probe_image(path) == ImageFacts(*image.size)
            assert np.array_equal(np.asarray(read_rgb(path)), np.asarray(image.convert("RGB")))


def test_a_text_file_named_png_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no pixels here\n" * 100)
    assert reason(path).startswith("image is unreadable")
    with pytest.raises(MediaError):
        read_rgb(path)


def test_a_0_byte_png_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert reason(path) == "image file is empty (0 bytes)"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_half_an_image_is_rejected_in_every_format(tmp_path: Path, suffix: str) -> None:
    whole, half = tmp_path / f"whole.{suffix}", tmp_path / f"half.{suffix}"
    noise("RGB").save(whole)
    assert probe_image(whole) == ImageFacts(64, 48)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert reason(half).startswith(("image is truncated", "image is unreadable"))
    with pytest.raises(MediaError):
        read_rgb(half)


def test_a_1_by_1_image_is_too_small(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(path)
    assert reason(path) == "image is too small: 1 × 1 pixels, the minimum is 8 a side"
    assert probe_image(path, MediaLimits(min_side=1)) == ImageFacts(1, 1)


def test_a_bomb_is_rejected_by_its_header_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    path = tmp_path / "bomb.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    assert reason(path).startswith("image is too large")
    with pytest.raises(MediaError, match="too large"):
        read_rgb(path)


def test_more_pixels_than_the_limit_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    noise("RGB").save(path)
    with pytest.raises(MediaError, match=r"64 × 48 pixels, the maximum is 3,071"):
        probe_image(path, MediaLimits(max_pixels=3071))
    assert probe_image(path, MediaLimits(max_pixels=3072)) == ImageFacts(64, 48)


def test_a_cmyk_jpeg_becomes_rgb_with_white_staying_white(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (32, 16), (0, 0, 0, 0)).save(path)
    image = read_rgb(path)
    assert image.mode == "RGB"
    assert image.getpixel((5, 5)) == (255, 255, 255)
    assert probe_image(path) == ImageFacts(32, 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "alpha.png"
    black = (0,) * (len(mode) - 1)
    image = Image.new(mode, (16, 16), (*black, 0))
    image.paste((*black, 255), (0, 0, 8, 16))
    image.save(path)
    rgb = read_rgb(path)
    assert rgb.getpixel((2, 2)) == (0, 0, 0)
    assert rgb.getpixel((12, 2)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    path = tmp_path / "palette.gif"
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 8, 16))
    image.save(path, transparency=1)
    rgb = read_rgb(path)
    assert rgb.getpixel((2, 2)) == (255, 0, 0)
    assert rgb.getpixel((12, 2)) == (255, 255, 255)


def test_the_exif_orientation_turns_pixels_and_size(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("RGB", (32, 16), "white")
    image.paste((0, 0, 0), (0, 0, 8, 16))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left edge becomes the top
    image.save(path, exif=exif)
    assert probe_image(path) == ImageFacts(16, 32)
    rgb = read_rgb(path)
    assert rgb.size == (16, 32)
    brightness = np.asarray(rgb.convert("L"))
    assert brightness[2, 8] < 10
    assert brightness[28, 8] > 245


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(path)
    grey = np.asarray(read_rgb(path))[..., 0]
    assert np.array_equal(grey, np.round(levels / 257).astype(np.uint8))


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_rgb(path).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_every_mode_comes_out_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "any.tiff"
    (noise("RGB").convert(mode)).save(path)
    assert (read_rgb(path).mode, read_rgb(path).size) == ("RGB", (64, 48))


def test_floating_point_pixels_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.new("F", (16, 16), 0.5).save(path)
    with pytest.raises(MediaError, match="floating-point"):
        read_rgb(path)
    assert "floating-point" in reason(path)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
def test_no_random_damage_gives_anything_but_pixels_or_a_reason(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    reasons: list[str] = []
    path = tmp_path / "damaged"
    for suffix in ("jpg", "png", "gif", "webp", "bmp", "tiff"):
        whole = tmp_path / f"whole.{suffix}"
        noise("RGB", (24, 16)).save(whole)
        for _ in range(40):
            content = bytearray(whole.read_bytes())
            for place in random.integers(0, min(len(content), 200), 4):
                content[place] = random.integers(0, 256)
            path.write_bytes(content)
            for read in (probe_image, read_rgb):
                try:
                    read(path, MediaLimits(max_pixels=1_000_000))
                except MediaError as error:
                    reasons.append(error.reason)
    assert reasons
    assert all(reason and "\n" not in reason for reason in reasons)
