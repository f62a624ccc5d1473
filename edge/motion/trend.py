"""How much moves in front of a camera, hour by hour. Pure: time comes in, and nothing of it survives the process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

from broker.messages import MotionHour, MotionTrend

__all__ = ["Trend"]

_HOURS = 24
_GAP_MAX_S = 15.0
"""Longer between two frames, and the camera was not watched in between: keyframes come every 10 s at most."""


@dataclass(slots=True)
class _Hour:
    start: datetime
    movements: int = 0
    moving_s: float = 0.0
    watched_s: float = 0.0
    score_max: float = 0.0


class Trend:
    """Adds up movements of the last 24 hours in which the camera was watched.

    Args:
        camera: the camera's name.
    """

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self._hours: deque[_Hour] = deque(maxlen=_HOURS)
        self._at_s: float | None = None

    def step(self, at: datetime, at_s: float, *, moving: bool, began: bool = False, score: float = 0.0) -> bool:
        """Count a frame.

        Args:
            at: when it was taken; aware, UTC.
            at_s: the same on the source's time line, in seconds; a new source may start over.
            moving: whether a movement goes on.
            began: whether it began with this frame.
            score: share of the picture that moves, 0..1.

        Returns:
            Whether it is the first frame of another hour, so that the hour before has all it will have.
        """
        start = at.replace(minute=0, second=0, microsecond=0)
        later = not self._hours or start > self._hours[-1].start
        if later:
            self._hours.append(_Hour(start))
        # A clock that is set back goes on counting in the hour it was in.
        hour = self._hours[-1]
        gone_s = 0.0 if self._at_s is None else at_s - self._at_s
        self._at_s = at_s
        if 0.0 < gone_s <= _GAP_MAX_S:
            hour.watched_s += gone_s
            hour.moving_s += gone_s * moving
        hour.movements += began
        hour.score_max = max(hour.score_max, score)
        return later and len(self._hours) > 1

    def message(self, at: datetime) -> MotionTrend:
        """What there is to say; the last hour is not over yet.

        Args:
            at: now; aware, UTC.
        """
        return MotionTrend(
            camera=self._camera,
            at=at,
            hours=tuple(
                MotionHour(
                    start=hour.start,
                    movements=hour.movements,
                    moving_s=round(hour.moving_s, 1),
                    watched_s=round(hour.watched_s, 1),
                    score_max=round(hour.score_max, 4),
                )
                for hour in self._hours
            ),
        )
