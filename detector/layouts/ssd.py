"""SSD and EfficientDet with their post-processing in the graph, as TensorFlow's Object Detection API exports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from detector.decoding import Found, Outputs
from detector.inputs import InputConvention
from detector.layouts.layout import Parts, Seen, class_numbers, find_parts, how_many

__all__ = ["SsdLayout"]


@dataclass(frozen=True, slots=True)
class SsdLayout:
    """Boxes (y1, x1, y2, x2) as fractions, classes as fractions, scores, and how many of them count.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        parts: which output is which.
        first: number of the first class: 0 in TensorFlow Lite, 1 in a graph of TensorFlow's that was made ONNX.

    Source: TensorFlow Lite, kernels/detection_postprocess.cc; Object Detection API, exporter.py, output names.
    """

    width: int
    height: int
    parts: Parts
    first: int

    NAME: ClassVar = "ssd"
    FORM: ClassVar = "boxes [batch, k, 4], classes [batch, k], scores [batch, k] and their number"
    classes: ClassVar = None
    convention: ClassVar = InputConvention(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> SsdLayout | None:
        """Outputs of the API's names, whatever else there is; or four of these shapes with fractions for classes."""
        places = {output.name.partition(":")[0]: place for place, output in enumerate(seen.outputs)}
        named = [places.get(f"detection_{what}") for what in ("boxes", "scores", "classes")]
        match named:
            case [int(boxes), int(scores), int(classes)] if not seen.outputs[classes].whole:
                parts = Parts(boxes, scores, classes, places.get("num_detections"))
                return cls(seen.width, seen.height, parts, first=1)
        found = find_parts(seen.outputs)
        if found is None or found.count is None:
            return None
        if not seen.stated and seen.outputs[found.classes].whole:
            return None
        return cls(seen.width, seen.height, found, first=0)

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        scores = outputs[self.parts.scores]
        if self.parts.count is not None:
            scores = scores[: how_many(outputs[self.parts.count], len(scores))]
        chosen = np.flatnonzero(scores >= min_score)
        extent = np.array([self.width, self.height, self.width, self.height], np.float32)
        boxes = outputs[self.parts.boxes][chosen][:, [1, 0, 3, 2]] * extent
        classes = class_numbers(outputs[self.parts.classes][chosen]) - self.first
        return Found(boxes, np.clip(scores[chosen], 0.0, 1.0), classes)
