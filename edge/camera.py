"""One camera: its pictures, what moves in them, and which of them are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from config import Backoff, Clock, Supervised, VigilError, get_logger
from config.settings import CameraSettings
from edge.capture import open_source
from edge.modes import FrameGate, Movement
from edge.motion import MotionDetector, MotionSettings
from edge.reports import CameraReports
from edge.source import CapturedFrame, Source

__all__ = ["Camera", "CameraFigures", "OpenSource"]

_LOOK_FPS_MIN = 10.0
"""Pictures a second that motion detection looks at, where the source has them: somebody who runs past is seen."""
_STEADY_S = 5.0
"""Pictures for so long, and the back-off starts over: a source that breaks at once each time must not be spun on."""
_FAILED_INSIDE = "it failed inside; the log of its node says more"
_ENDED = "the source has ended"


class OpenSource(Protocol):
    """Opens a source; :func:`edge.capture.open_source` does."""

    def __call__(self, uri: str, *, clock: Clock, fps_max: float | None, stall_timeout_s: float) -> Source:
        """Open it."""
        ...


@dataclass(slots=True)
class CameraFigures:
    """What a camera has done since its node started.

    Attributes:
        captured: pictures that were looked at.
        late: pictures that were dropped at the source, because the machine was too slow.
        opened: times that the source was opened.
        movements: movements that began.
    """

    captured: int = 0
    late: int = 0
    opened: int = 0
    movements: int = 0


class Camera:
    """Watches one camera until it is stopped, its source ends, or a person must cure it.

    Any trouble ends the session: the source is closed, the state says why, and it is opened again after a back-off.

    Concurrency: it owns one thread; `start`, `stop` and `join` may be called from any.

    Args:
        name: the camera's name.
        settings: what its owner chose.
        reports: what it says on the bus.
        clock: time.
        stall_timeout_s: silence after which the source is opened again.
        open_source: how to open it.
        on_end: called on the camera's thread when it is over, with the error when a person must cure it.
    """

    def __init__(
        self,
        name: str,
        settings: CameraSettings,
        reports: CameraReports,
        *,
        clock: Clock,
        stall_timeout_s: float,
        open_source: OpenSource = open_source,
        on_end: Callable[[Camera, Exception | None], None],
    ) -> None:
        self.name = name
        self.reports = reports
        self.figures = CameraFigures()
        self._settings = settings
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._open_source = open_source
        self._on_end = on_end
        self._log = get_logger(camera=name)
        self._stop = threading.Event()
        self._backoff = Backoff(0.25, 8.0)
        self._next_seq = 0
        self._thread = Supervised(
            f"camera-{name}",
            self._watch,
            stop=self._stop,
            on_fatal=lambda error: on_end(self, error),
            backoff=self._backoff,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to watch."""
        self.reports.begin()
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end at most `timeout_s`; True when it has ended."""
        return self._thread.join(timeout_s)

    def _watch(self) -> None:
        """One session, from opening the source to its end."""
        trouble: str | None = _FAILED_INSIDE
        try:
            self._show_pictures()
            trouble = None
        except VigilError as error:
            trouble = str(error)
            raise
        finally:
            self._leave(trouble)
        if not self._stop.is_set():
            self._log.info("camera.ended")
            self._stop.set()
            self._on_end(self, None)

    def _show_pictures(self) -> None:
        settings = self._settings
        fps_max = max(_LOOK_FPS_MIN, settings.idle_fps, settings.motion_fps)
        self.figures.opened += 1
        source = self._open_source(
            settings.source, clock=self._clock, fps_max=fps_max, stall_timeout_s=self._stall_timeout_s
        )
        with closing(source), closing(source.frames(self._stop)) as frames:
            session = _Session(
                MotionDetector(_motion_settings(settings.motion.sensitivity)),
                Movement(settings.motion.hold_s),
                seq_start=self._next_seq,
            )
            for frame in frames:
                self._take(session, frame)

    def _take(self, session: _Session, frame: CapturedFrame) -> None:
        """Look at one picture, and say what there is to say."""
        seq = session.seq_start + frame.seq
        self.figures.late += seq - self._next_seq
        self.figures.captured += 1
        self._next_seq = seq + 1
        if frame.at_s >= _STEADY_S:
            self._backoff.reset()
        seen = session.detector.step(frame.luma, frame.at_s)
        step = session.movement.step(moving=bool(seen.boxes_xyxy), at_s=frame.at_s)
        if step is not None:
            self.figures.movements += step == "start"
            self.reports.motion(step, at=frame.captured_at, seq=seq, score=seen.score, boxes=seen.boxes_xyxy)
        moving = session.movement.active
        fps = self._settings.motion_fps if moving else self._settings.idle_fps
        if step == "start":
            session.gate.open_now()
        if session.gate.passes(frame.at_s, fps):
            session.trouble = self.reports.frame(frame, seq=seq, moving=moving, boxes=seen.boxes_xyxy)
        self.reports.refresh()
        size_px = (frame.width_px, frame.height_px)
        self.reports.state("online", moving=moving, fps=fps, size_px=size_px, error=session.trouble)

    def _leave(self, trouble: str | None) -> None:
        """Say that the camera is gone, and end what moved in it."""
        if trouble is not None:
            self.reports.state("error", error=trouble)
        else:
            self.reports.state("offline", error=None if self._stop.is_set() else _ENDED)
        self.reports.interrupt(max(0, self._next_seq - 1))


@dataclass(slots=True)
class _Session:
    """What is known of a source from its opening to its end.

    Attributes:
        seq_start: the number of its first picture.
        trouble: why the last wanted frame was not sent.
    """

    detector: MotionDetector
    movement: Movement
    seq_start: int
    gate: FrameGate = field(default_factory=FrameGate)
    trouble: str | None = None


def _motion_settings(sensitivity: float) -> MotionSettings:
    """Half sensitive is the detector's default threshold of 8 luma levels; each step of 0.25 halves or doubles it."""
    return MotionSettings(threshold=2.0 ** (5.0 - 4.0 * sensitivity))
