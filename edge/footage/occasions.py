"""What makes footage matter: movements and escalations keep it longer, and clips are owed of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from broker.messages import Escalation, MotionEvent
from broker.references import clip_reference
from config.cameras import RecordingSettings
from config.clock import Clock
from config.errors import VigilError
from config.log import get_logger
from edge.footage.index import ClipJob, ClipReason, FootageIndex

__all__ = ["LATE_S", "Occasions"]

_CLIP_MAX_S = 600.0
"""The longest clip that is cut by itself; what moves for longer is in the footage."""
LATE_S = 2.0
"""Seconds after which a picture is in a fragment on the disk: a fragment's length, and as much again."""
_UNLISTED_MAX = 1_000
_AGAIN_S = 10.0


class Occasions:
    """The events of one camera, as far as its footage is concerned.

    Concurrency: belongs to the recorder's thread.

    Args:
        camera: its name.
        settings: what its owner chose.
        index: where it is written down.
        clock: time.
    """

    def __init__(self, camera: str, settings: RecordingSettings, index: FootageIndex, clock: Clock) -> None:
        self._camera = camera
        self._settings = settings
        self._index = index
        self._clock = clock
        self._log = get_logger(camera=camera)
        self._moving: set[str] = set()
        self._active_until: datetime | None = None
        self._unlisted: deque[Callable[[], object]] = deque(maxlen=_UNLISTED_MAX)
        self._again_s = 0.0

    def movement(self, event: MotionEvent) -> None:
        """Something begins to move, or stops."""
        last = event.at + timedelta(seconds=self._settings.post_s)
        clip_end = event.started_at + timedelta(seconds=_CLIP_MAX_S)
        if event.type == "start":
            self._moving.add(event.motion_id)  # an end that never comes, because the node died, leaves the longest clip
        else:
            self._moving.discard(event.motion_id)
            self._stay_active(last)
            clip_end = min(last, clip_end)
        self._protect(event.motion_id, event.started_at, last)
        if "motion" in self._settings.clips:
            self._owe("motion", event.motion_id, event.started_at, clip_end, drill=False)

    def escalation(self, event: Escalation) -> None:
        """Somebody should know of something."""
        last = event.captured_at + timedelta(seconds=self._settings.post_s)
        self._stay_active(last)
        self._protect(event.id, event.captured_at, last)
        if "escalation" in self._settings.clips:
            self._owe("escalation", event.id, event.captured_at, last, drill=event.drill)

    def is_active(self, at: datetime) -> bool:
        """Whether a picture of this moment belongs to an event."""
        return bool(self._moving) or (self._active_until is not None and at <= self._active_until)

    def clear(self) -> None:
        """Nothing is recorded any more: what moved is over."""
        self._moving.clear()
        self._active_until = None

    def list(self, change: Callable[[], object]) -> None:
        """Change the index; what a full disk does not take is tried again."""
        self._unlisted.append(change)
        self._list_owed()

    def list_again(self) -> None:
        """Try what the index did not take, every some seconds; call it often."""
        if self._unlisted and self._clock.monotonic_s() >= self._again_s:
            self._list_owed()

    def _list_owed(self) -> None:
        while self._unlisted:
            try:
                self._unlisted[0]()
            except VigilError as error:
                self._log.warning("footage.unlisted", waiting=len(self._unlisted), error=str(error))
                self._again_s = self._clock.monotonic_s() + _AGAIN_S
                return
            self._unlisted.popleft()

    def _stay_active(self, until: datetime) -> None:
        self._active_until = until if self._active_until is None else max(self._active_until, until)

    def _protect(self, about: str, moment: datetime, last: datetime) -> None:
        first = moment - timedelta(seconds=self._settings.pre_s)
        until = last + timedelta(hours=self._settings.protect_hours)
        self.list(lambda: self._index.protect(self._camera, about, first, last, until))

    def _owe(self, reason: ClipReason, about: str, moment: datetime, end: datetime, *, drill: bool) -> None:
        start = moment - timedelta(seconds=self._settings.pre_s)
        reference = clip_reference(self._camera, moment, about)
        due_at = end + timedelta(seconds=LATE_S)
        job = ClipJob(reference, self._camera, reason, about, start, end, due_at, drill)
        self.list(lambda: self._index.owe_clip(job))
