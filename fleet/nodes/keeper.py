"""Nodes let in, given their rights, and forgotten: what the fleet's process does about them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from broker import Bus, Delivery, Figures
from broker.acl import ALWAYS_ROLES
from broker.authority import Authority
from broker.members import Member, ca_folder
from broker.messages import Command, NodeReport, NodeStatus
from broker.topics import NODE_COMMAND, NODE_REPORT, NODE_STATUS, NODE_WORKER, Topic
from config import ConfigError, ConflictError, PermanentError, TransientError, get_logger
from config.clock import Clock, SystemClock
from config.files import make_private_folder, write_atomically
from config.settings import Settings
from config.supervise import Supervised
from fleet.desk import Order
from fleet.enrolment.door import Door
from fleet.enrolment.shelf import Shelf
from fleet.nodes.rights import RightsChange, changes
from fleet.registry.folder import Registry, RegistryFolder

__all__ = ["NodeKeeper", "RegistrySource", "entry_of"]

AGENT = "agent"
_LOOK_S = 2.0
"""Somebody enrols, revokes or edits without telling this process."""
_AGAIN_S = 10.0
"""After a failure that does not pass by itself: a folder that cannot be written, say."""


class RegistrySource(Protocol):
    """What knows the registry; the fleet's publisher."""

    @property
    def folder(self) -> RegistryFolder:
        """Its files."""
        ...

    def on_change(self, callback: Callable[[Registry], None]) -> None:
        """Call `callback` with what the files say, first when they were read and then whenever that is different."""
        ...


class _Memory(msgspec.Struct, kw_only=True):
    """What is remembered over a restart; losing it leaves topics of nodes that are gone, and rights of cameras.

    Attributes:
        nodes: those of the registry, as it was seen last.
        dismissed: nodes whose file somebody took away, and the certificates that each had then: with those it is not
            accepted again by itself, but when it was enrolled anew.
        given: cameras that a member was granted for the registry's sake.
    """

    nodes: set[str] = msgspec.field(default_factory=set)
    dismissed: dict[str, set[str]] = msgspec.field(default_factory=dict)
    given: dict[str, set[str]] = msgspec.field(default_factory=dict)


class NodeKeeper:
    """Accepts nodes that greet, keeps members' rights as the registry says, and forgets nodes that are gone.

    A node that greets on a secure bus has a certificate, so nobody else can greet in its name: where the site's
    authority is on this machine it is accepted with what was granted to it when it was enrolled. Without certificates
    it waits for a person.

    Concurrency: hears on the bus's thread, acts on one of its own.

    Args:
        bus: of the fleet's process.
        settings: the site's settings.
        registry: the registry, and its files.
        clock: time.
    """

    def __init__(self, bus: Bus, settings: Settings, registry: RegistrySource, clock: Clock | None = None) -> None:
        self._bus = bus
        self._settings = settings
        self._source = registry
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._lock = threading.Lock()
        self._reports: dict[str, NodeReport] = {}
        self._left: dict[tuple[str, str], set[Topic]] = {}
        self._online: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter()
        self._file = settings.state_dir / "fleet" / "nodes.json"
        self._memory = _Memory()
        self._registry: Registry | None = None
        self._authority: Authority | None = None
        self._door: Door | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = Supervised("nodes", self._look_and_wait, stop=self._stop)
        registry.on_change(self._on_registry)

    @property
    def orders(self) -> Mapping[str, Order]:
        """What it can be asked to do: ``look``, instead of within seconds."""
        return {"look": self._look_now}

    def start(self) -> None:
        """Begin to hear nodes, and to look after them."""
        self._memory = self._remembered()
        for spec in (NODE_REPORT, NODE_STATUS, NODE_WORKER):
            self._bus.subscribe(spec, self._on_delivery)
        self._thread.start()

    def close(self) -> None:
        """End, and close the door."""
        self._stop.set()
        self._wake.set()
        self._thread.join(5.0)
        if self._door is not None:
            self._door.close()

    def figures(self) -> Figures:
        """How many nodes there are, and what was done for them."""
        with self._lock:
            states = Counter(report.state for report in self._reports.values())
            counts = {f"nodes_{state}": count for state, count in states.items()}
            return Figures(counts={**counts, **self._counts, "door_open": int(self._door is not None)})

    def _look_now(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        self._wake.set()
        return {}

    def _on_registry(self, registry: Registry) -> None:
        self._registry = registry
        self._wake.set()

    # --- heard ---------------------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        topic, content = delivery.topic, delivery.content
        process = topic.params["node"], topic.params["role"]
        with self._lock:
            left = self._left.setdefault(process, set())
            if content is None:
                left.discard(topic)
                return
            left.add(topic)
            if isinstance(content, NodeStatus):
                self._note_status(process, content)
            elif isinstance(content, NodeReport) and process[1] == AGENT:
                before = self._reports.get(process[0])
                self._reports[process[0]] = content
                if before is None or before.state != content.state:
                    self._wake.set()

    def _note_status(self, process: tuple[str, str], status: NodeStatus) -> None:
        if status.state != "offline":
            self._online.add(process)
            return
        self._online.discard(process)
        if process[1] == AGENT:
            self._reports.pop(process[0], None)
        if process[0] in self._memory.dismissed:
            self._wake.set()

    # --- done ----------------------------------------------------------------------------------------------------

    def _look_and_wait(self) -> None:
        try:
            self._look()
        except (ConfigError, PermanentError) as error:
            self._log.error("fleet.nodes_failed", error=str(error))
            self._wake.wait(_AGAIN_S)
        self._wake.wait(_LOOK_S)
        self._wake.clear()

    def _look(self) -> None:
        registry, authority = self._registry, self._find_authority()
        if authority is not None:
            self._tend_door(authority)
        if registry is None:
            return  # nothing was read yet: nothing is gone
        if authority is not None:
            self._accept(authority)
            self._keep_rights(registry, authority)
        self._forget(registry, authority)

    def _find_authority(self) -> Authority | None:
        """The site's, once it is on this machine; read again for each look only where it changes."""
        folder = ca_folder(self._settings)
        if self._authority is None and folder.exists:
            self._authority = Authority(folder)
        return self._authority

    def _tend_door(self, authority: Authority) -> None:
        port = self._settings.fleet.door_port
        if self._door is None and port:
            self._door = Door(authority, self._settings.broker, port=port, shelf=Shelf.of(self._settings))
        if self._door is not None:
            self._door.tend()

    def _accept(self, authority: Authority) -> None:
        with self._lock:
            greeting = [node for node, report in self._reports.items() if report.state == "greeting"]
        if not greeting or not self._settings.bus.url.startswith("mqtts:"):
            return
        registry = self._source.folder.read()  # as it is now: the last look may have accepted it
        # One that was there at the last look has just lost its file: that is not for this process to write again.
        known = registry.nodes.keys() | self._memory.nodes | {trouble.name for trouble in registry.troubles}
        for node in greeting:
            member = authority.roster().member(node)
            if node in known or member is None:
                continue
            if self._is_new(node, _serials(member, self._clock.now())):
                self._write_down(member, registry)

    def _is_new(self, node: str, serials: set[str]) -> bool:
        """Whether a node was enrolled since it was dismissed: that takes what it had, and renewing does not."""
        known = self._memory.dismissed.get(node, set())
        if known & serials and not serials <= known:
            known |= serials
            self._remember()
        return bool(serials) and not known & serials

    def _write_down(self, member: Member, registry: Registry) -> None:
        """The file of a node, from what was granted to it; one that somebody writes at this moment is left alone."""
        entry = entry_of(member)
        try:
            self._source.folder.change_node(member.name, entry, etag="")
            for camera in member.cameras:
                held = registry.cameras.get(camera)
                if held is not None and not (held.entry.node or held.entry.pool):
                    self._source.folder.change_camera(camera, {"node": member.name}, etag=held.etag)
        except (ConfigError, ConflictError) as error:
            self._log.debug("fleet.node_undecided", node=member.name, error=str(error))
            return
        self._count("nodes_accepted")
        self._log.info("fleet.node_accepted", node=member.name, roles=entry["roles"], cameras=list(member.cameras))

    def _keep_rights(self, registry: Registry, authority: Authority) -> None:
        for change in changes(registry, authority.roster().members, self._memory.given):
            authority.grant(change.node, roles=change.roles, cameras=change.cameras, without_cameras=change.lost)
            given = self._memory.given.setdefault(change.node, set())
            given.update(change.cameras)
            given.difference_update(change.lost)
            self._remember()
            self._count("rights_changed")
            self._log.info(
                "fleet.rights_changed",
                node=change.node,
                roles=list(change.roles),
                cameras=list(change.cameras),
                lost=list(change.lost),
            )
            if change.roles:
                self._order_renewal(change)

    def _order_renewal(self, change: RightsChange) -> None:
        """A role that is new has no certificate on the node yet."""
        order = Command(correlation_id="", name="renew", arguments={"roles": ",".join(change.roles)})
        try:
            self._bus.publish(NODE_COMMAND.at(self._bus.site, node=change.node, role=AGENT), order)
        except TransientError:
            self._log.debug("fleet.renewal_unordered", node=change.node)  # the agent renews when a role has none

    def _forget(self, registry: Registry, authority: Authority | None) -> None:
        """Take away what nodes have left at the broker that are not in the registry any more."""
        there, memory = set(registry.nodes) | {trouble.name for trouble in registry.troubles}, self._memory
        roster = authority.roster() if authority is not None else None
        if there != memory.nodes or memory.dismissed.keys() & there:
            members = {one.name: one for one in roster.members} if roster is not None else {}
            now = self._clock.now()
            gone = {name: _serials(members.get(name), now) for name in memory.nodes - there}
            with self._lock:
                kept = {name: serials for name, serials in memory.dismissed.items() if name not in there}
                memory.dismissed, memory.nodes = kept | gone, there
            self._remember()
        if not self._bus.connected:
            return
        for node in sorted(memory.dismissed):
            member = roster.member(node) if roster is not None else None
            topics = self._take_left(node, is_shut_out=member is not None and member.is_revoked)
            for topic in topics:
                self._bus.publish(topic, b"")
                self._bus.disown(topic)
            if topics:
                self._log.info("fleet.node_forgotten", node=node, topics=len(topics))

    def _take_left(self, node: str, *, is_shut_out: bool) -> list[Topic]:
        """What the processes of a node have left that do not run any more."""
        with self._lock:
            gone = [one for one in self._left if one[0] == node and (is_shut_out or one not in self._online)]
            return sorted((topic for one in gone for topic in self._left.pop(one)), key=str)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _remembered(self) -> _Memory:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Memory)
        except (OSError, msgspec.MsgspecError):
            return _Memory()

    def _remember(self) -> None:
        make_private_folder(self._file.parent)
        write_atomically(self._file, msgspec.json.encode(self._memory))


def _serials(member: Member | None, now: datetime) -> set[str]:
    """Its certificates that hold."""
    return {one.serial for one in member.in_force(now)} if member is not None else set()


def entry_of(member: Member) -> dict[str, dict[str, int]]:
    """What a node's file says of one that was enrolled: its roles, and how many of each."""
    bases = [role.partition(".")[0] for role in member.roles if role not in ALWAYS_ROLES]
    return {"roles": dict(Counter(bases))}
