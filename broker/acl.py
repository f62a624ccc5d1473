"""Who may write and read what: derived from the contract, and from a member's roles and cameras.

Pure: the rights go into Mosquitto's ACL file as text, and the embedded broker asks an :class:`AccessList` for each
message. What nobody grants is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from broker.topics import BROKER_FIGURES, CONTRACT, HOMEASSISTANT_PREFIX, OUTSIDE, Party, TopicSpec, origin_of
from config.names import check_name, check_role

__all__ = [
    "ALWAYS_ROLES",
    "CLIENT_ID_PREFIX",
    "NODE_ROLES",
    "PERSON_ROLES",
    "Access",
    "AccessList",
    "Right",
    "check_node_role",
    "mosquitto_acl",
    "node_rights",
    "person_rights",
]

Access = Literal["read", "write"]

_PARTY_OF_ROLE = {
    "edge": Party.EDGE,
    "detector": Party.DETECTOR,
    "bridge": Party.BRIDGE,
    "commands": Party.COMMANDS,
    "homeassistant": Party.HOMEASSISTANT,
    "fleet": Party.FLEET,
    "agent": Party.SELF,
    "console": Party.PEOPLE,
    "up": Party.PEOPLE,
    "drill": Party.DRILL,
    "doctor": Party.SELF,
}
NODE_ROLES = tuple(_PARTY_OF_ROLE)
"""What a process of a node may be; ``edge.2`` has the rights of an ``edge``."""
ALWAYS_ROLES = ("agent", "doctor")
"""What every node may be: the agent that starts its processes, and `vigil doctor`, which takes no working process's
place at the broker."""
PERSON_ROLES = ("dashboard", "viewer")
"""What a person may be: a dashboard reads and sets, a viewer reads."""
CLIENT_ID_PREFIX = "vigil-"
"""A secure broker takes only client ids that begin so. A process is known there by the name of its certificate,
`porch.edge`, which nobody else can choose then."""
_READS_BROKER_FIGURES = frozenset({"doctor", *PERSON_ROLES})
_OF_ITS_CAMERAS = frozenset({Party.EDGE, Party.DRILL})
"""Whose camera topics are those of its own cameras. Detectors, bridges and people take any camera."""


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that one user may do.

    Attributes:
        username: the common name of a certificate: an origin, or a person's name.
        access: what it may do there.
        topic_filter: where.
    """

    username: str
    access: Access
    topic_filter: str


@dataclass(frozen=True, slots=True)
class _User:
    """Somebody at the broker.

    Attributes:
        name: the user name.
        role: without its number.
        party: as the contract calls it.
        own: what the placeholders of its own topics stand for; a person has none.
        cameras: those of an edge or a drill.
    """

    name: str
    role: str
    party: Party
    own: Mapping[str, str]
    cameras: Sequence[str] = ()

    def rights(self, site: str, access: Access) -> Iterator[Right]:
        """Everything that this user may write, or read."""
        for spec in CONTRACT + OUTSIDE:
            allowed = spec.writers if access == "write" else spec.readers
            for party in dict.fromkeys((self.party, *((Party.SELF,) if self.own else ()))):
                if party in allowed:
                    yield from (Right(self.name, access, place) for place in self._places(site, spec, access, party))

    def _places(self, site: str, spec: TopicSpec, access: Access, party: Party) -> Iterator[str]:
        # A topic that names a process is that process's: nobody else reads it where the process does (its orders
        # and receipts, which others write), else nobody else writes it; but who is named beside it, to take away what
        # it has left.
        is_others = Party.SELF in spec.readers or Party.SELF in spec.writers
        is_owner = party is Party.SELF or (access == "write" and not is_others)
        params = {name: self.own[name] for name in spec.placeholders if name in self.own} if is_owner else {}
        if spec.is_outside:
            yield spec.topic_filter(site, prefix=HOMEASSISTANT_PREFIX)
        elif party in _OF_ITS_CAMERAS and "camera" in spec.placeholders:
            yield from (spec.topic_filter(site, **params, camera=camera) for camera in self.cameras)
        else:
            yield spec.topic_filter(site, **params)


def check_node_role(role: str) -> str:
    """Return `role` when a node may have it.

    Raises:
        ValueError: it is no role, or one without rights on the bus.
    """
    if check_role(role).partition(".")[0] in _PARTY_OF_ROLE:
        return role
    raise ValueError(f"{role!r} has no rights on the bus: use {', '.join(NODE_ROLES)}, or a second one as 'edge.2'")


def node_rights(site: str, node: str, roles: Iterable[str], cameras: Sequence[str] = ()) -> tuple[Right, ...]:
    """The rights of the processes of one node.

    Args:
        site: the site.
        node: the node's name.
        roles: ``edge``, ``detector.2`` ...
        cameras: those that the node watches.

    Raises:
        ValueError: a name is none, or a role has no rights on the bus.
    """
    for name in (site, *cameras):
        check_name(name)
    return tuple(right for role in roles for right in _all_rights(site, _process(node, role, cameras)))


def person_rights(site: str, name: str, role: str) -> tuple[Right, ...]:
    """The rights of one person.

    Raises:
        ValueError: `name` is none, or `role` is not one of :data:`PERSON_ROLES`.
    """
    if role not in PERSON_ROLES:
        raise ValueError(f"a person is no {role!r}: use {' or '.join(PERSON_ROLES)}")
    check_name(site)
    rights = _all_rights(site, _User(check_name(name), role, Party.PEOPLE, own={}))
    return tuple(right for right in rights if role == "dashboard" or right.access == "read")


def _process(node: str, role: str, cameras: Sequence[str]) -> _User:
    base = check_node_role(role).partition(".")[0]
    origin = origin_of(node, role)
    own = {"node": node, "role": role, "origin": origin}
    return _User(origin, base, _PARTY_OF_ROLE[base], own, cameras)


def _all_rights(site: str, user: _User) -> Iterator[Right]:
    yield from user.rights(site, "write")
    yield from user.rights(site, "read")
    if user.role in _READS_BROKER_FIGURES:
        yield Right(user.name, "read", BROKER_FIGURES)


class AccessList:
    """Answers for each message whether a user may write or read its topic.

    Concurrency: never changes after its construction.

    Args:
        rights: of everybody.
    """

    def __init__(self, rights: Iterable[Right]) -> None:
        places: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for right in rights:
            places[right.username, right.access].append(_expression(right.topic_filter))
        # One alternation a user: a look-up costs some microseconds, whatever the number of users.
        self._places = {key: re.compile("|".join(filters), re.DOTALL) for key, filters in places.items()}

    def allows(self, username: str, access: Access, topic: str) -> bool:
        """Whether `username` may do this with `topic`, which is no filter."""
        places = self._places.get((username, access))
        return places is not None and places.fullmatch(topic) is not None


def _expression(topic_filter: str) -> str:
    start, below, _ = topic_filter.partition("/#")
    quoted = "/".join("[^/]*" if level == "+" else re.escape(level) for level in start.split("/"))
    return f"{quoted}(?:/.*)?" if below else quoted


def mosquitto_acl(rights: Iterable[Right]) -> str:
    """The rights as Mosquitto's `acl_file`; who is not in it may do nothing."""
    lines = ["# Written by Vigil after each change of membership; changes are overwritten."]
    for username, granted in groupby(sorted(rights, key=lambda right: right.username), lambda right: right.username):
        lines += ["", f"user {username}"]
        lines += [f"topic {right.access} {right.topic_filter}" for right in granted]
    return "\n".join(lines) + "\n"
