"""Detection transformers: RT-DETR, D-FINE, DEIM, RF-DETR, DETR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detector.decoding import Floats, Found, Outputs
from detector.inputs import IMAGENET, UNIT_RGB
from detector.layouts.layout import Parts, Seen, cells, class_numbers, corners, find_parts, pixels

__all__ = ["DetrBoxesLayout", "DetrLayout", "DetrTableLayout", "RfDetrLayout", "RtDetrLayout"]

_QUERIES_MAX = 1000
_DETR_COLUMNS = 92
"""DETR as it is published: COCO's numbers from 0 to 90, and one for nothing."""
_NOT_ZERO = 1e-6


@dataclass(frozen=True, slots=True)
class DetrTableLayout:
    """One row a query, [cx, cy, w, h, a score a class], boxes as fractions, scores already sigmoid.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        classes: how many classes the network knows.

    Source: Ultralytics, nn/modules/head.py, `RTDETRDecoder.forward`.
    """

    width: int
    height: int
    classes: int

    NAME: ClassVar = "rt-detr"
    FORM: ClassVar = "[batch, queries, 4 + classes]"
    convention: ClassVar = UNIT_RGB
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> DetrTableLayout | None:
        """One output of few rows, with as many classes as labels unless the file says that it is an RT-DETR.

        Six columns are otherwise those of an end-to-end network, and a row a cell that of a YOLOX.
        """
        match seen.shapes:
            case [(rows, columns)] if rows <= _QUERIES_MAX and columns > 4:
                elsewhere = columns == 6 or rows in cells(seen.width, seen.height)
                if seen.stated or seen.facts.transformer or (seen.expects(columns - 4) and not elsewhere):
                    return cls(seen.width, seen.height, columns - 4)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        (rows,) = outputs
        return _best(rows[:, 4:], rows[:, :4], min_score, self.width, self.height)


@dataclass(frozen=True, slots=True)
class DetrBoxesLayout:
    """Three outputs: labels [q], boxes [q, 4] as corners, scores [q], of a network that is told the picture's size.

    It is told its input's own size, so boxes are in pixels of that.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        parts: which output is which.

    Source: RT-DETR, rtdetr_pytorch/tools/export_onnx.py and rtdetr_postprocessor.py; D-FINE and DEIM do the same.
    """

    width: int
    height: int
    parts: Parts

    NAME: ClassVar = "rt-detr"
    FORM: ClassVar = "labels [batch, q], boxes [batch, q, 4] and scores [batch, q]"
    classes: ClassVar = None
    convention: ClassVar = UNIT_RGB
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> DetrBoxesLayout | None:
        """Three such outputs."""
        parts = find_parts(seen.outputs)
        return cls(seen.width, seen.height, parts) if parts is not None and parts.count is None else None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        scores = outputs[self.parts.scores]
        chosen = np.flatnonzero(scores >= min_score)
        boxes = pixels(outputs[self.parts.boxes][chosen], self.width, self.height)
        return Found(boxes, np.clip(scores[chosen], 0.0, 1.0), class_numbers(outputs[self.parts.classes][chosen]))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two outputs: boxes [q, 4], (cx, cy, w, h) as fractions, and logits [q, columns].

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        boxes: which output has them.
        classes: how many classes the network knows.
    """

    width: int
    height: int
    boxes: int
    classes: int

    suppressed: ClassVar = True

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input; see :meth:`Layout.decode`."""
        logits = outputs[1 - self.boxes]
        return _best(self._scores(logits), outputs[self.boxes], min_score, self.width, self.height)

    def _scores(self, logits: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(np.minimum(-logits, 80))), np.float32)  # e^89 is no float32


class RtDetrLayout(_Pair):
    """Logits of a sigmoid each, as many as there are labels.

    Source: RT-DETR, rtdetr_decoder.py (pred_logits, pred_boxes), as Transformers and OpenVINO export it too.
    """

    __slots__ = ()
    NAME: ClassVar = "rt-detr"
    FORM: ClassVar = "logits [batch, queries, classes] and boxes [batch, queries, 4]"
    convention: ClassVar = UNIT_RGB

    @classmethod
    def recognise(cls, seen: Seen) -> RtDetrLayout | None:
        """Two such outputs, unless they are those of the other two families."""
        pair = _pair(seen)
        if pair is None:
            return None
        if not seen.stated and (_is_rf_detr(seen) or _has_nothing(seen, pair[1])):
            return None
        return cls(seen.width, seen.height, *pair)


class RfDetrLayout(_Pair):
    """Outputs ``dets`` and ``labels``: logits of a sigmoid each; where there is a column more than labels it is empty.

    Source: RF-DETR, rfdetr/export/main.py and models/lwdetr.py, `PostProcess`.
    """

    __slots__ = ()
    NAME: ClassVar = "rf-detr"
    FORM: ClassVar = "dets [batch, queries, 4] and labels [batch, queries, classes + 1]"
    convention: ClassVar = IMAGENET

    @classmethod
    def recognise(cls, seen: Seen) -> RfDetrLayout | None:
        """Two outputs of these names."""
        pair = _pair(seen)
        if pair is None or not (seen.stated or _is_rf_detr(seen)):
            return None
        boxes, columns = pair
        return cls(seen.width, seen.height, boxes, columns - 1 if columns - 1 == seen.labels else columns)


class DetrLayout(_Pair):
    """Logits of one softmax, the last of them for nothing.

    Source: DETR, models/detr.py, `PostProcess`.
    """

    __slots__ = ()
    NAME: ClassVar = "detr"
    FORM: ClassVar = "logits [batch, queries, classes + 1] and boxes [batch, queries, 4]"
    convention: ClassVar = IMAGENET

    @classmethod
    def recognise(cls, seen: Seen) -> DetrLayout | None:
        """Two such outputs with a column more than labels."""
        pair = _pair(seen)
        if pair is None or not (seen.stated or (_has_nothing(seen, pair[1]) and not _is_rf_detr(seen))):
            return None
        return cls(seen.width, seen.height, pair[0], pair[1] - 1)

    def _scores(self, logits: Floats) -> Floats:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers[:, :-1] / powers.sum(axis=1, keepdims=True), np.float32)


def _pair(seen: Seen) -> tuple[int, int] | None:
    """Which of two outputs has the boxes, and how many columns the other has."""
    names = [output.name.lower() for output in seen.outputs]
    match seen.shapes:
        case [(queries, first), (others, second)] if queries == others <= _QUERIES_MAX and 4 in (first, second):
            boxes: Literal[0, 1] = 0 if first == 4 else 1
            if first == second:  # four columns of logits
                boxes = 0 if any(word in names[0] for word in ("box", "det")) else 1
            return boxes, (first, second)[1 - boxes]
    return None


def _is_rf_detr(seen: Seen) -> bool:
    return {output.name for output in seen.outputs} == {"dets", "labels"}


def _has_nothing(seen: Seen, columns: int) -> bool:
    """Whether the last column stands for nothing."""
    return columns == (_DETR_COLUMNS if seen.labels is None else seen.labels + 1)


def _best(scores: Floats, boxes: Floats, min_score: float, width: int, height: int) -> Found:
    """The best class of each query, where it is good enough."""
    chosen = np.flatnonzero(scores.max(axis=1) >= min_score)
    classes = scores[chosen].argmax(axis=1)
    best = np.clip(scores[chosen, classes], 0.0, 1.0)
    return Found(pixels(corners(boxes[chosen]), width, height), best, classes.astype(np.int64))
