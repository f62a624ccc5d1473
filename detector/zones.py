"""In which zones of its camera something stands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.cameras import Zone

__all__ = ["ZoneMap", "is_inside"]

Point = tuple[float, float]

_ON_EDGE = 1e-9
"""Whoever is cut off by the picture's lower edge stands at 1.0 exactly, and in the zone that reaches down to it."""


class ZoneMap:
    """The zones of one camera.

    Args:
        zones: by name, in fractions of the picture.
    """

    def __init__(self, zones: Mapping[str, Zone]) -> None:
        self._included = {name: zone for name, zone in zones.items() if zone.kind == "include"}
        self._excluded = [zone for zone in zones.values() if zone.kind == "exclude"]

    @property
    def names(self) -> tuple[str, ...]:
        """The zones that events and rules name."""
        return tuple(self._included)

    def of(self, label: str, foot: Point) -> tuple[str, ...]:
        """The zones in which an object is.

        Args:
            label: what it is.
            foot: where it stands, fractions of the picture.
        """
        return tuple(name for name, zone in self._included.items() if _holds(zone, label, foot))

    def excludes(self, label: str, foot: Point) -> bool:
        """Whether what stands there is left out altogether."""
        return any(_holds(zone, label, foot) for zone in self._excluded)


def _holds(zone: Zone, label: str, foot: Point) -> bool:
    return (not zone.labels or label in zone.labels) and is_inside(zone.points, foot)


def is_inside(corners: Sequence[Point], point: Point) -> bool:
    """Whether a point is inside of a polygon or on its edge; one that crosses itself is inside where it is odd."""
    x, y = point
    inside = False
    x1, y1 = corners[-1]
    for x2, y2 in corners:
        turn = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        if abs(turn) <= _ON_EDGE and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return True
        # Left of the point where its horizontal crosses the side: once more through the outline.
        if (y1 > y) != (y2 > y) and (turn > 0) == (y2 > y1):
            inside = not inside
        x1, y1 = x2, y2
    return inside
