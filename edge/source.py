"""What every source of pictures gives, whatever makes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from config.clock import Clock
from edge.picture import EncodeJpeg, Packet, Picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LUMA_HEIGHT_PX",
    "CapturedFrame",
    "Pacer",
    "PacketSource",
    "Source",
    "SourceOptions",
]

LUMA_HEIGHT_PX = 100
"""Height of the brightness thumbnail. The motion detector's constants are tuned on it; Frigate uses the same."""

_CATCH_UP_MAX_S = 1.0
"""Further behind than this a schedule starts anew: the machine slept, or cannot keep up at all."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is opened.

    Attributes:
        fps_max: a faster one is thinned out to this many pictures a second; None: every picture.
        stall_timeout_s: silence after which it counts as broken.
        decoder: ``auto``, ``software``, or the name of a GStreamer element.
        on_packet: gets each coded picture, on a thread of GStreamer's, before it is decoded; it must never block.
            None: nobody wants them.
    """

    fps_max: float | None = None
    stall_timeout_s: float = 5.0
    decoder: str = "auto"
    on_packet: Callable[[Packet], None] | None = None


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One picture of a source.

    Attributes:
        seq: counts the source's pictures from 0, those that were dropped as late included. The first pass over a file
            with ``pace=max`` gives every frame of it, so the video's 1-based frame number is ``seq + 1``.
        captured_at: when it was taken; aware, UTC.
        at_s: the same in seconds on the source's own time line, never falling; for motion.
        luma: brightness, uint8, shape (100, width), aspect kept.
        width_px: of the full picture.
        height_px: of the full picture.
        encode: makes the full picture's JPEG. It costs milliseconds, so it is called for wanted frames only, and until
            the source is closed.
        picture: makes a copy of the full picture.
    """

    seq: int
    captured_at: datetime
    at_s: float
    luma: NDArray[np.uint8]
    width_px: int
    height_px: int
    encode: EncodeJpeg
    picture: Callable[[], Picture]


class Source(Protocol):
    """Where pictures come from.

    Concurrency: `frames` and what it yields belong to one thread; `stop` is set, and `keyframes_only` called, from any.
    """

    @property
    def gives_packets(self) -> bool:
        """Whether coded pictures go to `on_packet`; known from the first frame on."""
        ...

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures in order, until `stop` is set or the source has no more; close it when leaving early.

        Raises:
            TransientError: the source broke or fell silent; close it, wait, and open it again.
            PermanentError: a person must cure it; the message says how.
        """
        ...

    def keyframes_only(self, *, only: bool) -> None:
        """Decode keyframes only, at most one a second, or everything again from the next keyframe on.

        A source that has no keyframes does not change.
        """
        ...

    def close(self) -> None:
        """Let everything go; may be called twice."""
        ...


class PacketSource(Protocol):
    """Where coded pictures come from, without anybody looking at them.

    Concurrency: `run` belongs to one thread; `stop` is set from any.
    """

    def run(self, stop: threading.Event) -> None:
        """Give each coded picture to `on_packet`, until `stop` is set or the source has no more.

        Raises:
            TransientError: the source broke or fell silent; close it, wait, and open it again.
            PermanentError: a person must cure it; the message says how.
        """
        ...

    def close(self) -> None:
        """Let everything go; may be called twice."""
        ...


class Pacer:
    """Lets pictures out when their own time has come, and says which ones are too late.

    Args:
        clock: how to wait.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s: float | None = None

    def wait_due(self, stop: threading.Event, at_s: float, period_s: float) -> bool:
        """Wait until a picture is due.

        Args:
            stop: ends the wait.
            at_s: the picture's time, in seconds on the source's time line.
            period_s: time to the next one.

        Returns:
            False when its successor is due already, so that it should be dropped.
        """
        now_s = self._clock.monotonic_s()
        if self._start_s is None:
            self._start_s = now_s - at_s
        late_s = now_s - (self._start_s + at_s)
        if late_s > _CATCH_UP_MAX_S:
            self._start_s = now_s - at_s
            return True
        if late_s < 0:
            self._clock.wait(stop, -late_s)
        return late_s < period_s
