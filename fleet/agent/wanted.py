"""What a node's document asks of its machine: the processes, and what of it cannot be. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.messages import Hardware, NodeDocument, NodeProblem
from config.settings import Settings
from config.sources import secrets_in

__all__ = ["ROLES", "STOP_ORDER", "WantedRole", "stop_rank", "wanted_roles"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A role that a node can be asked for.

    Attributes:
        arguments: of `vigil`.
        sections: of the settings that concern it, besides those that concern every process.
        several: whether a machine can run more than one.
    """

    arguments: tuple[str, ...]
    sections: tuple[str, ...]
    several: bool = True


ROLES: Mapping[str, _Kind] = {
    "edge": _Kind(("edge",), ("edge", "detector"), several=False),
    "detector": _Kind(("detector",), ("detector", "cameras")),
    "bridge": _Kind(("bridge",), ("bridge",)),
    "homeassistant": _Kind(("homeassistant",), ("homeassistant", "cameras", "bridge"), several=False),
    "commands": _Kind(("commands",), ("bridge",)),
    "console": _Kind(("console",), ("console", "cameras"), several=False),
    "fleet": _Kind(("fleet",), ("fleet", "broker"), several=False),
    "broker": _Kind(("broker", "run"), ("broker",), several=False),
}
"""By name. An edge follows its cameras while it runs, so they are none of its sections; and all of them are one's."""

STOP_ORDER = ("commands", "edge", "detector", "bridge", "homeassistant", "console", "fleet", "broker")
"""Along the data's way, so that what is under way still arrives."""

_EVERYBODYS = ("site", "node", "state_dir", "log", "bus", "metrics", "tracing")


@dataclass(frozen=True, slots=True)
class WantedRole:
    """One process as it is wanted. Another one is another process.

    Attributes:
        name: its role: ``detector.2``.
        arguments: of `vigil`.
        gpus: the numbers of those that it may use; None: any.
        image: of the container that is to run it; empty: a process of the machine.
        engine: what runs containers here.
        settings_hash: of the settings that concern it.
    """

    name: str
    arguments: tuple[str, ...]
    gpus: tuple[int, ...] | None = None
    image: str = ""
    engine: str = ""
    settings_hash: str = ""


def stop_rank(role: str) -> int:
    """Where a role stands in the order of stopping."""
    return STOP_ORDER.index(role.partition(".")[0])


def wanted_roles(
    document: NodeDocument, settings: Settings, hardware: Hardware, *, image: str
) -> tuple[dict[str, WantedRole], list[NodeProblem]]:
    """The processes that a document asks for, in the order in which they start.

    Args:
        document: what the site says of this node.
        settings: with which its processes run.
        hardware: what this machine has.
        image: of containers, where the document names none.

    Returns:
        The processes by role; and what of the document cannot be done.
    """
    problems: list[NodeProblem] = []
    engine = _engine(document, hardware, problems)
    wanted: dict[str, WantedRole] = {}
    if document.runtime == "containers" and not engine:
        return wanted, problems
    for base in sorted(document.roles, key=lambda role: -stop_rank(role) if role in ROLES else 0):
        kind = ROLES.get(base)
        if kind is None:
            known = ", ".join(ROLES)
            problems.append(NodeProblem(part=f"roles.{base}", reason=f"there is no such role; there are {known}"))
            continue
        for name in _names(base, kind, document.roles[base], problems):
            wanted[name] = WantedRole(
                name=name,
                arguments=kind.arguments if name == base else (*kind.arguments, "--role", name),
                gpus=_gpus(name, document, hardware, problems),
                image=(document.image or image) if engine else "",
                engine=engine,
                settings_hash=_hash_of(settings, kind.sections),
            )
    problems += [
        NodeProblem(part=f"gpus.{name}", reason=f"this node does not run {name!r}: raise `roles` or take it out")
        for name in document.gpus
        if name not in wanted
    ]
    return wanted, problems


def _engine(document: NodeDocument, hardware: Hardware, problems: list[NodeProblem]) -> str:
    """The container engine to use; empty where processes are asked for, or there is none."""
    if document.runtime != "containers":
        return ""
    if not hardware.engines:
        reason = "no container engine answers here: install podman, or ask for `runtime: processes`"
        problems.append(NodeProblem(part="runtime", reason=reason))
        return ""
    return hardware.engines[0]


def _names(base: str, kind: _Kind, count: int, problems: list[NodeProblem]) -> Sequence[str]:
    if count > 1 and not kind.several:
        problems.append(NodeProblem(part=f"roles.{base}", reason=f"a machine runs one {base}, not {count}: ask for 1"))
        count = 1
    return [base if number == 1 else f"{base}.{number}" for number in range(1, count + 1)]


def _gpus(name: str, document: NodeDocument, hardware: Hardware, problems: list[NodeProblem]) -> tuple[int, ...] | None:
    asked = document.gpus.get(name)
    if not asked:
        return None
    there = tuple(number for number in asked if number < len(hardware.gpus))
    if there != asked:
        missing = ", ".join(str(number) for number in asked if number not in there)
        has = f"it has {len(hardware.gpus)}" if hardware.gpus else "it has none that `nvidia-smi` lists"
        instead = "without it" if there else "on the processor"
        reason = f"this machine has no GPU {missing} ({has}); {name} runs {instead}"
        problems.append(NodeProblem(part=f"gpus.{name}", reason=reason))
    return there


def _hash_of(settings: Settings, sections: Sequence[str]) -> str:
    concerned = {*_EVERYBODYS, *sections}
    shown = settings.model_dump(mode="json", include=concerned)
    hidden = {".".join(place): secret for place, secret in secrets_in(settings).items() if place[0] in concerned}
    return hashlib.sha256(json.dumps([shown, hidden], sort_keys=True).encode()).hexdigest()
