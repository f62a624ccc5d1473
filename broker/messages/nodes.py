"""Nodes as machines: what one is told to run, and what it says of itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.messages.base import Count, Message, Moment, Short, Text

__all__ = [
    "EdgeBeat",
    "Hardware",
    "NodeDocument",
    "NodeProblem",
    "NodeReport",
    "RoleReport",
    "UpdateReport",
    "UpdateState",
]


UpdateState = Literal["fetching", "installing", "trying", "done", "rolled-back", "refused"]
"""How far a change of version is; the last three are its end."""


class NodeDocument(Message, frozen=True, kw_only=True):
    """What the site says of a node: its file in the registry.

    Attributes:
        revision: grows with every change.
        name: what people call it; empty where that is its name in topics.
        area: room or part of the premises.
        roles: processes that are to run, and how many of each: ``{"edge": 1, "detector": 2}``.
        gpus: the GPUs that a process may use, by its role: ``{"detector": [0], "detector.2": [1]}``.
        pools: pools of cameras that it takes part in.
        runtime: how processes are run; ``auto``: as processes of the machine.
        image: container image; empty: the runtime's default.
        version: of Vigil that it is to run; empty leaves it at the one that it has.
        drained: it is to run nothing for now.
        settings: what its processes run with, nested as in a site file; goes over the node's own site file.
    """

    node: Short
    revision: Count
    name: Short = ""
    area: Short = ""
    roles: dict[Short, Annotated[int, Meta(ge=0, le=64)]] = {}
    gpus: dict[Short, tuple[Count, ...]] = {}
    pools: tuple[Short, ...] = ()
    runtime: Literal["auto", "processes", "containers"] = "auto"
    image: Short = ""
    version: Short = ""
    drained: bool = False
    settings: dict[str, Any] = {}


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of a node.

    Attributes:
        model: such as ``Raspberry Pi 4 Model B Rev 1.5``.
        serial: of the board; empty where the machine has none.
        architecture: such as ``aarch64``.
        system: of the distribution, such as ``Debian GNU/Linux 13 (trixie)``.
        gpus: names, in the order of their numbers.
        cameras: local cameras, such as ``v4l2:/dev/video0``.
        engines: container engines that answer, such as ``podman``.
        addresses: of its interfaces, without loopback.
    """

    model: Short = ""
    serial: Short = ""
    architecture: Short = ""
    system: Short = ""
    cores: Count = 0
    memory_bytes: Count = 0
    gpus: tuple[Short, ...] = ()
    cameras: tuple[Short, ...] = ()
    engines: tuple[Short, ...] = ()
    addresses: tuple[Short, ...] = ()


class RoleReport(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a node.

    Attributes:
        pid: empty while there is no process, or where a container runs it.
        since: when it was started last.
        restarts: how often it was started again.
        error: why it does not run; its last words.
    """

    state: Literal["running", "starting", "waiting", "stopped", "failed"]
    runtime: Literal["process", "container"] = "process"
    pid: Count | None = None
    since: Moment | None = None
    restarts: Count = 0
    error: Text = ""


class NodeProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the node's document asks for and that it cannot do.

    Attributes:
        part: of the document, as its file names it: ``roles.detector``, ``gpus.detector``, ``version``.
        reason: why, and the cure.
    """

    part: Short
    reason: Text


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far a change of version is.

    Attributes:
        version: the one that it changes to, or changed to last.
        previous: the one that it came from, and goes back to.
        error: why it went back, or could not begin.
    """

    version: Short
    previous: Short = ""
    state: UpdateState
    at: Moment
    error: Text = ""


class NodeReport(Message, frozen=True, kw_only=True):
    """How a node is, from its agent, every 5 s and on each change.

    Attributes:
        state: ``greeting`` until the site has a document for it; ``draining`` and ``drained`` where it is to run
            nothing.
        revision: of the document that it runs by; 0 without one.
        version: of Vigil that its agent runs.
        roles: its processes, by role.
        problems: what of its document it cannot do.
    """

    node: Short
    at: Moment
    started_at: Moment
    state: Literal["greeting", "running", "draining", "drained", "offline"]
    revision: Count = 0
    version: Short = ""
    hardware: Hardware = Hardware()
    roles: dict[Short, RoleReport] = {}
    problems: tuple[NodeProblem, ...] = ()
    update: UpdateReport | None = None


class EdgeBeat(Message, frozen=True, kw_only=True):
    """An edge of a pool is alive.

    Attributes:
        edge: its origin.
        seq: grows with each beat.
        pools: those that it takes part in.
        state: one that is `draining` takes no more cameras, and gives its own away.
        own: the pools' cameras that it watches now, or is about to.
        cameras_max: the most of them that it takes on; 0: as many as fall to it.
    """

    edge: Short
    seq: Count
    at: Moment
    pools: tuple[Short, ...] = ()
    state: Literal["online", "draining"] = "online"
    own: tuple[Short, ...] = ()
    cameras_max: Count = 0
