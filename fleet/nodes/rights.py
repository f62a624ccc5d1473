"""Which node watches which camera, and what its certificates must allow for that: from the registry's files alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from broker.acl import check_node_role
from broker.members import Member
from config.registry import Login, NodeEntry
from fleet.registry.folder import Registry

__all__ = ["RightsChange", "cameras_of", "changes", "logins_of", "roles_of"]


@dataclass(frozen=True, slots=True)
class RightsChange:
    """What a member is to get, and to lose.

    Attributes:
        node: the member.
        roles: that it is to run and has no right to.
        cameras: that it is to watch and has no right to.
        lost: cameras that are another's now.
    """

    node: str
    roles: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def roles_of(entry: NodeEntry) -> tuple[str, ...]:
    """The processes that a node is to run, as they are called: ``edge``, ``detector``, ``detector.2``."""
    return tuple(
        role if number == 1 else f"{role}.{number}"
        for role, count in entry.roles.items()
        for number in range(1, count + 1)
    )


def cameras_of(registry: Registry, node: str) -> frozenset[str]:
    """The cameras that a node watches, by itself or as one of a pool."""
    held = registry.nodes.get(node)
    pools = frozenset(held.entry.pools if held is not None else ())
    return frozenset(
        name
        for name, camera in registry.cameras.items()
        if camera.entry.node == node or (camera.entry.pool is not None and camera.entry.pool in pools)
    )


def logins_of(member: Member, registry: Registry, logins: Mapping[str, Login]) -> dict[str, Login]:
    """The logins of the cameras that a member watches.

    Where the registry does not say who watches a camera, its rights on the bus say it; so they do where a file is
    broken, for they are what it said before.
    """
    own, broken = cameras_of(registry, member.name), {(one.kind, one.name) for one in registry.troubles}
    placed = frozenset() if ("node", member.name) in broken else _placed(registry)
    return {
        camera: login
        for camera, login in logins.items()
        if camera in own or (camera in member.cameras and camera not in placed)
    }


def changes(
    registry: Registry, members: Iterable[Member], given: Mapping[str, Iterable[str]]
) -> Iterator[RightsChange]:
    """What makes the rights of all nodes those that the registry asks for.

    Cameras of which the registry does not say who watches them stay with whom they were granted to by hand. A file
    that is broken for the moment takes nobody's right away.

    Args:
        registry: the site's.
        members: of its authority.
        given: cameras that a member was granted for the registry's sake, by member.
    """
    placed = _placed(registry)
    unreadable = {trouble.name for trouble in registry.troubles}
    for member in members:
        if member.kind != "node" or member.is_revoked or member.name in unreadable:
            continue
        wanted, held = cameras_of(registry, member.name), registry.nodes.get(member.name)
        mine = placed.union(given.get(member.name, ()))
        change = RightsChange(
            node=member.name,
            roles=tuple(role for role in roles_of(held.entry) if _is_missing(role, member)) if held else (),
            cameras=tuple(sorted(wanted - set(member.cameras))),
            lost=tuple(camera for camera in member.cameras if camera in mine - wanted - unreadable),
        )
        if change.roles or change.cameras or change.lost:
            yield change


def _placed(registry: Registry) -> frozenset[str]:
    """Cameras of which the registry says who watches them."""
    return frozenset(name for name, camera in registry.cameras.items() if camera.entry.node or camera.entry.pool)


def _is_missing(role: str, member: Member) -> bool:
    try:
        check_node_role(role)
    except ValueError:
        return False  # one without rights on the bus: the agent says so
    return role not in member.roles
