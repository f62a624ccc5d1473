"""Where folder and bus differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from broker.messages import CameraDocument, NodeDocument
from config.registry import CameraEntry, NodeEntry
from fleet.registry.documents import camera_document, node_document, says_the_same
from fleet.registry.folder import Held, Registry

__all__ = ["Difference", "compare"]

E = TypeVar("E", CameraEntry, NodeEntry)
D = TypeVar("D", CameraDocument, NodeDocument)


@dataclass(frozen=True, slots=True)
class Difference:
    """A camera or node of which folder and bus say different things.

    Attributes:
        name: below the registry: ``camera/yard``.
        kind: ``unpublished`` is only in the folder, ``left over`` only on the bus.
        fields: what differs where both have it, as the document names it: on the bus, in the folder; None where it is
            not there.
    """

    name: str
    kind: Literal["unpublished", "left over", "different"]
    fields: Mapping[str, tuple[Any, Any]]


def compare(
    registry: Registry, cameras: Mapping[str, CameraDocument], nodes: Mapping[str, NodeDocument]
) -> list[Difference]:
    """Everything in which a folder and the bus differ; of a broken file nothing is known.

    Args:
        registry: what the folder says.
        cameras: documents on the bus.
        nodes: the same.
    """
    broken = {f"{trouble.kind}/{trouble.name}" for trouble in registry.troubles}
    found = [
        *_compared("camera", registry.cameras, cameras, lambda name, entry: camera_document(name, entry, 0)),
        *_compared("node", registry.nodes, nodes, lambda name, entry: node_document(name, entry, 0)),
    ]
    return [difference for difference in found if difference.name not in broken]


def _compared(
    kind: str, entries: Mapping[str, Held[E]], documents: Mapping[str, D], write: Callable[[str, E], D]
) -> Iterator[Difference]:
    for name in sorted(entries.keys() | documents.keys()):
        held, document = entries.get(name), documents.get(name)
        about = f"{kind}/{name}"
        if held is None:
            yield Difference(about, "left over", {})
        elif document is None:
            yield Difference(about, "unpublished", {})
        elif not says_the_same(wanted := write(name, held.entry), document):
            yield Difference(about, "different", _fields(document, wanted))


def _fields(there: D, wanted: D) -> dict[str, tuple[Any, Any]]:
    before, after = _flat(msgspec.to_builtins(there)), _flat(msgspec.to_builtins(wanted))
    return {
        place: (before.get(place), after.get(place))
        for place in sorted(before.keys() | after.keys())
        if place not in ("revision", "settings") and before.get(place) != after.get(place)
    }


def _flat(content: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{place}{key}.")
        else:
            flat[f"{place}{key}"] = value
    return flat
