"""YOLOX."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.decoding import Found, Outputs
from detector.inputs import InputConvention
from detector.layouts.layout import Seen, corners

__all__ = ["YoloxLayout"]


@dataclass(frozen=True, slots=True)
class YoloxLayout:
    """One row a grid cell, [cx, cy, w, h, objectness, a score a class], scores already sigmoid.

    As exported, cx and cy count cells from the cell's own, and w and h are logarithms; exported with
    ``--decode_in_inference`` all four are pixels. The last cell of a row of the grid tells the two apart: in
    pixels its centre is near the right edge, in cells it is never half a picture away.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        classes: how many classes the network knows.

    Source: YOLOX, yolox/models/yolo_head.py, `decode_outputs`.
    """

    width: int
    height: int
    classes: int

    NAME: ClassVar = "yolox"
    FORM: ClassVar = "[batch, cells of strides 8, 16 and 32, 5 + classes]"
    STRIDES: ClassVar = (8, 16, 32)
    convention: ClassVar = InputConvention(colour="bgr", fit="corner")
    suppressed: ClassVar = False

    @classmethod
    def rows(cls, width: int, height: int) -> int:
        """Rows that such a network has for an input of this size."""
        return sum((width // stride) * (height // stride) for stride in cls.STRIDES)

    @classmethod
    def recognise(cls, seen: Seen) -> YoloxLayout | None:
        """One output with a row for each cell."""
        match seen.shapes:
            case [(rows, columns)] if rows == cls.rows(seen.width, seen.height) and columns > 5:
                return cls(seen.width, seen.height, columns - 5)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        (rows,) = outputs
        in_cells = float(rows[:, 0].max()) < self.width / 2
        # A score is at most its objectness: that leaves few rows to look at, and saves 1.2 ms of 1.3.
        chosen = np.flatnonzero(rows[:, 4] >= min_score)
        classes = rows[chosen, 5:].argmax(axis=1)
        scores = rows[chosen, 4] * rows[chosen, 5 + classes]
        good = scores >= min_score
        chosen, classes, scores = chosen[good], classes[good], np.clip(scores[good], 0.0, 1.0)
        boxes = rows[chosen, :4]
        if in_cells:
            cells, strides = _cells(self.width, self.height, self.STRIDES)
            boxes[:, :2] = (boxes[:, :2] + cells[chosen]) * strides[chosen]
            # A logarithm above 16 is no box of any picture, and e^89 is no float32.
            boxes[:, 2:] = np.exp(np.minimum(boxes[:, 2:], 16)) * strides[chosen]
        return Found(corners(boxes), scores, classes.astype(np.int64))


@lru_cache(maxsize=4)
def _cells(width: int, height: int, strides: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of every cell, [n, 2], and its stride in pixels, [n, 1]."""
    cells, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        sizes.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)
