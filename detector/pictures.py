"""From the bytes of a frame to pixels, without trusting the bytes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from broker import Frame
from config import BadPayloadError

__all__ = ["PIXELS_MAX", "Picture", "jpeg_size", "read_picture"]

Picture = NDArray[np.uint8]
"""Pixels, [height, width, 3], blue-green-red, 0 to 255."""

PIXELS_MAX = 7680 * 4320
"""The largest picture that is decoded: 8K, 100 MB of pixels. A JPEG of a kilobyte can claim 4,295 Mpx."""

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""SOF0 to SOF15 without DHT, JPG and DAC. Source: ITU-T T.81, table B.1."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_SOS = 0xDA
_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""Decoding at a whole fraction of the size leaves out much of the work."""


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height that the JPEG's header declares, in pixels; decodes nothing.

    Raises:
        BadPayloadError: there is no frame header.

    Source: ITU-T T.81, B.2.2 (frame header).
    """
    position = 2
    while position + 9 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker in _START_OF_FRAME:
            height = int.from_bytes(jpeg[position + 5 : position + 7], "big")
            width = int.from_bytes(jpeg[position + 7 : position + 9], "big")
            return width, height
        if marker == _SOS:
            break
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            position += 2 + max(2, int.from_bytes(jpeg[position + 2 : position + 4], "big"))
    raise BadPayloadError("the JPEG has no frame header", size_bytes=len(jpeg))


def read_picture(frame: Frame, fits_px: tuple[int, int] | None = None) -> Picture:
    """Decode a frame.

    Args:
        frame: as it came.
        fits_px: width and height of what the picture will be made to fit into: it may come out at a half, a quarter
            or an eighth of its size, but no smaller than it will be needed; None decodes it at its own size.

    Raises:
        BadPayloadError: the picture is too large, cannot be decoded, or is not of the size that its metadata says.
    """
    jpeg = frame.jpeg
    width, height = _checked_size(frame)
    # A camera's orientation tag would turn the picture away from the boxes of its metadata.
    flags = _COLOUR[_reduction(width, height, fits_px)] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    except cv2.error as error:
        raise BadPayloadError(f"the JPEG cannot be decoded: {error.err}", size_bytes=len(jpeg)) from error
    if picture is None:
        raise BadPayloadError("the JPEG cannot be decoded", size_bytes=len(jpeg))
    return np.asarray(picture, np.uint8)


def _checked_size(frame: Frame) -> tuple[int, int]:
    jpeg, meta = frame.jpeg, frame.meta
    width, height = jpeg_size(jpeg)
    if width * height > PIXELS_MAX:
        raise BadPayloadError(
            f"a picture of {width}x{height} is more than the {PIXELS_MAX} pixels that are decoded",
            size_bytes=len(jpeg),
        )
    if (width, height) != (meta.width, meta.height):
        raise BadPayloadError(
            f"the picture is {width}x{height} and its metadata says {meta.width}x{meta.height}",
            size_bytes=len(jpeg),
        )
    return width, height


def _reduction(width: int, height: int, fits_px: tuple[int, int] | None) -> int:
    """By how much a picture may come out smaller, so that making it fit never enlarges it again."""
    if fits_px is None:
        return 1
    room = max(width / fits_px[0], height / fits_px[1])
    return max(reduction for reduction in _COLOUR if reduction == 1 or reduction <= room)
