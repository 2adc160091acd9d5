"""What a sound file really holds, whatever its headers say: which library reads it, and how long it is.

Belongs here: walking the frames, pages and chunks of the containers, without decoding. `audio` decodes.

libsndfile believes a header, or estimates a length from the size of the file, and never returns more samples
than that. Where a header does not count what follows it, the file is read behind a header that does.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from emid_assets.media.limits import MediaError

MISSING_S = 0.1
"""Seconds by which a whole file may be shorter than its header says."""

_TRUNCATED = "audio is truncated: the file ends before its end mark or its stated length"
_SEVERAL = (
    "audio holds several streams one after the other: save each as a file, or all of them as one stream"
)

# A program that writes into a pipe cannot go back and fill in the length: it leaves 0, or a number at the end
# of the range of a signed or unsigned 32-bit number.
_UNKNOWN_FROM = 0x7FFF0000
_MAX_CHUNKS = 1000  # a hostile file may contain millions of empty chunks


@dataclass(frozen=True)
class SoundFile:
    """How to read a file.

    Attributes:
        reader: `sndfile` for libsndfile, or the demuxer of FFmpeg that reads it.
        head: bytes that replace the first `skip` bytes of the file; None if the file is read as it is.
        skip: see `head`.
        end: where the bytes to read end; None for the end of the file.
        is_counted: whether the header that is read counts the samples that can be decoded.
    """

    reader: Literal["sndfile", "mp4", "aac"]
    head: bytes | None = None
    skip: int = 0
    end: int | None = None
    is_counted: bool = True


def examine(path: Path) -> SoundFile:
    """How to read the file at `path`, by its contents and not by its name.

    Raises:
        MediaError: it is empty, not a known sound file, visibly truncated, or holds several streams one
            after the other.
    """
    with path.open("rb") as file:
        content = _Content(file)
        if content.size == 0:
            raise MediaError("audio file is empty (0 bytes)")
        start = _behind_id3(content, 0)
        head = content.at(start, 12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
            return _examine_wave(content)
        if head[:4] == b"FORM":
            return _examine_aiff(content)
        if head[:4] == b"OggS":
            return _examine_ogg(content)
        if head[:4] == b"fLaC":
            return _examine_flac(content, start)
        if head[4:8] == b"ftyp":
            return SoundFile("mp4")
        if _is_adts(head):
            return SoundFile("aac")
        first = _first_mpeg_frame(content, start)
        if first is not None:
            return _examine_mpeg(content, first, content.size, is_whole_file=True)
        raise MediaError("audio is unreadable: its contents are not WAV, FLAC, Ogg, Opus, MP3, AIFF or M4A")


class Spliced(io.RawIOBase):
    """A file of which other bytes replace the beginning, for libsndfile."""

    def __init__(self, path: Path, sound: SoundFile) -> None:
        self._file = path.open("rb", buffering=1 << 16)
        self._head = sound.head or b""
        self._skip = sound.skip
        end = self._file.seek(0, io.SEEK_END) if sound.end is None else sound.end
        self._size = len(self._head) + max(0, end - sound.skip)
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place in the spliced bytes."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the spliced bytes."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill the buffer, as far as the bytes go."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._place))
        filled = 0
        if self._place < len(self._head):
            part = self._head[self._place : self._place + wanted]
            view[: len(part)] = part
            filled = len(part)
        if filled < wanted:
            self._file.seek(self._place + filled - len(self._head) + self._skip)
            part = self._file.read(wanted - filled)
            view[filled : filled + len(part)] = part
            filled += len(part)
        self._place += filled
        return filled

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _Content:
    """Random access to the bytes of a file in large reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._start, self._block = 0, b""

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer at the end of the file."""
        place = offset - self._start
        if place < 0 or place + count > len(self._block):
            self._file.seek(offset)
            self._start, self._block, place = offset, self._file.read(max(count, 1 << 18)), 0
        return self._block[place : place + count]


def _behind_id3(content: _Content, offset: int) -> int:
    """Where the bytes behind an ID3v2 tag start; `offset` if there is none."""
    head = content.at(offset, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return offset
    length = 0
    for byte in head[6:10]:  # seven bits per byte
        length = length << 7 | byte & 0x7F
    return offset + 10 + length + (10 if head[5] & 0x10 else 0)


# ------------------------------------------------------------------------------------ WAV and AIFF


def _chunks(content: _Content, endian: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and stated length of each chunk of a RIFF or FORM file."""
    offset = 12
    for _ in range(_MAX_CHUNKS):
        header = content.at(offset, 8)
        if len(header) < 8:
            return
        (length,) = struct.unpack(endian + "I", header[4:])
        yield header[:4], offset + 8, length
        offset += 8 + length + length % 2


def _is_unknown(length: int, available: int) -> bool:
    return available > 0 and (length == 0 or (length >= _UNKNOWN_FROM and length > available))


def _examine_wave(content: _Content) -> SoundFile:
    endian = ">" if content.at(0, 4) == b"RIFX" else "<"
    bytes_per_s, tag, long_length = 0, 0, None
    for name, start, stated in _chunks(content, endian):
        length = stated
        if name == b"fmt ":
            tag, _, _, bytes_per_s = struct.unpack(endian + "HHII", content.at(start, 12).ljust(12, b"\0"))
        if name == b"ds64":
            (long_length,) = struct.unpack("<Q", content.at(start + 8, 8).ljust(8, b"\0"))
        if name != b"data":
            continue
        if length == 0xFFFFFFFF and long_length:
            length = long_length
        available = content.size - start
        unknown = _is_unknown(length, available)
        if not unknown and length - available > bytes_per_s * MISSING_S:
            raise MediaError(_TRUNCATED)
        end = content.size if unknown else min(start + length, content.size)
        if tag == 0x55:
            return _examine_mpeg(content, start, end, is_whole_file=False)
        if unknown and available < 0xFFFFFF00:
            head = bytearray(content.at(0, start))
            head[4:8] = struct.pack(endian + "I", start - 8 + available)
            head[start - 4 : start] = struct.pack(endian + "I", available)
            return SoundFile("sndfile", bytes(head), start)
        return SoundFile("sndfile")
    raise MediaError("audio is truncated: its WAV file ends before the samples begin")


def _examine_aiff(content: _Content) -> SoundFile:
    common, frames_at = b"", 0
    for name, start, length in _chunks(content, ">"):
        if name == b"COMM":
            common, frames_at = content.at(start, 22), start + 2
        if name != b"SSND" or len(common) < 18:
            continue
        channels, frames, bits = struct.unpack(">HIH", common[:8])
        bytes_per_frame = channels * ((bits + 7) // 8)
        available = content.size - start
        unknown = _is_unknown(length, available)
        plain = content.at(8, 4) == b"AIFF" or common[18:22] in (b"NONE", b"twos", b"sowt", b"fl32", b"FL32")
        # 80-bit extended precision: an exponent and 64 bits of mantissa, of which 32 are plenty.
        exponent, mantissa = struct.unpack(">HI", common[8:14])
        rate = mantissa * 2.0 ** (min(exponent, 16_446) - 16_414) if exponent < 16_446 else 0.0
        if not unknown and length - available > bytes_per_frame * rate * MISSING_S:
            raise MediaError(_TRUNCATED)
        counted = max(0, (available if unknown else min(length, available)) - 8) // max(1, bytes_per_frame)
        if unknown or (plain and frames > counted):
            head = bytearray(content.at(0, start))
            head[4:8] = struct.pack(">I", content.size - 8)
            if plain:
                head[frames_at : frames_at + 4] = struct.pack(">I", counted)
            head[start - 4 : start] = struct.pack(">I", available if unknown else min(length, available))
            return SoundFile("sndfile", bytes(head), start)
        return SoundFile("sndfile")
    raise MediaError("audio is truncated: its AIFF file ends before the samples begin")


# --------------------------------------------------------------------------------------------- Ogg


def _examine_ogg(content: _Content) -> SoundFile:
    """Ogg pages up to the end mark: libsndfile decodes what is left of a truncated file without a word."""
    offset, begun, last_flags, end_marks = 0, False, 0, 0
    while len(header := content.at(offset, 27)) == 27 and header[:4] == b"OggS":
        lacing = content.at(offset + 27, header[26])
        end = offset + 27 + header[26] + sum(lacing)
        if len(lacing) < header[26] or end > content.size:
            raise MediaError(_TRUNCATED)
        is_first = bool(header[5] & 2)
        if is_first and begun:
            raise MediaError(_SEVERAL)
        begun = begun or not is_first
        if is_first and content.at(offset + 27 + header[26], 5) == b"\x7fFLAC":
            raise MediaError("audio is FLAC in Ogg, which cannot be read: save it as .flac")
        offset, last_flags = end, header[5]
        end_marks += last_flags >> 2 & 1
    if offset < content.size and offset > 0 and b"OggS" in content.at(offset, 1 << 17):
        raise MediaError("audio is damaged: bytes are missing or wrong between two of its Ogg pages")
    if not last_flags & 4:
        raise MediaError(_TRUNCATED)
    # Some encoders set the end mark on several of the last pages: decoding stops at the first of them, but
    # the length in the header is that of the last.
    return SoundFile("sndfile", is_counted=end_marks == 1)


# -------------------------------------------------------------------------------------------- FLAC

_FLAC_MARK = b"fLaC\0\0\0\x22"


def _examine_flac(content: _Content, start: int) -> SoundFile:
    """A FLAC file's header counts its samples, or else its last frame does."""
    if start:
        raise MediaError("audio is FLAC behind an ID3 tag, which cannot be read: remove the tag")
    info = content.at(0, 42)
    if len(info) < 42 or info[4] & 0x7F:
        raise MediaError(_TRUNCATED)
    overlap = len(_FLAC_MARK)
    for place in range(4, content.size, 1 << 20):
        block = content.at(place, (1 << 20) + overlap)
        if _FLAC_MARK in block or b"fLaC\x80\0\0\x22" in block:
            raise MediaError(_SEVERAL)
    stated = int.from_bytes(info[21:26], "big") & (1 << 36) - 1
    rate = int.from_bytes(info[18:21], "big") >> 4
    last = _last_flac_frame(content)
    if last is None:
        raise MediaError("audio is truncated or damaged: it has no FLAC frame")
    if last.rate not in (None, rate) or last.channels != (info[20] >> 1 & 7) + 1:
        raise MediaError("audio is damaged: its header and its frames differ in sample rate or channels")
    counted = last.samples + last.number * (1 if last.counts_samples else int.from_bytes(info[8:10], "big"))
    if stated == 0:
        head = bytearray(info[:26])
        total = (int.from_bytes(info[21:26], "big") & ~((1 << 36) - 1)) | counted
        head[21:26] = total.to_bytes(5, "big")
        return SoundFile("sndfile", bytes(head), 26)
    if stated - counted > rate * MISSING_S:
        raise MediaError(_TRUNCATED)
    if counted > stated:
        raise MediaError(
            f"audio is damaged: its header states {stated / max(rate, 1):.2f} s, and its frames reach "
            f"{counted / max(rate, 1):.2f} s"
        )
    return SoundFile("sndfile")


_FLAC_HZ = {
    1: 88_200, 2: 176_400, 3: 192_000, 4: 8000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000, 9: 44_100,
    10: 48_000, 11: 96_000,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _FlacFrame:
    """What the header of a FLAC frame says.

    Attributes:
        number: of the frame, or of its first sample.
        counts_samples: whether `number` is that of a sample.
        samples: samples per channel.
        rate: samples per second; None if only the file's header tells.
        channels: number of channels.
    """

    number: int
    counts_samples: bool
    samples: int
    rate: int | None
    channels: int


def _last_flac_frame(content: _Content) -> _FlacFrame | None:
    tail_size = min(content.size, 1 << 22)
    tail = content.at(content.size - tail_size, tail_size)
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        if tail[place + 1 : place + 2] in (b"\xf8", b"\xf9"):
            frame = _flac_frame(tail[place : place + 16])
            if frame is not None:
                return frame
    return None


def _flac_frame(head: bytes) -> _FlacFrame | None:
    """The FLAC frame with this header; None if it is not one (RFC 9639, 9.1)."""
    head = head.ljust(16, b"\0")
    size_code, rate_code, channel_code = head[2] >> 4, head[2] & 15, head[3] >> 4
    if size_code == 0 or rate_code == 15 or head[3] & 1 or channel_code > 10:
        return None
    lead = head[4]
    more = 0 if lead < 0x80 else 7 - (lead ^ 0xFF).bit_length()
    if more > 6 or 0x80 <= lead < 0xC0:
        return None
    number = lead if more == 0 else lead & (0x3F >> more)
    for byte in head[5 : 5 + more]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    place = 5 + more
    if size_code in (6, 7):
        width = size_code - 5
        samples = int.from_bytes(head[place : place + width], "big") + 1
        place += width
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _crc8(head[:place]) != head[place]:
        return None
    channels = channel_code + 1 if channel_code < 8 else 2
    return _FlacFrame(number, bool(head[1] & 1), samples, _FLAC_HZ.get(rate_code), channels)


def _crc8(data: bytes) -> int:
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ 0x07 if remainder & 0x80 else remainder << 1) & 0xFF
    return remainder


# -------------------------------------------------------------------------------------------- MPEG

_KBIT = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBIT[2, 3] = _KBIT[2, 2]
_HZ = (44_100, 48_000, 32_000)


@dataclass(frozen=True, slots=True)
class _MpegFrame:
    """What the header of an MPEG audio frame says.

    Attributes:
        layer: 1, 2 or 3.
        rate: samples per second.
        is_mono: one channel.
        samples: samples per channel.
        size: bytes, header included.
        data_at: layer 3: where the main data starts in the frame; an Info header is there.
    """

    layer: int
    rate: int
    is_mono: bool
    samples: int
    size: int
    data_at: int


_frames_seen: dict[bytes, _MpegFrame | None] = {}


def _mpeg_frame(header: bytes) -> _MpegFrame | None:
    """The frame with this header of four bytes; None if it is not one."""
    if header not in _frames_seen:
        if len(_frames_seen) > 4096:  # bytes of a hostile file
            _frames_seen.clear()
        _frames_seen[header] = _parse_mpeg_frame(header)
    return _frames_seen[header]


def _parse_mpeg_frame(header: bytes) -> _MpegFrame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_code, kbit_code = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_code == 3 or kbit_code in (0, 15):
        return None
    is_first = version == 3
    rate = _HZ[rate_code] // {3: 1, 2: 2, 0: 4}[version]
    bits_per_s = _KBIT[1 if is_first else 2, layer][kbit_code] * 1000
    padding = header[2] >> 1 & 1
    is_mono = header[3] >> 6 == 3
    if layer == 1:
        samples, size = 384, (12 * bits_per_s // rate + padding) * 4
    else:
        samples = 1152 if is_first or layer == 2 else 576
        size = samples // 8 * bits_per_s // rate + padding
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return _MpegFrame(layer, rate, is_mono, samples, size, 4 + side)


def _first_mpeg_frame(content: _Content, start: int) -> int | None:
    """Where the first frame starts: at `start`, or in the 64 KiB behind it where a stream was cut."""
    head = content.at(start, 1 << 16)
    place = len(head) - len(head.lstrip(b"\0"))
    while (place := head.find(b"\xff", place)) >= 0:
        # Two bytes of chance look like a header, four frames in a row do not. A frame at the very start is
        # believed with fewer behind it: a file may be that short.
        at = start + place
        if _frames_in_a_row(content, at, 4) or (place == 0 and _frames_in_a_row(content, at, 1)):
            return at
        place += 1
    return None


def _frames_in_a_row(content: _Content, offset: int, needed: int) -> bool:
    first = _mpeg_frame(content.at(offset, 4))
    for _ in range(needed):
        frame = _mpeg_frame(content.at(offset, 4))
        if frame is None or first is None or (frame.layer, frame.rate) != (first.layer, first.rate):
            return False
        offset += frame.size
    return True


def _examine_mpeg(content: _Content, start: int, end: int, *, is_whole_file: bool) -> SoundFile:
    """MPEG audio, of which only an Info header counts the frames.

    If it counts what is there and nothing lies between the frames, the file is read as it is. Otherwise the
    frames are read behind an Info header that counts them: libsndfile estimates the length of a file without
    one, ends where the one at the start says, and writes to the terminal about bytes that are no frames.
    """
    first = _mpeg_frame(content.at(start, 4))
    if first is None:
        raise MediaError("audio is unreadable: its MPEG frames have no known size")
    stated = _stated_frames(content.at(start, first.size), first)
    runs, count = _mpeg_runs(content, start, end, first)
    if count == 0:
        raise MediaError("audio is truncated: it has no whole frame")
    if stated is not None:
        frames, size = stated
        if (frames - count) * first.samples > first.rate * MISSING_S:
            raise MediaError(
                f"audio is truncated: {count * first.samples / first.rate:.2f} of "
                f"{frames * first.samples / first.rate:.2f} s are in the file"
            )
        if abs(frames - count) <= 1:
            rest = (content.size if is_whole_file else end) - start
            if len(runs) == 1 and (size == 0 or abs(size - rest) * 100 <= rest):
                return SoundFile("sndfile")
            # Tags or other bytes behind the frames: the same header with the size of the frames alone.
            bytes_there = first.size + sum(run_end - run_start for run_start, run_end in runs)
            return _spliced(content, _with_size(content.at(start, first.size), first, bytes_there), runs)
    if first.layer != 3:
        return SoundFile("sndfile")
    return _spliced(content, _info_frame(content.at(start, 4), count, runs), runs)


def _spliced(content: _Content, head: bytes, runs: list[tuple[int, int]]) -> SoundFile:
    if len(runs) == 1:
        return SoundFile("sndfile", head, *runs[0])
    parts = (content.at(start, end - start) for start, end in runs)
    return SoundFile("sndfile", head + b"".join(parts), content.size)


def _mpeg_runs(
    content: _Content, start: int, end: int, first: _MpegFrame
) -> tuple[list[tuple[int, int]], int]:
    """Bytes that hold nothing but frames of sound, as (start, end), and the number of these frames.

    Info headers, tags and bytes that are no frames lie between them.

    Raises:
        MediaError: the frames are not all of one sort.
    """
    runs: list[tuple[int, int]] = []
    begin, offset, count = start, start, 0
    kind = (first.layer, first.rate, first.is_mono)

    def close() -> None:
        if offset > begin:
            runs.append((begin, offset))

    while offset + 4 <= end:
        head = content.at(offset, 44)
        frame = _mpeg_frame(head[:4])
        if frame is not None and offset + frame.size > end:
            break
        if frame is None:
            close()
            begin = offset = _next_frame(content, offset, end)
            continue
        if (frame.layer, frame.rate, frame.is_mono) != kind:
            raise MediaError(f"{_SEVERAL} (they differ in sample rate or channels)")
        if frame.layer == 3 and head[frame.data_at : frame.data_at + 4] in (b"Xing", b"Info", b"VBRI"):
            close()
            begin = offset + frame.size
        else:
            count += 1
        offset += frame.size
    close()
    return runs, count


def _next_frame(content: _Content, offset: int, end: int) -> int:
    """Where frames go on behind bytes that are none; the end if nowhere."""
    behind = _behind_id3(content, offset)
    if behind > offset:
        return min(behind, end)
    while offset < end:
        block = content.at(offset, 1 << 16)
        place = block.find(b"\xff", 1)
        if place < 0:
            offset += max(1, len(block) - 1)
        else:
            offset += place
            if _frames_in_a_row(content, offset, 3):
                return offset
    return end


def _stated_frames(frame: bytes, kind: _MpegFrame) -> tuple[int, int] | None:
    """Number of frames and bytes in the Info header of a file's first frame; bytes are 0 if it has none."""
    info = frame[kind.data_at :]
    if kind.layer != 3 or info[:4] not in (b"Xing", b"Info") or len(info) < 16 or not info[7] & 1:
        return None
    (frames,) = struct.unpack(">I", info[8:12])
    (size,) = struct.unpack(">I", info[12:16]) if info[7] & 2 else (0,)
    return frames, size


def _with_size(frame: bytes, kind: _MpegFrame, size: int) -> bytes:
    place = kind.data_at + 12
    return frame[:place] + struct.pack(">I", size) + frame[place + 4 :]


def _info_frame(header: bytes, count: int, runs: list[tuple[int, int]]) -> bytes:
    """A frame of silence with an Info header, in front of `count` frames like the one with this header."""
    for kbit_code in range(1, 15):
        own = bytes((header[0], header[1] | 1, kbit_code << 4 | header[2] & 0x0C, header[3]))
        frame = _mpeg_frame(own)
        if frame is not None and frame.size >= 64:
            size = frame.size + sum(end - start for start, end in runs)
            info = b"Xing" + struct.pack(">III", 3, count, size)
            return (own.ljust(frame.data_at, b"\0") + info).ljust(frame.size, b"\0")
    raise MediaError("audio is unreadable: its MPEG frames are too small")


def _is_adts(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
