"""Pictures that fit: as good as the way to the broker allows, and no larger."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.picture import reduced_size
from edge.privacy import ShownFrame

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
"""One step better is mostly at most 1 / 0.6 times as large: a quality step makes 1.3 times, a size step 1.8 at most."""
_STEP_SAVES_MAX = 1.8
"""A search leaves out the steps that cannot save enough: a picture is seldom encoded more than three times."""


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

    def encode(self, frame: ShownFrame, bytes_max: int, *, height_px: int) -> Fitted | None:
        """The best JPEG of at most `bytes_max` and `height_px`; None when not even the smallest fits.

        Raises:
            WithheldError: nobody is to see the picture.
            TransientError: it could not be encoded.
        """
        height_px = min(height_px, frame.height_px)
        last = len(self._qualities) - 1 + _shrinks_max(max(height_px, frame.width_px * height_px // frame.height_px))
        step = min(last, self._step - 1 if self._step and self._spare >= _BETTER_AFTER else self._step)
        while True:
            fitted = self._attempt(frame, step, height_px)
            excess = len(fitted.jpeg) / max(1, bytes_max)
            if excess <= 1:
                self._note(step, spare=excess < _ROOM_TO_SPARE)
                return fitted
            if step == last:
                self._note(step, spare=False)
                return None
            step = min(last, step + max(1, int(math.log(excess, _STEP_SAVES_MAX))))

    def _note(self, step: int, *, spare: bool) -> None:
        self._spare = self._spare + 1 if spare and step == self._step else 0
        self._step = step

    def _attempt(self, frame: ShownFrame, step: int, height_px: int) -> Fitted:
        shrinks = max(0, step - len(self._qualities) + 1)
        quality = _SHRUNK_QUALITY if shrinks else self._qualities[step]
        width_px, height_px = reduced_size(frame.width_px, frame.height_px, round(height_px * _SHRINK**shrinks))
        return Fitted(frame.encode(quality, height_px=height_px), width_px, height_px)


def _shrinks_max(side_px: int) -> int:
    """How often a picture with this longer side is made smaller before giving up."""
    return max(0, math.ceil(math.log(side_px / _SIDE_MIN_PX, 1 / _SHRINK)) - 1)
