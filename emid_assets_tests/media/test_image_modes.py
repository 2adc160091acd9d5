"""Every mode of pixels that a file may have: written by another library, read as RGB, or rejected.

The files are written by tifffile and imagecodecs; what is right is computed from the numbers
that were written.
"""

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from PIL import Image

from emid_assets.media import image
from emid_assets.media.image import ImageFacts, probe_image, read_rgb
from emid_assets.media.jxl_header import jxl_size
from emid_assets.media.limits import MediaError, MediaLimits, MissingExtraError
from emid_assets_tests.media.ffmpeg import decode_image
from emid_assets_tests.media.made_images import Pixels, as_type, on_white, picture, upright


def read_or_reason(path: Path) -> Pixels | str:
    try:
        facts = probe_image(path)
    except MediaError as error:
        with pytest.raises(MediaError):
            read_rgb(path)
        return error.reason
    pixels = np.asarray(read_rgb(path))
    assert (facts.height, facts.width, 3) == pixels.shape
    return pixels


# -------------------------------------------------------------------------------------------- TIFF


Tiff = tuple[npt.NDArray[np.float64], npt.NDArray[np.generic], dict[str, object]]
"""Expected RGB, the numbers to write, and tifffile's options."""


@st.composite
def tiffs(draw: st.DrawFn) -> Tiff:
    dtype = draw(st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4"]))
    channels = draw(st.sampled_from([1, 1, 3, 4]))
    values = picture(channels=channels, seed=draw(st.integers(0, 63)))
    numbers = as_type(values, dtype)
    options: dict[str, object] = {
        "byteorder": draw(st.sampled_from("<>")),
        "compression": draw(st.sampled_from([None, None, "lzw", "zlib", "packbits", "lzma", "zstd"])),
        "rowsperstrip": draw(st.sampled_from([None, 7])),
        "metadata": None,
    }
    if channels == 1:
        options["photometric"] = draw(st.sampled_from(["minisblack", "miniswhite"]))
        numbers, shown = numbers[..., 0], values
        if options["photometric"] == "miniswhite":
            shown = 1 - values
    else:
        options["photometric"] = "rgb"
        options["planarconfig"] = draw(st.sampled_from(["contig", "separate"]))
        if channels == 4:
            options["extrasamples"] = [draw(st.sampled_from(["unassalpha", "unspecified"]))]
        shown = values if options.get("extrasamples") != ["unspecified"] else values[..., :3]
        if options["planarconfig"] == "separate":
            numbers = np.ascontiguousarray(np.moveaxis(numbers, -1, 0))
    if options["compression"] in ("lzw", "zlib") and not dtype.startswith("f") and dtype[1] != "4":
        options["predictor"] = draw(st.booleans())
    if draw(st.booleans()) and options["rowsperstrip"] is None:
        options["tile"] = (16, 32)
    return on_white(shown), numbers, options


def check_tiff(
    path: Path, case: tuple[npt.NDArray[np.float64], npt.NDArray[np.generic], dict[str, object]]
) -> None:
    expected, numbers, options = case
    note(f"{numbers.dtype} {numbers.shape} {options}")
    tifffile.imwrite(path, numbers, **options)
    read = read_or_reason(path)
    if isinstance(read, str):
        event(f"rejected: {read[:40]}")
        assert (
            numbers.dtype.str[1:] not in ("u1", "u2")
            or options["compression"] in ("lzma", "zstd")
            or (numbers.ndim == 3 and numbers.dtype.itemsize > 1)
        ), read
    else:
        event("read")
        assert np.abs(read - expected).max() <= 1.01


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=tiffs())
def test_a_tiff_is_read_as_it_was_written_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, case: Tiff
) -> None:
    check_tiff(tmp_path_factory.getbasetemp() / "any.tif", case)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_grey_of_every_integer_type_has_its_whole_range(tmp_path: Path, dtype: str, photometric: str) -> None:
    values = picture(channels=1)
    tifffile.imwrite(tmp_path / "grey.tif", as_type(values, dtype)[..., 0], photometric=photometric)
    read = read_or_reason(tmp_path / "grey.tif")
    if isinstance(read, str):
        assert photometric == "miniswhite"
        assert dtype in ("i1", "i2", "u4", "i4")
        assert read.startswith("image is unreadable")
        return
    expected = on_white(values if photometric == "minisblack" else 1 - values)
    assert np.abs(read - expected).max() <= 1.01


@pytest.mark.parametrize("compression", [None, "lzw", "packbits"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4"])
def test_grey_of_either_byte_order_is_right_and_upright(
    tmp_path: Path, dtype: str, byteorder: str, compression: str | None
) -> None:
    values = picture(33, 47, channels=1)
    for orientation in range(1, 9):
        tifffile.imwrite(
            tmp_path / "turned.tif", as_type(values, dtype)[..., 0], byteorder=byteorder,
            compression=compression, extratags=[(274, "H", 1, orientation, True)], metadata=None,
        )  # fmt: skip
        read = read_or_reason(tmp_path / "turned.tif")
        assert not isinstance(read, str), read
        assert np.abs(read - upright(on_white(values), orientation)).max() <= 1.01


def test_12_bit_grey_has_its_whole_range(tmp_path: Path) -> None:
    values = picture(channels=1)[..., 0]
    numbers = np.rint(values * 4095).astype(np.uint16)
    first, second = numbers[:, ::2], numbers[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    data = packed.tobytes()
    tags = (
        (256, 4, 64), (257, 4, 48), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, 48), (279, 4, len(data)),
    )  # fmt: skip
    content = io.BytesIO()
    content.write(b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + len(tags).to_bytes(2, "little"))
    for tag, kind, value in tags:
        content.write(np.array([tag, kind], "<u2").tobytes() + np.array([1, value], "<u4").tobytes())
    path = tmp_path / "grey.tif"
    path.write_bytes(content.getvalue() + bytes(4))
    read = read_or_reason(path)
    assert not isinstance(read, str)
    assert np.abs(read[..., 0] - 255 * values).max() <= 1.01


# ------------------------------------------------------------------------------------ other formats

Encode = Callable[[npt.NDArray[np.generic]], bytes]
Decode = Callable[[bytes], npt.NDArray[np.generic]]

LOSSLESS: dict[str, tuple[Encode, tuple[str, ...], tuple[int, ...]]] = {
    "png": (imagecodecs.png_encode, ("u1", "u2"), (1, 2, 3, 4)),
    "webp": (lambda pixels: imagecodecs.webp_encode(pixels, lossless=True), ("u1",), (3,)),
    "jxl": (lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True), ("u1", "u2"), (1, 2, 3, 4)),
    "bmp": (imagecodecs.bmp_encode, ("u1",), (1, 3)),
}
LOSSY: dict[str, tuple[Encode, Decode]] = {
    "jpg": (lambda pixels: imagecodecs.jpeg8_encode(pixels, level=90), imagecodecs.jpeg8_decode),
    "webp": (lambda pixels: imagecodecs.webp_encode(pixels, level=80), imagecodecs.webp_decode),
    "avif": (lambda pixels: imagecodecs.avif_encode(pixels, level=80, speed=10), imagecodecs.avif_decode),
    "jxl": (lambda pixels: imagecodecs.jpegxl_encode(pixels, level=90), imagecodecs.jpegxl_decode),
}


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [(name, dtype, n) for name, (_, dtypes, counts) in LOSSLESS.items() for dtype in dtypes for n in counts],
)
def test_a_lossless_image_has_the_pixels_that_were_written(
    tmp_path: Path, name: str, dtype: str, channels: int
) -> None:
    values = picture(channels=channels)
    numbers = as_type(values, dtype)
    path = tmp_path / f"image.{name}"
    path.write_bytes(LOSSLESS[name][0](numbers if channels > 1 else numbers[..., 0]))
    read = read_or_reason(path)
    if (name, dtype, channels) == ("jxl", "u2", 2):
        assert isinstance(read, str)
        assert "over 8 bits" in read
        return
    assert not isinstance(read, str), read
    assert np.abs(read - on_white(values)).max() <= 1.5


@pytest.mark.parametrize("name", LOSSY)
def test_a_lossy_image_has_the_pixels_that_another_decoder_gives(tmp_path: Path, name: str) -> None:
    encode, decode = LOSSY[name]
    content = encode(as_type(picture(), "u1"))
    path = tmp_path / f"image.{name}"
    path.write_bytes(content)
    read = read_or_reason(path)
    assert not isinstance(read, str), read
    assert np.abs(read.astype(int) - decode(content)).max() <= 3
    assert np.abs(read - on_white(picture())).mean() < 4


# Written with Pillow: where each puts the orientation is what a camera does too.
TURNED = {
    "jpg": {"quality": 95}, "png": {}, "webp": {"lossless": True}, "tif": {}, "avif": {"quality": 95},
    "heic": {"quality": 95},
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_the_orientation_is_applied_once_in_every_format(tmp_path: Path, name: str) -> None:
    if name == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    stored = as_type(picture(), "u1").view(np.uint8)
    path = tmp_path / f"turned.{name}"
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif.tobytes(), **TURNED[name])  # type: ignore[arg-type]
        expected = upright(stored, orientation).astype(int)
        read = read_or_reason(path)
        assert not isinstance(read, str), read
        assert read.shape == expected.shape, orientation
        assert np.abs(read - expected).mean() < 3, orientation


def test_a_jpeg_within_jpeg_xl_is_turned_and_other_jpeg_xl_is_not(tmp_path: Path) -> None:
    """In a JPEG XL the header turns the picture, and its Exif does not (ISO/IEC 18181-2)."""
    pytest.importorskip("pillow_jxl")
    stored = as_type(picture(), "u1").view(np.uint8)
    for orientation in (1, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / "turned.jpg", quality=95, exif=exif.tobytes())
        with Image.open(tmp_path / "turned.jpg") as photo:
            photo.save(tmp_path / "photo.jxl", lossless_jpeg=True, exif=exif.tobytes())
        expected = upright(stored, orientation).astype(int)
        read = read_or_reason(tmp_path / "photo.jxl")
        assert not isinstance(read, str), read
        assert np.abs(read.astype(int) - expected).mean() < 3
        assert (
            np.abs(read.astype(int) - imagecodecs.jpegxl_decode((tmp_path / "photo.jxl").read_bytes())).mean()
            < 3
        )
        Image.fromarray(stored).save(tmp_path / "flat.jxl", lossless=True, exif=exif.tobytes())
        assert np.array_equal(read_or_reason(tmp_path / "flat.jxl"), stored)


@pytest.mark.parametrize("depth", ["u1", "u2"])
def test_cmyk_has_the_colours_of_the_inks(tmp_path: Path, depth: str) -> None:
    inks = picture(channels=4)
    path = tmp_path / "print.tif"
    tifffile.imwrite(path, as_type(inks, depth), photometric="separated", metadata=None)
    read = read_or_reason(path)
    assert not isinstance(read, str), read
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    assert np.abs(read - expected).max() <= 2


@pytest.mark.parametrize("colours", ["CMYK", "YCCK"])
def test_adobe_jpegs_of_four_inks_are_not_inverted(tmp_path: Path, colours: str) -> None:
    inks = picture(channels=4)
    path = tmp_path / "print.jpg"
    stored = 255 - as_type(inks, "u1").view(np.uint8)  # Adobe stores the inks inverted
    path.write_bytes(
        imagecodecs.jpeg8_encode(
            stored, level=98, colorspace="CMYK", outcolorspace=colours, subsampling="444"
        )
    )
    if b"Adobe" not in path.read_bytes()[:200]:
        pytest.skip("this encoder writes no Adobe marker")
    read = read_or_reason(path)
    assert not isinstance(read, str), read
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    assert np.abs(read - expected).mean() < 4


def test_lab_has_the_grey_that_its_lightness_means(tmp_path: Path) -> None:
    lab = np.zeros((16, 48, 3), np.uint8)
    for place, lightness in enumerate((0, 50, 100)):
        lab[:, 16 * place : 16 * (place + 1), 0] = round(lightness * 2.55)
    path = tmp_path / "lab.tif"
    tifffile.imwrite(path, lab, photometric="cielab", metadata=None)
    read = read_or_reason(path)
    assert not isinstance(read, str), read
    # CIE L* of 50 is a luminance of .184, which sRGB writes as 119.
    assert np.abs(read[8, [8, 24, 40]].astype(int) - np.array([[0], [119], [255]])).max() <= 3


def test_one_bit_palette_and_the_first_of_several_pictures_are_read(tmp_path: Path) -> None:
    pixels = as_type(picture(), "u1").view(np.uint8)
    first, second = Image.fromarray(pixels), Image.new("RGB", (64, 48), "red")
    black = pixels[..., 0] > 120
    for name, stored in (("png", first.convert("P")), ("tif", first.convert("P"))):
        stored.save(tmp_path / f"palette.{name}")
        assert np.array_equal(read_or_reason(tmp_path / f"palette.{name}"), np.asarray(stored.convert("RGB")))
    for name in ("png", "tif", "bmp"):
        Image.fromarray(black).save(tmp_path / f"bits.{name}")
        assert np.array_equal(
            read_or_reason(tmp_path / f"bits.{name}"), 255 * np.repeat(black[..., None], 3, 2)
        )
    for name, options in (("mpo", {}), ("webp", {"lossless": True}), ("png", {})):
        path = tmp_path / f"several.{name}"
        first.save(path, save_all=True, append_images=[second], **options)
        read = read_or_reason(path)
        assert not isinstance(read, str), read
        assert np.abs(read.astype(int) - pixels).mean() < 3


def test_a_drawing_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "drawing.png"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>')
    read = read_or_reason(path)
    assert isinstance(read, str)
    assert read.startswith("image is unreadable: its contents are not JPEG")


def test_nothing_is_said_on_the_terminal_of_a_file_that_it_does_not_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "whole.tif", as_type(picture(), "u1"), photometric="rgb", metadata=None)
    content = (tmp_path / "whole.tif").read_bytes()
    resolution, samples = (struct.pack("<HHI", *entry) for entry in ((282, 5, 1), (277, 3, 1)))
    for name, entry, value in (("warned.tif", resolution, 1 << 30), ("logged.tif", samples, 16_387)):
        at = content.index(entry) + len(entry)
        (tmp_path / name).write_bytes(content[:at] + struct.pack("<I", value) + content[at + 4 :])
    read = "import sys, contextlib, pathlib; from {0} import {1} as read\n" + (
        "for name in ('warned.tif', 'logged.tif'):\n"
        "    with contextlib.suppress(ValueError, OSError):\n"
        "        read(pathlib.Path(sys.argv[1], name))\n"
    )
    said = []
    for module, function in (("PIL.Image", "open"), ("emid_assets.media.image", "read_rgb")):
        command = [sys.executable, "-W", "default", "-c", read.format(module, function), str(tmp_path)]
        said.append(subprocess.run(command, capture_output=True, text=True).stderr)
    assert "UserWarning" in said[0]
    assert "More samples per pixel" in said[0]
    assert said[1] == ""


def test_heic_and_avif_have_the_pixels_that_ffmpeg_gives(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    for name in ("heic", "avif"):
        path = tmp_path / f"photo.{name}"
        Image.fromarray(as_type(picture(128, 192), "u1").view(np.uint8)).save(path, quality=90)
        read = read_or_reason(path)
        assert not isinstance(read, str), read
        assert np.abs(read.astype(int) - decode_image(path)).mean() < 1.5


@pytest.mark.parametrize(("name", "extra"), [("heic", "heic"), ("jxl", "jxl")])
def test_without_its_extra_a_format_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    path = tmp_path / f"photo.{name}"
    path.write_bytes({"heic": b"\0\0\0\x18ftypheic" + bytes(8), "jxl": b"\xff\x0a" + bytes(20)}[name])
    monkeypatch.setattr(image.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'emid-assets\[{extra}\]'"):
        probe_image(path)


@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (8, 8), (256, 256), (300, 225), (1921, 9), (5000, 9)]
)
def test_the_size_in_a_jpeg_xl_header_is_read(width: int, height: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    for container in (False, True):
        assert jxl_size(imagecodecs.jpegxl_encode(pixels, usecontainer=container)) == (width, height)


@pytest.mark.parametrize("name", ["avif", "heic", "jxl", "png", "webp"])
def test_a_large_image_is_rejected_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if name == "jxl":
        monkeypatch.setattr(pytest.importorskip("pillow_jxl").JpegXLImagePlugin, "Decoder", None)
        path = tmp_path / "large.jxl"
        path.write_bytes(imagecodecs.jpegxl_encode(np.zeros((300, 400, 3), np.uint8)))
    else:
        path = tmp_path / f"large.{name}"
        Image.new("RGB", (400, 300)).save(path)
    with pytest.raises(MediaError, match="too large: 400 × 300 pixels, the maximum is 90,000"):
        probe_image(path, MediaLimits(max_pixels=90_000))
    monkeypatch.undo()
    assert probe_image(path) == ImageFacts(400, 300)
