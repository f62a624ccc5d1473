"""What a process counts of itself: for its health on the bus, and for whoever scrapes it."""

from __future__ import annotations

import importlib.metadata
import platform
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.messages import CameraHealth

__all__ = ["BOUNDS_S", "Distribution", "Figures", "own_versions"]

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)
"""Upper bounds in seconds. The targets lie on them (10, 15 and 50 ms, 1 and 5 s), so that a query answers exactly
whether they are met; the last ones are for what waits in an outbox during an outage."""


class Distribution:
    """How long something takes: counts by fixed bounds, and the sum.

    Concurrency: noted by one thread and read by any. Where several note, one may now and then overwrite another's: use
    a distribution for each, or a lock.
    """

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def note(self, took_s: float) -> None:
        """Count one. What took less than nothing, by two clocks that disagree, took nothing."""
        took_s = max(0.0, took_s)
        self._counts[bisect_left(BOUNDS_S, took_s)] += 1
        self._sum_s += took_s

    @staticmethod
    def sum(parts: Iterable[Distribution]) -> Distribution:
        """All of them as one, as they are now."""
        whole = Distribution()
        for part in parts:
            whole._counts = [mine + its for mine, its in zip(whole._counts, part.counts, strict=True)]
            whole._sum_s += part.sum_s
        return whole

    @property
    def counts(self) -> Sequence[int]:
        """How many lie at or below each of `BOUNDS_S` and above the one before; the last is what lies above all."""
        return tuple(self._counts)

    @property
    def sum_s(self) -> float:
        """All of them together, in seconds."""
        return self._sum_s

    def quantile_s(self, share: float) -> float:
        """The value below which `share` of them lie, as exactly as the bounds tell; 0 when there are none.

        Within its bucket it is taken to lie in proportion, as Prometheus does (`histogram_quantile`).
        """
        counts = self.counts
        rank = share * sum(counts)
        below, lowest_s = 0, 0.0
        for count, bound_s in zip(counts, BOUNDS_S, strict=False):
            if count and below + count >= rank:
                return lowest_s + (bound_s - lowest_s) * (rank - below) / count
            below, lowest_s = below + count, bound_s
        return BOUNDS_S[-1] if sum(counts) else 0.0


@dataclass(slots=True)
class Figures:
    """What a role adds to its health.

    Attributes:
        queues: messages that wait now, by queue.
        drops: messages dropped since the start, by queue.
        counts: everything else that is counted since the start.
        cameras: how each camera is doing.
        distributions: how long its steps take, by step; for `/metrics` only.
    """

    queues: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, CameraHealth] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)


def own_versions() -> dict[str, str]:
    """What this process is made of."""
    try:
        vigil = importlib.metadata.version("vigil-mesh")
    except importlib.metadata.PackageNotFoundError:
        vigil = "unknown"
    return {"vigil": vigil, "python": platform.python_version()}
