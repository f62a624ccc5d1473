"""The model in use, which may change between two frames, and how each model does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from config import Clock, SystemClock
from detector.backends import Backend, Prepared
from detector.decoding import Outputs

__all__ = ["BackendSlot", "Performance"]

_REMEMBERED = 64
"""Batches whose times are kept; some seconds of a busy worker."""


@dataclass(frozen=True, slots=True)
class Performance:
    """How a backend has done in a slot.

    Attributes:
        batches: inferences, those that failed included.
        pictures: that were inferred.
        failed: inferences, or readings of one's result, that failed.
        busy_s: seconds in the model.
        picture_s: seconds a picture, of the last batches the lower quartile: what else the machine does makes single
            ones slow; 0 before the first.
        running_s: since when it has been in the inference that it is in now; 0 when it is in none.
    """

    batches: int = 0
    pictures: int = 0
    failed: int = 0
    busy_s: float = 0.0
    picture_s: float = 0.0
    running_s: float = 0.0


@dataclass(slots=True)
class _Record:
    backend: Backend
    batches: int = 0
    pictures: int = 0
    failed: int = 0
    busy_s: float = 0.0
    begun_s: float | None = None
    last_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def note(self, pictures: int, took_s: float, *, failed: bool) -> None:
        """An inference has ended."""
        self.begun_s = None
        self.batches += 1
        self.busy_s += took_s
        self.failed += failed
        if not failed:
            self.pictures += pictures
            self.last_s.append(took_s / pictures)


class BackendSlot:
    """Holds the backend that new frames are prepared for; a frame goes all its way with the one it began with.

    Take `current` for a frame, prepare it with that, and hand that same backend to `infer`: then no batch and no
    message mixes two models, however often they are swapped meanwhile.

    Concurrency: may be used from any thread.

    Args:
        backend: the first one.
        clock: time.
    """

    def __init__(self, backend: Backend, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._backend = backend
        self._records = [_Record(backend)]

    @property
    def current(self) -> Backend:
        """The backend for the next frame."""
        return self._backend

    def swap(self, backend: Backend) -> Backend:
        """Use another one from the next frame on.

        Returns:
            The one before; frames that began with it may still be on their way.
        """
        with self._lock:
            before, self._backend = self._backend, backend
            # What was known of it is of another time, and what is known of others than these two is of no use.
            self._records = [one for one in self._records if one.backend is before] + [_Record(backend)]
            return before

    def infer(self, backend: Backend, batch: Sequence[Prepared]) -> list[Outputs]:
        """Run a backend, and note how it does; see :meth:`detector.backends.Backend.infer`.

        Args:
            backend: the one that these pictures were prepared with.
            batch: one to `batch_max` pictures.

        Raises:
            TransientError: the runtime failed on this batch.
        """
        record = self._record(backend)
        record.begun_s = started_s = self._clock.monotonic_s()
        outputs = None
        try:
            outputs = backend.infer(batch)
        finally:
            took_s = self._clock.monotonic_s() - started_s
            with self._lock:
                record.note(len(batch), took_s, failed=outputs is None)
        return outputs

    def note_failure(self, backend: Backend) -> None:
        """What a backend said could not be read."""
        record = self._record(backend)
        with self._lock:
            record.failed += 1

    def performance(self, backend: Backend) -> Performance:
        """How a backend has done since it came into the slot; nothing for one that is long gone."""
        record, now_s = self._record(backend), self._clock.monotonic_s()
        with self._lock:
            return Performance(
                record.batches,
                record.pictures,
                record.failed,
                record.busy_s,
                sorted(record.last_s)[len(record.last_s) // 4] if record.last_s else 0.0,
                0.0 if record.begun_s is None else now_s - record.begun_s,
            )

    def _record(self, backend: Backend) -> _Record:
        with self._lock:
            return next((record for record in self._records if record.backend is backend), _Record(backend))
