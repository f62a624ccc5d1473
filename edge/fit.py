"""Pictures that fit: as good as the way to the broker allows, and no larger."""

from __future__ import annotations

import io
from dataclasses import dataclass

from edge.source import CapturedFrame

__all__ = ["Fitted", "PictureFit"]

_QUALITY_STEP = 0.75
_QUALITY_MIN = 25
"""Below it blocks are all there is to see, and a smaller picture shows more."""
_SHRUNK_QUALITY = 50
_SHRINK = 0.75
_SIDE_MIN_PX = 96
"""The longer side. In less, nobody recognises anything."""
_BETTER_AFTER = 50
"""Pictures with room to spare after which a better one is tried."""
_ROOM_TO_SPARE = 0.6
"""One step better is at most 1 / 0.6 times as large: a quality step makes 1.3 times, a size step 1.8 times."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture that fits.

    Attributes:
        jpeg: the picture.
        width_px: its width.
        height_px: its height.
    """

    jpeg: bytes
    width_px: int
    height_px: int


class PictureFit:
    """Encodes one camera's pictures: first at lower quality, then smaller, until they fit.

    What fitted last is where the next search begins, so that a picture is encoded once and seldom twice. After a
    while with room to spare a better one is tried.

    Concurrency: one thread.

    Args:
        quality: what is wanted, 1 to 100.
    """

    def __init__(self, quality: int) -> None:
        self._qualities = [quality]
        while (lower := round(self._qualities[-1] * _QUALITY_STEP)) >= _QUALITY_MIN:
            self._qualities.append(lower)
        self._step = 0
        self._spare = 0

    @property
    def reduced(self) -> bool:
        """Whether pictures are sent smaller than wanted."""
        return self._step > 0

    def encode(self, frame: CapturedFrame, bytes_max: int) -> Fitted | None:
        """The best JPEG of at most `bytes_max`; None when not even the smallest fits.

        Raises:
            TransientError: it could not be encoded.
        """
        whole: bytes | None = None
        step = self._step - 1 if self._step and self._spare >= _BETTER_AFTER else self._step
        while True:
            fitted, whole = self._attempt(frame, step, whole)
            if len(fitted.jpeg) <= bytes_max:
                self._note(step, spare=len(fitted.jpeg) < bytes_max * _ROOM_TO_SPARE)
                return fitted
            if max(fitted.width_px, fitted.height_px) * _SHRINK < _SIDE_MIN_PX and step >= len(self._qualities) - 1:
                self._note(step, spare=False)
                return None
            step += 1

    def _note(self, step: int, *, spare: bool) -> None:
        self._spare = self._spare + 1 if spare and step == self._step else 0
        self._step = step

    def _attempt(self, frame: CapturedFrame, step: int, whole: bytes | None) -> tuple[Fitted, bytes | None]:
        """A picture at one step, and the full-size one that smaller ones are made of."""
        shrinks = step - len(self._qualities) + 1
        if shrinks <= 0:
            return Fitted(frame.encode(self._qualities[step]), frame.width_px, frame.height_px), whole
        if whole is None:
            whole = frame.encode(self._qualities[0])
        scale = _SHRINK**shrinks
        return _shrunk(whole, max(1, round(frame.width_px * scale)), max(1, round(frame.height_px * scale))), whole


def _shrunk(jpeg: bytes, width_px: int, height_px: int) -> Fitted:
    from PIL import Image  # seldom needed, and a few megabytes

    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (width_px, height_px))  # decodes no more than is needed
        small = picture.resize((width_px, height_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_SHRUNK_QUALITY)
    return Fitted(buffer.getvalue(), width_px, height_px)
