"""How many frames go into the model together, and how much more there is time for. Pure: measured times come in."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

__all__ = ["ArrivalRate", "BatchTimes", "batch_size", "parts_budget"]

_WEIGHT = 0.2
"""Of a new measurement: what the machine does now counts, one hiccup does not."""
_HICCUP = 2.0
"""A measurement of more than so many times the usual counts as so many: somebody else had the processor."""
_PAYS = 0.95
"""A larger batch must take less than this share of a smaller one's time a picture. Otherwise, as on most processors,
it lets everybody wait for the last and nobody gains."""
_BUSY_MAX = 0.6
"""The share of its time for which the model is given work of its own choice. With more, frames wait for each other."""
_RATE_OVER_S = 3.0


class BatchTimes:
    """How long a model takes, by pictures in a batch: a measurement of each size, smoothed.

    Concurrency: written by one thread; others may read.

    Attributes:
        picture_s: a picture, in batches as they are now; 0 while nothing is known.
    """

    def __init__(self) -> None:
        self.picture_s = 0.0
        self._took_s: dict[int, float] = {}
        self._sizes: list[int] = []

    def note(self, pictures: int, took_s: float) -> None:
        """One inference was so large and took so long."""
        self.picture_s = _smoothed(self.picture_s or None, took_s / pictures)
        if pictures not in self._took_s:
            bisect.insort(self._sizes, pictures)
        self._took_s[pictures] = _smoothed(self._took_s.get(pictures), took_s)

    def expected_s(self, pictures: int) -> float:
        """How long a batch will take: measured, between two that were, or in proportion; 0 while nothing is known."""
        known = self._took_s.get(pictures)
        if known is not None or not self._sizes:
            return known or 0.0
        place = bisect.bisect(self._sizes, pictures)
        if place == 0 or place == len(self._sizes):
            nearest = self._sizes[min(place, len(self._sizes) - 1)]
            return self._took_s[nearest] * pictures / nearest
        below, above = self._sizes[place - 1], self._sizes[place]
        share = (pictures - below) / (above - below)
        return self._took_s[below] + share * (self._took_s[above] - self._took_s[below])

    def is_known(self, pictures: int) -> bool:
        """Whether a batch of this size, or one that is larger, was measured."""
        return bool(self._sizes) and pictures <= self._sizes[-1]

    def best_fps(self) -> float:
        """Pictures a second, in batches of the best size; 0 while nothing is known."""
        return max((size / max(took_s, 1e-6) for size, took_s in self._took_s.items()), default=0.0)


def _smoothed(usual_s: float | None, took_s: float) -> float:
    if usual_s is None:
        return took_s
    return usual_s + _WEIGHT * (min(took_s, _HICCUP * usual_s) - usual_s)


def batch_size(slack_s: Sequence[float], pictures: Sequence[int], times: BatchTimes, pictures_max: int) -> int:
    """The largest batch after which its most urgent frame is still fresh, as far as a larger one pays.

    Args:
        slack_s: of each frame that waits, in order: how long it may still take; at least one.
        pictures: of each, how many the model looks at: the whole and its parts.
        times: how long batches take.
        pictures_max: the most pictures in a batch; a frame with more goes alone.

    Returns:
        How many of the first frames go together; at least 1.
    """
    sums, fits = [pictures[0]], 1
    urgent_s = slack_s[0]
    for frames in range(2, len(pictures) + 1):
        total = sums[-1] + pictures[frames - 1]
        urgent_s = min(urgent_s, slack_s[frames - 1])
        if total > pictures_max or times.expected_s(total) > urgent_s:
            break
        sums.append(total)
        fits = frames
    return _worthwhile(sums[:fits], times)


def _worthwhile(sums: Sequence[int], times: BatchTimes) -> int:
    """The fewest frames with which the model is about as fast as with all of these; all where that is not known."""
    if not times.is_known(sums[-1]):
        return len(sums)
    limit_s = times.expected_s(sums[-1]) / sums[-1] / _PAYS
    good = (frames for frames, total in enumerate(sums, start=1) if times.expected_s(total) / total <= limit_s)
    return next(good, len(sums))


def parts_budget(arriving_fps: float, whole_s: float, most: int) -> int:
    """Parts of each frame, besides its whole, that there is time for.

    Args:
        arriving_fps: frames that come, a second.
        whole_s: how long one picture takes.
        most: never more than these.
    """
    busy = arriving_fps * whole_s
    if busy <= 0:
        return most
    return max(0, min(most, math.floor(_BUSY_MAX / busy) - 1))


class ArrivalRate:
    """Frames a second, over the last seconds."""

    def __init__(self) -> None:
        self._fps = 0.0
        self._at_s = float("-inf")

    def note(self, now_s: float) -> None:
        """One came."""
        self._fps = self.fps(now_s) + 1 / _RATE_OVER_S
        self._at_s = now_s

    def fps(self, now_s: float) -> float:
        """The rate now."""
        return self._fps * math.exp(min(0.0, self._at_s - now_s) / _RATE_OVER_S)
