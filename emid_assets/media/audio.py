"""Reading audio: facts about a file, and its samples as float32.

Belongs here: one file in, facts or samples out, and the limits that keep a hostile file from filling the
memory. Spectrograms and all other inputs of a network belong to the encoder.

soundfile (libsndfile) reads wav, flac, ogg, opus, mp3 and aiff. m4a and aac need PyAV, an optional extra.
`sound_files` says what a file is and where its sound ends.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from emid_assets.media.decoder_messages import unheard
from emid_assets.media.hearing import Judge
from emid_assets.media.limits import MediaError, MediaLimits, MissingExtraError
from emid_assets.media.sound_files import MISSING_S, Spliced, examine

Samples = npt.NDArray[np.float32]

DEFAULT_LIMITS = MediaLimits()

# Frames per block: enough to make the overhead of a block negligible, few enough to fit any memory.
_BLOCK = 1 << 20
# What a whole file may lack whose header does not count what can be decoded.
_UNCOUNTED_S = 0.5
_ENDLESS = 1 << 62


@dataclass(frozen=True)
class AudioFacts:
    """A clip's length in seconds, its file's sample rate in Hz and number of channels, and what was judged.

    `silent_channels` is how many channels are silent while others sound; unknown, and 0, of a header alone.
    """

    duration_s: float
    sample_rate: int
    channels: int
    silent_channels: int = 0


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
        judge, frames = Judge(audio.channels, limits), 0
        for block in audio.blocks(first, last):
            frames += block.shape[1]
            judge.add(block)
        if frames < last - first - MISSING_S * audio.rate:
            raise MediaError(
                f"audio is truncated: {frames / audio.rate:.2f} of {clip_s:.2f} s could be decoded"
            )
        return AudioFacts(frames / audio.rate, audio.rate, audio.channels, judge.verdict())


def read_header(path: Path) -> AudioFacts:
    """The facts of a whole file, without decoding it where possible.

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


@contextmanager
def opened_for_seeking(path: Path) -> Iterator[soundfile.SoundFile | None]:
    """The open file, whose length is exact; None if it must be read by `read_audio`.

    Raises:
        MediaError: the file is empty, unreadable or truncated.
    """
    with _Audio(path) as audio:
        yield audio.seekable()


def audio_length(path: Path) -> float:
    """Length of a whole file in seconds, without decoding it where possible.

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


def is_pyav_installed() -> bool:
    """Whether the optional extra that reads m4a is installed."""
    return importlib.util.find_spec("av") is not None


class _Audio:
    """An open audio file: one interface to the two libraries that read audio."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing: Any = None
        self._source: Spliced | None = None
        self._around = ExitStack()
        try:
            self._sound = examine(path)
            self._by_pyav = self._sound.reader != "sndfile"
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
        if self._by_pyav:
            self._open_pyav()
            return
        self._around.enter_context(unheard())
        if self._sound.head is not None:
            self._source = self._around.enter_context(Spliced(self._path, self._sound))
        self._closing = file = soundfile.SoundFile(self._path if self._source is None else self._source)
        self.rate, self.channels, self.frames = file.samplerate, file.channels, file.frames
        if not self._sound.is_counted:
            stated, self.frames = self.frames, sum(block.shape[1] for block in self.blocks(0, self.frames))
            if stated - self.frames > _UNCOUNTED_S * self.rate:
                raise MediaError(
                    f"audio is truncated: {self.length_s:.2f} of {stated / self.rate:.2f} s could be decoded"
                )

    def _open_pyav(self) -> None:
        if not is_pyav_installed():
            raise MissingExtraError("audio is AAC or M4A, which needs PyAV: pip install 'emid-assets[m4a]'")
        self._closing = container = self._pyav_container()
        stream = container.streams.audio[0]
        self.rate, self.channels = int(stream.rate), int(stream.channels)
        stated = 0.0
        if stream.duration is not None and stream.time_base is not None:
            stated = float(stream.duration * stream.time_base)
        # The packets, without decoding them: they are what is there.
        held = sum(float(packet.duration * packet.time_base) for packet in container.demux(stream)
                   if packet.size and packet.duration)  # fmt: skip
        container.close()
        self._closing = self._pyav_container()
        if self._sound.reader == "mp4" and abs(stated - held) <= MISSING_S:
            self.frames = round(stated * self.rate)
        elif stated - held > MISSING_S and self._sound.reader == "mp4":
            raise MediaError(f"audio is truncated: {held:.2f} of {stated:.2f} s are in the file")
        else:
            self.frames = sum(block.shape[1] for block in self._pyav_blocks(0, _ENDLESS))

    def _pyav_container(self) -> Any:
        import av

        # Only this demuxer, whatever format the bytes claim to have.
        container = av.open(str(self._path), format=self._sound.reader)
        if not container.streams.audio:
            container.close()
            raise MediaError("audio is unreadable: the file has no audio stream")
        return container

    def __enter__(self) -> "_Audio":
        return self

    def __exit__(self, *_: object) -> None:
        if self._closing is not None:
            self._closing.close()
        self._around.close()

    @property
    def length_s(self) -> float:
        seconds: float = self.frames / self.rate
        return seconds

    def window(self, start_s: float, duration_s: float | None) -> tuple[int, int]:
        """First and last-but-one frame of a window of the file."""
        return _window(start_s, duration_s, self.frames, self.rate)

    def seekable(self) -> "soundfile.SoundFile | None":
        """The file for a reader that seeks in it; None if that is not possible, or not exact."""
        return None if self._by_pyav or self._source is not None else self._closing

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

        self._closing.close()  # each pass starts at the beginning
        self._closing = container = self._pyav_container()
        # Interleaved: PyAV 18 crashes on the planes of eight channels.
        to_float = av.AudioResampler(format="flt")
        position = 0
        for frame in container.decode(audio=0):
            for converted in to_float.resample(frame):
                interleaved = converted.to_ndarray().reshape(-1, converted.layout.nb_channels)
                block = interleaved.T.astype(np.float32, copy=False)
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
    if first < 0 or first > min(last, frames) or last > frames + MISSING_S * rate:
        end = "its end" if duration_s is None else f"{start_s + duration_s:g} s"
        raise MediaError(
            f"the window from {start_s:g} s to {end} does not lie in the file, "
            f"which is {frames / rate:.3g} s long"
        )
    return first, min(last, frames)


def _one_line(error: Exception) -> str:
    return (
        " ".join(str(error).replace(str(getattr(error, "filename", "")) or "\0", "").split())
        or type(error).__name__
    )
