"""The ways in which networks write down what they found, recognised by the shape of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from config import ConfigError
from detector.decoding import Found, Outputs

__all__ = ["Layout", "Shape", "YoloxLayout", "recognise"]

Shape = tuple[int, ...]


class Layout(Protocol):
    """One way of writing down boxes."""

    @property
    def classes(self) -> int:
        """How many classes the network knows."""
        ...

    def decode(self, outputs: Outputs, min_score: float) -> Found:
        """Boxes in pixels of the network's input, unordered, overlapping ones included.

        Args:
            outputs: what the network says of one picture, one array an output, without the batch's dimension.
            min_score: boxes below it are left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class YoloxLayout:
    """YOLOX: one row a grid cell, [cx, cy, w, h, objectness, a score a class], scores already sigmoid.

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

    STRIDES = (8, 16, 32)

    @classmethod
    def rows(cls, width: int, height: int) -> int:
        """Rows that such a network has for an input of this size."""
        return sum((width // stride) * (height // stride) for stride in cls.STRIDES)

    @classmethod
    def recognise(cls, width: int, height: int, outputs: Sequence[Shape]) -> YoloxLayout | None:
        """The layout, when these shapes (without the batch's dimension) are its."""
        match outputs:
            case [(rows, columns)] if rows == cls.rows(width, height) and columns > 5:
                return cls(width, height, columns - 5)
        return None

    @classmethod
    def describe(cls, width: int, height: int) -> str:
        """The shapes that it has for an input of this size, for an error message."""
        return f"YOLOX [batch, {cls.rows(width, height)}, 5 + classes]"

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
        centres, sizes = rows[chosen, :2], rows[chosen, 2:4]
        if in_cells:
            cells, strides = _cells(self.width, self.height, self.STRIDES)
            centres = (centres + cells[chosen]) * strides[chosen]
            # A logarithm above 16 is no box of any picture, and e^89 is no float32.
            sizes = np.exp(np.minimum(sizes, 16)) * strides[chosen]
        boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
        return Found(np.asarray(boxes, np.float32), scores, classes.astype(np.int64))


@lru_cache(maxsize=4)
def _cells(width: int, height: int, strides: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of every cell, [n, 2], and its stride in pixels, [n, 1]."""
    cells, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        sizes.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


_KNOWN = (YoloxLayout,)


def recognise(width: int, height: int, outputs: Sequence[Shape], *, model: str) -> Layout:
    """Find the layout of a network.

    Args:
        width: of its input, in pixels.
        height: of its input, in pixels.
        outputs: shapes of its outputs without the batch's dimension.
        model: what to call it in an error.

    Raises:
        ConfigError: no known layout has these shapes.
    """
    for known in _KNOWN:
        layout = known.recognise(width, height, outputs)
        if layout is not None:
            return layout
    seen = ", ".join(str(["batch", *shape]).replace("'", "") for shape in outputs) or "none"
    wanted = " or ".join(known.describe(width, height) for known in _KNOWN)
    raise ConfigError(
        f"{model} is not a detection model that Vigil can read: for its input of {width}x{height} it gives "
        f"{seen}, known is {wanted}. Export a YOLOX model, or leave `model` empty for the HOG people detector",
        field="detector.model",
    )
