"""YOLOv5, and YOLOv3 and YOLOv7 as they are exported without suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from detector.decoding import Found, Outputs
from detector.inputs import InputConvention
from detector.layouts.layout import Seen, cells, corners, pixels

__all__ = ["Yolov5Layout"]

_ANCHORS = 3


@dataclass(frozen=True, slots=True)
class Yolov5Layout:
    """Three rows a grid cell, [cx, cy, w, h, objectness, a score a class], boxes in pixels or fractions of the input.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        classes: how many classes the network knows.

    Source: YOLOv5, models/yolo.py, `Detect.forward`, and models/tf.py, `TFDetect.call`, where boxes are fractions.
    """

    width: int
    height: int
    classes: int

    NAME: ClassVar = "yolov5"
    FORM: ClassVar = "[batch, three times the cells, 5 + classes]"
    convention: ClassVar = InputConvention(fit="centre", std=(255.0, 255.0, 255.0))
    suppressed: ClassVar = False

    @classmethod
    def recognise(cls, seen: Seen) -> Yolov5Layout | None:
        """One output with three rows for each cell."""
        match seen.shapes:
            case [(rows, columns)] if columns > 5 and rows in {_ANCHORS * n for n in cells(seen.width, seen.height)}:
                return cls(seen.width, seen.height, columns - 5)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        (rows,) = outputs
        chosen = np.flatnonzero(rows[:, 4] >= min_score)  # a score is at most its objectness
        classes = rows[chosen, 5:].argmax(axis=1)
        scores = rows[chosen, 4] * rows[chosen, 5 + classes]
        good = scores >= min_score
        boxes = pixels(corners(rows[chosen[good], :4]), self.width, self.height)
        return Found(boxes, np.clip(scores[good], 0.0, 1.0), classes[good].astype(np.int64))
