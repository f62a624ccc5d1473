"""YOLOv8, YOLO11 and their kin, without suppression in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from detector.decoding import Found, Outputs
from detector.inputs import InputConvention
from detector.layouts.layout import Seen, cells, corners, pixels

__all__ = ["Yolov8Layout"]


@dataclass(frozen=True, slots=True)
class Yolov8Layout:
    """One column a grid cell, [cx, cy, w, h, a score a class], boxes in pixels or fractions of the input.

    Some converters write the same with a row a cell. A YOLOX does that too, and says nothing of itself: so it is read
    in this way only where the file says what it was made for, as those of Ultralytics do, or somebody states it.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        classes: how many classes the network knows.
        in_rows: a row a cell, not a column.

    Source: Ultralytics, nn/modules/head.py, `Detect`, and nn/backends/litert.py, where boxes are fractions.
    """

    width: int
    height: int
    classes: int
    in_rows: bool = False

    NAME: ClassVar = "yolov8"
    FORM: ClassVar = "[batch, 4 + classes, cells]"
    convention: ClassVar = InputConvention(fit="centre", std=(255.0, 255.0, 255.0))
    suppressed: ClassVar = False

    @classmethod
    def recognise(cls, seen: Seen) -> Yolov8Layout | None:
        """One output with a column for each cell, or a row."""
        known = cells(seen.width, seen.height)
        match seen.shapes:
            case [(rows, columns)] if columns in known and rows > 4:
                return cls(seen.width, seen.height, rows - 4)
            case [(rows, columns)] if rows in known and columns > 4 and (seen.stated or seen.facts.task):
                return cls(seen.width, seen.height, columns - 4, in_rows=True)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        (table,) = outputs
        columns = table.T if self.in_rows else table
        # The best score alone is a fast pass over memory in order; its class is asked for where it is good.
        chosen = np.flatnonzero(columns[4:].max(axis=0) >= min_score)
        scores = columns[4:, chosen]
        classes = scores.argmax(axis=0)
        best = np.clip(scores[classes, np.arange(len(chosen))], 0.0, 1.0)
        boxes = pixels(corners(columns[:4, chosen].T), self.width, self.height)
        return Found(boxes, best, classes.astype(np.int64))
