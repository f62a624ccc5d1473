"""What nobody is to see: a camera's frames with everything private taken out, and no other way to a picture of them.

A source's frames enter the camera through :meth:`Privacy.show`. What comes out of it is a :class:`ShownFrame`, whose
JPEGs and pictures all have been through the camera's masks; whoever publishes or records takes nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from broker.messages import FoundPeople
from config.cameras import PrivacyMask, PrivacySettings
from config.errors import TransientError, VigilError
from edge.masks import Area, Cells
from edge.picture import Picture
from edge.source import CapturedFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.motion.detector import BoxXyxy

__all__ = ["FindPeople", "Privacy", "Seen", "ShownFrame", "WithheldError"]

_GROWN = 0.15
"""Part of a box's sides by which it grows: a finder's boxes cut off hands and feet."""
_REMEMBERED_S = 1.0
_REMEMBERED_LOOKS = 2
"""A finder misses somebody now and then: they stay hidden for so long, and for so many pictures where those are few."""
_STRIDE_PER_S = 0.8
"""Of their height somebody walks in a second, to either side. Source: 1.4 m/s, 1.75 m."""
_BEHIND_MASK_MIN = 0.5
"""Part of a box that a mask covers, from which nobody is told that there is somebody."""

FindPeople = Callable[[Picture], FoundPeople]
"""Finds everybody in a picture, which it must not change. It raises a VigilError when it cannot look: then nothing is
shown.

Concurrency: each camera calls it on a thread of its own.
"""


class WithheldError(TransientError):
    """A picture was not shown, because of what it may show; the message says why, for the camera's state."""


class EncodeShown(Protocol):
    """Makes a shown frame's JPEG."""

    def __call__(self, quality: int, *, height_px: int | None = None) -> bytes:
        """Encode it.

        Args:
            quality: 1 to 100.
            height_px: as in :class:`edge.picture.EncodeJpeg`.

        Raises:
            WithheldError: nobody is to see it.
            TransientError: the encoder is closed, or failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """One picture of a source as others may see it. Made by :meth:`Privacy.show` only.

    Attributes:
        seq: as in :class:`edge.source.CapturedFrame`, like the next three.
        captured_at: when it was taken.
        at_s: on the source's own time line.
        luma: the whole brightness, for motion: it stays in memory, and nobody sees it.
        width_px: of the full picture.
        height_px: of the full picture.
        encode: makes its JPEG.
        picture: makes a writable copy at full size, for a recording; raises WithheldError as well.
        people: whom workers are to be told of, because nobody sees them in its pictures; None where nobody is blurred.
            Raises WithheldError as well.
    """

    seq: int
    captured_at: datetime
    at_s: float
    luma: NDArray[np.uint8]
    width_px: int
    height_px: int
    encode: EncodeShown
    picture: Callable[[], Picture]
    people: Callable[[], FoundPeople | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """The people in one picture.

    Attributes:
        hide_xyxy: where they are, or may be, that are to be blurred.
        told: whom workers are told of.
    """

    hide_xyxy: Sequence[BoxXyxy] = ()
    told: FoundPeople | None = None


class Privacy:
    """Takes out of one camera's pictures what nobody is to see.

    It fails closed: there is no picture where people should be blurred and cannot be found, and while `enabled` is set.

    Concurrency: `enabled` may be set from any thread, and frames that were shown before obey it too. A frame's pictures
    may be made on any thread.

    Args:
        settings: what is private.
        find_people: finds people on this node; None where it has no model.
    """

    def __init__(self, settings: PrivacySettings, *, find_people: FindPeople | None = None) -> None:
        self.enabled = settings.enabled
        self._masks = _Masks(settings.masks.values()) if settings.masks else None
        self._people = _People(find_people) if settings.blur == "people" else None

    @property
    def alters(self) -> bool:
        """Whether pictures are changed, so that the camera's own stream may not be recorded."""
        return self._masks is not None or self._people is not None

    @property
    def blurs(self) -> bool:
        """Whether people are looked for, and blurred."""
        return self._people is not None

    def show(self, frame: CapturedFrame) -> ShownFrame:
        """A frame as others may see it. Cheap: the work is done when a picture of it is made."""
        retouch = _FrameRetouch(self, frame)
        return ShownFrame(
            seq=frame.seq,
            captured_at=frame.captured_at,
            at_s=frame.at_s,
            luma=frame.luma,
            width_px=frame.width_px,
            height_px=frame.height_px,
            encode=partial(_encode, frame, retouch),
            picture=partial(_picture, frame, retouch),
            people=retouch.people,
        )

    def find(self, picture: Picture, at_s: float) -> Seen:
        """Look for the people that are to be blurred.

        Args:
            picture: untouched.
            at_s: its time.

        Raises:
            WithheldError: nobody is to see the picture.
        """
        self.check()
        if self._people is None:
            return Seen()
        seen = self._people.look(picture, at_s)
        masks = self._masks.fitting(picture) if self._masks else None
        if masks is None or seen.told is None:
            return seen
        beside = tuple(person for person in seen.told.people if masks.covered(person.box) < _BEHIND_MASK_MIN)
        return Seen(seen.hide_xyxy, FoundPeople(model=seen.told.model, people=beside))

    def hide(self, picture: Picture, boxes_xyxy: Sequence[BoxXyxy]) -> None:
        """Cover the masks, and these boxes."""
        masks = self._masks.fitting(picture) if self._masks else None
        if masks:
            masks.blacken(picture)
        people = Area.of_boxes(boxes_xyxy, *picture.y.shape) if boxes_xyxy else None
        if people or (masks and masks.coarse):
            # What is black already is in no mean. It is made black again where a coarse cell or a box lies over it.
            cells = Cells(picture)
            if people:
                people.coarsen(picture, cells, soft=True)
            if masks:
                masks.coarsen(picture, cells)
                masks.blacken(picture)

    def check(self) -> None:
        """Ask whether a picture may be shown now.

        Raises:
            WithheldError: no.
        """
        if self.enabled:
            raise WithheldError("privacy is on: no picture is shown")


class _FrameRetouch:
    """A frame's own retouch: people are looked for once, however many pictures are made of it."""

    def __init__(self, privacy: Privacy, frame: CapturedFrame) -> None:
        self._privacy = privacy
        self._frame = frame
        self._seen: Seen | None = None

    def needed(self) -> bool:
        """Whether it changes anything.

        Raises:
            WithheldError: nobody is to see the picture.
        """
        self._privacy.check()
        return self._privacy.alters

    def __call__(self, picture: Picture) -> None:
        self._privacy.hide(picture, self._look(lambda: picture).hide_xyxy)

    def people(self) -> FoundPeople | None:
        """Whom workers are told of; see :class:`ShownFrame`."""
        self._privacy.check()
        frame = self._frame
        return self._look(frame.picture).told if self._privacy.blurs else None

    def _look(self, picture: Callable[[], Picture]) -> Seen:
        if self._seen is None:
            self._seen = self._privacy.find(picture(), self._frame.at_s)
        return self._seen


def _encode(frame: CapturedFrame, retouch: _FrameRetouch, quality: int, *, height_px: int | None = None) -> bytes:
    return frame.encode(quality, height_px=height_px, retouch=retouch if retouch.needed() else None)


def _picture(frame: CapturedFrame, retouch: _FrameRetouch) -> Picture:
    needed = retouch.needed()
    picture = frame.picture()
    if needed:
        retouch(picture)
    return picture


class _Masks:
    """The masks of a camera, drawn anew when its pictures change their size."""

    def __init__(self, masks: Iterable[PrivacyMask]) -> None:
        self._masks = tuple(masks)
        self._fitted: _FittedMasks | None = None

    def fitting(self, picture: Picture) -> _FittedMasks:
        """The masks at this picture's size."""
        height_px, width_px = picture.y.shape
        fitted = self._fitted
        if fitted is None or fitted.size_px != (height_px, width_px):
            fitted = self._fitted = _FittedMasks(self._masks, height_px, width_px)
        return fitted


class _FittedMasks:
    """Masks at one size of picture."""

    def __init__(self, masks: Sequence[PrivacyMask], height_px: int, width_px: int) -> None:
        def area(style: str) -> Area | None:
            polygons = [mask.points for mask in masks if mask.style == style]
            return Area.of_polygons(polygons, height_px, width_px) if polygons else None

        self.size_px = height_px, width_px
        self._black, self._pixels, self._blur = area("black"), area("pixels"), area("blur")

    @property
    def coarse(self) -> bool:
        """Whether there is more than black."""
        return self._pixels is not None or self._blur is not None

    def covered(self, box_xyxy: BoxXyxy) -> float:
        """The part of a box that is hidden, at least: by the one kind of masks that hides most of it."""
        areas = (self._black, self._pixels, self._blur)
        return max((area.covered(box_xyxy, *self.size_px) for area in areas if area), default=0.0)

    def blacken(self, picture: Picture) -> None:
        if self._black:
            self._black.blacken(picture)

    def coarsen(self, picture: Picture, cells: Cells) -> None:
        if self._blur:
            self._blur.coarsen(picture, cells, soft=True)
        if self._pixels:
            self._pixels.coarsen(picture, cells, soft=False)


@dataclass(frozen=True, slots=True)
class _Look:
    """Whom a look found, and when."""

    at_s: float
    found: FoundPeople


class _People:
    """Where people are, also those whom the finder misses in one picture."""

    def __init__(self, find: FindPeople | None) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._looks: list[_Look] = []

    def look(self, picture: Picture, at_s: float) -> Seen:
        """Everybody who was found here or a moment ago, their boxes grown by how far they may have gone since."""
        if self._find is None:
            raise WithheldError(
                "people are to be blurred (privacy.blur) and this node has no model that finds them: "
                "set edge.detector, or privacy.blur to none"
            )
        try:
            found = self._find(picture)
        except VigilError as error:
            raise WithheldError(f"people are to be blurred (privacy.blur) and cannot be found: {error}") from error
        with self._lock:
            # A source that was opened again counts its time anew: what was seen before says nothing about now.
            before = [look for look in self._looks if look.at_s <= at_s]
            recent = [look for look in before if at_s - look.at_s <= _REMEMBERED_S]
            remembered = max(recent, before[-_REMEMBERED_LOOKS:], key=len)
            looks = self._looks = [*remembered, _Look(at_s, found)]
        hide_xyxy = [_grown(person.box, at_s - look.at_s) for look in looks for person in look.found.people]
        return Seen(hide_xyxy, found)


def _grown(box_xyxy: BoxXyxy, age_s: float) -> BoxXyxy:
    left, top, right, bottom = box_xyxy
    high = bottom - top
    # A step is measured against the height, in pixels; a picture is wider than high, so this errs on the safe side.
    aside = _GROWN * (right - left) + _STRIDE_PER_S * min(age_s, _REMEMBERED_S) * high
    upright = _GROWN * high
    return left - aside, top - upright, right + aside, bottom + upright
