"""Footage of a node: its cameras' recorders, its ring, its clips."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from config.backoff import Backoff
from config.cameras import FootageSettings, RecordingSettings
from config.clock import Clock
from config.errors import BacklogFullError, TransientError
from config.log import get_logger
from config.supervise import Supervised
from edge.footage.delivery import Answer, ClipDelivery, PublishClip, clip_event
from edge.footage.index import ClipJob, FootageIndex
from edge.footage.layout import FootageFolder
from edge.footage.recorder import CameraRecorder, RecorderFigures
from edge.footage.ring import FootageRing
from edge.footage.segments import OpenWriter, open_writer, repair_camera
from edge.footage.stores import open_store

__all__ = ["Footage", "FootageFigures"]

_LOOK_EVERY_S = 2.0
"""How often it is looked whether the disk has room: 16 MB at 8 Mbit/s from eight cameras."""
_TRIM_EVERY_S = 10.0
_DELIVER_EVERY_S = 0.5
_FLUSH_S = 10.0
_LEAVE_S = 10.0
ToldDeleted = Callable[[int, str | None], None]
"""Gets how many files were deleted, and what went wrong."""
_REMEMBER_DAYS = 7
"""For how long an escalation that is sent again gets no second clip."""


@dataclass(frozen=True, slots=True)
class FootageFigures:
    """What a node has recorded and delivered since its start, and what it owes.

    Attributes:
        segments: files that were closed.
        recorded_bytes: of coded pictures that were written.
        packets_dropped: coded pictures that came faster than the disk takes them.
        failures: times that a camera's recording stopped because of the disk.
        deleted: segments that made room.
        clips_delivered: clips that are where they belong.
        clips_failed: clips that can never be cut.
        clips_owed: clips that are still to be delivered.
    """

    segments: int
    recorded_bytes: int
    packets_dropped: int
    failures: int
    deleted: int
    clips_delivered: int
    clips_failed: int
    clips_owed: int


class Footage:
    """Everything that a node records; one a process.

    Concurrency: every method may be called from any thread. It owns two threads: one makes room, one delivers.

    Args:
        root: where footage lies.
        settings: of the node.
        publish: puts a clip's event into the outbox; called on the delivering thread.
        clock: time.
        open_writer: makes a file.

    Raises:
        ConfigError: `deliver_to` is no place for clips.
        PermanentError: the folder may not be used, or the library for object stores is missing.
        TransientError: the disk is full or fails.
    """

    def __init__(
        self,
        root: Path,
        settings: FootageSettings,
        *,
        publish: PublishClip,
        clock: Clock,
        open_writer: OpenWriter = open_writer,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._publish = publish
        self._open_writer = open_writer
        self._stop = threading.Event()
        self._folder = FootageFolder(root)
        store = open_store(
            settings.deliver_to,
            self._folder.clips,
            bytes_per_s=settings.deliver_bytes_per_s,
            clock=clock,
            stop=self._stop,
        )
        self._index = FootageIndex(self._folder)
        self._ring = FootageRing(self._folder, self._index, disk_free_min_bytes=settings.disk_free_min_bytes)
        self._delivery = ClipDelivery(self._folder, self._index, store, self, publish, clock=clock)
        self._lock = threading.Lock()
        self._recorders: dict[str, CameraRecorder] = {}
        self._keep_less: dict[str, tuple[float, ToldDeleted]] = {}
        self._gone = RecorderFigures()
        self._full: str | None = None
        self._trimmed_s = float("-inf")
        self._threads = [
            Supervised("footage-room", self._make_room, stop=self._stop, clock=clock, backoff=Backoff(1.0, 30.0)),
            Supervised("footage-clips", self._deliver, stop=self._stop, clock=clock, backoff=Backoff(1.0, 30.0)),
        ]

    def start(self) -> None:
        """Begin to make room and to deliver clips."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; close the recorders first."""
        self._stop.set()
        for thread in self._threads:
            if not thread.join(_LEAVE_S):
                get_logger().error("footage.stuck", waited_s=_LEAVE_S)
        self._index.close()

    def camera(self, name: str, settings: RecordingSettings, *, masked: bool) -> CameraRecorder:
        """A camera's recorder; what a crash left of the camera is put right first.

        Args:
            name: the camera's name; one recorder at a time.
            settings: what its owner chose.
            masked: parts of its pictures are hidden: only pictures are recorded, never the camera's own stream.

        Raises:
            PermanentError: the folder may not be used.
            TransientError: the disk is full or fails.
        """
        repair_camera(self._folder, self._index, name)
        recorder = CameraRecorder(
            name,
            settings,
            folder=self._folder,
            index=self._index,
            room=self,
            masked=masked,
            clock=self._clock,
            open_writer=self._open_writer,
        )
        with self._lock:
            self._recorders[name] = recorder
        return recorder

    def keep_less(self, camera: str, hours: float, told: ToldDeleted) -> None:
        """Delete what is older than that of a camera, but for what is protected; soon, on the thread that makes room.

        Args:
            camera: whose recordings.
            hours: that stay.
            told: called once it is done.
        """
        with self._lock:
            before = self._keep_less.pop(camera, None)
            self._keep_less[camera] = hours, told
        if before is not None:
            before[1](0, "somebody has asked for the same since")

    def figures(self) -> FootageFigures:
        """What was done since the start, and what is owed."""
        with self._lock:
            sums = sum((recorder.figures() for recorder in self._recorders.values()), self._gone)
        return FootageFigures(
            segments=sums.segments,
            recorded_bytes=sums.recorded_bytes,
            packets_dropped=sums.packets_dropped,
            failures=sums.failures,
            deleted=self._ring.deleted,
            clips_delivered=self._delivery.delivered,
            clips_failed=self._delivery.failed,
            clips_owed=self._index.clips_owed(),
        )

    # --- for the recorders ---------------------------------------------------------------------------------------

    def why_full(self) -> str | None:
        """Why nothing may be written now; None when there is room."""
        return self._full

    def held_bytes_max(self) -> int:
        """What one recorder may keep in memory before it writes: its share of `ram_bytes`."""
        return self._settings.ram_bytes // max(1, len(self._recorders))

    def answer_clip(self, job: ClipJob, answer: Answer) -> None:
        """Owe a clip on request, and tell its asker what became of it."""
        self._delivery.expect(job.reference, answer)
        try:
            self._index.owe_clip(job)
        except TransientError as error:
            self.refuse_clip(job, str(error), answer)

    def refuse_clip(self, job: ClipJob, reason: str, answer: Answer) -> None:
        """Tell an asker, and the bus, why there is no clip."""
        event = clip_event(job, self._clock.now(), error=reason)
        try:
            event = self._publish(event)
        except (TransientError, BacklogFullError) as error:
            get_logger(camera=job.camera).warning("clip.untold", about=job.about, error=str(error))
        answer(event)

    def left(self, camera: str) -> None:
        """A recorder is closed."""
        with self._lock:
            recorder = self._recorders.pop(camera, None)
            if recorder is not None:
                self._gone += recorder.figures()

    # --- for the delivery ----------------------------------------------------------------------------------------

    def deliverable(self) -> list[str]:
        """Cameras whose clips may leave the node now."""
        with self._lock:
            return [name for name, recorder in self._recorders.items() if not recorder.private]

    def flush(self, camera: str) -> None:
        """Have what a camera's recorder holds in memory on the disk."""
        with self._lock:
            recorder = self._recorders.get(camera)
        if recorder is not None:
            recorder.flush(_FLUSH_S)

    # --- threads -----------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        try:
            self._full = self._ring.free_disk(now)
        except TransientError as error:  # so full that not even the index can be written
            self._full = str(error)
            raise
        self._delete_asked(now)
        if now_s - self._trimmed_s >= _TRIM_EVERY_S:
            self._trim(now)
            self._trimmed_s = now_s
        self._clock.wait(self._stop, _LOOK_EVERY_S)

    def _delete_asked(self, now: datetime) -> None:
        with self._lock:
            asked, self._keep_less = self._keep_less, {}
        for camera, (hours, told) in asked.items():
            try:
                told(self._ring.keep_less(camera, hours, now), None)
            except TransientError as error:
                told(0, str(error))

    def _trim(self, now: datetime) -> None:
        with self._lock:
            recorders = list(self._recorders.values())
        for recorder in recorders:
            self._ring.trim(recorder.camera, recorder.settings, now)
        self._index.forget_past(now, now - timedelta(days=_REMEMBER_DAYS))

    def _deliver(self) -> None:
        if not self._delivery.deliver_next(self._stop):
            self._clock.wait(self._stop, _DELIVER_EVERY_S)
