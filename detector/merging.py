"""What was found in the whole frame and in parts of it, as one. Pure: boxes in, boxes out.

Three things go wrong at seams: an object is found twice, it is cut by a part's edge and half of it is found there, and
two that stand close are one in the whole frame and two in a part. So boxes are taken in the order in which they are to
be believed (uncut before cut, from the closer look before the coarser, better before worse) and each is compared with
those that were taken before. Boxes of one and the same look never compete: its backend has seen to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.decoding import FOUND_MAX, Floats, Found
from detector.pictures import Picture

__all__ = ["Region", "merge"]

_EDGE = 0.02
"""A box that comes so close to a part's edge, as a share of the part, is cut by it."""
_EDGE_MIN_PX = 1.0
_HALF_INSIDE = 0.6
"""What of a cut box must lie in an uncut one to be a piece of it. Pieces are guessed longer than what is seen."""
_INSIDE = 0.85
"""What of a box must lie in another to be a part of the same object, such as a person's upper half."""
_PAIR_INSIDE = 0.7
_PAIR_COVERS = 0.5
"""Two boxes that are so far inside a coarser one, and cover so much of it, are what it took for one."""
_JOIN_SIDE = 0.6
"""Two pieces on either side of a seam are one object if they share so much of the seam."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture, inside it.

    Attributes:
        x: of its left edge, in pixels of the picture.
        y: of its upper edge.
        width: pixels.
        height: pixels.
    """

    x: int
    y: int
    width: int
    height: int

    def cut(self, picture: Picture) -> Picture:
        """This part of a picture; a view, nothing is copied."""
        return picture[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of several looks, in the order in which they are to be believed.

    Attributes:
        found: in pixels of the frame.
        looks: int64 [n], which look each is from; 0 is the whole frame.
        cut: bool [n, 4], whether its left, upper, right, lower side lies on an edge inside the frame.
    """

    found: Found
    looks: NDArray[np.int64]
    cut: NDArray[np.bool_]


def merge(
    whole: Found, parts: Sequence[tuple[Region, Found]], *, width_px: int, height_px: int, nms_iou: float
) -> Found:
    """Join what the whole frame and its parts show.

    Args:
        whole: boxes in pixels of the frame.
        parts: the boxes of each part, in pixels of the part; in any order.
        width_px: of the frame.
        height_px: of the frame.
        nms_iou: boxes of one label that overlap more than this are one object.

    Returns:
        Boxes in pixels of the frame, the best first; those of the whole frame where the parts show nothing.
    """
    if not any(len(there) for _, there in parts):
        return whole
    boxes = _line_up(whole, parts, width_px, height_px)
    chosen = _choose(boxes, nms_iou)
    return chosen[np.argsort(-chosen.scores, kind="stable")[:FOUND_MAX]]


def _line_up(whole: Found, parts: Sequence[tuple[Region, Found]], width_px: int, height_px: int) -> _Boxes:
    looks = [np.zeros(len(whole), np.int64)]
    sizes = [np.full(len(whole), width_px * height_px)]
    cuts = [np.zeros((len(whole), 4), np.bool_)]
    found = [whole]
    for number, (region, there) in enumerate(parts, start=1):
        looks.append(np.full(len(there), number))
        sizes.append(np.full(len(there), region.width * region.height))
        cuts.append(_cut(region, there.boxes_px, width_px, height_px))
        shift = np.array([region.x, region.y] * 2, np.float32)
        found.append(Found(there.boxes_px + shift, there.scores, there.classes))
    boxes = np.concatenate([one.boxes_px for one in found])
    scores = np.concatenate([one.scores for one in found])
    classes = np.concatenate([one.classes for one in found])
    cut = np.concatenate(cuts)
    # Down to the last coordinate, so that the order of the parts does not matter.
    order = np.lexsort((classes, *boxes.T, -scores, np.concatenate(sizes), cut.any(axis=1)))
    return _Boxes(Found(boxes, scores, classes)[order], np.concatenate(looks)[order], cut[order])


def _cut(region: Region, boxes_px: Floats, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Which sides of boxes of a part lie on an edge of it that is inside the frame."""
    near_x = max(_EDGE_MIN_PX, _EDGE * region.width)
    near_y = max(_EDGE_MIN_PX, _EDGE * region.height)
    return np.stack(
        (
            (boxes_px[:, 0] <= near_x) & (region.x > 0),
            (boxes_px[:, 1] <= near_y) & (region.y > 0),
            (boxes_px[:, 2] >= region.width - near_x) & (region.x + region.width < width_px),
            (boxes_px[:, 3] >= region.height - near_y) & (region.y + region.height < height_px),
        ),
        axis=1,
    )


def _choose(boxes: _Boxes, nms_iou: float) -> Found:
    """The boxes that stay."""
    found, looks = boxes.found, boxes.looks
    iou, inside = _compare(found.boxes_px)
    corners = found.boxes_px.copy()
    rivals = (looks[:, None] != looks[None, :]) & (found.classes[:, None] == found.classes[None, :])
    uncut = ~np.any(boxes.cut, axis=1)
    scores = found.scores.copy()
    alive = np.zeros(len(found), np.bool_)
    for place in range(len(found)):
        before: NDArray[np.bool_] = alive & rivals[place]
        nearest = int(np.argmax(np.where(before, iou[place], 0)))
        if before[nearest] and iou[place, nearest] > nms_iou:
            scores[nearest] = max(scores[nearest], scores[place])
        elif not uncut[place]:
            if (before & uncut & (inside[place] >= _HALF_INSIDE)).any():
                continue
            half = _other_half(place, before & ~uncut, boxes)
            alive[place] = half is None
            if half is not None:
                corners[half] = _around(corners[half], corners[place])
        elif not _is_pair(inside[:, place], inside[place], before):
            around = np.flatnonzero(before & ((inside[place] >= _INSIDE) | (inside[:, place] >= _INSIDE)))
            if (scores[around] < scores[place]).all():
                alive[around] = False
                alive[place] = True
    return Found(corners, scores, found.classes)[alive]


def _other_half(place: int, pieces: NDArray[np.bool_], boxes: _Boxes) -> int | None:
    """Which piece is the same object on the other side of a seam."""
    corners, cut = boxes.found.boxes_px, boxes.cut
    own = corners[place]
    for along, across in ((0, 1), (1, 0)):
        faces = (cut[place, along + 2] & cut[:, along]) | (cut[place, along] & cut[:, along + 2])
        touches = np.minimum(corners[:, along + 2], own[along + 2]) >= np.maximum(corners[:, along], own[along]) - 1
        shared = np.minimum(corners[:, across + 2], own[across + 2]) - np.maximum(corners[:, across], own[across])
        spanned = np.maximum(corners[:, across + 2], own[across + 2]) - np.minimum(corners[:, across], own[across])
        fitting = pieces & faces & touches & (shared >= _JOIN_SIDE * spanned)
        if fitting.any():
            return int(np.flatnonzero(fitting)[0])
    return None


def _around(first: Floats, second: Floats) -> Floats:
    return np.concatenate((np.minimum(first[:2], second[:2]), np.maximum(first[2:], second[2:])))


def _compare(boxes: Floats) -> tuple[Floats, Floats]:
    """Intersection over union of every box with every other, and the share of the one that is inside the other."""
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    areas = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.finfo(np.float32).tiny)
    union = areas[:, None] + areas[None, :] - shared
    return np.asarray(shared / union, np.float32), np.asarray(shared / areas[:, None], np.float32)


def _is_pair(of_others: Floats, of_own: Floats, before: NDArray[np.bool_]) -> bool:
    """Whether a box is two that a closer look tells apart.

    Args:
        of_others: float32 [n], which share of each other box is inside it.
        of_own: float32 [n], which share of it is inside each.
        before: bool [n], the boxes that are taken.
    """
    within = before & (of_others >= _PAIR_INSIDE)
    return bool(np.count_nonzero(within) > 1 and of_own[within].sum() >= _PAIR_COVERS)
