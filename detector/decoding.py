"""From pictures to what a network takes, and from what it says to boxes in the picture. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from broker.messages import Detection
from detector.pictures import Picture

__all__ = ["FOUND_MAX", "Found", "Outputs", "letterbox", "suppress", "to_detections", "to_picture"]

Floats = NDArray[np.float32]
Outputs = tuple[Floats, ...]
"""What a model says of one picture: one array an output, without the batch's dimension."""

FOUND_MAX = 300
"""Boxes kept of one picture, the best ones; 300 take 60 kB of the 256 kB that the detections' topic allows."""
_CANDIDATES_MAX = 1000
"""Boxes that are compared with each other: a matrix of 4 MB. A YOLOX that sees a full street has about 300."""
_PADDING = 114
"""The grey around a letterboxed picture. Source: YOLOX, `preproc`; the value its networks were trained with."""


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes in one picture.

    Attributes:
        boxes_px: float32 [n, 4], (x1, y1, x2, y2) in pixels of the picture or of the network's input.
        scores: float32 [n], 0 to 1.
        classes: int64 [n], numbers of labels.
    """

    boxes_px: Floats
    scores: Floats
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Found:
        """The boxes at these places."""
        return Found(self.boxes_px[chosen], self.scores[chosen], self.classes[chosen])


def letterbox(picture: Picture, width: int, height: int) -> tuple[Picture, float]:
    """Fit a picture into the top left of a network's input without changing its shape; grey around it.

    Args:
        picture: uint8 [h, w, 3], blue-green-red.
        width: of the input, in pixels.
        height: of the input, in pixels.

    Returns:
        The input, uint8 [height, width, 3], and the scale: pixels of the input a pixel of the picture.

    Source: YOLOX, yolox/data/data_augment.py, `preproc`.
    """
    rows, columns = picture.shape[:2]
    scale = min(width / columns, height / rows)
    inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    canvas = np.full((height, width, 3), _PADDING, np.uint8)
    # Written in place: `dst` is a view of the canvas, so there is no second copy.
    cv2.resize(picture, inner, dst=canvas[: inner[1], : inner[0]], interpolation=cv2.INTER_LINEAR)
    return canvas, scale


def to_picture(found: Found, scale: float, width: int, height: int) -> Found:
    """Boxes of a letterboxed input as boxes of the picture, clipped to it; what lies outside is left out.

    Args:
        found: boxes in pixels of the input.
        scale: from `letterbox`.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    corners = np.array([width, height, width, height], np.float32)
    boxes = np.clip(found.boxes_px / np.float32(scale), 0, corners)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Found(boxes, found.scores, found.classes)[inside]


def suppress(found: Found, overlap_max: float, *, of_smaller: bool = False) -> Found:
    """Non-maximum suppression within each class.

    Args:
        found: boxes in any order.
        overlap_max: two boxes of a class that overlap more than this are one object; the better one stays.
        of_smaller: measure the overlap against the smaller of the two boxes, so that a box inside another goes;
            otherwise against both together (intersection over union).

    Returns:
        At most :data:`FOUND_MAX` boxes, the best first.
    """
    found = found[np.argsort(-found.scores, kind="stable")[:_CANDIDATES_MAX]]
    rivals = _overlaps(found.boxes_px, of_smaller=of_smaller) > overlap_max
    rivals &= found.classes[:, None] == found.classes[None, :]
    alive = np.ones(len(found), np.bool_)
    for place in range(len(found)):
        if alive[place]:
            alive[place + 1 :] &= ~rivals[place, place + 1 :]
    return found[np.flatnonzero(alive)[:FOUND_MAX]]


def _overlaps(boxes: Floats, *, of_smaller: bool) -> Floats:
    """How much every box overlaps every other, 0 to 1: float32 [n, n]."""
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    one, other = areas[:, None], areas[None, :]
    whole = np.minimum(one, other) if of_smaller else one + other - shared
    return np.asarray(shared / np.maximum(whole, np.finfo(np.float32).tiny), np.float32)


def to_detections(found: Found, labels: Sequence[str], width: int, height: int) -> tuple[Detection, ...]:
    """Boxes as the messages say them.

    Args:
        found: boxes in pixels of the picture, clipped to it.
        labels: what the classes are called.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    extent = np.array([width, height, width, height], np.float32)
    units = np.clip(found.boxes_px / extent, 0.0, 1.0)
    return tuple(
        Detection(
            label=labels[number],
            score=round(score, 4),
            box=(round(unit[0], 5), round(unit[1], 5), round(unit[2], 5), round(unit[3], 5)),
            box_px=(round(box[0], 1), round(box[1], 1), round(box[2], 1), round(box[3], 1)),
        )
        for unit, box, score, number in zip(
            units.tolist(), found.boxes_px.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
        )
    )
