"""FFmpeg, through PyAV: the reference for what a file holds. It shares no code with libsndfile or Pillow."""

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


def decode_audio(path: Path) -> tuple[Samples, int]:
    """Every sample of a file (channels, n), and its rate in Hz; the format is probed from the contents.

    Packets that are no sound (tags, damage) are left out, as FFmpeg's own program does.
    """
    blocks: list[Samples] = []
    with av.open(str(path)) as container:
        to_float = av.AudioResampler(format="flt")  # interleaved: PyAV crashes on eight planes
        rate = 0
        for packet in container.demux(audio=0):
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    rate = frame.sample_rate
                    for part in to_float.resample(frame):
                        blocks.append(part.to_ndarray().reshape(-1, part.layout.nb_channels).T.copy())
    return np.concatenate(blocks, axis=1), rate


def decode_image(path: Path) -> npt.NDArray[np.uint8]:
    """The first picture of a file as RGB (height, width, 3)."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        return pixels


def lag(ours: Samples, theirs: Samples, most: int) -> int:
    """By how many samples `ours` starts later than `theirs`, from -most to most: the best correlation."""
    n = min(len(ours), len(theirs), 1 << 16)
    size = 1 << (2 * n - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(ours[:n], size) * np.conj(np.fft.rfft(theirs[:n], size)), size)
    lags = np.concatenate([product[: most + 1], product[-most:]])
    best = int(np.argmax(lags))
    return best if best <= most else best - len(lags)


def difference(ours: Samples, theirs: Samples, most: int = 3000) -> float:
    """Power of the difference of two signals in relation to the power of theirs, after aligning them."""
    shift = lag(ours[0], theirs[0], most)
    a, b = ours[:, max(shift, 0) :], theirs[:, max(-shift, 0) :]
    n = min(a.shape[1], b.shape[1])
    a, b = a[:, :n].astype(np.float64), b[:, :n].astype(np.float64)
    return float(((a - b) ** 2).sum() / max((b**2).sum(), 1e-12))
