"""Networks that say each thing once: YOLO exports with suppression in the graph, YOLOv10, YOLO26."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from detector.decoding import Found, Outputs
from detector.inputs import InputConvention
from detector.layouts.layout import Parts, Seen, class_numbers, find_parts, how_many, pixels

__all__ = ["EfficientNmsLayout", "EndToEndLayout"]

_ROWS_MAX = 1000
_CONVENTION = InputConvention(fit="centre", std=(255.0, 255.0, 255.0))


@dataclass(frozen=True, slots=True)
class EndToEndLayout:
    """One row a box, [x1, y1, x2, y2, score, class], in pixels or fractions of the input; rows left over have score 0.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.

    Source: Ultralytics, engine/exporter.py, `NMSModel`, and nn/modules/head.py, `Detect.postprocess`.
    """

    width: int
    height: int

    NAME: ClassVar = "end-to-end"
    FORM: ClassVar = "[batch, boxes, 6]"
    classes: ClassVar = None
    convention: ClassVar = _CONVENTION
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> EndToEndLayout | None:
        """One output of six columns, unless the file says that it is an RT-DETR, which so has two classes."""
        match seen.shapes:
            case [(rows, 6)] if rows <= _ROWS_MAX and (seen.stated or not seen.facts.transformer):
                return cls(seen.width, seen.height)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        (rows,) = outputs
        rows = rows[rows[:, 4] >= min_score]
        boxes = pixels(rows[:, :4], self.width, self.height)
        return Found(boxes, np.clip(rows[:, 4], 0.0, 1.0), class_numbers(rows[:, 5]))


@dataclass(frozen=True, slots=True)
class EfficientNmsLayout:
    """Four outputs: how many boxes, boxes (x1, y1, x2, y2) in pixels or fractions, their scores, their classes.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        parts: which output is which.
        count: the output that says how many boxes count.

    Source: TensorRT, plugin/efficientNMSPlugin, README, "Outputs".
    """

    width: int
    height: int
    parts: Parts
    count: int

    NAME: ClassVar = "efficient-nms"
    FORM: ClassVar = "num_dets, boxes [batch, k, 4], scores [batch, k] and classes [batch, k] of whole numbers"
    classes: ClassVar = None
    convention: ClassVar = _CONVENTION
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> EfficientNmsLayout | None:
        """Four such outputs, with whole numbers for the classes; SSD gives fractions."""
        parts = find_parts(seen.outputs)
        if parts is None or parts.count is None:
            return None
        if not seen.stated and not seen.outputs[parts.classes].whole:
            return None
        return cls(seen.width, seen.height, parts, parts.count)

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        scores = outputs[self.parts.scores]
        scores = scores[: how_many(outputs[self.count], len(scores))]
        chosen = np.flatnonzero(scores >= min_score)
        boxes = pixels(outputs[self.parts.boxes][chosen], self.width, self.height)
        return Found(boxes, np.clip(scores[chosen], 0.0, 1.0), class_numbers(outputs[self.parts.classes][chosen]))
