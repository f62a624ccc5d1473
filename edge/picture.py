"""A picture's pixels as every part of the edge handles them, and a coded picture as it came from the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EncodeJpeg", "Packet", "Picture", "Retouch", "reduced_size"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as I420: brightness, and two colour differences at half the resolution. The arrays may be written.

    Attributes:
        y: uint8, shape (height, width).
        u: uint8, shape (ceil(height / 2), ceil(width / 2)); 128 has no colour.
        v: the same.
        full_range: whether black is 0 and white 255; otherwise 16 and 235. Source: ITU-R BT.601, section 2.5.3.
    """

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    full_range: bool = False

    @property
    def black(self) -> int:
        """The brightness of black."""
        return 0 if self.full_range else 16


Retouch = Callable[[Picture], None]
"""Changes a picture in place, before anybody sees it."""


def reduced_size(width_px: int, height_px: int, height_max_px: int | None) -> tuple[int, int]:
    """Width and height of a picture that is made lower, keeping its aspect and an even width.

    A picture that is low enough, or may be as high as it is (None), keeps its size.
    """
    if height_max_px is None or height_max_px >= height_px:
        return width_px, height_px
    return max(2, round(width_px * height_max_px / height_px / 2) * 2), max(1, height_max_px)


class EncodeJpeg(Protocol):
    """Makes a frame's JPEG."""

    def __call__(self, quality: int, *, height_px: int | None = None, retouch: Retouch | None = None) -> bytes:
        """Encode it.

        Args:
            quality: 1 to 100.
            height_px: make it this high, as :func:`reduced_size` says; a lower picture keeps its size.
            retouch: applied at full size first.

        Raises:
            TransientError: the encoder is closed, or failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded picture of a camera's stream, as it came.

    Attributes:
        sample: GStreamer's sample with its caps: H.264 or H.265 (byte-stream, one access unit), or JPEG.
        at: when it arrived, by the node's clock; aware, UTC.
        at_s: its time on the source's own time line, seconds, in decoding order never falling.
        keyframe: whether decoding may begin here.
        size_bytes: of the coded picture.
    """

    sample: Any
    at: datetime
    at_s: float
    keyframe: bool
    size_bytes: int
