"""Makes ImageBind's input from a file, bit for bit as the official code does.

Belongs here: pure functions of samples and pixels, and reading a clip for them. `images.py` makes the
8-bit pixels of an image, `encoder.py` runs the model. Source: facebookresearch/ImageBind,
`imagebind/data.py`, with the versions of torchaudio, torchvision and pytorchvideo that it pins; none of
them is needed here.

The positions of the sub-clips matter: the pytorchvideo version that the official code pins spaces them
from the start of the clip to its end, i (D - 2) / (n - 1); version 0.1.5 on PyPI stops short, at
i (D - 2) / n. Code that uses the PyPI version embeds other seconds, without a warning.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional

from emid_assets.encoders.interface import Float32Array, MediaItem, PreparationError, Prepared
from emid_assets.media.audio import opened_for_seeking, read_audio
from emid_assets.media.hearing import SILENCE

PREPROCESSING_VERSION = "1"

RATE = 16_000
SUB_CLIPS = 3
SUB_CLIP_S = 2
MEL_BINS = 128
FRAMES = 204
FRAME_LENGTH = 400  # 25 ms
FRAME_SHIFT = 160  # 10 ms
FFT = 512
LOW_HZ, HIGH_HZ = 20.0, 8000.0
PREEMPHASIS = 0.97
AUDIO_MEAN, AUDIO_SPREAD = -4.268, 9.138

FILTER_ZEROS = 6
FILTER_ROLLOFF = 0.99

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_SPREAD = (0.26862954, 0.26130258, 0.27577711)

# Formats that allow reading from the middle of the file, and how many seconds must be decoded before
# the wanted samples so that they are bit for bit those of decoding from the start. An mp3 frame borrows
# bits of earlier ones; in mono, and below 32 kHz, its decoder rounds by position. A seek in Ogg may land
# some hundred samples off. Such files are read whole.
PRE_ROLL_S = {"WAV": 0.0, "WAVEX": 0.0, "RF64": 0.0, "AIFF": 0.0, "FLAC": 0.0, "MP3": 0.5}
MP3_SEEK_FROM_HZ = 32_000
READ_WHOLE_BELOW_S = 12.0


def prepare_music(item: MediaItem) -> Prepared:
    """Read a clip: float32 (3, 1, 128, 204), see `audio_input`.

    Only the sub-clips of a long clip are read if the format allows it; the result is the same.
    """
    with opened_for_seeking(item.path) as file:
        if file is not None and file.format in PRE_ROLL_S:
            first, last = round(item.start_s * file.samplerate), file.frames
            if item.duration_s is not None:
                last = round((item.start_s + item.duration_s) * file.samplerate)
            exact_mp3 = file.channels == 2 and file.samplerate >= MP3_SEEK_FROM_HZ
            seekable = file.format != "MP3" or exact_mp3
            is_long = last - first >= READ_WHOLE_BELOW_S * file.samplerate
            if seekable and is_long and first >= 0 and last <= file.frames:
                return _spectrograms(_sub_clips_by_seeking(file, first, last))
    return audio_input(*read_audio(item.path, item.start_s, item.duration_s))


def normalise_pixels(pixels: Tensor) -> Tensor:
    """CLIP's normalisation of uint8 pixels (..., 3, h, w): float32, about -2 to 2."""
    mean, spread = _pixel_constants(pixels.device)
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(spread)


@lru_cache(maxsize=8)
def _pixel_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    # Cached, because creating a tensor on a GPU waits for everything queued there.
    mean, spread = (torch.tensor(values, device=device) for values in (PIXEL_MEAN, PIXEL_SPREAD))
    return mean[:, None, None], spread[:, None, None]


def audio_input(samples: Float32Array, rate: int) -> Float32Array:
    """ImageBind's audio input: log-mel spectrograms of three sub-clips of two seconds.

    Args:
        samples: float32 (channels, n), full scale ±1.
        rate: samples per second.

    Returns:
        float32 (3, 1, 128, 204): sub-clip, channel, mel band, frame of 10 ms.

    Raises:
        PreparationError: fewer samples than one frame of 25 ms, or samples that are not finite.
    """
    # Copy: the sub-clips are views that are changed in place.
    waveform = resample(torch.from_numpy(samples), rate).clone()
    return _spectrograms([waveform[:, start:end] for start, end in sub_clip_bounds(waveform.shape[1])])


def sub_clip_times(
    duration_s: float, sub_clip_s: int = SUB_CLIP_S, sub_clips: int = SUB_CLIPS
) -> list[tuple[Fraction, Fraction]]:
    """Start and end of each sub-clip in seconds: evenly spaced, the last one ends with the clip.

    As `ConstantClipsPerVideoSampler` of pytorchvideo at the commit that ImageBind pins. If the clip is
    shorter than a sub-clip, every sub-clip is the whole clip.
    """
    last_start = Fraction(max(duration_s - sub_clip_s, 0))
    step = last_start / max(sub_clips - 1, 1)
    return [(step * index, step * index + sub_clip_s) for index in range(sub_clips)]


def sub_clip_bounds(samples: int) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each sub-clip, in samples at 16 kHz, of a clip of this many samples."""
    return [
        (int(start * RATE), min(int(end * RATE), samples)) for start, end in sub_clip_times(samples / RATE)
    ]


def resample(waveform: Tensor, rate: int) -> Tensor:
    """Float32 (channels, n) at `rate` to 16 kHz: windowed sinc, as torchaudio's `resample` does by default.

    Hann window, 6 zero crossings, roll-off .99 (Smith, *Digital Audio Resampling*, 2002).
    """
    if rate == RATE:
        return waveform
    before, after = _ratio(rate)
    kernel, width = _resampling_kernel(before, after)
    resampled = _filter(functional.pad(waveform, (width, width + before)), kernel, before)
    return resampled[:, : math.ceil(after * waveform.shape[1] / before)]


def _ratio(rate: int) -> tuple[int, int]:
    """The smallest (a, b) such that a samples at `rate` last as long as b samples at 16 kHz."""
    common = math.gcd(rate, RATE)
    return rate // common, RATE // common


def _filter(padded: Tensor, kernel: Tensor, before: int) -> Tensor:
    """Every phase's filter at every `before` samples: (channels, n) to (channels, blocks × phases)."""
    blocks = functional.conv1d(padded[:, None], kernel, stride=before)
    return blocks.transpose(1, 2).reshape(padded.shape[0], -1)


@lru_cache(maxsize=16)
def _resampling_kernel(before: int, after: int) -> tuple[Tensor, int]:
    """One filter for each of the `after` phases: (after, 1, taps) float32, and half its width."""
    cutoff = min(before, after) * FILTER_ROLLOFF
    width = math.ceil(FILTER_ZEROS * before / cutoff)
    offsets = torch.arange(-width, width + before, dtype=torch.float32)[None, None] / before
    time = torch.arange(0, -after, -1, dtype=torch.float32)[:, None, None] / after + offsets
    time = (time * cutoff).clamp_(-FILTER_ZEROS, FILTER_ZEROS)
    window = torch.cos(time * math.pi / FILTER_ZEROS / 2) ** 2
    time *= math.pi
    kernel = torch.where(time == 0, torch.tensor(1.0), time.sin() / time)
    kernel *= window * (cutoff / before)
    return kernel, width


def log_mel(waveform: Tensor) -> Tensor:
    """Kaldi's log-mel filter bank at 16 kHz: float32 (n,) to (128, frames).

    As `torchaudio.compliance.kaldi.fbank` with 25 ms frames every 10 ms, symmetric Hann window,
    pre-emphasis .97, no dither, power spectrum, floor at float32's epsilon.
    """
    frames = waveform.unfold(0, FRAME_LENGTH, FRAME_SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    earlier = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = frames - PREEMPHASIS * earlier
    frames = frames * torch.hann_window(FRAME_LENGTH, periodic=False)
    spectrum = torch.fft.rfft(functional.pad(frames, (0, FFT - FRAME_LENGTH))).abs().pow(2.0)
    energies = torch.mm(spectrum, _mel_bank().T)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log().T


@lru_cache(maxsize=1)
def _mel_bank() -> Tensor:
    """Triangular filters (128, 257), evenly spaced on Kaldi's mel scale, in float32."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    lowest = mel(LOW_HZ)
    step = (mel(HIGH_HZ) - lowest) / (MEL_BINS + 1)
    band = torch.arange(MEL_BINS)[:, None]
    left = lowest + band * step
    centre = lowest + (band + 1.0) * step
    right = lowest + (band + 2.0) * step
    hertz = RATE / FFT * torch.arange(FFT / 2)
    mels = 1127.0 * (1.0 + hertz / 700.0).log()[None]
    rising = (mels - left) / (centre - left)
    falling = (right - mels) / (right - centre)
    # The bin at the Nyquist frequency is in no filter.
    return functional.pad(torch.minimum(rising, falling).clamp(min=0), (0, 1))


def _spectrograms(clips: list[Tensor]) -> Float32Array:
    """Sub-clips (channels, n) at 16 kHz as normalised spectrograms (3, 1, 128, 204); changes the clips.

    If clips are overlapping views of one waveform, the mean of the earlier clip has already been
    subtracted from the later one, as in the official code.
    """
    spectrograms = []
    for clip in clips:
        if not clip.isfinite().all():
            raise PreparationError("audio has samples that are not finite numbers")
        if clip.shape[1] < FRAME_LENGTH:
            raise PreparationError(
                f"audio is too short: {clip.shape[1] / RATE * 1000:.3g} ms, the least is 25 ms"
            )
        heard = _first_that_sounds(clip)
        clip -= clip.mean()
        spectrogram = log_mel(clip[heard])
        missing = FRAMES - spectrogram.shape[1]
        # Padding with zeros after the logarithm, which are neither silence nor the mean.
        spectrogram = functional.pad(spectrogram, (0, missing))
        spectrograms.append(((spectrogram - AUDIO_MEAN) / AUDIO_SPREAD)[None])
    return torch.stack(spectrograms).numpy()


def _first_that_sounds(clip: Tensor) -> int:
    """The channel to hear: the first, as in the official code, unless it is silent and another is not."""
    sounds = (clip.amax(dim=1) - clip.amin(dim=1)) / 2 > SILENCE
    return int(sounds.to(torch.uint8).argmax())


def _sub_clips_by_seeking(file: soundfile.SoundFile, first: int, last: int) -> list[Tensor]:
    """The sub-clips of frames `first` to `last` - 1, at 16 kHz, reading only what they need.

    Reading starts at the start of a block of the resampling filter, so that every output sample is the
    same sum of the same products as if the whole clip were resampled.
    """
    frames = last - first
    before, after = _ratio(file.samplerate)
    kernel, width = _resampling_kernel(before, after)
    clips = []
    for start, end in sub_clip_bounds(math.ceil(after * frames / before)):
        if file.samplerate == RATE:
            clips.append(_as_a_slice(_read(file, first + start, first + end)))
            continue
        block, blocks_end = start // after, -(-end // after)
        low, high = block * before - width, blocks_end * before + width
        samples = _read(file, first + max(low, 0), first + min(high, frames))
        padded = functional.pad(samples, (max(-low, 0), max(high - frames, 0)))
        resampled = _filter(padded, kernel, before)
        clips.append(_as_a_slice(resampled[:, start - block * after : end - block * after]))
    return clips


def _as_a_slice(clip: Tensor) -> Tensor:
    """The clip with a gap between its channels in memory, as in a slice of a longer waveform.

    torch sums contiguous memory in another order: the mean would differ in its last bit.
    """
    return functional.pad(clip, (0, 1))[:, :-1]


def _read(file: soundfile.SoundFile, start: int, end: int) -> Tensor:
    """Frames `start` to `end` - 1: float32 (channels, n)."""
    pre_roll = min(start, round(PRE_ROLL_S[file.format] * file.samplerate))
    try:
        file.seek(start - pre_roll)
        samples = file.read(pre_roll + end - start, dtype="float32", always_2d=True)[pre_roll:]
    except soundfile.LibsndfileError as error:
        raise PreparationError(f"audio is damaged: {error}") from error
    if len(samples) < end - start:
        end_s = (start + len(samples)) / file.samplerate
        raise PreparationError(f"audio is truncated: nothing can be decoded after {end_s:.2f} s")
    return torch.from_numpy(np.ascontiguousarray(samples.T))
