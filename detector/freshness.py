"""How old a frame is, when nobody vouches for the camera's clock.

A frame carries its capture time on the producer's clock, and the worker knows its arrival on its own. The two clocks
may be any time apart, so the difference alone says nothing. But the offset is the same for every frame of a camera,
and the fastest of its last frames had next to nothing but the offset: what a frame took *beyond that* is its real
delay. A node that is an hour ahead or behind is scored like any other; a node whose clock is set while it runs is
thought late for at most two windows, and then scored again.

Source: the minimum filter of NTP's clock filter algorithm, RFC 5905, section 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TransitLag"]


@dataclass(slots=True)
class _Fastest:
    since_s: float
    current_s: float = math.inf
    previous_s: float = math.inf


class TransitLag:
    """Per camera, how much longer than the fastest of the last frames a frame was on its way.

    Args:
        window_s: the fastest frame is remembered for one to two of these.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._cameras: dict[str, _Fastest] = {}

    def excess_s(self, camera: str, lag_s: float, now_s: float) -> float:
        """The delay of one frame, in seconds, at least 0.

        Args:
            camera: whose frame it is.
            lag_s: arrival on this machine's clock minus capture on the producer's; any sign.
            now_s: monotonic seconds of the arrival; never less than at the last call.
        """
        fastest = self._cameras.setdefault(camera, _Fastest(now_s))
        age_s = now_s - fastest.since_s
        if age_s >= self._window_s:
            fastest.previous_s = fastest.current_s if age_s < 2 * self._window_s else math.inf
            fastest.current_s, fastest.since_s = math.inf, now_s
        fastest.current_s = min(fastest.current_s, lag_s)
        return lag_s - min(fastest.current_s, fastest.previous_s)
