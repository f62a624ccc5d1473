"""All nodes as the bus knows them at one moment: what the site says of each, and what each says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from broker import Bus, Delivery
from broker.messages import CameraDocument, CameraState, NodeDocument, NodeReport, NodeStatus, RegistryIndex
from broker.topics import (
    CAMERA_STATE,
    NODE_REPORT,
    NODE_STATUS,
    REGISTRY_CAMERA,
    REGISTRY_INDEX,
    REGISTRY_NODE,
)
from config.durations import format_duration

__all__ = ["AGENT", "NodeRow", "Roll"]

AGENT = "agent"
_FACTS_S = 0.25
"""How long nothing new must have come before what is retained counts as complete."""
_FACTS_MAX_S = 3.0
_LOOK_S = 0.02


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        node: its name in topics.
        name: what people call it.
        state: ``greeting`` waits to be accepted; ``never heard`` is in the registry only; ``no agent`` has processes
            that nobody of the site looks after.
        model: of the machine.
        version: of Vigil.
        running: processes that run, by role without its number.
        asked: processes that are to run, likewise.
        cameras: that it watches, or is to.
        heard_at: when it said something last; None: never.
        problems: what it cannot do of what it is asked: ``part: reason``.
    """

    node: str
    name: str = ""
    state: str
    model: str = ""
    version: str = ""
    running: dict[str, int] = {}
    asked: dict[str, int] = {}
    cameras: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    heard_at: datetime | None = None
    problems: tuple[str, ...] = ()

    def roles(self) -> str:
        """What runs of what is asked: ``edge 1/1, detector 1/2``."""
        names = sorted(self.running.keys() | self.asked.keys())
        return ", ".join(f"{name} {self.running.get(name, 0)}/{self.asked.get(name, 0)}" for name in names)

    def heard(self, now: datetime) -> str:
        """How long ago that was."""
        if self.heard_at is None:
            return "never"
        return f"{format_duration(max(1.0, round((now - self.heard_at).total_seconds())))} ago"


@dataclass(slots=True)
class Roll:
    """Folds what is retained of nodes.

    Concurrency: the bus's thread folds while another waits and reads.

    Attributes:
        reports: of agents, by node.
        documents: what the site says, by node.
        statuses: by node and role.
        cameras: what the site says, by camera.
        states: how cameras are, by camera.
    """

    reports: dict[str, NodeReport] = field(default_factory=dict)
    documents: dict[str, NodeDocument] = field(default_factory=dict)
    statuses: dict[tuple[str, str], NodeStatus] = field(default_factory=dict)
    cameras: dict[str, CameraDocument] = field(default_factory=dict)
    states: dict[str, CameraState] = field(default_factory=dict)
    index: RegistryIndex | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _heard_s: float = 0.0

    def prepare(self, bus: Bus) -> None:
        """Ask for everything; before the bus starts."""
        for spec in (REGISTRY_INDEX, REGISTRY_NODE, REGISTRY_CAMERA, NODE_REPORT, NODE_STATUS, CAMERA_STATE):
            bus.subscribe(spec, self.fold)

    def fold(self, delivery: Delivery) -> None:
        """Take in a message."""
        with self._lock:
            self._heard_s = time.monotonic()
            params, content = delivery.topic.params, delivery.content
            match content:
                case RegistryIndex():
                    self.index = content
                case NodeDocument():
                    self.documents[params["node"]] = content
                case CameraDocument():
                    self.cameras[params["camera"]] = content
                case CameraState():
                    self.states[params["camera"]] = content
                case NodeReport() if params["role"] == AGENT:
                    self.reports[params["node"]] = content
                case NodeStatus():
                    self.statuses[params["node"], params["role"]] = content
                case None:
                    self._drop(delivery)

    def _drop(self, delivery: Delivery) -> None:
        spec, params = delivery.topic.spec, delivery.topic.params
        if spec is REGISTRY_NODE:
            self.documents.pop(params["node"], None)
        elif spec is REGISTRY_CAMERA:
            self.cameras.pop(params["camera"], None)
        elif spec is CAMERA_STATE:
            self.states.pop(params["camera"], None)
        elif spec is NODE_REPORT:
            self.reports.pop(params["node"], None)
        elif spec is NODE_STATUS:
            self.statuses.pop((params["node"], params["role"]), None)

    def wait_complete(self) -> None:
        """Wait until what is retained has come: nothing new for a while, and every node of the index."""
        begun_s = time.monotonic()
        while (now_s := time.monotonic()) - begun_s < _FACTS_MAX_S:
            with self._lock:
                quiet_s = now_s - max(self._heard_s, begun_s)
                has_all = self.index is None or all(node in self.documents for node in self.index.nodes)
            if quiet_s > _FACTS_S and has_all:
                return
            time.sleep(_LOOK_S)

    def state(self, node: str) -> str:
        """How a node is; empty for one that nobody knows."""
        with self._lock:
            status, report = self.statuses.get((node, AGENT)), self.reports.get(node)
            if status is not None and status.state == "offline":
                return "offline"
            if report is not None:
                return report.state
            if any(one == node and status.state != "offline" for (one, _), status in self.statuses.items()):
                return "no agent" if status is None else "starting"
            return "never heard" if node in self.documents else ""

    def rows(self) -> list[NodeRow]:
        """Every node that greets, or that the site knows, by name."""
        with self._lock:
            names = sorted(self.documents.keys() | self.reports.keys())
            return [self._row(name) for name in names]

    def row(self, node: str) -> NodeRow | None:
        """One node; None where nobody knows it."""
        with self._lock:
            return self._row(node) if self.state(node) else None

    def cameras_of(self, node: str) -> tuple[str, ...]:
        """The cameras that a node watches, and those that it is to watch."""
        with self._lock:
            watched = {name for name, state in self.states.items() if state.node == node and state.state != "offline"}
            asked = {name for name, camera in self.cameras.items() if camera.node == node}
            return tuple(sorted(watched | asked))

    def _row(self, node: str) -> NodeRow:
        document, report = self.documents.get(node), self.reports.get(node)
        state = self.state(node)
        running: dict[str, int] = {}
        for role, process in report.roles.items() if report is not None and state != "offline" else ():
            if process.state == "running":
                base = role.partition(".")[0]
                running[base] = running.get(base, 0) + 1
        return NodeRow(
            node=node,
            name=document.name if document is not None else "",
            state=state,
            model=report.hardware.model if report is not None else "",
            version=report.version if report is not None else "",
            running=running,
            asked={role: count for role, count in document.roles.items() if count} if document is not None else {},
            cameras=self.cameras_of(node),
            pools=document.pools if document is not None else (),
            heard_at=max(self._heard(node), default=None),
            problems=tuple(f"{one.part}: {one.reason}" for one in report.problems) if report is not None else (),
        )

    def _heard(self, node: str) -> Iterator[datetime]:
        if node in self.reports:
            yield self.reports[node].at
        yield from (status.at for (one, _), status in self.statuses.items() if one == node)
