"""OpenCV's HOG people detector: no model file, no download, sees standing people and nothing else.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages import ModelRef
from detector.backends.protocol import Prepared
from detector.decoding import Fit, Floats, Found, Outputs, best, to_picture
from detector.pictures import Picture

__all__ = ["HogBackend", "HogParameters", "margin_to_score", "without_inner"]


class HogParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How the detector looks; part of the model's identity.

    On the synthetic street (people of 95 to 165 px in a picture of 640x360) it finds 0.80 of those in full view, and
    0.92 of what it says is right. On PETS 2009 S2.L1 view 1 (OpenCV's vtest.avi, people of 40 to 90 px in 480x360) it
    finds 0.56 of what a Faster R-CNN finds, and 0.94 is right. Both at a score of 0.5 and an IoU of 0.4.

    Attributes:
        side_px: a picture is enlarged until its longer side has as many pixels; a person must then be about 90 high.
            With 960 it would find 0.76 on PETS, and take half as long again.
        enlarge_max: but never more than so many times.
        stride_px: steps of the window.
        pyramid: between two sizes of a person. At 1.05, the library's default, the detector takes three times as
            long and is no better.
        margin_min: windows below this distance from the decision surface are not looked at; a score of 0.19.
        rim_x: the window is wider than the person by this share of it, on either side.
        rim_y: and higher.
        overlap_max: of two windows that share more than this of the smaller, the better one stays. The detector likes
            to see a smaller person inside a person; by intersection over union, every fifth box was such a one.
    """

    side_px: int = 800
    enlarge_max: float = 2.0
    stride_px: int = 8
    pyramid: float = 1.2
    margin_min: float = -0.2
    rim_x: float = 0.2
    rim_y: float = 0.08
    overlap_max: float = 0.6


_SLOPE, _EVEN = 2.2, 0.47


def margin_to_score(margins: NDArray[np.float32]) -> NDArray[np.float32]:
    """How probably a window is a person, from its distance to the decision surface.

    At 0.5 a window on the synthetic street is as likely a person as not, which is a margin of 0.47, and one on PETS
    somewhat more likely; of the windows above it more than nine in ten are right. Margins of 0, 1 and 2 score 0.26,
    0.76 and 0.97.

    Args:
        margins: of the linear support vector machine, any shape.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; fitted on the two sequences that
    :class:`HogParameters` names, to which the slope is a compromise (2.1 and 4.5).
    """
    exponents = np.clip(-_SLOPE * (margins - _EVEN), -80, 80)  # e^89 is no float32
    return np.asarray(1.0 / (1.0 + np.exp(exponents)), np.float32)


class HogBackend:
    """The people detector.

    Args:
        min_score: boxes below it are left out.
        threads: threads of OpenCV in this process; 0 lets it choose.
        parameters: how it looks.
    """

    def __init__(self, *, min_score: float, threads: int = 0, parameters: HogParameters | None = None) -> None:
        self._parameters = parameters or HogParameters()
        self._min_score = min_score
        identity = b"opencv-hog-people " + msgspec.json.encode(self._parameters)
        self.model = ModelRef(name="hog-people", sha256=hashlib.sha256(identity).hexdigest())
        self.labels = ("person",)
        self.device = "cpu"
        self.batch_max = 1
        self.input_px = (self._parameters.side_px, self._parameters.side_px)
        cv2.setNumThreads(threads or -1)
        self._detector = cv2.HOGDescriptor()
        self._detector.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def prepare(self, picture: Picture) -> Prepared:
        """Enlarge or shrink a picture to the size at which people are found; see :meth:`Backend.prepare`."""
        height, width = picture.shape[:2]
        window_width, window_height = self._detector.winSize
        scale = min(self._parameters.enlarge_max, self._parameters.side_px / max(width, height))
        size = (max(window_width, round(width * scale)), max(window_height, round(height * scale)))
        pixels = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        return Prepared(np.asarray(pixels, np.uint8), Fit(width, height, scale, scale))

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        """Slide the window over each picture; see :meth:`Backend.infer`.

        Returns:
            Per picture float32 [n, 4], (x, y, width, height) of windows in pixels, and float32 [n], their margins.
        """
        return [self._slide(prepared.pixels) for prepared in batch]

    def _slide(self, pixels: Picture) -> Outputs:
        parameters = self._parameters
        windows, margins = self._detector.detectMultiScale(
            pixels,
            hitThreshold=parameters.margin_min,
            winStride=(parameters.stride_px, parameters.stride_px),
            padding=(8, 8),
            scale=parameters.pyramid,
            groupThreshold=0,
        )
        return np.asarray(windows, np.float32).reshape(-1, 4), np.asarray(margins, np.float32).reshape(-1)

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        """Cut windows down to people and drop the doubles; see :meth:`Backend.decode`."""
        windows, margins = outputs
        rim = np.array([self._parameters.rim_x, self._parameters.rim_y], np.float32) * windows[:, 2:]
        boxes = np.concatenate((windows[:, :2] + rim, windows[:, :2] + windows[:, 2:] - rim), axis=1)
        found = Found(boxes, margin_to_score(margins), np.zeros(len(margins), np.int64))
        found = without_inner(found[found.scores >= self._min_score], self._parameters.overlap_max)
        return to_picture(found, prepared.fit)

    def close(self) -> None:
        """Nothing to give back; see :meth:`Backend.close`."""


def without_inner(found: Found, overlap_max: float) -> Found:
    """Leave out boxes that lie inside a better one.

    Args:
        found: boxes in any order.
        overlap_max: of two boxes that share more than this of the smaller, the better one stays.

    Returns:
        The rest, the best first.
    """
    found = found[np.argsort(-found.scores, kind="stable")]
    rivals = _shared(found.boxes_px) > overlap_max
    alive = np.ones(len(found), np.bool_)
    for place in range(len(found)):
        if alive[place]:
            alive[place + 1 :] &= ~rivals[place, place + 1 :]
    return best(found[alive])


def _shared(boxes: Floats) -> Floats:
    """How much of the smaller one every two boxes share, 0 to 1: float32 [n, n]."""
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    smaller = np.minimum(areas[:, None], areas[None, :])
    return np.asarray(shared / np.maximum(smaller, np.finfo(np.float32).tiny), np.float32)
