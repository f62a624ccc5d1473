"""Who of a pool's nodes is to watch which of its cameras. Pure: the same facts give everybody the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.assignment import Demand, Worker, assign

__all__ = ["Taker", "share_out"]


@dataclass(frozen=True, slots=True)
class Taker:
    """An edge that takes cameras of pools on.

    Attributes:
        pools: in which it takes part.
        own: the cameras that it has now.
        cameras_max: the most that it takes; 0: as many as fall to it.
    """

    pools: frozenset[str]
    own: frozenset[str] = frozenset()
    cameras_max: int = 0


def share_out(cameras: Mapping[str, str], edges: Mapping[str, Taker]) -> dict[str, str]:
    """Who is to have which camera: as many each, and who has one keeps it as far as that goes.

    Losing an edge moves what it had and nothing else; a new one gets its part, and nothing else moves.

    Args:
        cameras: the pool of each.
        edges: by origin.

    Returns:
        The edge of each camera; one that is not in it has nobody with room for it.
    """
    left = {name: edge.cameras_max or len(cameras) for name, edge in edges.items()}
    owners: dict[str, str] = {}
    for pool in sorted(set(cameras.values())):
        demands = sorted(camera for camera, of in cameras.items() if of == pool)
        members = {name: edge.own.intersection(demands) for name, edge in edges.items() if pool in edge.pools}
        # Who has most may have one more.
        ranked = sorted(members, key=lambda name: (-len(members[name]), name))
        rooms = _rooms(len(demands), ranked, left)
        held = {camera: name for name in sorted(members, reverse=True) for camera in members[name]}
        # As much room as there are cameras: what has a place has no better one to go to.
        found = assign(
            [Worker(name, room) for name, room in rooms.items()],
            [Demand(camera, 1.0, owner=held.get(camera, "")) for camera in demands],
        ).owners
        owners |= found
        for name in found.values():
            left[name] -= 1
    return owners


def _rooms(count: int, names: Sequence[str], left: Mapping[str, int]) -> dict[str, int]:
    """As many places each, one more for the first ones, and none more than each has left."""
    rooms = dict.fromkeys(names, 0)
    while count and (open_ones := [name for name in names if rooms[name] < left[name]]):
        for name in open_ones[:count]:
            rooms[name] += 1
        count -= min(count, len(open_ones))
    return {name: room for name, room in rooms.items() if room}
