"""What is drawn over a picture for people to look at: boxes with words, outlines of areas, ways, a caption."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from broker.messages import Detection
from detector.pictures import Picture
from detector.scene import Box

__all__ = ["Drawing"]

Point = tuple[float, float]
Colour = tuple[int, int, int]
"""Blue, green, red."""

_SIDE_MAX_PX = 1280
"""The longer side of a drawing: enough to recognise somebody, and 4K would not fit anyway."""
_SIDE_MIN_PX = 640
"""Smaller pictures are enlarged to it, so that their labels can be read."""
_LINES = 28
"""So many lines of text would fill the picture: readable where it is shown as small as a stamp on a page."""

_PALETTE = ((66, 190, 255), (120, 220, 120), (255, 190, 90), (150, 130, 255), (220, 220, 90), (200, 150, 240))
"""Light, so that dark text is read on them."""
_WEIGHT = 500
"""Of the letters: between regular (400) and bold (700)."""
_INK = (24, 24, 24)
_PAPER = (240, 240, 240)
_ALARM = (70, 70, 235)
_MUTED = (170, 170, 170)
_TINT = 0.16
"""How much of its colour an area shows."""


class Drawing:
    """A copy of a picture to draw on. Places are fractions of it.

    Args:
        picture: uint8 [h, w, 3], blue-green-red; stays as it is.
        large: make its longer side 1280 pixels and the letters small beside it, for a screen; otherwise the side is
            between 640 and 1280 pixels and the letters are read in a small picture too.

    Attributes:
        pixels: what is drawn so far.
    """

    def __init__(self, picture: Picture, *, large: bool = False) -> None:
        self.pixels = _resized(picture, _SIDE_MAX_PX if large else _SIDE_MIN_PX)
        self._text_px = max(12, min(28, self.pixels.shape[0] // (_LINES * 2 if large else _LINES)))
        self._taken: list[tuple[int, int, int, int]] = []

    def detections(self, detections: Sequence[Detection], names: Sequence[str] = ()) -> None:
        """Draw boxes with their labels and scores, the first one on top.

        Args:
            detections: the best first.
            names: which object each is, empty where that is not known; those with a name have a colour of their own.
        """
        named = list(zip(detections, names or [""] * len(detections), strict=True))
        for detection, name in named[::-1]:
            self._box(detection, _colour(name or detection.label))
        for detection, name in named:
            self._tag(detection, name)

    def looked_at(self, box: Box) -> None:
        """Draw the thin outline of a part that was looked at more closely."""
        left, top, right, bottom = self._edges(box)
        cv2.rectangle(self.pixels, (left, top), (right - 1, bottom - 1), _INK, 1)
        cv2.rectangle(self.pixels, (left + 1, top + 1), (right - 2, bottom - 2), _PAPER, 1)

    def area(self, name: str, points: Sequence[Point], *, left_out: bool) -> None:
        """Draw an area with its name; one that is left out is grey."""
        corners = self._corners(points)
        colour = _MUTED if left_out else _colour(name)
        tinted = self.pixels.copy()
        cv2.fillPoly(tinted, [corners], colour)
        cv2.addWeighted(tinted, _TINT, self.pixels, 1 - _TINT, 0, self.pixels)
        cv2.polylines(self.pixels, [corners], isClosed=True, color=_INK, thickness=3, lineType=cv2.LINE_AA)
        cv2.polylines(self.pixels, [corners], isClosed=True, color=colour, thickness=1, lineType=cv2.LINE_AA)
        # The name stands inside, below the highest corner, where there is picture around it.
        x, y = corners[corners[:, 1].argmin()].tolist()
        self._note(name, x, y + self._text_px // 2, colour)

    def way(self, name: str, points: Sequence[Point]) -> None:
        """Draw the way of an object, from where it came to where it is, in the colour of its name."""
        if len(points) > 1:
            line = [self._corners(points)]
            cv2.polylines(self.pixels, line, isClosed=False, color=_INK, thickness=3, lineType=cv2.LINE_AA)
            cv2.polylines(self.pixels, line, isClosed=False, color=_colour(name), thickness=1, lineType=cv2.LINE_AA)

    def alarms(self, words: Sequence[str]) -> None:
        """Write what a person should know, one line each, at the top."""
        text_px = self._text_px
        for place, text in enumerate(words):
            top = round(place * text_px * 1.6)
            width = min(self.pixels.shape[1], self._text_width(text) + text_px)
            cv2.rectangle(self.pixels, (0, top), (width, top + round(text_px * 1.6)), _ALARM, cv2.FILLED)
            self._write(text, (text_px // 2, top + round(text_px * 1.15)), _PAPER)

    def caption(self, left: str, right: str) -> None:
        """Write a dark bar at the bottom; where both do not fit, the right one alone."""
        text_px = self._text_px
        height, width = self.pixels.shape[:2]
        bar = self.pixels[max(0, height - 2 * text_px) :]
        bar[:] = bar // 4 + np.uint8(10)
        baseline = height - round(text_px * 0.65)
        right_from = width - self._text_width(right) - text_px // 2
        self._write(right, (max(0, right_from), baseline), _PAPER)
        if self._text_width(left) + text_px < right_from:
            self._write(left, (text_px // 2, baseline), _PAPER)

    def _box(self, detection: Detection, colour: Colour) -> None:
        left, top, right, bottom = self._edges(detection.box)
        thickness = max(2, self._text_px // 8)
        # A dark line around the light one is seen on any background.
        cv2.rectangle(self.pixels, (left, top), (right, bottom), _INK, thickness + 2, cv2.LINE_AA)
        cv2.rectangle(self.pixels, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)

    def _tag(self, detection: Detection, name: str) -> None:
        left, top, _, bottom = self._edges(detection.box)
        text = f"{detection.label} {detection.score:.2f} {name}".rstrip()
        high = round(self._text_px * 1.3)
        above = top - high if top >= high else top
        # Where another one stands already: below the box, or higher, like the tags of people in a group.
        places = [above, *([bottom] if bottom + high < self.pixels.shape[0] else []), above - high, above - 2 * high]
        wide = self._text_width(text) + self._text_px // 2
        place = next((y for y in places if y >= 0 and self._is_free(left, y, wide, high)), above)
        self._note(text, left, place, _colour(name or detection.label))

    def _is_free(self, left: int, top: int, wide: int, high: int) -> bool:
        return all(
            left >= right or left + wide <= other or top >= bottom or top + high <= upper
            for other, upper, right, bottom in self._taken
        )

    def _note(self, text: str, left: int, top: int, colour: Colour) -> None:
        """Dark words on a light ground, inside the picture."""
        text_px = self._text_px
        width, height = self._text_width(text) + text_px // 2, round(text_px * 1.3)
        left = max(0, min(left, self.pixels.shape[1] - width))
        self._taken.append((left, top, left + width, top + height))
        cv2.rectangle(self.pixels, (left, top), (left + width, top + height), colour, cv2.FILLED)
        self._write(text, (left + text_px // 4, top + text_px), _INK)

    def _edges(self, box: Box) -> tuple[int, int, int, int]:
        height, width = self.pixels.shape[:2]
        x1, y1, x2, y2 = box
        return round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height)

    def _corners(self, points: Sequence[Point]) -> NDArray[np.int32]:
        height, width = self.pixels.shape[:2]
        scaled = np.array(points, np.float64) * (width - 1, height - 1)
        return np.asarray(np.round(scaled), np.int32)

    def _text_width(self, text: str) -> int:
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), self._text_px, _WEIGHT)
        return int(width)

    def _write(self, text: str, origin: tuple[int, int], colour: Colour) -> None:
        cv2.putText(self.pixels, text, origin, (*colour, 255), _font(), self._text_px, _WEIGHT)


@cache
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _colour(name: str) -> Colour:
    """The same for the same name; objects that are numbered one after the other differ."""
    number = name.removeprefix("#")
    place = int(number) if number.isdecimal() else zlib.crc32(name.encode())
    return _PALETTE[place % len(_PALETTE)]


def _resized(picture: Picture, side_min_px: int) -> Picture:
    height, width = picture.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, side_min_px), _SIDE_MAX_PX) / longer
    if scale == 1.0:
        return picture.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)
