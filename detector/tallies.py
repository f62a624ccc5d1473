"""What happened to the frames of each camera, counted."""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from detector.ownership import CameraScores

__all__ = ["Tallies"]

_AGES_MAX = 256
"""Ages of a camera that are kept between two reports; the newest."""


@dataclass(slots=True)
class _Camera:
    scored: int = 0
    late: int = 0
    ages_s: deque[float] = field(default_factory=lambda: deque(maxlen=_AGES_MAX))

    def report(self, over_s: float, dropped: int) -> CameraScores:
        age_ms = statistics.median(self.ages_s) * 1000 if self.ages_s else 0.0
        scores = CameraScores(round(self.scored / over_s, 2), round(age_ms, 1), dropped, self.late)
        self.scored = 0
        self.ages_s.clear()
        return scores


class Tallies:
    """Counts by camera.

    Concurrency: may be used from any thread.
    """

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._reported_s = now_s

    def scored(self, camera: str, age_s: float) -> None:
        """Scores of a frame went out when it was so old."""
        with self._lock:
            tally = self._cameras.setdefault(camera, _Camera())
            tally.scored += 1
            tally.ages_s.append(age_s)

    def late(self, camera: str) -> None:
        """A frame was too old to be scored."""
        with self._lock:
            self._cameras.setdefault(camera, _Camera()).late += 1

    def forget(self, camera: str) -> None:
        """The camera is somebody else's now."""
        with self._lock:
            self._cameras.pop(camera, None)

    def late_by_camera(self) -> Counter[str]:
        """Frames that were too old, by camera."""
        with self._lock:
            return Counter({camera: tally.late for camera, tally in self._cameras.items() if tally.late})

    def report(self, now_s: float, dropped: Mapping[str, int]) -> dict[str, CameraScores]:
        """How each camera does of which there were frames; rates and ages start over.

        Args:
            now_s: monotonic seconds.
            dropped: frames that made way for newer ones, by camera.
        """
        with self._lock:
            over_s = max(now_s - self._reported_s, 1e-3)
            self._reported_s = now_s
            return {
                camera: self._cameras.setdefault(camera, _Camera()).report(over_s, dropped.get(camera, 0))
                for camera in {*self._cameras, *dropped}
            }
