"""Parts of a picture that are looked at more closely. Pure: times come in.

The model sees the whole frame at its own size, a 720p frame at a third: people far away are ten pixels high there. So
a few parts of the frame, around what moves and what is followed, are given to the model as well, each as large as lets
small things be seen well. A part serves all that is near; who has waited longest, was missed or is seen badly comes
first, so that all get their turn when there is no time for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from config.settings import RegionSettings
from detector.merging import Region
from detector.scene import Box, Track

__all__ = ["Region", "RegionPlanner"]

Boxes = NDArray[np.float64]

_GOOD_PX = 96.0
"""Height at which the model sees an object well, in pixels of its input. With 64, two parts a frame find 0.82 of the
small people of `bench/accuracy.py` in 960x720, with 96 0.83; where they share parts it is nearly always less."""
_ENLARGE_MAX = 2.5
"""The most that a picture is enlarged for the model: beyond, there are no more details, only larger pixels."""
_GAIN_MIN = 1.6
"""A part must show things so much larger than the whole frame does to be worth its inference. With 1.3, two parts a
frame find 0.80 of the same people and four 0.83; with 1.6 it is 0.83 and 0.89."""
_DETAIL_MIN = 1.25
"""How much smaller than it is the model must see the whole frame for parts to show more than it does. A frame of
480x360 for an input of 416 has 1.15: two parts a frame take 2.8 times the inferences there and find nothing more."""
_MARGIN = 0.35
"""What is around an object belongs to it, as a share of its height: it may have moved on, and what is cut is lost."""
_SHARING = 0.6
"""How well at least each is seen in a part that it shares with others, beside a part of its own. At 0.8 parts are
smaller and show fewer: two find 0.80 of the same people, four as many as here."""
_EXPLAINED = 0.5
"""What of a motion box must lie in one object for it to be that object's movement."""
_LEAP_S = 1.0
"""How far ahead an object's movement is believed."""
_STEP_S = 0.25
"""Over how long at least its speed is taken: boxes tremble from frame to frame."""
_FIRST_WAIT_S = 1.0
"""How long something new has waited when it is first seen."""
_PLACE_WAIT_MAX_S = 3.0
"""What moves has no name: how long its place was not looked at counts, up to here."""
_GRID = 16
_CANDIDATES_MAX = 64


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What could be looked at more closely.

    Attributes:
        boxes_px: float64 [n, 4], in pixels of the frame, with a margin.
        scales: float64 [n], pixels of the model's input a pixel of the frame at which it is seen well.
        worth: float64 [n], how much a look is worth now.
        names: ids of objects; empty for what only moves.
    """

    boxes_px: Boxes
    scales: NDArray[np.float64]
    worth: NDArray[np.float64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """A frame, and the model that looks at it.

    Attributes:
        at_s: capture time.
        size_px: width and height of the frame.
        input_px: width and height that the model looks at.
    """

    at_s: float
    size_px: tuple[int, int]
    input_px: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the model's input a pixel of the frame, where it looks at all of it."""
        return min(self.input_px[0] / self.size_px[0], self.input_px[1] / self.size_px[1])

    def fitting(self, box_px: Boxes) -> float:
        """The same, where it looks at a box only."""
        return float(min(self.input_px[0] / (box_px[2] - box_px[0]), self.input_px[1] / (box_px[3] - box_px[1])))

    @property
    def extent_px(self) -> Boxes:
        """Width, height, width, height of the frame."""
        return np.array(self.size_px * 2, np.float64)


class RegionPlanner:
    """Chooses the parts of one camera's frames that are worth a closer look.

    An object that stands still, and with nothing moving there, gets a closer look each `refresh_s` only; the watch
    carries it as long as that (:class:`~detector.watching.CameraWatch`).

    Concurrency: from one thread at a time; each camera has its own.

    Args:
        settings: what the site's owner chose.
        detail_min: a frame that the model sees hardly smaller than it is (by less than so many times) has no parts.
    """

    def __init__(self, settings: RegionSettings, *, detail_min: float = _DETAIL_MIN) -> None:
        self._settings = settings
        self._detail_min = detail_min
        self._looked_s: dict[str, float] = {}
        self._places_s = np.full((_GRID, _GRID), -np.inf)
        self._planned_s = -math.inf

    def plan(
        self,
        at_s: float,
        width_px: int,
        height_px: int,
        *,
        motion: Sequence[Box],
        tracks: Sequence[Track],
        input_px: tuple[int, int],
        budget: int,
    ) -> tuple[Region, ...]:
        """Choose parts of the next frame, besides the whole of it.

        Args:
            at_s: capture time of the frame, seconds since 1970.
            width_px: of the frame.
            height_px: of the frame.
            motion: boxes in which something moves, fractions of the picture.
            tracks: the objects that are there, as the frames before showed them.
            input_px: width and height that the model looks at.
            budget: the most parts that there is time for; `per_frame_max` holds as well.

        Returns:
            The parts, the most useful first.
        """
        view = _View(at_s, (width_px, height_px), input_px)
        if at_s < self._planned_s:
            self._forget()
        self._planned_s = at_s
        if view.scale * self._detail_min > 1:
            return ()
        candidates = self._candidates(view, motion, tracks)
        regions: list[Region] = []
        open_ = np.ones(len(candidates.worth), np.bool_)
        while open_.any() and len(regions) < min(budget, self._settings.per_frame_max):
            region, served = _best(candidates, open_, view)
            open_ &= ~served
            regions.append(region)
            self._note(view, region, [candidates.names[place] for place in np.flatnonzero(served).tolist()])
        return tuple(regions)

    # --- what has waited how long -------------------------------------------------------------------------------

    def _forget(self) -> None:
        """The camera's clock was set back."""
        self._looked_s.clear()
        self._places_s[:] = -np.inf

    def _note(self, view: _View, region: Region, names: Sequence[str]) -> None:
        self._looked_s.update(dict.fromkeys(filter(None, names), view.at_s))
        width, height = view.size_px
        columns = (np.arange(_GRID) + 0.5) * width / _GRID
        rows = (np.arange(_GRID) + 0.5) * height / _GRID
        across = (columns >= region.x) & (columns <= region.x + region.width)
        down = (rows >= region.y) & (rows <= region.y + region.height)
        self._places_s[np.ix_(down, across)] = view.at_s

    # --- what there is to look at -------------------------------------------------------------------------------

    def _candidates(self, view: _View, motion: Sequence[Box], tracks: Sequence[Track]) -> _Candidates:
        moving = np.array(motion, np.float64).reshape(-1, 4) * view.extent_px
        places = np.array([_predict(track, view.at_s) for track in tracks], np.float64).reshape(-1, 4)
        places *= view.extent_px
        self._remember(tracks, view.at_s)
        last_s = max((track.seen_s for track in tracks), default=view.at_s)
        worth = np.array(
            [
                self._worth(track, view.at_s, last_s, moves=bool((_share(moving, place) > 0).any()))
                for track, place in zip(tracks, places, strict=True)
            ]
        )
        unexplained = moving[~_explained(moving, places)]
        boxes = np.concatenate((places, unexplained))
        worths = np.concatenate((worth.reshape(-1), 2.0 * self._waited_s(unexplained, view)))
        names = (*(track.track_id for track in tracks), *[""] * len(unexplained))
        return _worthwhile(boxes, worths, names, view)

    def _remember(self, tracks: Sequence[Track], at_s: float) -> None:
        """Since when each object waits; those that are gone are forgotten."""
        self._looked_s = {
            track.track_id: self._looked_s.get(
                track.track_id, track.seen_s if track.still_since_s is not None else at_s - _FIRST_WAIT_S
            )
            for track in tracks
        }

    def _worth(self, track: Track, at_s: float, last_s: float, *, moves: bool) -> float:
        waited_s = at_s - self._looked_s[track.track_id]
        if track.still_since_s is not None and not moves and waited_s < self._settings.refresh_s:
            return 0.0
        was_missed = track.seen_s < last_s
        return max(waited_s, 1e-3) * (3.0 if was_missed else 1.2 - track.score)

    def _waited_s(self, boxes: Boxes, view: _View) -> NDArray[np.float64]:
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / view.extent_px[:2]
        cells = np.clip((middles * _GRID).astype(np.intp), 0, _GRID - 1)
        return np.clip(view.at_s - self._places_s[cells[:, 1], cells[:, 0]], 1e-3, _PLACE_WAIT_MAX_S)


def _predict(track: Track, at_s: float) -> Box:
    """Where an object is now, as far as its last steps say."""
    last = track.path[-1]
    since = next((step for step in reversed(track.path) if last.at_s - step.at_s >= _STEP_S), track.path[0])
    if since is last or track.still_since_s is not None:
        return last.box
    ahead = min(max(at_s - last.at_s, 0.0), _LEAP_S) / (last.at_s - since.at_s)
    x = sum(last.box[0::2]) / 2 - sum(since.box[0::2]) / 2
    y = sum(last.box[1::2]) / 2 - sum(since.box[1::2]) / 2
    x1, y1, x2, y2 = last.box
    return x1 + x * ahead, y1 + y * ahead, x2 + x * ahead, y2 + y * ahead


def _share(boxes: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Which share of each box lies in the other one."""
    sides = np.minimum(boxes[..., 2:], other[..., 2:]) - np.maximum(boxes[..., :2], other[..., :2])
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    return np.asarray(np.prod(np.clip(sides, 0, None), axis=-1) / np.maximum(areas, 1e-9), np.float64)


def _explained(motion: Boxes, objects: Boxes) -> NDArray[np.bool_]:
    """Which movements are those of an object."""
    if not len(objects):
        return np.zeros(len(motion), np.bool_)
    return np.asarray(_share(motion[:, None], objects[None]).max(axis=1) >= _EXPLAINED, np.bool_)


def _worthwhile(boxes: Boxes, worth: NDArray[np.float64], names: Sequence[str], view: _View) -> _Candidates:
    """Those that the whole frame shows too small, the worthiest first."""
    heights = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
    scales = np.minimum(_ENLARGE_MAX, _GOOD_PX / heights)
    padded = boxes + _MARGIN * heights[:, None] * np.array([-1.0, -1.0, 1.0, 1.0])
    padded = np.clip(padded, 0, view.extent_px)
    sides = np.maximum(padded[:, 2:] - padded[:, :2], 1.0)
    fitting = (np.array(view.input_px) / sides).min(axis=1)
    there = (padded[:, 2:] > padded[:, :2]).all(axis=1)
    worthwhile = there & (np.minimum(scales, fitting) >= _GAIN_MIN * view.scale) & (worth > 0)
    chosen = np.flatnonzero(worthwhile)
    chosen = chosen[np.argsort(-worth[chosen], kind="stable")][:_CANDIDATES_MAX]
    return _Candidates(padded[chosen], scales[chosen], worth[chosen], tuple(names[place] for place in chosen.tolist()))


def _best(candidates: _Candidates, open_: NDArray[np.bool_], view: _View) -> tuple[Region, NDArray[np.bool_]]:
    """A part around the worthiest that is open, and which others it shows as well."""
    boxes = candidates.boxes_px
    first = int(np.flatnonzero(open_)[0])
    around, scale = boxes[first], min(candidates.scales[first], view.fitting(boxes[first]))
    least = _GAIN_MIN * view.scale
    for place in np.flatnonzero(open_).tolist():
        wider = np.concatenate((np.minimum(around[:2], boxes[place, :2]), np.maximum(around[2:], boxes[place, 2:])))
        wanted = min(scale, candidates.scales[place])
        fitting = view.fitting(wider)
        if fitting >= max(least, _SHARING * wanted):
            around, scale = wider, max(least, min(wanted, fitting))
    region = _place(around, scale, view)
    corners = np.array([region.x, region.y, region.x + region.width, region.y + region.height])
    return region, open_ & ((_share(boxes, corners) >= 1 - 1e-6) | (np.arange(len(boxes)) == first))


def _place(around: Boxes, scale: float, view: _View) -> Region:
    """The part of that scale in whose middle these are, moved into the frame."""
    sides = [min(size, math.ceil(side / scale)) for side, size in zip(view.input_px, view.size_px, strict=True)]
    starts = [
        min(max(0, round((around[axis] + around[axis + 2]) / 2 - sides[axis] / 2)), view.size_px[axis] - sides[axis])
        for axis in (0, 1)
    ]
    return Region(starts[0], starts[1], max(1, sides[0]), max(1, sides[1]))
