"""Rules about a camera as a whole: for how long something holds of it, while it is watched."""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime

from broker.messages import RuleMemory
from config.durations import format_duration
from detector.rules.watch import Progress, RuleWatch, moment, reached, seconds
from detector.scene import Scene

__all__ = ["ConditionWatch"]

_UNWATCHED_S = 15.0
"""Without a frame for longer than this, nobody watched. In the mode `eco` a frame comes with each keyframe, which some
cameras have every 10 s."""
_REMEMBERED_EVERY_S = 5.0
"""How exactly the next worker knows until when this one watched. A retained message would change all the time else."""


class ConditionWatch(RuleWatch):
    """Fires once when something has held for a time, and again only after it did not hold.

    Time in which no frames came is left out; what was counted before it stays.
    """

    _since_s: float | None
    _watched_until_s: float | None
    _fired: bool

    def _look(self, scene: Scene, begun_s: float) -> Progress | None:
        self._leave_out_unwatched(scene.at_s, begun_s)
        # One that was not found in this very frame is still there.
        counted = tuple(track for track in scene.tracks if self.counts(track))
        if not self._holds(len(counted)):
            self._since_s, self._fired = None, False
            return None
        if self._since_s is None:
            self._since_s = scene.at_s
        if self._fired:
            return None
        held_s = scene.at_s - self._since_s
        summary = self._say(len(counted), format_duration(held_s))
        if reached(held_s, self._for_s):
            return Progress(1.0, summary, tracks=counted)
        return Progress(min(held_s / self._for_s, 0.999), summary, f"{self._for_s - held_s:.1f} s more", counted)

    def _leave_out_unwatched(self, at_s: float, begun_s: float) -> None:
        last_s, self._watched_until_s = self._watched_until_s, at_s
        if self._since_s is None or last_s is None:
            return
        if last_s < begun_s:
            self._since_s, self._fired = None, False
        elif at_s - last_s > _UNWATCHED_S:
            self._since_s += at_s - last_s

    @property
    @abstractmethod
    def _for_s(self) -> float:
        """Seconds for which it must hold."""

    @abstractmethod
    def _holds(self, counted: int) -> bool:
        """Whether it holds while so many objects are there."""

    @abstractmethod
    def _say(self, counted: int, held: str) -> str:
        """A sentence for a person.

        Args:
            counted: objects that are there.
            held: for how long it has held.
        """

    def _has_fired(self, progress: Progress) -> None:
        self._fired = progress.part >= 1

    def _forget(self) -> None:
        self._since_s = None
        self._watched_until_s = None
        self._fired = False

    def _remember(self, quiet_until: datetime | None) -> RuleMemory:
        if self._since_s is None or self._watched_until_s is None:
            return RuleMemory(quiet_until=quiet_until)
        until_s = max(self._since_s, self._watched_until_s // _REMEMBERED_EVERY_S * _REMEMBERED_EVERY_S)
        return RuleMemory(
            quiet_until=quiet_until, since=moment(self._since_s), watched_until=moment(until_s), fired=self._fired
        )

    def _recall(self, memory: RuleMemory) -> None:
        if memory.since is not None and memory.watched_until is not None:
            self._since_s, self._watched_until_s = seconds(memory.since), seconds(memory.watched_until)
            self._fired = memory.fired
