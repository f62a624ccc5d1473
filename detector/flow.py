"""A frame on its way through the worker: as it came, as the model takes it, as the model saw it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker import Frame
from detector.backends import Backend, Prepared
from detector.decoding import Outputs
from detector.pictures import Picture
from detector.regions import Region

__all__ = ["Arrival", "Inference", "Readable", "Scored"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame as it came.

    Attributes:
        topic: where it came.
        received_at: on this machine's clock.
        received_s: monotonic seconds of the same moment.
        delay_s: how much longer than usual it was on its way.
        epoch: under which the camera was this worker's then. What comes under it is this worker's to score, also
            when the camera is given away meanwhile.
    """

    frame: Frame
    topic: str
    received_at: datetime
    received_s: float
    delay_s: float
    epoch: int

    @property
    def camera(self) -> str:
        """Whose frame it is."""
        return self.frame.meta.camera

    def age_s(self, now_s: float) -> float:
        """How old it is: what it waited here, and what it took longer on its way than the camera's other frames."""
        return self.delay_s + now_s - self.received_s

    def age_max_s(self, otherwise_s: float) -> float:
        """At which age it is worth nothing: the time between its capture and its own end, as far as it has one."""
        meta = self.frame.meta
        if meta.expires_at is None:
            return otherwise_s
        return min(otherwise_s, (meta.expires_at - meta.captured_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Readable:
    """A frame that is worth scoring, as a model takes it.

    Attributes:
        backend: the model it was prepared for, and is scored with.
        size_px: width and height of what was decoded, which may be a fraction of the frame's.
        whole: all of it.
        regions: parts of the frame that are looked at more closely, in its own pixels.
        parts: the same, prepared.
        picture: what was decoded, where that is the frame at its own size.
    """

    arrival: Arrival
    backend: Backend
    size_px: tuple[int, int]
    whole: Prepared
    regions: tuple[Region, ...] = ()
    parts: tuple[Prepared, ...] = ()
    picture: Picture | None = None

    @property
    def pictures(self) -> int:
        """How many pictures the model looks at."""
        return 1 + len(self.parts)


@dataclass(frozen=True, slots=True)
class Inference:
    """When a batch was in the model.

    Attributes:
        batch: frames in it.
    """

    started_at: datetime
    took_ms: float
    batch: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A frame and what the model says of it.

    Attributes:
        outputs: of the whole, then of each part.
    """

    readable: Readable
    outputs: tuple[Outputs, ...]
    inference: Inference
