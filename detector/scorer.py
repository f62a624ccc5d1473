"""The worker as a part of another process: it scores what that process publishes, under its name."""

from __future__ import annotations

from collections.abc import Callable

from broker import Bus, Figures
from config import Clock
from config.settings import Settings
from detector.models import open_backend
from detector.ownership import OwnsAll
from detector.sharing import PeopleFinder, SharedBackend
from detector.slot import BackendSlot
from detector.worker import Worker

__all__ = ["Scorer"]


class Scorer:
    """A worker on a bus that belongs to somebody else, and a finder of people with the same model.

    Args:
        bus: with an outbox; started by its owner, after `start`.
        settings: the site's: model, thresholds, rules and cameras.
        clock: time.
        on_fatal: called with the error after which nothing more can be scored.

    Attributes:
        find_people: finds people in pictures that are not published yet.

    Raises:
        ConfigError: the model, the labels or a rule cannot be used.
    """

    def __init__(self, bus: Bus, settings: Settings, *, clock: Clock, on_fatal: Callable[[Exception], None]) -> None:
        backend = SharedBackend(open_backend(settings.detector))
        self.find_people = PeopleFinder(backend)
        slot = BackendSlot(backend, clock=clock)
        self._owned = OwnsAll()
        self._worker = Worker(bus, slot, settings, self._owned, clock=clock, on_fatal=on_fatal)

    def start(self) -> None:
        """Ask for frames and begin to score."""
        self._worker.start()

    def leave(self, camera: str) -> None:
        """Another node watches a camera from now on: leave at the broker what its worker must know."""
        self._owned.leave(camera)

    def close(self) -> None:
        """Take no more frames, score those that wait, for some seconds, and end."""
        self._worker.close()

    def figures(self) -> Figures:
        """Queues, drops and counts for the health report."""
        return self._worker.figures()
