"""Media files made from a seed, of every container, codec, rate, depth and damage, and their reference.

Belongs here: making sounds, damaging files, and comparing what we read with FFmpeg, imagecodecs and tifffile.
The same seed always makes the same file. `python -m emid_assets_tests.media.made_files KIND FIRST COUNT ...`
checks seeds in a process of its own, so that a crash or a hang has a name.
"""

import io
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import imagecodecs
import numpy as np
import numpy.typing as npt
import soundfile
import tifffile
from PIL import Image

from emid_assets.media.audio import Recording, probe_audio, read_audio
from emid_assets.media.image import probe_image, read_rgb
from emid_assets.media.limits import MediaError, MediaLimits
from emid_assets_tests.media.ffmpeg import Samples, decode_audio, difference
from emid_assets_tests.media.made_images import image_difference, make_image

LENGTH_S = 0.05
"""By how much a length may differ from the reference's."""

MEMORY_KB = 500_000
"""By how much reading damaged files may raise the memory of the process."""

LOSSLESS_AUDIO = ("wav", "aiff", "flac")


@dataclass(frozen=True)
class MadeFile:
    """A file, and what was done to make it.

    Attributes:
        content: its bytes.
        suffix: of its name.
        story: how it was made, in words.
        is_whole: nothing is missing or damaged: it must be accepted.
        seconds: audio: the length that was written.
    """

    content: bytes
    suffix: str
    story: str
    is_whole: bool
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------- audio

_SNDFILE = {
    "wav": (
        "PCM_U8",
        "PCM_16",
        "PCM_24",
        "PCM_32",
        "FLOAT",
        "DOUBLE",
        "ULAW",
        "ALAW",
        "IMA_ADPCM",
        "MS_ADPCM",
    ),
    "aiff": ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"),
    "flac": ("PCM_16", "PCM_24"),
    "ogg": ("VORBIS",),
    "opus": ("OPUS",),
    "mp3": ("MPEG_LAYER_III",),
}
_BEHIND = {
    "ID3v1": b"TAG" + b"Title".ljust(125, b"\0"),
    "APE": b"APETAGEX" + struct.pack("<IIIIQ", 2000, 3000, 1, 0, 0) + bytes(3000),
}


def sound(seconds: float, channels: int, rate: int, seed: int) -> Samples:
    """A rising tone in noise, (samples, channels)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + rate / 200 * t) * t) + 0.03 * rng.standard_normal(t.size)
    return np.stack([tone * 0.9**channel for channel in range(channels)], axis=1).astype(np.float32)


def make_audio(seed: int) -> MadeFile:
    """An audio file."""
    rng = random.Random(seed)
    form = rng.choice((*_SNDFILE, "mp3", "mp3", "m4a", "aac"))
    channels = rng.choice((1, 1, 2, 2, 2, 6))
    rate = rng.choice((8000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000))
    seconds = rng.uniform(1.1, 2.5)
    if form == "opus":
        rate = rng.choice((16_000, 48_000))
    if form in ("mp3", "m4a", "aac"):
        channels, rate = min(channels, 2), min(max(rate, 16_000), 48_000)
    samples = sound(seconds, channels, rate, seed)
    story = [form, f"{rate} Hz", f"{channels} channels", f"{seconds:.2f} s"]
    if form in ("m4a", "aac"):
        content = _with_ffmpeg(form, samples, rate)
    else:
        content = _with_sndfile(form, samples, rate, rng, story)
    is_whole = True
    if form in ("mp3", "wav", "aiff", "flac"):
        content = _changed_header(form, content, rng, story)
    if form in ("mp3", "wav", "aiff") and "length 0x" not in story[-1]:  # tags would become sound
        name = rng.choice((None, None, *_BEHIND))
        content += _BEHIND.get(name or "", b"")
        story += [f"{name} behind"] if name else []
    if form == "mp3" and rng.random() < 0.3:
        content = b"ID3\4\0\0\0\0\x08\0" + bytes(1024) + content
        story.append("ID3v2 before")
    if rng.random() < 0.25:
        kept = rng.uniform(0.05, 0.999)
        content, is_whole = content[: int(len(content) * kept)], False
        story.append(f"cut to {kept:.3f}")
    suffix = rng.choice((form, form, "wav", "mp3", "m4a"))
    return MadeFile(content, suffix, ", ".join(story), is_whole, seconds)


def _with_sndfile(form: str, samples: Samples, rate: int, rng: random.Random, story: list[str]) -> bytes:
    container = {"opus": "OGG", "ogg": "OGG"}.get(form, form.upper())
    subtype = rng.choice(_SNDFILE[form])
    options: dict[str, object] = {}
    if "ADPCM" in subtype and samples.shape[1] > 2:
        subtype = "PCM_16"
    if form == "wav":
        container = rng.choice(("WAV", "WAVEX", "RF64")) if "ADPCM" not in subtype else "WAV"
    if form == "mp3":
        options = {"bitrate_mode": rng.choice(("CONSTANT", "AVERAGE", "VARIABLE"))}
        options["compression_level"] = rng.choice((0.1, 0.4, 0.7))
    story += [container, subtype, *map(str, options.values())]
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=container, subtype=subtype, **options)
    return target.getvalue()


def _with_ffmpeg(form: str, samples: Samples, rate: int) -> bytes:
    target = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(target, "w", format={"m4a": "mp4", "aac": "adts"}[form]) as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return target.getvalue()


def _changed_header(form: str, content: bytes, rng: random.Random, story: list[str]) -> bytes:
    """What programs write that cannot go back and fill in a length."""
    if rng.random() < 0.6:
        return content
    if form == "mp3":
        if b"Xing" not in content[:200] and b"Info" not in content[:200]:
            return content
        story.append("no header")
        return content[content.index(content[:2], 4) :]
    changed = bytearray(content)
    if form == "flac":
        changed[21] &= 0xF0
        changed[22:26] = bytes(4)
        story.append("no length")
        return bytes(changed)
    if changed[:4] not in (b"RIFF", b"FORM"):
        return content
    size = rng.choice((0, 0x7FFFFFDB, 0xFFFFFFFF))
    endian, name = ("<I", b"data") if form == "wav" else (">I", b"SSND")
    at = changed.index(name) + 4
    if form == "wav" and b"PEAK" in changed[at:]:
        return content
    if len(changed) > at + 4 + struct.unpack(endian, changed[at : at + 4])[0] + 1:
        return content  # chunks behind the samples would become sound
    changed[4:8] = changed[at : at + 4] = struct.pack(endian, size)
    story.append(f"length {size:#x}")
    return bytes(changed)


def audio_difference(file: MadeFile, path: Path) -> str | None:
    """How what we read differs from FFmpeg's; None where it does not, or the file is rejected."""
    path.write_bytes(file.content)
    try:
        facts = probe_audio(path)
        samples, rate = read_audio(path)
    except MediaError as error:
        return f"rejected: {error.reason}" if file.is_whole else None
    whole, _ = Recording(path).window(0, None)
    if not np.array_equal(whole, samples):
        return "a recording has other samples than a clip"
    if abs(facts.duration_s - samples.shape[1] / rate) > LENGTH_S:
        return f"{facts.duration_s:.3f} s were judged, {samples.shape[1] / rate:.3f} s are read"
    try:
        expected, expected_rate = decode_audio(path)
    except (av.error.FFmpegError, ValueError):  # no reference but what was written
        return (
            None
            if not file.is_whole or abs(samples.shape[1] / rate - file.seconds) < LENGTH_S
            else "FFmpeg cannot read it"
        )
    is_opus = "OPUS" in file.story  # FFmpeg decodes it at 48 kHz whatever it was made from
    if len(samples) != len(expected) or (rate != expected_rate and not is_opus):
        return f"{rate} Hz, {len(samples)} channels; FFmpeg: {expected_rate} Hz, {len(expected)} channels"
    seconds, theirs = samples.shape[1] / rate, expected.shape[1] / expected_rate
    slack = LENGTH_S if file.is_whole else 0.1
    # FFmpeg decodes the silence that fills the last frame of AAC, though the file says how long it is.
    is_as_written = file.is_whole and abs(seconds - file.seconds) < 0.001
    if abs(seconds - theirs) > slack and not is_as_written:
        return f"{seconds:.3f} s; FFmpeg: {theirs:.3f} s"
    if file.is_whole and abs(seconds - file.seconds) > 0.15:
        return f"{seconds:.3f} s; written: {file.seconds:.3f} s"
    if rate != expected_rate:
        return None
    # Vorbis and FFmpeg order more than two channels differently, and all begin with the left one.
    differs = max(difference(heard(samples), heard(expected)) for heard in (_first, _mean))
    most = 1e-2 if "ADPCM" in file.story else 1e-3  # which rounds in each decoder's own way
    return f"the samples differ from FFmpeg's by {differs:.2g}" if differs > most else None


def _first(samples: Samples) -> Samples:
    return samples[:1]


def _mean(samples: Samples) -> Samples:
    return samples.mean(axis=0, keepdims=True)


# ------------------------------------------------------------------------------------------ damage


def damage(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes flipped, cut, repeated, deleted or blanked; and the words for it."""
    changed = bytearray(content)
    kind = rng.choice(("flip", "flip", "cut", "repeat", "delete", "blank"))
    place = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(len(changed), 256))
    length = min(rng.choice((1, 4, 37, 1000)), len(changed) - place)
    if kind == "flip":
        for _ in range(rng.choice((1, 2, 8))):
            changed[rng.randrange(len(changed)) if rng.random() < 0.5 else place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del changed[max(1, place) :]
    elif kind == "repeat":
        changed[place:place] = changed[place : place + length] * rng.choice((1, 3))
    elif kind == "delete":
        del changed[place : place + length]
    else:
        changed[place : place + length] = bytes(length)
    return bytes(changed), f"{kind} at {place}, {length} bytes"


def damaged_audio_difference(seed: int, path: Path) -> str | None:
    """How what we read of a damaged audio file differs from the reference; None if it is rejected or equal.

    Decoders conceal damage in lossy sound in their own ways, so that only its length is compared.
    """
    rng = random.Random(seed)
    form = rng.choice(("wav", "aiff", "flac", "ogg", "opus", "mp3", "m4a"))
    rate = 48_000 if form == "opus" else 22_050
    samples = sound(1.3, 1, rate, 0)
    whole = (
        _with_ffmpeg(form, samples, rate)
        if form == "m4a"
        else _with_sndfile(form, samples, rate, random.Random(0), [])
    )
    content, story = damage(whole, rng)
    path.write_bytes(content)
    try:
        probe_audio(path)
        read, rate = read_audio(path)
    except MediaError:
        return None
    try:
        expected, expected_rate = decode_audio(path)
    except (av.error.FFmpegError, ValueError):
        return None  # the reference reads nothing: there is nothing to compare
    if rate != expected_rate or len(read) != len(expected):
        return f"{form}, {story}: {rate} Hz; FFmpeg: {expected_rate} Hz"
    seconds, theirs = read.shape[1] / rate, expected.shape[1] / rate
    if abs(seconds - 1.3) < LENGTH_S and difference(read, samples.T) < 1e-2:
        return None  # the damage has touched no sound
    # Frames that are there twice are sound, and FFmpeg ends where the header of the mp3 says.
    is_longer = form == "mp3" and story.startswith("repeat") and seconds > theirs
    if abs(seconds - theirs) > 0.15 and not is_longer:
        return f"{form}, {story}: {seconds:.3f} s; FFmpeg: {theirs:.3f} s"
    if form in LOSSLESS_AUDIO and difference(read, expected) > 1e-2:
        return f"{form}, {story}: the samples differ by {difference(read, expected):.2g}"
    return None


def _picture() -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([8 * x, 10 * y, 255 - 7 * x], axis=-1).astype(np.uint8)


def _tiff(pixels: npt.NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, photometric="rgb", metadata=None)
    return target.getvalue()


_IMAGES: dict[str, tuple[Callable[..., bytes], Callable[[bytes], npt.NDArray[np.generic]] | None]] = {
    "jpg": (imagecodecs.jpeg8_encode, imagecodecs.jpeg8_decode),
    "png": (imagecodecs.png_encode, imagecodecs.png_decode),
    "webp": (lambda pixels: imagecodecs.webp_encode(pixels, lossless=True), imagecodecs.webp_decode),
    "bmp": (imagecodecs.bmp_encode, imagecodecs.bmp_decode),
    "tif": (_tiff, lambda content: tifffile.imread(io.BytesIO(content))),
    "avif": (lambda pixels: imagecodecs.avif_encode(pixels, speed=10), imagecodecs.avif_decode),
    "jxl": (lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True), imagecodecs.jpegxl_decode),
    "gif": (lambda pixels: _with_pillow(pixels, "GIF"), None),
    "heic": (lambda pixels: _with_pillow(pixels, "HEIF"), None),
}


def _with_pillow(pixels: npt.NDArray[np.uint8], form: str) -> bytes:
    if form == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form)
    return target.getvalue()


def damaged_image_difference(seed: int, path: Path) -> str | None:
    """How what we read of a damaged image differs from the reference; None if it is rejected or equal."""
    rng = random.Random(seed)
    form = rng.choice(tuple(_IMAGES))
    encode, decode = _IMAGES[form]
    content, story = damage(encode(_picture()), rng)
    path.write_bytes(content)
    limits = MediaLimits(max_pixels=1_000_000)
    try:
        probe_image(path, limits)
        read = np.asarray(read_rgb(path, limits)).astype(int)
    except MediaError:
        return None
    if decode is None:
        return None
    try:
        expected = np.asarray(decode(content))
    except Exception:  # the reference reads nothing: there is nothing to compare
        return None
    if expected.dtype != np.uint8 or expected.ndim != 3 or expected.shape[2] != 3:
        return None  # the damage made another mode of it
    if read.shape != expected.shape:
        return f"{form}, {story}: {read.shape}; the reference: {expected.shape}"
    worst = np.abs(read - expected).max()
    return f"{form}, {story}: pixels differ by {worst}" if worst > 3 else None


# ----------------------------------------------------------------------------------------- checking


def _check_audio(seed: int, path: Path) -> str | None:
    file = make_audio(seed)
    found = audio_difference(file, path.with_suffix(f".{file.suffix}"))
    return f"{file.story}, named .{file.suffix}: {found}" if found else None


def _check_image(seed: int, path: Path) -> str | None:
    image = make_image(seed)
    found = image_difference(image, path.with_suffix(f".{image.suffix}"))
    return f"{image.story}: {found}" if found else None


CHECKS: dict[str, Callable[[int, Path], str | None]] = {
    "audio": _check_audio,
    "images": _check_image,
    "damaged-audio": damaged_audio_difference,
    "damaged-images": damaged_image_difference,
}


def main() -> None:
    """Check seeds; a line before each and a line for each difference."""
    warnings.simplefilter("ignore")
    for kind, first, count in zip(*(sys.argv[start::3] for start in (1, 2, 3)), strict=True):
        _run(kind, int(first), int(count))


def _run(kind: str, first: int, count: int) -> None:
    check = CHECKS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.bin"
        check(first, path)  # what is loaded once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, first + count):
            print(f"{kind} seed {seed}", flush=True)
            found = check(seed, path)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if memory > MEMORY_KB:
                found, before = f"{memory} kB of memory", before + memory
            if found:
                print(f"DIFFERS {kind} seed {seed}: {found}", flush=True)


if __name__ == "__main__":
    main()
