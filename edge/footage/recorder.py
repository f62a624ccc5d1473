"""One camera's recorder: coded pictures into segments, and the clips that are owed of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from broker.messages import ClipEvent, Escalation, MotionEvent
from broker.references import clip_reference
from config.backoff import Backoff
from config.cameras import RecordingSettings
from config.clock import Clock
from config.errors import PermanentError, TransientError
from config.log import get_logger
from config.supervise import Supervised
from edge.footage.index import ClipJob, FootageIndex
from edge.footage.layout import FootageFolder
from edge.footage.occasions import LATE_S, Occasions
from edge.footage.plan import SILENCE_S, PreRoll, SegmentPlan, SegmentStep
from edge.footage.segments import OpenSegment, OpenWriter, open_writer

if TYPE_CHECKING:
    from edge.gst.recode import Recoder
    from edge.picture import Packet, Picture

__all__ = ["CameraRecorder", "RecorderFigures", "RecordingMode", "RecordingState", "Room"]

RecordingMode = Literal["off", "motion", "continuous"]
RecordingState = Literal["off", "on", "failed"]

_REQUEST_MAX_S = 3600.0
"""The longest clip on request."""
_QUEUE_BYTES_MAX = 16_000_000
"""What may wait for the disk: 16 s of an 8 Mbit/s stream."""
_WAKE_S = 0.25
_BATCH_BYTES = 1_000_000
"""Coded pictures are taken four times a second, or when so much waits: a thread that wakes for each costs as much as
what it does with it."""
_CLOSE_S = 15.0
_DETECT_S = 1.0
"""A movement is seen so much later than it begins, at most."""
_PROOF_S = 2.0
"""Two fragments: the first that the disk does not take is noticed with the second."""


class Room(Protocol):
    """What a recorder asks its node."""

    def why_full(self) -> str | None:
        """Why nothing may be written now; None when there is room."""
        ...

    def held_bytes_max(self) -> int:
        """What this recorder may keep in memory before it writes."""
        ...

    def answer_clip(self, job: ClipJob, answer: Callable[[ClipEvent], None]) -> None:
        """Owe a clip on request, and tell its asker what became of it."""
        ...

    def refuse_clip(self, job: ClipJob, reason: str, answer: Callable[[ClipEvent], None]) -> None:
        """Tell an asker why there is no clip."""
        ...

    def left(self, camera: str) -> None:
        """This recorder is closed."""
        ...


@dataclass(slots=True)
class RecorderFigures:
    """What a recorder has done since it was made.

    Attributes:
        segments: files that were closed.
        recorded_bytes: of coded pictures that were written.
        packets_dropped: coded pictures that came faster than the disk takes them, or were not masked.
        failures: times that recording stopped because of the disk.
    """

    segments: int = 0
    recorded_bytes: int = 0
    packets_dropped: int = 0
    failures: int = 0

    def __add__(self, other: RecorderFigures) -> RecorderFigures:
        return RecorderFigures(
            self.segments + other.segments,
            self.recorded_bytes + other.recorded_bytes,
            self.packets_dropped + other.packets_dropped,
            self.failures + other.failures,
        )


class CameraRecorder:
    """Records one camera; made by :meth:`edge.footage.Footage.camera`.

    Concurrency: it owns one thread, which does everything that touches the disk. Every method may be called from any
    thread; none of them waits for the disk but `flush` and `close`.

    Until the first `want` nothing is recorded and no clip leaves.

    Args:
        camera: its name.
        settings: what its owner chose.
        folder: where footage lies.
        index: what there is.
        room: its node.
        masked: parts of the picture are hidden: only pictures are recorded, never the camera's own stream.
        clock: time.
        open_writer: makes a file.
    """

    def __init__(
        self,
        camera: str,
        settings: RecordingSettings,
        *,
        folder: FootageFolder,
        index: FootageIndex,
        room: Room,
        masked: bool,
        clock: Clock,
        open_writer: OpenWriter = open_writer,
    ) -> None:
        self.camera = camera
        self.settings = settings
        self.masked = masked
        self._folder = folder
        self._index = index
        self._room = room
        self._clock = clock
        self._open_writer = open_writer
        self._log = get_logger(camera=camera)
        self._figures = RecorderFigures()
        self._changed = threading.Condition()
        self._inbox: deque[Packet | Callable[[], None]] = deque()
        self._queued_bytes = 0
        self._skips = False
        self._mode: RecordingMode = "off"
        self._private = True  # until it is said: a clip of before the restart must not be quicker than the switch
        self._forgets = 0
        self._recoder: Recoder | None = None
        self._recoding = threading.Lock()
        self._stop = threading.Event()
        # What follows belongs to the recorder's own thread.
        self._pre_roll = PreRoll(settings.pre_s + _DETECT_S)
        self._held: deque[Packet] = deque()
        self._held_bytes = 0
        self._plan = SegmentPlan(settings.segment_s)
        self._segment: OpenSegment | None = None
        self._forgotten = 0
        self._heard_s = 0.0
        self._occasions = Occasions(camera, settings, index, clock)
        self._error: str | None = None
        self._retry_at_s = 0.0
        self._proof_from_s: float | None = None
        self._backoff = Backoff(2.0, 30.0, floor_s=0.5)
        self._thread = Supervised(f"recorder-{camera}", self._work, stop=self._stop, clock=clock)
        self._thread.start()

    # --- what comes in -----------------------------------------------------------------------------------------

    def on_packet(self, packet: Packet) -> None:
        """Take the next coded picture of the camera's own stream. Never waits."""
        if self.masked:
            self._figures.packets_dropped += 1
            return
        self._take_packet(packet)

    def on_picture(self, picture: Picture, *, at: datetime, at_s: float) -> None:
        """Take the next picture, masked, of a camera that has no stream of its own or must not show all of it.

        It is encoded here, on threads of the encoder; where those are behind, pictures are left out.

        Args:
            picture: as everybody may see it.
            at: when it was taken; aware.
            at_s: the same on the source's own time line, seconds.
        """
        if not self._wants_packets():
            return
        try:
            with self._recoding:
                self._encode(picture, at, at_s)
        except PermanentError as error:  # there is no encoder
            reason = str(error)
            self._order(lambda: self._note_failure(reason))

    def _encode(self, picture: Picture, at: datetime, at_s: float) -> None:
        if self._recoder is None or not self._recoder.accepts(picture):
            from edge.gst.recode import Recoder

            self._drop_recoder()
            self._recoder = Recoder(picture, self._take_packet)
        if not self._recoder.take(picture, at=at, at_s=at_s):
            self._figures.packets_dropped += 1

    def want(self, mode: RecordingMode, *, private: bool) -> None:
        """Say what is to be recorded from now on.

        Args:
            mode: as the settings, a schedule or a command have it.
            private: no picture may be kept: recording stops at once, and what is held in memory is forgotten.
        """
        with self._changed:
            if private or mode == "off":
                self._forgets += private and not self._private
                self._inbox = deque(one for one in self._inbox if callable(one))
                self._queued_bytes = 0
            self._mode = mode
            self._private = private
            self._changed.notify()
        if private or mode == "off":
            with self._recoding:
                self._drop_recoder()

    def movement(self, event: MotionEvent) -> None:
        """Something moves, moves on, or does so no longer."""
        if event.type != "update":
            self._order_where_wanted(lambda: self._occasions.movement(event))

    def escalation(self, event: Escalation) -> None:
        """Somebody should know of something: what led to it and what follows is kept, and a clip of it delivered."""
        self._order_where_wanted(lambda: self._occasions.escalation(event))

    def request(self, start: datetime, end: datetime, correlation_id: str, answer: Callable[[ClipEvent], None]) -> None:
        """Deliver a clip of what was recorded between two moments; the last may still be to come.

        Args:
            start: the first moment; aware.
            end: the last.
            correlation_id: of the request; one that comes again is the same request.
            answer: called once, on another thread, with the clip or with the reason why there is none. After a restart
                of the node in between, only the bus is told.
        """
        due_at = max(self._clock.now(), end + timedelta(seconds=LATE_S))
        reference = clip_reference(self.camera, start, correlation_id)
        job = ClipJob(reference, self.camera, "request", correlation_id, start, end, due_at)
        if self.private:
            self._room.refuse_clip(job, "privacy is switched on", answer)
        elif not 0 < (end - start).total_seconds() <= _REQUEST_MAX_S:
            self._room.refuse_clip(job, f"a clip ends after it starts, and has {_REQUEST_MAX_S:g} s at most", answer)
        else:
            self._room.answer_clip(job, answer)

    # --- what comes out --------------------------------------------------------------------------------------

    @property
    def state(self) -> tuple[RecordingState, str | None]:
        """Whether it records, and why it cannot. In the mode ``motion``, "on" is also waiting for something to move."""
        if self._mode == "off" or self._private:
            return "off", None
        return ("on", None) if self._error is None else ("failed", self._error)

    @property
    def private(self) -> bool:
        """Whether no picture may leave, clips of what was recorded before included."""
        return self._private

    def figures(self) -> RecorderFigures:
        """What it has done since it was made."""
        return self._figures

    def flush(self, timeout_s: float) -> bool:
        """Write what is held in memory, so that it can be read; True when it was done in time."""
        done = threading.Event()

        def write() -> None:
            self._write_held()
            done.set()

        self._order(write)
        return done.wait(timeout_s)

    def close(self) -> None:
        """Finish the open segment, and end."""
        with self._recoding:
            self._drop_recoder()
        self._stop.set()
        with self._changed:
            self._changed.notify()
        if self._thread.join(_CLOSE_S):
            self._work()  # what came while it ended; nobody else does this work now
        else:
            self._log.error("footage.stuck", waited_s=_CLOSE_S)
        self._room.left(self.camera)

    # --- the recorder's own thread ---------------------------------------------------------------------------

    def _order_where_wanted(self, note: Callable[[], None]) -> None:
        def order() -> None:
            if self._wants_packets():
                note()

        self._order(order)

    def _order(self, order: Callable[[], None]) -> None:
        with self._changed:
            self._inbox.append(order)
            self._changed.notify()

    def _wants_packets(self) -> bool:
        return self._mode != "off" and not self._private

    def _take_packet(self, packet: Packet) -> None:
        with self._changed:
            if not self._wants_packets():
                return
            # What follows a picture that was left out cannot be decoded before the next keyframe.
            self._skips = (self._skips and not packet.keyframe) or (
                self._queued_bytes + packet.size_bytes > _QUEUE_BYTES_MAX
            )
            if self._skips:
                self._figures.packets_dropped += 1
                return
            self._inbox.append(packet)
            self._queued_bytes += packet.size_bytes
            if self._queued_bytes > _BATCH_BYTES:
                self._changed.notify()

    def _drop_recoder(self) -> None:
        if self._recoder is not None:
            self._recoder.close()
            self._recoder = None

    def _work(self) -> None:
        """One round: what came, in its order, and then whether it is to end."""
        with self._changed:
            if not (self._is_urgent() or self._stop.is_set()):
                self._changed.wait(_WAKE_S)
            inbox, self._inbox = self._inbox, deque()
            self._queued_bytes = 0
            forgets, wanted = self._forgets, self._wants_packets()
        self._forget_where_told(forgets)
        for one in inbox:
            if callable(one):
                one()
            elif self._forgets == forgets:
                self._keep(one)
        self._rest(wanted=wanted)

    def _is_urgent(self) -> bool:
        return self._queued_bytes > _BATCH_BYTES or any(callable(one) for one in self._inbox)

    def _forget_where_told(self, forgets: int) -> None:
        """Privacy was switched on since: what is only in memory has never been."""
        if forgets != self._forgotten:
            self._forgotten = forgets
            self._pre_roll.clear()
            self._held.clear()
            self._held_bytes = 0
            self._end_segment()

    def _rest(self, *, wanted: bool) -> None:
        self._occasions.list_again()
        if not wanted or self._stop.is_set():
            self._write_held()
            self._end_segment()
            self._pre_roll.clear()
            self._occasions.clear()
            self._error = None
            self._retry_at_s = 0.0
        elif self._segment is not None and self._clock.monotonic_s() - self._heard_s > SILENCE_S:
            self._write_held()
            self._end_segment()
        elif self._error is None and (reason := self._room.why_full()) is not None:
            self._fail(reason)

    def _keep(self, packet: Packet) -> None:
        self._heard_s = self._clock.monotonic_s()
        if self._mode == "motion" and not self._occasions.is_active(packet.at):
            self._write_held()
            self._end_segment()
            self._pre_roll.add(packet)
            return
        if self._error is not None and self._must_wait():
            self._pre_roll.add(packet)
            return
        for earlier in self._pre_roll.take():
            self._hold(earlier)
        self._hold(packet)
        held_max = self._room.held_bytes_max()
        if self._held_bytes > held_max or packet.at_s - self._held[0].at_s > self.settings.segment_s:
            self._write_held()

    def _must_wait(self) -> bool:
        """Whether it is too early to try again after a failure."""
        return self._clock.monotonic_s() < self._retry_at_s or self._room.why_full() is not None

    def _hold(self, packet: Packet) -> None:
        self._held.append(packet)
        self._held_bytes += packet.size_bytes

    def _write_held(self) -> None:
        try:
            while self._held and self._forgets == self._forgotten:
                packet = self._held.popleft()
                self._held_bytes -= packet.size_bytes
                self._write(packet)
        except (TransientError, PermanentError) as error:
            self._held.clear()
            self._held_bytes = 0
            self._fail(str(error))

    def _write(self, packet: Packet) -> None:
        segment = self._segment
        step = self._plan.step(packet, same_format=segment is None or segment.accepts(packet))
        if step in (SegmentStep.BEGIN, SegmentStep.END):
            starts_at = self._plan.starts_at if step is SegmentStep.BEGIN else None
            trouble = self._finish_segment()
            if trouble is not None:
                raise TransientError(trouble)
            if starts_at is not None:
                self._segment = OpenSegment(self._folder, self.camera, starts_at, packet, open_writer=self._open_writer)
        if self._segment is not None:
            self._segment.write(packet)
            self._figures.recorded_bytes += packet.size_bytes
            self._prove(packet)

    def _prove(self, packet: Packet) -> None:
        """After a failure: it is over once pictures have gone to the disk for a while."""
        if self._error is None:
            return
        if self._proof_from_s is None:
            self._proof_from_s = packet.at_s
        elif packet.at_s - self._proof_from_s >= _PROOF_S:
            self._error = None
            self._log.info("footage.resumed")

    def _end_segment(self) -> None:
        self._plan.close()
        trouble = self._finish_segment()
        if trouble is not None:
            self._note_failure(trouble)

    def _finish_segment(self) -> str | None:
        """Close the open segment; returns why it could not be finished."""
        segment, self._segment = self._segment, None
        if segment is None:
            return None
        closed = segment.close()
        if closed is not None:
            self._figures.segments += 1
            self._occasions.list(lambda: self._index.add_segment(closed))
        if segment.trouble is None and self._error is None:
            self._backoff.reset()
        return segment.trouble

    def _fail(self, reason: str) -> None:
        """Stop recording until there is room again; the watching goes on."""
        self._note_failure(reason)
        self._end_segment()

    def _note_failure(self, reason: str) -> None:
        if self._error is None:
            self._figures.failures += 1
            self._log.error("footage.stopped", error=reason)
        self._error = reason
        self._proof_from_s = None
        self._retry_at_s = self._clock.monotonic_s() + self._backoff.delay_s()
