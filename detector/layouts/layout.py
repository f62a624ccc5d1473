"""What a layout is, and what the families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.decoding import Floats, Found, Outputs
from detector.facts import ModelFacts
from detector.inputs import InputConvention

__all__ = [
    "Layout",
    "Output",
    "Parts",
    "Seen",
    "Shape",
    "cells",
    "class_numbers",
    "corners",
    "find_parts",
    "how_many",
    "pixels",
]

Shape = tuple[int, ...]

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Grids that YOLO networks have: the usual ones, those for large inputs (P6), for small things (P2), and the tiny."""
_FRACTION_MAX = 2.0
"""A box in fractions may stick out of the picture; one in pixels ends further from the corner than this."""
_COCO_CLASSES = (80, 90, 91)
"""What a network that says nothing of its labels was most likely trained with; see :mod:`detector.labels`."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a network.

    Attributes:
        shape: without the batch's dimension.
        whole: it has whole numbers.
    """

    name: str
    shape: Shape
    whole: bool = False

    def __str__(self) -> str:
        """As an error names it."""
        shape = ", ".join(["batch", *map(str, self.shape)])
        return f"{self.name} [{shape}]" + (" of whole numbers" if self.whole else "")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network shows of itself.

    Attributes:
        width: of its input, in pixels.
        height: of its input, in pixels.
        outputs: in its order.
        facts: what its file says.
        labels: how many labels somebody gave it; None when nobody did.
        stated: somebody said which layout it has, so it need not prove it.
    """

    width: int
    height: int
    outputs: Sequence[Output]
    facts: ModelFacts = field(default_factory=ModelFacts)
    labels: int | None = None
    stated: bool = False

    @property
    def shapes(self) -> list[Shape]:
        """Of the outputs."""
        return [output.shape for output in self.outputs]

    def expects(self, classes: int) -> bool:
        """Whether so many classes are what it should have."""
        return classes in _COCO_CLASSES if self.labels is None else classes == self.labels


class Layout(Protocol):
    """One way of writing down what was found."""

    NAME: ClassVar[str]
    """What people call the family."""
    FORM: ClassVar[str]
    """Its outputs, for an error message."""

    @property
    def classes(self) -> int | None:
        """How many classes the network knows; None where its outputs do not tell."""
        ...

    @property
    def convention(self) -> InputConvention:
        """How its pictures are made."""
        ...

    @property
    def suppressed(self) -> bool:
        """Whether it says each thing once, so that boxes that overlap are several things."""
        ...

    @classmethod
    def recognise(cls, seen: Seen) -> Layout | None:
        """The layout, when this is it."""
        ...

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input, unordered, overlapping ones included.

        Args:
            outputs: what the network says of one picture, one array an output, without the batch's dimension.
            min_score: boxes below it are left out.
        """
        ...


def cells(width: int, height: int) -> frozenset[int]:
    """How many cells the grids of a network with this input may have together."""
    return frozenset(sum((width // step) * (height // step) for step in strides) for strides in _STRIDES)


def corners(boxes: Floats) -> Floats:
    """Boxes (centre x, centre y, width, height) as (x1, y1, x2, y2); float32 [n, 4]."""
    halves = boxes[:, 2:4] / 2
    return np.concatenate((boxes[:, :2] - halves, boxes[:, :2] + halves), axis=1)


def pixels(boxes: Floats, width: int, height: int) -> Floats:
    """Boxes in pixels of the input, also where the network gives fractions of it.

    Exports for TFLite give fractions where those of the same network for ONNX give pixels. Boxes of which none ends
    more than two pixels from the corner are fractions.

    Args:
        boxes: float32 [n, 4], (x1, y1, x2, y2).
        width: of the input, in pixels.
        height: of the input, in pixels.
    """
    if len(boxes) and float(boxes.max()) <= _FRACTION_MAX:
        return boxes * np.array([width, height, width, height], np.float32)
    return boxes


def class_numbers(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class numbers that came as fractions; what is no number is class -1, which nothing is."""
    return np.nan_to_num(values, nan=-1, posinf=-1, neginf=-1).astype(np.int64)


def how_many(count: Floats, limit: int) -> int:
    """A number of boxes that a network gives, between none and `limit`, whatever it gives."""
    return int(np.clip(np.nan_to_num(count.reshape(-1)[0], nan=0, posinf=0, neginf=0), 0, limit))


@dataclass(frozen=True, slots=True)
class Parts:
    """Which outputs hold what, where boxes, scores and classes have one each.

    Attributes:
        count: how many of the boxes count; None when all do.
    """

    boxes: int
    scores: int
    classes: int
    count: int | None = None


def find_parts(outputs: Sequence[Output]) -> Parts | None:
    """Tell outputs for boxes, scores, classes and their number apart; None when they are not such outputs.

    Boxes are [k, 4], their number is one number, and the other two are [k]. Of these the names tell which is which;
    where they do not, the one with whole numbers is the classes; where both or none have them, classes come first after
    boxes that are the first output, and scores otherwise. Source: TensorFlow Lite's detection_postprocess.cc (boxes,
    classes, scores, count), and converters of TensorFlow 2, which give scores, boxes, count, classes.
    """
    boxes = [place for place, output in enumerate(outputs) if len(output.shape) == 2 and output.shape[1] == 4]
    counts = [place for place, output in enumerate(outputs) if output.shape in ((), (1,))]
    if len(boxes) != 1 or len(counts) > 1:
        return None
    length = outputs[boxes[0]].shape[0]
    rows = [place for place, output in enumerate(outputs) if output.shape == (length,)]
    if len(rows) != 2 or len(outputs) != 3 + len(counts):
        return None
    first, second = rows
    if _is_classes(outputs, first, second, boxes_first=boxes[0] == 0):
        first, second = second, first
    return Parts(boxes[0], first, second, counts[0] if counts else None)


_WORDS: Mapping[str, bool] = {"class": True, "label": True, "score": False, "conf": False}


def _is_classes(outputs: Sequence[Output], first: int, second: int, *, boxes_first: bool) -> bool:
    """Whether the first of two is the classes."""
    for place, other in ((first, False), (second, True)):
        for word, means_classes in _WORDS.items():
            if word in outputs[place].name.lower():
                return means_classes != other
    if outputs[first].whole != outputs[second].whole:
        return outputs[first].whole
    return boxes_first
