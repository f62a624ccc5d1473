"""What is to be set of a camera, against what is set: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fleet.discovery.device import CameraSetup, Encoding, EncodingChange, SetupChange

__all__ = ["Difference", "differences", "needed"]

_CLOCK_OFF_S = 2.0
"""Nearer than this nobody sets a clock over a network by hand."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it is to be.

    Attributes:
        what: ``main.resolution``.
        now: what is set,
        wanted: and what is to be.
    """

    what: str
    now: str
    wanted: str

    def __str__(self) -> str:
        """``main.resolution: 1920x1080 -> 1280x720``."""
        return f"{self.what}: {self.now or 'nothing'} -> {self.wanted}"


def differences(setup: CameraSetup, change: SetupChange) -> list[Difference]:
    """Where the camera is not as the change wants it."""
    found: list[Difference] = []
    if change.time and (setup.ahead_s is None or abs(setup.ahead_s) > _CLOCK_OFF_S):
        now = "it does not tell" if setup.ahead_s is None else _clock(setup.ahead_s)
        found.append(Difference("time", now, "as this machine's clock"))
    if change.name is not None and change.name != setup.name:
        found.append(Difference("name", setup.name, change.name))
    for place, held, wanted in (("main", setup.main, change.main), ("sub", setup.sub, change.sub)):
        if wanted is not None:
            found += _encoding(place, held, wanted)
    return found


def needed(setup: CameraSetup, change: SetupChange) -> SetupChange:
    """The change without what is so already."""
    different = {one.what.partition(".")[0] for one in differences(setup, change)}
    return SetupChange(
        name=change.name if "name" in different else None,
        time="time" in different,
        main=change.main if "main" in different else None,
        sub=change.sub if "sub" in different else None,
    )


def _encoding(place: str, held: Encoding | None, wanted: EncodingChange) -> Iterator[Difference]:
    now = held or Encoding()
    size = "x".join(map(str, wanted.size_px)) if wanted.size_px else None
    pairs = (
        ("codec", now.codec, wanted.codec),
        ("resolution", now.size, size),
        ("fps", str(now.fps), None if wanted.fps is None else str(wanted.fps)),
        ("bitrate", _rate(now.bitrate_bps), None if wanted.bitrate_bps is None else _rate(wanted.bitrate_bps)),
    )
    for what, is_now, is_wanted in pairs:
        if is_wanted is not None and is_now != is_wanted:
            yield Difference(f"{place}.{what}", is_now if held is not None else "no such stream", is_wanted)


def _rate(bps: int) -> str:
    return f"{bps / 1_000_000:g}M" if bps >= 1_000_000 else f"{bps // 1000}k"


def _clock(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
