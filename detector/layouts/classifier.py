"""Networks that say what a picture is of, and not where."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from detector.decoding import Floats, Found, Outputs
from detector.inputs import IMAGENET, UNIT_RGB, InputConvention
from detector.layouts.layout import Seen

__all__ = ["ClassifierLayout"]

_TOP = 5
_TOLERANCE = 0.02
"""Probabilities of a quantised network add up to 1 within this."""


@dataclass(frozen=True, slots=True)
class ClassifierLayout:
    """One number a class, probabilities or logits; what is likely enough is a box around the whole picture.

    The picture is stretched, where training cut its middle out: what is at its edge counts here.

    Args:
        width: of the input, in pixels.
        height: of the input, in pixels.
        classes: how many classes the network knows.
        convention: how its pictures are made.

    Source: torchvision, `Normalize` of its classification presets; Ultralytics, `ClassificationModel`, 0 to 1.
    """

    width: int
    height: int
    classes: int
    convention: InputConvention = IMAGENET

    NAME: ClassVar = "classifier"
    FORM: ClassVar = "[batch, classes]"
    suppressed: ClassVar = True

    @classmethod
    def recognise(cls, seen: Seen) -> ClassifierLayout | None:
        """One output that is a row of at least two numbers."""
        match seen.shapes:
            case [shape] if prod(shape) == max(shape, default=0) > 1:
                convention = UNIT_RGB if seen.facts.task == "classify" else IMAGENET
                return cls(seen.width, seen.height, max(shape), convention)
        return None

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """The likely classes, each around the whole input; see :meth:`Layout.decode`."""
        scores = _probabilities(outputs[0].reshape(-1))
        likely = np.flatnonzero(scores >= min_score)
        likely = likely[np.argsort(-scores[likely], kind="stable")[:_TOP]]
        boxes = np.tile(np.array([0, 0, self.width, self.height], np.float32), (len(likely), 1))
        return Found(boxes, np.clip(scores[likely], 0.0, 1.0), likely.astype(np.int64))


def _probabilities(values: Floats) -> Floats:
    if float(values.min()) >= 0 and abs(float(values.sum()) - 1) <= _TOLERANCE:
        return values
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), np.float32)
