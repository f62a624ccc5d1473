"""Clips that are owed: cut when it is their turn, delivered, and told."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from broker.messages import ClipEvent
from config.backoff import Backoff
from config.clock import Clock
from config.errors import BacklogFullError, PermanentError, TransientError
from config.log import get_logger
from edge.footage.clips import Clip, cut_clip
from edge.footage.index import ClipJob, FootageIndex
from edge.footage.layout import FootageFolder
from edge.footage.segments import find_segments
from edge.footage.stores import ClipStore

__all__ = ["Answer", "ClipDelivery", "PublishClip"]

Answer = Callable[[ClipEvent], None]
PublishClip = Callable[[ClipEvent], ClipEvent]
"""Puts it into the outbox and returns it with its id; raises TransientError or BacklogFullError when it cannot."""

_ANSWERS_MAX = 1_000
_HASH_BYTES = 1 << 20


class Cameras(Protocol):
    """What the delivery asks its node."""

    def deliverable(self) -> list[str]:
        """Cameras whose clips may leave the node now."""
        ...

    def flush(self, camera: str) -> None:
        """Have what a camera's recorder holds in memory on the disk."""
        ...


class ClipDelivery:
    """Delivers the clips that are owed, one at a time: escalations first, then movements, then requests.

    A clip is cut when it is its turn, so that a day without the store costs no disk. It is owed until the bus has its
    :class:`~broker.messages.ClipEvent` in the outbox: a process that is killed between the two delivers it again under
    the same name.

    Concurrency: `deliver_next` belongs to one thread; `expect` may be called from any.

    Args:
        folder: the footage.
        index: what is owed.
        store: where clips go.
        cameras: the node.
        publish: tells the bus.
        clock: time.
    """

    def __init__(
        self,
        folder: FootageFolder,
        index: FootageIndex,
        store: ClipStore,
        cameras: Cameras,
        publish: PublishClip,
        *,
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._index = index
        self._store = store
        self._cameras = cameras
        self._publish = publish
        self._clock = clock
        self._backoff = Backoff(1.0, 60.0, floor_s=0.2)
        self._lock = threading.Lock()
        self._answers: dict[str, list[Answer]] = {}
        self.delivered = 0
        """Clips that are where they belong."""
        self.failed = 0
        """Clips that can never be cut."""

    def expect(self, reference: str, answer: Answer) -> None:
        """Tell this asker what becomes of a clip."""
        with self._lock:
            if len(self._answers) >= _ANSWERS_MAX:
                self._answers.pop(next(iter(self._answers)))
            self._answers.setdefault(reference, []).append(answer)

    def deliver_next(self, stop: threading.Event) -> bool:
        """Deliver the clip whose turn it is; after a failure, wait first.

        Returns:
            False when none is due.

        Raises:
            TransientError: the index cannot be used.
        """
        job = self._index.next_clip(self._cameras.deliverable(), self._clock.now())
        if job is None:
            return False
        try:
            event = self._attempt(job)
            event = self._publish(event)
        except (TransientError, BacklogFullError) as error:
            delay_s = self._backoff.delay_s()
            get_logger(camera=job.camera).warning(
                "clip.delayed", about=job.about, delay_s=round(delay_s, 1), error=str(error)
            )
            self._clock.wait(stop, delay_s)
            return True
        self._backoff.reset()
        self._index.settle_clip(job.reference, self._clock.now())
        self._tell(job, event)
        return True

    def _attempt(self, job: ClipJob) -> ClipEvent:
        try:
            return self._deliver(job)
        except PermanentError as error:
            return clip_event(job, self._clock.now(), error=str(error))

    def _deliver(self, job: ClipJob) -> ClipEvent:
        self._cameras.flush(job.camera)
        draft = self._folder.root / "outgoing" / Path(job.reference).name
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)  # half of it, from before a crash
        try:
            clip = self._cut(job, draft)
            size_bytes, digest = _measure(draft)
            if job.camera not in self._cameras.deliverable():
                raise TransientError("privacy was switched on")
            uri = self._store.deliver(draft, job.reference)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return clip_event(job, self._clock.now(), clip=clip, uri=uri, size_bytes=size_bytes, sha256=digest)

    def _cut(self, job: ClipJob, path: Path) -> Clip:
        try:
            segments = list(find_segments(self._folder, job.camera, job.starts_at, job.ends_at))
            return cut_clip(segments, job.starts_at, job.ends_at, path)
        except OSError as error:
            raise TransientError(f"{error.filename}: {error.strerror}; is the disk failing?") from error

    def _tell(self, job: ClipJob, event: ClipEvent) -> None:
        log = get_logger(camera=job.camera)
        if event.error is None:
            self.delivered += 1
            log.info("clip.delivered", about=job.about, uri=event.uri, size_bytes=event.size_bytes)
        else:
            self.failed += 1
            log.warning("clip.impossible", about=job.about, error=event.error)
        with self._lock:
            answers = self._answers.pop(job.reference, [])
        for answer in answers:
            answer(event)


def clip_event(
    job: ClipJob,
    at: datetime,
    *,
    clip: Clip | None = None,
    uri: str = "",
    size_bytes: int = 0,
    sha256: str = "",
    error: str | None = None,
) -> ClipEvent:
    """What the bus is told of a clip; the id is the outbox's to give."""
    return ClipEvent(
        id="",
        camera=job.camera,
        reason=job.reason,
        about=job.about[:256],
        at=at,
        starts_at=job.starts_at if clip is None else clip.starts_at,
        ends_at=job.ends_at if clip is None else clip.ends_at,
        uri=uri,
        size_bytes=size_bytes,
        sha256=sha256,
        missing_s=0.0 if clip is None else clip.missing_s,
        error=error and error[:1000],
        drill=job.drill,
    )


def _measure(path: Path) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
