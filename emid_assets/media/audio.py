"""Reading audio: facts about a file, and its samples as float32.

Belongs here: one file in, facts or samples out, and the limits that keep a hostile file from filling the
memory. Spectrograms and all other inputs of a network belong to the encoder.

soundfile (libsndfile) reads wav, flac, ogg, opus, mp3 and aiff. m4a needs PyAV, an optional extra.
"""

import importlib.util
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from emid_assets.media.kinds import PYAV_SUFFIXES
from emid_assets.media.limits import MediaError, MediaLimits

Samples = npt.NDArray[np.float32]

DEFAULT_LIMITS = MediaLimits()

# Frames per block: enough to make the overhead of a block negligible, few enough to fit any memory.
_BLOCK = 1 << 20
# Decoders may return a few frames fewer than the header promises; a truncated file lacks far more.
_MISSING_S = 0.1
# Some Ogg encoders set the end mark on several of the last pages: decoding stops at the first of them, but
# the length in the header is that of the last. (`_ogg_ends` checks that the mark is there.)
_MISSING_OGG_S = 0.5


@dataclass(frozen=True)
class AudioFacts:
    """A clip's length in seconds, and its file's sample rate in Hz and number of channels."""

    duration_s: float
    sample_rate: int
    channels: int


def probe_audio(
    path: Path,
    start_s: float = 0.0,
    duration_s: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> AudioFacts:
    """Decode the whole clip (the file, or a window of it) and return its facts.

    Args:
        path: the file.
        start_s: where the clip starts in the file, seconds.
        duration_s: length of the clip, seconds; to the end of the file if None.
        limits: the limits that the file must respect.

    Raises:
        MediaError: the file is empty, unreadable, truncated or too long, the window is not
            inside it, or the clip is too short, silent or not finite.
    """
    with _Audio(path) as audio:
        if audio.channels > limits.max_channels:
            raise MediaError(f"audio has {audio.channels} channels, the maximum is {limits.max_channels}")
        if audio.length_s > limits.max_duration_s:
            raise MediaError(
                f"audio is too long: {audio.length_s:.0f} s, the maximum is {limits.max_duration_s:g} s"
            )
        first, last = audio.window(start_s, duration_s)
        clip_s = (last - first) / audio.rate
        if clip_s < limits.min_duration_s:
            raise MediaError(
                f"audio is too short: {clip_s:.3g} s, the minimum is {limits.min_duration_s:g} s"
            )
        peak, frames = 0.0, 0
        for block in audio.blocks(first, last):
            frames += block.shape[1]
            # max and min, unlike abs, need no copy; NaN propagates through both.
            peak = float(np.maximum(peak, np.maximum(block.max(), -block.min())))
            if not math.isfinite(peak):
                raise MediaError("audio has samples that are not finite (NaN or infinity)")
        if frames < last - first - audio.missing_s * audio.rate:
            raise MediaError(
                f"audio is truncated: {frames / audio.rate:.2f} of {clip_s:.2f} s could be decoded"
            )
        if peak <= limits.silence_peak:
            raise MediaError(f"audio is silent: no sample is above {limits.silence_peak:g} of full scale")
        return AudioFacts(frames / audio.rate, audio.rate, audio.channels)


def read_header(path: Path) -> AudioFacts:
    """The facts in a file's header, without decoding the file.

    Raises:
        MediaError: the file is empty, unreadable, visibly truncated, or contains no samples.
    """
    with _Audio(path) as audio:
        if audio.frames == 0:
            raise MediaError("audio holds no samples")
        return AudioFacts(audio.length_s, audio.rate, audio.channels)


def read_audio(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> tuple[Samples, int]:
    """Decode a clip.

    Args:
        path: the file.
        start_s: where the clip starts in the file, seconds. A lossy file is always decoded from its
            beginning, since seeking is not sample-accurate.
        duration_s: length of the clip, seconds; to the end of the file if None.

    Returns:
        Samples, float32 of shape (channels, samples), full scale ±1; and the sample rate in Hz.

    Raises:
        MediaError: the file is empty, unreadable or truncated, or the window is not inside it.
    """
    with _Audio(path) as audio:
        samples = audio.samples(*audio.window(start_s, duration_s))
        if samples.shape[1] == 0:
            raise MediaError("audio holds no samples")
        return np.ascontiguousarray(samples), audio.rate


def audio_length(path: Path) -> float:
    """Length of a whole file in seconds, from its header.

    Raises:
        MediaError: the file is empty, unreadable or truncated.
    """
    with _Audio(path) as audio:
        return audio.length_s


class Recording:
    """A whole file, decoded once, to cut windows from.

    Holds every sample as float32: 21 MB for each minute of 44.1 kHz stereo.

    Raises:
        MediaError: see `read_audio`.
    """

    def __init__(self, path: Path) -> None:
        with _Audio(path) as audio:
            self._samples = audio.samples(0, audio.frames)
            self._rate = audio.rate

    def window(self, start_s: float, duration_s: float | None) -> tuple[Samples, int]:
        """A window of the file, with the same samples as `read_audio` returns for it.

        Raises:
            MediaError: the window is not inside the decoded samples.
        """
        decoded = self._samples.shape[1]
        first, last = _window(start_s, duration_s, decoded, self._rate)
        if first == last:
            raise MediaError("audio holds no samples")
        return np.ascontiguousarray(self._samples[:, first:last]), self._rate


def resample(samples: Samples, rate: int, new_rate: int) -> Samples:
    """Resample samples of shape (channels, samples) to another rate (soxr, high quality), float32."""
    if rate == new_rate:
        return samples
    # Imported here: only encoders resample; reading manifests does not need it.
    import soxr

    resampled = soxr.resample(np.ascontiguousarray(samples.T), rate, new_rate, quality="HQ")
    return np.ascontiguousarray(resampled.T, dtype=np.float32)


def missing_extra(suffix: str) -> str | None:
    """Why files with this suffix cannot be read with the installed packages, or None if they can."""
    if suffix.lower() in PYAV_SUFFIXES and not is_pyav_installed():
        return f"audio of type {suffix.lower()} needs PyAV: install it with pip install 'emid-assets[m4a]'"
    return None


def is_pyav_installed() -> bool:
    """Whether the optional extra that reads m4a is installed."""
    return importlib.util.find_spec("av") is not None


class _Audio:
    """An open audio file: one interface to the two libraries that read audio."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing: Any = None
        self._by_pyav = path.suffix.lower() in PYAV_SUFFIXES
        try:
            self._open()
        except MediaError:
            self.__exit__()
            raise
        except Exception as error:  # a parser of hostile bytes may raise anything
            self.__exit__()
            raise MediaError(f"audio is unreadable: {_one_line(error)}") from error
        if self.rate <= 0 or self.channels <= 0:
            self.__exit__()
            raise MediaError("audio is unreadable: it has no sample rate or no channels")

    def _open(self) -> None:
        if self._path.stat().st_size == 0:
            raise MediaError("audio file is empty (0 bytes)")
        if self._by_pyav:
            reason = missing_extra(self._path.suffix)
            if reason:
                raise MediaError(reason)
            import av

            # Only this demuxer, whatever format the bytes claim to have.
            self._closing = container = av.open(str(self._path), format="mp4")
            if not container.streams.audio:
                raise MediaError("audio is unreadable: the file has no audio stream")
            stream = container.streams.audio[0]
            self.rate, self.channels = int(stream.rate), int(stream.channels)
            if stream.duration is None or stream.time_base is None:
                raise MediaError("audio is unreadable: the file does not say how long it is")
            self.frames = round(stream.duration * stream.time_base * self.rate)
            return
        _check_whole(self._path)
        self._closing = file = soundfile.SoundFile(self._path)
        self.rate, self.channels, self.frames = file.samplerate, file.channels, file.frames

    def __enter__(self) -> "_Audio":
        return self

    def __exit__(self, *_: object) -> None:
        if self._closing is not None:
            self._closing.close()

    @property
    def length_s(self) -> float:
        return self.frames / self.rate

    @property
    def missing_s(self) -> float:
        """Seconds by which a whole file may be shorter than its header says."""
        is_ogg = not self._by_pyav and self._closing.format == "OGG"
        return _MISSING_OGG_S if is_ogg else _MISSING_S

    def window(self, start_s: float, duration_s: float | None) -> tuple[int, int]:
        """First and last-but-one frame of a window of the file."""
        return _window(start_s, duration_s, self.frames, self.rate)

    def blocks(self, first: int, last: int) -> Iterator[Samples]:
        """Frames `first` to `last` - 1 in blocks of shape (channels, n), good enough for checks only.

        soundfile seeks after every read, and a lossy decoder restarts there: in mp3 the first 2,000
        samples of each block but the first are wrong. `samples` returns the correct ones.
        """
        try:
            if self._by_pyav:
                yield from self._pyav_blocks(first, last)
                return
            self._closing.seek(first)
            for start in range(first, last, _BLOCK):
                block = self._closing.read(min(_BLOCK, last - start), dtype="float32", always_2d=True)
                if len(block) == 0:
                    return
                yield block.T
        except Exception as error:  # as above
            raise MediaError(f"audio is truncated or damaged: {_one_line(error)}") from error

    def samples(self, first: int, last: int) -> Samples:
        """Frames `first` to `last` - 1, shape (channels, n): the same as a slice of the whole file."""
        try:
            if self._by_pyav:
                blocks = list(self._pyav_blocks(first, last))
                return np.concatenate(blocks, axis=1) if blocks else np.empty((self.channels, 0), np.float32)
            # A seek in Ogg may be off by some hundred samples, and mp3 needs the preceding frames: lossy
            # files are decoded from the start, in one read.
            skipped = first if self._closing.format in ("OGG", "MP3") else 0
            if not skipped:
                self._closing.seek(first)
            read = self._closing.read(skipped + last - first, dtype="float32", always_2d=True)
            whole: Samples = read[skipped:].T
            return whole
        except Exception as error:  # as above
            raise MediaError(f"audio is truncated or damaged: {_one_line(error)}") from error

    def _pyav_blocks(self, first: int, last: int) -> Iterator[Samples]:
        import av

        to_float = av.AudioResampler(format="fltp")
        position = 0
        for frame in self._closing.decode(audio=0):
            for converted in to_float.resample(frame):
                block = converted.to_ndarray().astype(np.float32, copy=False)
                start, stop = max(first - position, 0), min(last - position, block.shape[1])
                position += block.shape[1]
                if start < stop:
                    yield block[:, start:stop]
            if position >= last:
                return


def _window(start_s: float, duration_s: float | None, frames: int, rate: int) -> tuple[int, int]:
    """First and last-but-one frame of a window of a file of so many frames."""
    first = round(start_s * rate)
    last = frames if duration_s is None else round((start_s + duration_s) * rate)
    # Tables round seconds: a window may end slightly after the file and is cut there.
    if first < 0 or first > min(last, frames) or last > frames + _MISSING_S * rate:
        end = "its end" if duration_s is None else f"{start_s + duration_s:g} s"
        raise MediaError(
            f"the window from {start_s:g} s to {end} does not lie in the file, "
            f"which is {frames / rate:.3g} s long"
        )
    return first, min(last, frames)


def _check_whole(path: Path) -> None:
    """Raise if the structure of the file shows that its end is missing or that it is not audio.

    libsndfile silently decodes what is left of a truncated file. It also guesses among dozens of formats;
    this check lets only a few of them through.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(1 << 16)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
            whole = _chunks_end(file, ">I" if head[:4] == b"RIFX" else "<I", size) <= size
        elif head[:4] == b"FORM":
            whole = _chunks_end(file, ">I", size) <= size
        elif head[:4] == b"OggS":
            file.seek(max(0, size - (1 << 17)))
            whole = _ogg_ends(file.read())
        elif head[:4] == b"fLaC":
            whole = True  # the decoder checks every frame, and the header counts them
        elif head[:3] == b"ID3" or _is_mpeg_sync(head.lstrip(b"\0")):
            whole = _mpeg_bytes(file, head) <= size
        else:
            raise MediaError("audio is unreadable: its contents are not WAV, FLAC, Ogg, Opus, MP3 or AIFF")
    if not whole:
        raise MediaError("audio is truncated: the file ends before its end mark or its stated length")


def _chunks_end(file: Any, number: str, size: int) -> int:
    """Where the last chunk of a RIFF or FORM file ends according to its header, at most a pad byte late."""
    offset = 12
    for _ in range(1000):  # a hostile file may contain millions of empty chunks
        file.seek(offset)
        header = file.read(8)
        if len(header) < 8:
            break
        (length,) = struct.unpack(number, header[4:])
        # 0xFFFFFFFF: written by a program that could not seek back to fill in the length.
        if length == 0xFFFFFFFF:
            break
        if offset + 8 + length > size:
            return int(offset + 8 + length)
        offset += 8 + length + length % 2
    return min(offset, size)


def _ogg_ends(tail: bytes) -> bool:
    """Whether the last page in `tail` is complete and has the end-of-stream flag."""
    start = tail.rfind(b"OggS")
    if start < 0 or start + 27 > len(tail):
        return False
    flags, segments = tail[start + 5], tail[start + 26]
    lacing = tail[start + 27 : start + 27 + segments]
    return bool(flags & 4) and len(lacing) == segments and start + 27 + segments + sum(lacing) <= len(tail)


def _is_mpeg_sync(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _mpeg_bytes(file: Any, head: bytes) -> int:
    """Minimum size of an MP3 file according to its Xing or Info header; 0 if it has none."""
    offset = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        # The tag's length is stored with seven bits per byte.
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        offset = 10 + length
    file.seek(offset)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return 0
    (flags,) = struct.unpack(">I", frame[at + 4 : at + 8])
    if not flags & 2:
        return 0
    place = at + 8 + (4 if flags & 1 else 0)
    (declared,) = struct.unpack(">I", frame[place : place + 4])
    # Taggers rewrite files without updating this number: allow 1 % of slack, as players do.
    return int(offset + declared - max(2048, declared // 100))


def _one_line(error: Exception) -> str:
    return (
        " ".join(str(error).replace(str(getattr(error, "filename", "")) or "\0", "").split())
        or type(error).__name__
    )
