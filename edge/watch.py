"""Looking at one camera: its pictures, what moves in them, and which of them are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.messages import MotionEvent
from config import Backoff, Clock, PermanentError, Supervised, VigilError, get_logger
from config.cameras import CameraSettings
from config.supervise import beat
from edge.drills import Drills
from edge.frames import FrameSender, Sight
from edge.modes import FrameGate, Movement, MovementStep, frames_per_s, keyframes_suffice
from edge.motion.detector import MotionDetector, MotionResult
from edge.motion.trend import Trend
from edge.picture import Packet, Picture
from edge.privacy import Privacy, ShownFrame, WithheldError
from edge.reports import MotionReports
from edge.snapshots import SnapshotDesk
from edge.source import CapturedFrame, Source, SourceOptions
from edge.state import StateReport
from edge.wanted import Wanted

__all__ = ["CameraFigures", "OpenSource", "Recorder", "Vitals", "Voice", "Watch"]

_LOOK_FPS_MIN = 10.0
"""Pictures a second that motion detection looks at, where the source has them: somebody who runs past is seen."""
_STEADY_S = 5.0
"""Pictures for so long, and the back-off starts over: a source that breaks at once each time must not be spun on."""
_FAILED_INSIDE = "it failed inside; the log of its node says more"
_ENDED = "the source has ended"


class OpenSource(Protocol):
    """Opens a source; :func:`edge.capture.open_source` does."""

    def __call__(self, uri: str, *, clock: Clock, options: SourceOptions) -> Source:
        """Open it."""
        ...


class Recorder(Protocol):
    """What looking at a camera has for its recorder, :class:`edge.footage.CameraRecorder`. Nothing of it blocks."""

    @property
    def state(self) -> tuple[str, str | None]:
        """Whether there will be something of this moment to cut a clip from: then the first is "on"."""
        ...

    def on_packet(self, packet: Packet) -> None:
        """A coded picture came."""
        ...

    def on_picture(self, picture: Picture, *, at: datetime, at_s: float) -> None:
        """A picture that has no coded form, or one whose coded form shows too much."""
        ...

    def movement(self, event: MotionEvent) -> None:
        """Something began to move, moves on, or does so no longer."""
        ...


@dataclass(slots=True)
class Vitals:
    """How the machine is.

    Attributes:
        pace: part of the wanted frames that may be sent, 0 to 1; less than all while it is hot.
        clock_synchronised: whether its clock is right, as far as it knows.
    """

    pace: float = 1.0
    clock_synchronised: bool = True


@dataclass(slots=True)
class CameraFigures:
    """What a camera has done since its node started.

    Attributes:
        captured: pictures that were looked at.
        late: pictures that were dropped at the source, because the machine was too slow.
        opened: times that the source was opened.
        movements: movements that began.
        seen_s: monotonic seconds of the last picture; None before the first.
        next_seq: number of the next picture.
    """

    captured: int = 0
    late: int = 0
    opened: int = 0
    movements: int = 0
    seen_s: float | None = None
    next_seq: int = 0


@dataclass(frozen=True, slots=True)
class Voice:
    """Everything that one camera says on the bus."""

    state: StateReport
    motion: MotionReports
    frames: FrameSender


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What looking at a camera needs.

    Attributes:
        name: the camera's.
        settings: what its owner chose.
        wanted: how it is to be watched now.
        voice: what it says.
        privacy: what nobody is to see.
        recorder: where it is recorded; None where nothing can be.
        packets_here: whether the recorder wants the coded pictures of this very source.
        snapshots: who waits for one.
        drills: fake alarms that wait for a picture,
        evidence_bytes_max: of at most this size.
        figures: what it has done.
        trend: how much moved in the last hours.
        vitals: how the machine is.
        clock: time.
        stall_timeout_s: silence after which the source is opened again.
        open_source: how to open it.
    """

    name: str
    settings: CameraSettings
    wanted: Callable[[], Wanted]
    voice: Voice
    privacy: Privacy
    recorder: Recorder | None
    packets_here: bool
    snapshots: SnapshotDesk
    drills: Drills
    evidence_bytes_max: int
    figures: CameraFigures
    trend: Trend
    vitals: Vitals
    clock: Clock
    stall_timeout_s: float
    open_source: OpenSource


class Watch:
    """Watches one camera until it is stopped, its source ends, or a person must cure it.

    Any trouble ends the session: the source is closed, the state says why, and it is opened again after a back-off.

    Concurrency: it owns one thread; `start`, `stop` and `join` may be called from any.

    Args:
        camera: what it needs.
        on_end: called on the watch's thread when it is over by itself, with the error when a person must cure it.
    """

    def __init__(self, camera: Watched, *, on_end: Callable[[Exception | None], None]) -> None:
        self.camera = camera
        self._on_end = on_end
        self._log = get_logger(camera=camera.name)
        self._stop = threading.Event()
        self._backoff = Backoff(0.25, 8.0)
        self._thread = Supervised(
            f"camera-{camera.name}",
            self._look,
            stop=self._stop,
            on_fatal=on_end,
            backoff=self._backoff,
            clock=camera.clock,
            vital="together",
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end at most `timeout_s`; True when it has ended."""
        return self._thread.join(timeout_s)

    def hangs_s(self) -> float:
        """Seconds since it should have gone on; negative before that."""
        return self._thread.overdue_s()

    def _look(self) -> None:
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
            self._on_end(None)

    def _show_pictures(self) -> None:
        camera, settings = self.camera, self.camera.settings
        camera.figures.opened += 1
        options = SourceOptions(
            fps_max=max(_LOOK_FPS_MIN, settings.idle_fps, settings.motion_fps, settings.zoom_fps),
            stall_timeout_s=camera.stall_timeout_s,
            decoder=settings.decoder,
            on_packet=camera.recorder.on_packet if camera.recorder is not None and camera.packets_here else None,
        )
        uri = settings.sub_source or settings.source
        beat(camera.stall_timeout_s)
        source = camera.open_source(uri, clock=camera.clock, options=options)
        with closing(source), closing(source.frames(self._stop)) as frames:
            self._look_at(frames, _Session(source, settings, seq_start=camera.figures.next_seq))

    def _look_at(self, frames: Generator[CapturedFrame, None, None], session: _Session) -> None:
        for frame in frames:
            if self._stop.is_set():
                return
            beat(self.camera.stall_timeout_s)
            if frame.at_s >= _STEADY_S:
                self._backoff.reset()
            self._take(session, frame)

    def _take(self, session: _Session, frame: CapturedFrame) -> None:
        """Look at one picture, and say what there is to say."""
        camera = self.camera
        seq = session.seq_start + frame.seq
        camera.figures.late += seq - camera.figures.next_seq
        camera.figures.captured += 1
        camera.figures.next_seq = seq + 1
        camera.figures.seen_s = camera.clock.monotonic_s()
        wanted = camera.wanted()
        seen = session.look(frame, wanted)
        step = session.movement.step(moving=bool(seen.boxes_xyxy), at_s=frame.at_s)
        self._say_motion(session, frame, seq, seen, step)
        shown = camera.privacy.show(frame)
        sight = self._sight(session, seq, seen, wanted)
        fps = frames_per_s(camera.settings, wanted.mode, moving=sight.moving) * camera.vitals.pace
        try:
            self._record(session, shown)
            self._send(session, shown, sight, wanted, fps)
        except WithheldError as error:
            self._withhold(str(error))
        camera.voice.motion.refresh()
        camera.voice.state.note("source", None)
        camera.voice.state.say(
            state="online",
            moving=sight.moving,
            fps=0.0 if wanted.privacy else fps,
            width=frame.width_px,
            height=frame.height_px,
        )

    def _say_motion(
        self, session: _Session, frame: CapturedFrame, seq: int, seen: MotionResult, step: MovementStep | None
    ) -> None:
        camera, began = self.camera, step == "start"
        moving = session.movement.active
        is_over = camera.trend.step(frame.captured_at, frame.at_s, moving=moving, began=began, score=seen.score)
        if is_over or step == "end":
            camera.voice.motion.trend(camera.trend.message(camera.clock.now()))
        if step is None:
            return
        camera.figures.movements += began
        if began:
            session.gate.open_now()
        event = camera.voice.motion.motion(
            step, at=frame.captured_at, seq=seq, score=seen.score, boxes=seen.boxes_xyxy, zones=seen.zones
        )
        self._record_movement(event)

    def _record_movement(self, event: MotionEvent | None) -> None:
        if event is not None and self.camera.recorder is not None:
            self.camera.recorder.movement(event)

    def _sight(self, session: _Session, seq: int, seen: MotionResult, wanted: Wanted) -> Sight:
        recorder = self.camera.recorder
        return Sight(
            seq=seq,
            mode=wanted.mode,
            moving=session.movement.active,
            boxes=seen.boxes_xyxy,
            detect=wanted.detection,
            recorded=recorder is not None and recorder.state[0] == "on",
            clock_synchronised=self.camera.vitals.clock_synchronised,
        )

    def _record(self, session: _Session, shown: ShownFrame) -> None:
        """Hand the picture to the recorder, where it does not get the camera's own coded ones."""
        camera, recorder = self.camera, self.camera.recorder
        if recorder is None or recorder.state[0] != "on":
            return
        coded = camera.settings.sub_source is not None or session.source.gives_packets
        if camera.privacy.alters or not coded:
            try:
                recorder.on_picture(shown.picture(), at=shown.captured_at, at_s=shown.at_s)
            except PermanentError as error:  # no encoder: the watching goes on
                camera.voice.state.note("encoder", str(error))

    def _send(self, session: _Session, shown: ShownFrame, sight: Sight, wanted: Wanted, fps: float) -> None:
        camera, now_s = self.camera, self.camera.clock.monotonic_s()
        if wanted.privacy:
            return
        settings = camera.settings
        height_px = settings.zoom_height_px if wanted.mode == "zoom" else settings.frame_height_px
        if session.gate.passes(shown.at_s, fps):
            camera.voice.state.note("frames", camera.voice.frames.frame(shown, sight, height_px=height_px))
        if camera.snapshots.is_due(now_s):
            trouble = camera.voice.frames.snapshot(shown, sight, height_px=settings.zoom_height_px)
            result = {"captured_at": shown.captured_at.isoformat(), "seq": str(sight.seq)}
            camera.snapshots.taken(now_s, result=result, trouble=trouble)
        if camera.drills.waiting:
            picture = camera.voice.frames.evidence(shown, sight, bytes_max=camera.evidence_bytes_max)
            camera.drills.show(picture, seq=sight.seq)

    def _withhold(self, reason: str) -> None:
        self.camera.voice.state.note("frames", None if self.camera.wanted().privacy else reason)
        self.camera.snapshots.taken(self.camera.clock.monotonic_s(), result={}, trouble=reason)

    def _leave(self, trouble: str | None) -> None:
        """Say that the camera is gone, and end what moved in it."""
        state = self.camera.voice.state
        state.note("frames", None)
        state.note("source", trouble or (None if self._stop.is_set() else _ENDED))
        state.say(state="error" if trouble else "offline", moving=False, fps=0.0, width=0, height=0)
        self._record_movement(self.camera.voice.motion.interrupt(max(0, self.camera.figures.next_seq - 1)))


@dataclass(slots=True)
class _Session:
    """What is known of a source from its opening to its end.

    Attributes:
        source: what is looked at.
        settings: the camera's.
        seq_start: the number of its first picture.
    """

    source: Source
    settings: CameraSettings
    seq_start: int
    movement: Movement = field(init=False)
    gate: FrameGate = field(default_factory=FrameGate)
    _detector: MotionDetector | None = None
    _sensitivity: float = -1.0
    _keyframes_only: bool = False

    def __post_init__(self) -> None:
        self.movement = Movement(self.settings.motion.hold_s)

    def look(self, frame: CapturedFrame, wanted: Wanted) -> MotionResult:
        """What moves in a picture; decides how much of the next ones is decoded."""
        if self._detector is None or wanted.sensitivity != self._sensitivity:
            self._sensitivity = wanted.sensitivity
            motion = self.settings.motion.model_copy(update={"sensitivity": wanted.sensitivity})
            self._detector = MotionDetector(motion)
        seen = self._detector.step(frame.luma, frame.at_s)
        busy = bool(seen.boxes_xyxy) or self.movement.active or seen.calibrating
        suffice = keyframes_suffice(wanted.mode, busy=busy)
        if suffice is not self._keyframes_only:
            self._keyframes_only = suffice
            self.source.keyframes_only(only=suffice)
        return seen
