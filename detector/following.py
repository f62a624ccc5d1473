"""The objects of one label in one camera: each box of a frame goes to the object that it shows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from broker.messages import Detection
from config.settings import TrackingSettings
from detector.objects import WatchedObject
from detector.scene import Step
from detector.tracking import SortTracker, Tracker

__all__ = ["Following"]

_CONFIRM_SIGHTINGS = 2
"""One box in one frame is often nothing at all."""


class Following:
    """Follows the objects of one label.

    Whether two boxes are one object the library says, and nobody else; but it does not look for what another worker
    has handed over, for what was there before a pause, and for what stands still for longer than it waits. Those are
    taken up again when a box that the library does not know is where they should be.

    Args:
        settings: when an object counts.
        begin: makes an object of its first box and score.
    """

    def __init__(self, settings: TrackingSettings, begin: Callable[[Step, float], WatchedObject]) -> None:
        self._settings = settings
        self._begin = begin
        self._tracker: Tracker = SortTracker(lost_s=settings.lost_s)
        self._objects: dict[str, WatchedObject] = {}
        self._numbered: dict[int, WatchedObject] = {}

    def __iter__(self) -> Iterator[WatchedObject]:
        """All objects, those that do not count yet too."""
        return iter(self._objects.values())

    def add(self, watched: WatchedObject) -> None:
        """Look for this one too."""
        self._objects[watched.track_id] = watched

    def remove(self, watched: WatchedObject) -> None:
        """Look for it no longer."""
        del self._objects[watched.track_id]
        self._forget_number(watched)

    def see(
        self, at_s: float, period_s: float | None, detections: Sequence[Detection], *, aspect: float
    ) -> list[WatchedObject | None]:
        """Look at one frame.

        Args:
            at_s: when; later than the last one.
            period_s: seconds between the camera's frames; None while that is not known.
            detections: of this label.
            aspect: the picture's width over its height, in pixels.

        Returns:
            For each detection its object; None where it is none (yet).
        """
        boxes = [(x1 * aspect, y1, x2 * aspect, y2) for x1, y1, x2, y2 in (found.box for found in detections)]
        numbers = self._tracker.follow(at_s, period_s, boxes, [found.score for found in detections])
        seen = [self._numbered.get(number) if number is not None else None for number in numbers]
        for watched in self:
            watched.misses += 1
            watched.aspect = aspect
        for known in filter(None, seen):
            known.misses = 0
        fresh = {
            place: Step(at_s, detections[place].box)
            for place, number in enumerate(numbers)
            if number is not None and seen[place] is None
        }
        for place, missed in self._missed(fresh).items():
            self._forget_number(missed)
            seen[place] = missed
        for place, (found, shown) in enumerate(zip(detections, seen, strict=True)):
            if shown is not None:
                shown.see(Step(at_s, found.box), found.score)
                self._confirm(shown)
            elif place in fresh and found.score >= self._settings.min_score:
                seen[place] = begun = self._begin(fresh[place], found.score)
                self.add(begun)
        self._numbered.update(
            (number, shown)
            for number, shown in zip(numbers, seen, strict=True)
            if number is not None and shown is not None
        )
        return seen

    def _missed(self, fresh: Mapping[int, Step]) -> dict[int, WatchedObject]:
        """Which of the boxes that the library does not know are objects for which it does not look."""
        # Not whatever is missing: that would join people of whom the library says that they are two.
        missed = [w for w in self if w.misses and w.confirmed and (w.still or w.sought)]
        pairs = [
            (distance, place, watched)
            for watched in missed
            for place, step in fresh.items()
            if (distance := watched.distance(step)) < 1.0
        ]
        found: dict[int, WatchedObject] = {}
        for _, place, watched in sorted(pairs, key=lambda pair: pair[0]):
            if place not in found and watched not in found.values():
                found[place] = watched
        return found

    def _forget_number(self, watched: WatchedObject) -> None:
        for number in [number for number, other in self._numbered.items() if other is watched]:
            del self._numbered[number]

    def _confirm(self, watched: WatchedObject) -> None:
        if watched.sightings >= _CONFIRM_SIGHTINGS and watched.seen_s - watched.started_s >= self._settings.confirm_s:
            watched.confirmed = True
