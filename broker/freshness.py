"""How old a frame is, when nobody vouches for the camera's clock, and whether a reader is behind.

A frame carries its capture time on the producer's clock, and the reader knows its arrival on its own. The two clocks
may be any time apart, so the difference alone says nothing. But the offset is the same for every frame of a camera,
and the fastest frame had next to nothing but the offset: what a frame took *beyond that* is its real delay. A node
that is an hour ahead or behind is treated like any other.

The fastest frame is remembered as long as the connection stands, also through a silence: a reader that was frozen
for half a minute meets half a minute of old frames, and must not take the first of them for a fresh one. Clocks
drift, so the memory of it fades by 0.1 ms a second. A camera whose clock is set back is thought late for
10 s, and then believed.

Source: the minimum filter of NTP's clock filter algorithm, RFC 5905, section 10.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Freshness", "TransitLag"]

_DRIFT = 1e-4
"""Seconds a second. Crystals are good for 20 to 50 parts in a million each."""
_BELIEVED_AFTER_S = 10.0
"""A camera that is late for so long without a break is not late, its clock is."""
_CAMERAS_MAX = 1000
"""Cameras that are told apart. A client that invents names must not fill the memory: further ones are never late."""
_PATIENCE_S = 0.5
"""Late frames are dropped in microseconds; whoever is still behind after so long has too many of them waiting."""


@dataclass(slots=True)
class _Fastest:
    lag_s: float
    at_s: float
    late_since_s: float | None = None


class TransitLag:
    """Per camera, how much longer than its fastest frame a frame was on its way.

    Args:
        late_s: a delay of more than this is lateness.
    """

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._cameras: dict[str, _Fastest] = {}

    def excess_s(self, camera: str, captured_s: float, now_s: float) -> float:
        """The delay of one frame, in seconds, at least 0.

        Args:
            camera: whose frame it is.
            captured_s: its capture, in seconds of the producer's clock.
            now_s: monotonic seconds of the arrival; never less than at the last call.
        """
        lag_s = now_s - captured_s
        fastest = self._cameras.get(camera)
        if fastest is None:
            if len(self._cameras) < _CAMERAS_MAX:
                self._cameras[camera] = _Fastest(lag_s, now_s)
            return 0.0
        fastest.lag_s = min(lag_s, fastest.lag_s + _DRIFT * (now_s - fastest.at_s))
        fastest.at_s = now_s
        if lag_s - fastest.lag_s <= self._late_s:
            fastest.late_since_s = None
        elif fastest.late_since_s is None:
            fastest.late_since_s = now_s
        elif now_s - fastest.late_since_s >= _BELIEVED_AFTER_S:
            fastest.lag_s, fastest.late_since_s = lag_s, None
        return lag_s - fastest.lag_s

    def forget(self) -> None:
        """Start over."""
        self._cameras.clear()


class Freshness:
    """Says which frames are worth looking at, and when so much waits that a new connection is the shorter way.

    Nothing that a broker held for an old connection comes over a new one (QoS 0), so its first frames are fresh and
    everything is measured against them.

    Concurrency: one thread at a time.

    Args:
        age_max_s: a frame that was on its way longer than this beyond the fastest is stale.
    """

    def __init__(self, age_max_s: float) -> None:
        self._age_max_s = age_max_s
        self._lags = TransitLag(age_max_s)
        self._behind_since_s: float | None = None

    def delay_s(self, camera: str, captured_s: float, now_s: float) -> float | None:
        """The delay of one frame, in seconds; None when it is stale.

        Args:
            camera: whose frame it is.
            captured_s: its capture, in seconds of the producer's clock.
            now_s: monotonic seconds of the arrival.
        """
        delay_s = self._lags.excess_s(camera, captured_s, now_s)
        if delay_s <= self._age_max_s:
            self._behind_since_s = None
            return delay_s
        if self._behind_since_s is None:
            self._behind_since_s = now_s
        return None

    def is_behind(self, now_s: float) -> bool:
        """Whether nothing but stale frames came for a while, of any camera."""
        return self._behind_since_s is not None and now_s - self._behind_since_s >= _PATIENCE_S

    def connected(self) -> None:
        """A new connection stands."""
        self._lags.forget()
        self._behind_since_s = None
