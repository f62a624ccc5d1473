"""One camera of a node: what is asked of it, and whatever must run for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from broker import Bus
from broker.messages import CameraHealth, ClipEvent, Escalation
from broker.topics import CAMERA_ESCALATION
from config import Clock, VigilError, get_logger
from config.cameras import CameraSettings
from config.secrets import mask_uri
from config.settings import Settings
from edge.drills import Drills
from edge.frames import FrameSender
from edge.main_stream import MainStream, OpenPackets
from edge.motion.trend import Trend
from edge.orders import Answer
from edge.privacy import FindPeople, Privacy
from edge.recordings import Recordings
from edge.remembered import Remembered
from edge.reports import MotionReports
from edge.snapshots import SnapshotDesk
from edge.state import StateReport
from edge.wanted import Wanted, decide
from edge.watch import CameraFigures, OpenSource, Vitals, Voice, Watch, Watched
from edge.wishes import Change, CutClip, KeepLess, RaiseDrill, TakeSnapshot, Wish, Zoom

if TYPE_CHECKING:
    from broker import Delivery
    from edge.footage import CameraRecorder

__all__ = ["Camera", "Surroundings"]

_LEAVE_S = 5.0
"""Seconds for a camera to end: a picture takes milliseconds, a pipeline at most some tenths."""
_HANGS_S = 20.0
"""Overdue by so much, a thread does not come back by itself. The service's watchdog has more patience."""
_SOURCE_MAX = 1000
_RECORDER_RETRY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the cameras of a node have in common.

    Attributes:
        bus: with an outbox.
        settings: the site's.
        remembered: what must still be known after a restart.
        logins_file: where the site puts the logins of this node's cameras.
        clock: time.
        zone: the node's time zone, for schedules.
        open_source: how to open what is looked at,
        open_packets: and what is only recorded.
        recordings: makes recorders.
        find_people: finds people in pictures; None where the node has no model.
        vitals: how the machine is.
    """

    bus: Bus
    settings: Settings
    remembered: Remembered
    logins_file: Path
    clock: Clock
    zone: tzinfo
    open_source: OpenSource
    open_packets: OpenPackets
    recordings: Recordings
    find_people: FindPeople | None = None
    vitals: Vitals = field(default_factory=Vitals)


class Camera:
    """Does what is asked of a camera: watches, records, hides, and says so.

    Concurrency: one thread at a time, that of its node; looking and recording have threads of their own.

    Args:
        name: the camera's name.
        settings: what its owner chose.
        around: what it has in common with the other cameras.
        on_end: called on the camera's thread when looking is over by itself, with the error when a person must cure it.
    """

    def __init__(
        self,
        name: str,
        settings: CameraSettings,
        around: Surroundings,
        *,
        on_end: Callable[[str, Exception | None], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.figures = CameraFigures()
        self._trend = Trend(name)
        self._around = around
        self._on_end = on_end
        self._log = get_logger(camera=name)
        node = around.settings.node
        self.voice = Voice(
            StateReport(around.bus, name, node=node, clock=around.clock),
            MotionReports(around.bus, name, clock=around.clock),
            FrameSender(
                around.bus,
                name,
                node=node,
                quality=settings.jpeg_quality,
                age_max_s=_frame_age_max_s(around.settings),
                clock=around.clock,
            ),
        )
        self._drills = Drills(around.bus, name, clock=around.clock)
        self._commanded = around.remembered.commanded(name)
        self._zoom_until: datetime | None = None
        self._recorder: CameraRecorder | None = None
        self._main_stream: MainStream | None = None
        self._watch: Watch | None = None
        self._stuck: list[Watch] = []
        self._hangs = False
        self._recording: tuple[str, bool] | None = None
        self._recorder_retry_s = float("-inf")
        self._unrecorded: str | None = None
        self._looked = (around.clock.monotonic_s(), 0, 0)
        self._take_settings(settings)
        self._wanted = self._decide()

    def _take_settings(self, settings: CameraSettings) -> None:
        self.settings = settings
        self._privacy = Privacy(settings.privacy, find_people=self._around.find_people)
        self._snapshots = SnapshotDesk(settings.snapshot_every_s)
        self._is_hidden: bool | None = None
        self.voice.frames.change_quality(settings.jpeg_quality)

    # --- from its first moment to its last -----------------------------------------------------------------------

    def begin(self) -> None:
        """Say that nothing moves and the camera is not there yet, and begin to do what is wanted.

        Raises:
            TransientError: the outbox cannot be read.
        """
        self.voice.motion.begin()
        self._around.bus.subscribe(CAMERA_ESCALATION, self._on_escalation, camera=self.name)
        self.voice.state.say(
            state="offline",
            mode=self._wanted.mode,
            source=mask_uri(self.settings.source)[:_SOURCE_MAX],
            **self._asked_of_workers(),
        )
        self.tend()

    def ask_to_end(self) -> None:
        """Ask everything of it to end, without waiting."""
        if self._watch is not None:
            self._watch.stop()
        if self._main_stream is not None:
            self._main_stream.stop()

    def end(self) -> None:
        """Stop watching and recording: what moves ends, the camera goes offline, one that failed stays in error."""
        self._snapshots.give_up(0.0, "the camera is being stopped")
        self._halt()
        self._close_recorder()

    def ask_to_leave(self, *, is_overtaken: bool = False) -> None:
        """Say that it ends here, and ask everything of it to, without waiting.

        Args:
            is_overtaken: somebody else watches it already, and has said so.
        """
        if is_overtaken:
            self.voice.motion.be_overtaken()
        else:  # first of all: the other node says "online" as soon as it has a picture
            self.voice.state.say(state="offline", moving=False, fps=0.0, width=0, height=0)
        self.voice.state.leave()
        self.ask_to_end()

    def leave(self) -> None:
        """End, and leave the camera's topics to whoever watches it from now on; after `ask_to_leave`."""
        self.end()
        self.voice.motion.leave()
        self.voice.frames.disown()
        self._around.bus.unsubscribe(CAMERA_ESCALATION, camera=self.name)

    def change(self, settings: CameraSettings) -> None:
        """Go on with other settings."""
        recording = self.settings.recording != settings.recording
        self._snapshots.give_up(0.0, "the camera's settings have changed: ask again")
        self._halt()
        was_masked = self._privacy.alters
        self._take_settings(settings)
        if recording or was_masked is not self._privacy.alters:
            self._close_recorder()
        self.voice.state.say(source=mask_uri(settings.source)[:_SOURCE_MAX])
        self.tend()

    def restart(self) -> str | None:
        """Open the source anew, also one that has ended or failed for good; returns why that cannot be."""
        self._halt()
        self.tend()
        return f"its thread hangs since {_LEAVE_S:.0f} s or more: restart the node" if self._stuck else None

    # --- what is asked of it ---------------------------------------------------------------------------------------

    def fulfil(self, wish: Wish, correlation_id: str, answer: Callable[[Answer], None]) -> None:
        """Do what somebody asks, and tell him what came of it, at once or later."""
        match wish:
            case Change():
                self._command(wish, answer)
            case Zoom():
                self._zoom_until = self._now() + timedelta(seconds=self._around.settings.edge.zoom_lease_s)
                self.tend()
                answer(Answer(self.properties()))
            case TakeSnapshot():
                self._take_snapshot(answer)
            case RaiseDrill(severity):
                seen = self.voice.state.now.state == "online" and not self._wanted.privacy
                self._drills.ask(severity, answer, with_picture=seen)
            case CutClip():
                self._cut_clip(wish, correlation_id, answer)
            case KeepLess(hours):
                self._keep_less(hours, answer)

    def _command(self, change: Change, answer: Callable[[Answer], None]) -> None:
        changes: dict[str, Any] = {change.field: change.value}
        self._commanded = dataclasses.replace(self._commanded, **changes)
        if change.field == "mode":
            self._zoom_until = None
        unkept = self._around.remembered.keep_commanded(self.name, self._commanded)
        self.tend()
        result = self.properties()
        if unkept is not None:
            result["warning"] = f"it holds until the node restarts, but not longer: {unkept}"
        answer(Answer(result))

    def _take_snapshot(self, answer: Callable[[Answer], None]) -> None:
        state = self.voice.state.now
        if self._wanted.privacy:
            answer(Answer({}, "privacy is on: no picture leaves this node"))
        elif self._wanted.mode == "off":
            answer(Answer({}, "the camera is off: set its mode to monitor first"))
        elif state.state == "error":
            answer(Answer({}, f"the camera gives no pictures: {state.error}"))
        else:
            self._snapshots.ask(answer, self._around.clock.monotonic_s())

    def _cut_clip(self, wish: CutClip, correlation_id: str, answer: Callable[[Answer], None]) -> None:
        if self._wanted.privacy:
            answer(Answer({}, "privacy is on: no clip leaves this node"))
        elif self._recorder is None:
            answer(Answer({}, "nothing is recorded: set `recording` to ON, or recording.mode in the settings"))
        else:
            # Without a correlation id the clip is known by the second in which it was asked for.
            about = correlation_id or f"{self.name}-{self._now():%Y%m%dT%H%M%SZ}"
            self._recorder.request(wish.start, wish.end, about, partial(_answer_clip, answer))

    def _keep_less(self, hours: float, answer: Callable[[Answer], None]) -> None:
        if self._recorder is None:
            answer(Answer({"deleted": "0"}))
            return
        self._around.recordings.open().keep_less(
            self.name, hours, lambda deleted, trouble: answer(Answer({"deleted": str(deleted)}, trouble))
        )

    def _on_escalation(self, delivery: Delivery) -> None:
        """Runs on the bus's thread."""
        escalation, recorder = delivery.content, self._recorder
        if not isinstance(escalation, Escalation):
            return
        self._around.bus.tracer.keep(self.name, escalation.captured_at)
        if recorder is not None:
            recorder.escalation(escalation)

    def note_registry(self, trouble: str | None) -> None:
        """Say what is wrong with what the site says of this camera, or that nothing is."""
        self.voice.state.note("registry", trouble)
        self.voice.state.say()

    # --- what holds now --------------------------------------------------------------------------------------------

    def properties(self) -> dict[str, str]:
        """Everything that can be commanded, as it is now."""
        wanted, state = self._wanted, self.voice.state.now
        properties = {
            "camera": self.name,
            "mode": wanted.mode,
            "privacy": _switch(wanted.privacy),
            "detection": _switch(wanted.detection),
            "recording": state.recording,
            "sensitivity": f"{wanted.sensitivity:g}",
        }
        if wanted.zoom_until is not None:
            properties["zoom_until"] = wanted.zoom_until.isoformat()
        return properties

    def tend(self) -> None:
        """Do what is wanted now: call it often, time alone may change what that is."""
        wanted = self._wanted = self._decide()
        self._hide_or_show(wanted)
        self._record(wanted)
        if wanted.mode == "off":
            self._switch_off()
        elif self._watch is None and not self._is_stuck():
            self._look()
        self._notice_hanging()
        now_s = self._around.clock.monotonic_s()
        self._snapshots.give_up(now_s)
        self._drills.give_up(now_s)
        recording, trouble = self._recording_state(wanted)
        self.voice.state.note("recording", trouble)
        self.voice.state.say(
            mode=wanted.mode,
            zoom_until=wanted.zoom_until,
            privacy=wanted.privacy,
            detection=wanted.detection,
            recording=recording,
            **self._asked_of_workers(),
        )

    def health(self) -> CameraHealth:
        """How it is doing; rates are since the last time that this was asked."""
        now_s = self._around.clock.monotonic_s()
        captured, sent, seen_s = self.figures.captured, self.voice.frames.sent, self.figures.seen_s
        before_s, captured_before, sent_before = self._looked
        self._looked = (now_s, captured, sent)
        elapsed_s = max(now_s - before_s, 1e-3)
        return CameraHealth(
            fps=round((captured - captured_before) / elapsed_s, 2),
            sent_fps=round((sent - sent_before) / elapsed_s, 2),
            late=self.figures.late,
            reopened=max(0, self.figures.opened - 1),
            silent_s=None if seen_s is None else round(max(0.0, now_s - seen_s), 1),
        )

    # --- what runs for it ------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return self._around.clock.now()

    def _decide(self) -> Wanted:
        return decide(self.settings, self._commanded, self._zoom_until, self._now(), self._around.zone)

    def _hide_or_show(self, wanted: Wanted) -> None:
        if wanted.privacy is self._is_hidden:
            return
        self._is_hidden = self._privacy.enabled = wanted.privacy
        if wanted.privacy:
            self.voice.frames.hide()
            self._snapshots.give_up(0.0, "privacy is on: no picture leaves this node")
        else:
            self.voice.frames.show()

    def _asked_of_workers(self) -> dict[str, Any]:
        """What whoever scores this camera must know.

        A zoom asks for nothing more: it lasts for seconds, and what it sends too much is left out. It must not take
        another camera its worker.
        """
        settings = self.settings
        return {
            "demand_fps": max(settings.idle_fps, settings.motion_fps),
            "scored_by": "node" if self._around.settings.edge.detector else "workers",
            "worker_class": settings.worker or "",
            "labels": settings.labels,
        }

    def _record(self, wanted: Wanted) -> None:
        if self._recorder is None:
            if wanted.recording == "off" or not self._open_recorder():
                return
            self._halt()  # to begin anew with coded pictures too
        mode = "off" if wanted.mode == "off" else wanted.recording
        if self._recorder is not None and self._recording != (mode, wanted.privacy):
            self._recording = (mode, wanted.privacy)
            self._recorder.want(mode, private=wanted.privacy)
        self._follow_main_stream(is_needed=mode != "off" and not wanted.privacy)

    def _recording_state(self, wanted: Wanted) -> tuple[Literal["off", "on", "failed"], str | None]:
        if self._recorder is None:
            if wanted.recording == "off" or self._unrecorded is None:
                return "off", None
            return "failed", self._unrecorded
        state, trouble = self._recorder.state
        stream = self._main_stream.trouble if self._main_stream is not None else None
        return ("failed", stream) if state == "on" and stream else (state, trouble)

    def _open_recorder(self) -> bool:
        """Whether there is a recorder now; what keeps it from being there never touches the watching."""
        now_s = self._around.clock.monotonic_s()
        if now_s < self._recorder_retry_s:
            return False
        try:
            self._recorder = self._around.recordings.camera(
                self.name, self.settings.recording, masked=self._privacy.alters
            )
        except VigilError as error:
            self._recorder_retry_s = now_s + _RECORDER_RETRY_S
            self._unrecorded = str(error)
            self._log.error("footage.unavailable", error=str(error))
            return False
        self._unrecorded = None
        return True

    def _follow_main_stream(self, *, is_needed: bool) -> None:
        """Where a smaller stream is looked at, the camera's main one is recorded, unless masks must go over it."""
        recorder = self._recorder
        if recorder is None or self.settings.sub_source is None or self._privacy.alters:
            return
        if is_needed and self._main_stream is None:
            self._main_stream = MainStream(
                self.name,
                self.settings,
                recorder.on_packet,
                clock=self._around.clock,
                stall_timeout_s=self._around.settings.edge.stall_timeout_s,
                open_packets=self._around.open_packets,
            )
            self._main_stream.start()
        elif not is_needed and self._main_stream is not None:
            self._end_main_stream()

    def _look(self) -> None:
        around = self._around
        self._watch = Watch(
            Watched(
                name=self.name,
                settings=self.settings,
                wanted=lambda: self._wanted,
                voice=self.voice,
                privacy=self._privacy,
                recorder=self._recorder,
                packets_here=self.settings.sub_source is None and not self._privacy.alters,
                snapshots=self._snapshots,
                drills=self._drills,
                evidence_bytes_max=around.settings.detector.evidence_bytes_max,
                figures=self.figures,
                trend=self._trend,
                vitals=around.vitals,
                clock=around.clock,
                stall_timeout_s=around.settings.edge.stall_timeout_s,
                open_source=around.open_source,
            ),
            on_end=partial(self._on_end, self.name),
        )
        self._watch.start()

    def _switch_off(self) -> None:
        if self._watch is not None:
            self._halt()
            # Also one that had failed or ended: it is not looked at any more, because nobody wants it to be.
            self.voice.state.note("source", None)
            self.voice.state.say(state="offline")
            self._snapshots.give_up(0.0, "the camera is off: set its mode to monitor first")

    def _notice_hanging(self) -> None:
        """Say so when the thread that looks does not go on: it is inside a driver or a decoder."""
        hangs = self._watch is not None and self._watch.hangs_s() > _HANGS_S
        if hangs is self._hangs:
            return
        self._hangs = hangs
        if hangs:
            self._log.error("camera.stuck", waited_s=_HANGS_S)
        self.voice.state.note("hangs", "its thread hangs inside the source: restart the node" if hangs else None)

    def _halt(self) -> None:
        """End the watching; one that does not end is remembered, and nothing is opened beside it."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.stop()
        if not watch.join(_LEAVE_S):
            self._log.error("camera.stuck", waited_s=_LEAVE_S)
            self._stuck.append(watch)
            self.voice.state.note("stuck", "its thread hangs: restart the node")
            self.voice.state.say(state="error")

    def _is_stuck(self) -> bool:
        if self._stuck:
            self._stuck = [watch for watch in self._stuck if not watch.join(0.0)]
            if not self._stuck:
                self.voice.state.note("stuck", None)
        return bool(self._stuck)

    def _end_main_stream(self) -> None:
        stream, self._main_stream = self._main_stream, None
        if stream is not None and not stream.end(_LEAVE_S):
            self._log.error("camera.stuck", waited_s=_LEAVE_S, stream="main")

    def _close_recorder(self) -> None:
        self._end_main_stream()
        recorder, self._recorder = self._recorder, None
        self._recording = None
        self.voice.state.note("encoder", None)
        if recorder is not None:
            recorder.close()


def _switch(value: bool) -> str:  # noqa: FBT001 - a value to be shown
    return "ON" if value else "OFF"


def _frame_age_max_s(settings: Settings) -> float:
    """A viewer wants no older frame than the bus carries; a detector on a slow machine may have more patience."""
    return max(settings.bus.frame_age_max_s, settings.detector.frame_age_max_s)


def _answer_clip(answer: Callable[[Answer], None], clip: ClipEvent) -> None:
    if clip.error is not None:
        answer(Answer({}, clip.error))
        return
    result = {
        "uri": clip.uri,
        "starts_at": clip.starts_at.isoformat(),
        "ends_at": clip.ends_at.isoformat(),
        "size_bytes": str(clip.size_bytes),
        "sha256": clip.sha256,
        "missing_s": f"{clip.missing_s:g}",
    }
    answer(Answer(result))
