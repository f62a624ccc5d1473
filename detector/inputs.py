"""From a picture to the numbers that a network takes. Pure: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from broker.messages import ModelInput
from detector.decoding import Fit
from detector.pictures import Picture

__all__ = ["IMAGENET", "UNIT_RGB", "InputConvention", "InputSpec", "Placing", "place", "to_numbers"]

Placing = Literal["corner", "centre", "stretch"]
Triple = tuple[float, float, float]

_PADDING = 114
"""The grey around a letterboxed picture, as in training. Source: YOLOX, `preproc`; YOLOv5, `letterbox`."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the file of a network takes.

    Attributes:
        width: pixels.
        height: pixels.
        batch: pictures in one inference, when the file fixes them; None when any number goes.
        dtype: of the numbers.
        channels_first: [n, 3, h, w]; otherwise [n, h, w, 3].
        scale: of a quantised network: the value of a step; 0 where the numbers are what they say.
        zero: which number then stands for 0.
    """

    width: int
    height: int
    batch: int | None
    dtype: np.dtype[Any]
    channels_first: bool
    scale: float = 0.0
    zero: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture's numbers."""
        return (3, self.height, self.width) if self.channels_first else (self.height, self.width, 3)


@dataclass(frozen=True, slots=True)
class InputConvention:
    """How a family of networks wants its pictures.

    Attributes:
        colour: order of the channels.
        fit: ``corner`` and ``centre`` keep the picture's shape, with grey around it; ``stretch`` fills the input.
        mean: is taken off each channel's pixels (0 to 255), in the order of `colour`.
        std: and the rest is divided by this.
    """

    colour: Literal["bgr", "rgb"] = "rgb"
    fit: Placing = "stretch"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    def changed(self, stated: ModelInput | None) -> InputConvention:
        """This one, with what somebody states about a model in its place."""
        if stated is None:
            return self
        return replace(self, **{name: value for name, value in _fields(stated) if value is not None})


def _fields(stated: ModelInput) -> tuple[tuple[str, Any], ...]:
    return ("colour", stated.colour), ("fit", stated.fit), ("mean", stated.mean), ("std", stated.std)


UNIT_RGB = InputConvention(std=(255.0, 255.0, 255.0))
"""Red-green-blue from 0 to 1, stretched."""
IMAGENET = InputConvention(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""Less the mean of ImageNet, in units of its deviation. Source: torchvision.transforms, `Normalize`: times 255."""


def place(picture: Picture, width: int, height: int, fit: Placing) -> tuple[Picture, Fit]:
    """Lay a picture into a network's input.

    Args:
        picture: uint8 [h, w, 3].
        width: of the input, in pixels.
        height: of the input, in pixels.
        fit: how it is laid.

    Returns:
        The input, uint8 [height, width, 3], and where the picture lies in it.

    Source: YOLOX, yolox/data/data_augment.py, `preproc` (corner); YOLOv5, utils/augmentations.py, `letterbox` (centre).
    """
    rows, columns = picture.shape[:2]
    if fit == "stretch":
        stretched = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(stretched, np.uint8), Fit(columns, rows, width / columns, height / rows)
    scale = min(width / columns, height / rows)
    inner_width, inner_height = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (0, 0) if fit == "corner" else ((width - inner_width) // 2, (height - inner_height) // 2)
    canvas = np.full((height, width, 3), _PADDING, np.uint8)
    # Written in place: `dst` is a view of the canvas, so there is no second copy.
    inner = canvas[top : top + inner_height, left : left + inner_width]
    cv2.resize(picture, (inner_width, inner_height), dst=inner, interpolation=cv2.INTER_LINEAR)
    return canvas, Fit(columns, rows, scale, scale, left, top)


def to_numbers(pixels: Picture, spec: InputSpec, convention: InputConvention) -> NDArray[Any]:
    """Pixels as the network's own numbers.

    A network of plain whole numbers gets the pixels as they are: what is done to them is part of it.

    Args:
        pixels: uint8 [height, width, 3], blue-green-red, of the input's size.
        spec: what the network takes.
        convention: order of colours, mean and deviation.

    Returns:
        Contiguous, [3, height, width] or [height, width, 3], of the network's type.
    """
    if np.issubdtype(spec.dtype, np.floating):
        return _floats(pixels, spec, convention)
    ordered = pixels if convention.colour == "bgr" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if spec.scale:
        ordered = cv2.LUT(ordered, _quantised(spec, convention))
    return np.ascontiguousarray(ordered.transpose(2, 0, 1) if spec.channels_first else ordered, spec.dtype)


def _floats(pixels: Picture, spec: InputSpec, convention: InputConvention) -> NDArray[Any]:
    rgb, mean, std = convention.colour == "rgb", convention.mean, convention.std
    if spec.channels_first:
        # Plane by plane from contiguous memory: 0.3 ms of 416x416, where `cv2.dnn.blobFromImage` takes 2.4 ms.
        numbers = np.empty(spec.shape, np.float32)
        for target, plane in zip(numbers[::-1] if rgb else numbers, cv2.split(pixels), strict=True):
            np.copyto(target, plane)
        channels = list(numbers)
    else:
        numbers = (cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if rgb else pixels).astype(np.float32)
        channels = [numbers[..., channel] for channel in range(3)]
    if len(set(mean)) == len(set(std)) == 1:
        channels = [numbers]  # in memory's own order
    for target, less, unit in zip(channels, mean, std, strict=False):
        if unit != 1:
            np.multiply(target, np.float32(1 / unit), out=target)
        if less:
            np.subtract(target, np.float32(less / unit), out=target)
    return np.asarray(numbers, spec.dtype)


def _quantised(spec: InputSpec, convention: InputConvention) -> NDArray[Any]:
    """The network's number of each pixel value, [256, 1, 3]."""
    limits = np.iinfo(spec.dtype)
    values = (np.arange(256.0)[:, None] - convention.mean) / convention.std
    numbers = np.clip(np.rint(values / spec.scale) + spec.zero, limits.min, limits.max)
    return np.asarray(numbers.reshape(256, 1, 3), spec.dtype)
