"""The size in the header of a JPEG XL image (ISO/IEC 18181-1).

Belongs here: the few bits that say how large an image is, since the decoder offers no way to ask it before it
decodes.
"""

from emid_assets.media.limits import MediaError

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def jxl_size(head: bytes) -> tuple[int, int]:
    """Width and height of the JPEG XL image that starts with these bytes; before it is turned.

    Raises:
        MediaError: the bytes contain no size.
    """
    stream = _codestream(head)
    if len(stream) < 12:
        raise MediaError("image is truncated: its JPEG XL header is not complete")
    bits, place = int.from_bytes(stream[2:12], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        value = bits >> place & (1 << count) - 1
        place += count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _codestream(head: bytes) -> bytes:
    """The image's own bytes, out of the boxes of a container if there is one."""
    if head.startswith(b"\xff\x0a"):
        return head
    place = 0
    while place + 8 <= len(head):
        size, name = int.from_bytes(head[place : place + 4], "big"), head[place + 4 : place + 8]
        start = place + (16 if size == 1 else 8)
        if name in (b"jxlc", b"jxlp"):
            return head[start + (4 if name == b"jxlp" else 0) :]
        if size == 1:
            size = int.from_bytes(head[place + 8 : place + 16], "big")
        if size < 8:
            break
        place += size
    return b""
