"""The drawn room before rules: boxes from the drawing itself or from a model, followed as a worker follows them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from broker.messages import Detection, FrameMeta
from config.cameras import CameraSettings
from config.rules import Rule
from config.settings import DetectorSettings
from detector.decoding import to_detections
from detector.models import open_file
from detector.rules import open_rules
from detector.watching import CameraWatch
from edge.synthetic.room import SyntheticRoom

__all__ = ["Eye", "drawn_eye", "fired", "model_eye"]

BEGIN = datetime(2026, 1, 5, 12, tzinfo=UTC)
RULES = TypeAdapter(dict[str, Rule]).validate_python(
    {"fall": {"kind": "on-the-ground", "for_s": 10}, "still": {"kind": "long-time-still", "for_s": 20}}
)
Eye = Callable[[float], tuple[Detection, ...]]


def drawn_eye(room: SyntheticRoom) -> Eye:
    """The drawing's own boxes, which tremble by some hundredths as those of a model do."""
    rng = np.random.default_rng(3)

    def see(at_s: float) -> tuple[Detection, ...]:
        person = room.person(at_s)
        if person is None:
            return ()
        x1, y1, x2, y2 = person.box_xyxy
        noise = rng.normal(0, 0.02, 4) * [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
        left, top, right, bottom = np.clip(np.add(person.box_xyxy, noise), 0, 1).tolist()
        box_px = (left * 640, top * 360, right * 640, bottom * 360)
        return (Detection(label="person", score=0.8, box=(left, top, right, bottom), box_px=box_px),)

    return see


def model_eye(room: SyntheticRoom, model: Path) -> Eye:
    backend = open_file(model, DetectorSettings())

    def see(at_s: float) -> tuple[Detection, ...]:
        prepared = backend.prepare(np.ascontiguousarray(room.picture(at_s)[..., ::-1]))
        (outputs,) = backend.infer([prepared])
        return to_detections(backend.decode(outputs, prepared), backend.labels, 640, 360)

    return see


def fired(see: Eye, start_s: float, end_s: float, fps: float) -> Iterator[tuple[str, float]]:
    """Which rule fires at which second."""
    settings = DetectorSettings(rules=RULES)
    rules = open_rules(RULES, "room", ())
    numbers = itertools.count()
    watch = CameraWatch("room", settings, CameraSettings(), rules, new_id=lambda: f"track-{next(numbers)}")
    for at_s in np.arange(start_s, end_s, 1 / fps):
        second = float(at_s)
        meta = FrameMeta(
            camera="room", node="node-1", seq=round(second * fps), captured_at=BEGIN + timedelta(seconds=second),
            width=640, height=360,
        )  # fmt: skip
        for firing in watch.look(meta, see(second)).firings:
            yield firing.rule, round(second, 2)
