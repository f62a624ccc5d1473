"""What stands in for a model and a camera in the detector's tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

import cv2
import numpy as np

from broker import encode_frame
from broker.messages import FrameMeta, ModelRef
from config import TransientError
from detector.backends import Prepared
from detector.decoding import Fit, Found, Outputs
from detector.pictures import Picture

__all__ = ["MODEL", "BrightBackend", "frame", "picture"]

MODEL = ModelRef(name="bright", sha256="ab" * 32)


class BrightBackend:
    """Finds one person in a bright picture, and nobody in a dark one.

    Attributes:
        open: cleared, `infer` waits until it is set again; `waiting` says that it does.
        failures: so many inferences fail.
        batches: sizes of the batches so far.
        closed: it gave back what it held.
    """

    def __init__(self, *, batch_max: int = 1) -> None:
        self.model = MODEL
        self.labels = ("person",)
        self.device = "cpu"
        self.batch_max = batch_max
        self.input_px = (64, 48)
        self.closed = False
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()
        self.failures = 0
        self.batches: list[int] = []

    def prepare(self, picture: Picture) -> Prepared:
        return Prepared(picture, Fit(picture.shape[1], picture.shape[0]))

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        assert 1 <= len(batch) <= self.batch_max
        self.waiting.set()
        assert self.open.wait(30)
        if self.failures:
            self.failures -= 1
            raise TransientError("the accelerator went away")
        self.batches.append(len(batch))
        return [(np.array([prepared.pixels.mean() / 255], np.float32),) for prepared in batch]

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        score = outputs[0][0]
        width, height = prepared.fit.width, prepared.fit.height
        box = np.array([[width / 4, 0, width / 2, height]], np.float32)
        one = Found(box, np.array([score], np.float32), np.zeros(1, np.int64))
        return one if score > 0.35 else one[np.zeros(1, np.bool_)]

    def close(self) -> None:
        self.closed = True


def picture(*, person: bool = True, width: int = 64, height: int = 48) -> Picture:
    """A picture in which :class:`BrightBackend` finds somebody, or nobody."""
    return np.full((height, width, 3), 230 if person else 10, np.uint8)


def frame(
    seq: int,
    captured_at: datetime,
    *,
    camera: str = "yard",
    person: bool = True,
    width: int = 64,
    height: int = 48,
    expires_at: datetime | None = None,
    detect: bool = True,
) -> bytes:
    """A frame as a camera's node sends it."""
    done, jpeg = cv2.imencode(".jpg", picture(person=person, width=width, height=height))
    assert done
    meta = FrameMeta(
        camera=camera,
        node="node-1",
        seq=seq,
        captured_at=captured_at,
        width=width,
        height=height,
        expires_at=expires_at,
        moving=True,
        detect=detect,
    )
    return encode_frame(jpeg.tobytes(), meta)
