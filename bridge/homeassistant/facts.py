"""What discovery depends on: the facts of cameras and nodes. They stay on disk, so that a restart changes nothing."""

from __future__ import annotations

import msgspec

__all__ = ["CameraFacts", "NodeFacts"]


class CameraFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera's entities depend on.

    Attributes:
        node: that watches it.
        role: of the process there.
        worker: origin of the worker that scores it; empty where none does, or its own node.
        labels: those that are counted.
        zones: in which they are counted too.
        name: what people call it; empty where that is its name in topics.
        area: where it is; empty where nobody says.
        has_check: somebody checks it.
    """

    node: str
    role: str = "edge"
    worker: str = ""
    labels: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    name: str = ""
    area: str = ""
    has_check: bool = False


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's entities depend on.

    Attributes:
        roles: its processes, the one that speaks for the machine first.
        version: of Vigil.
        has_temperature: the machine tells it.
        has_wifi: there is a wireless signal.
        name: what people call it; empty where that is its name in topics.
        area: where it is; empty where nobody says.
    """

    roles: tuple[str, ...] = ()
    version: str = ""
    has_temperature: bool = False
    has_wifi: bool = False
    name: str = ""
    area: str = ""
