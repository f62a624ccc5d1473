"""Entries of the registry as documents of the bus, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker.messages import CameraDocument, NodeDocument
from config.cameras import CameraSettings
from config.registry import CameraEntry, NodeEntry

__all__ = ["camera_changes", "camera_document", "camera_settings", "node_document", "says_the_same"]

_BESIDE = ("node", "pool", "excluded", "name", "area")
"""What a camera's file and its document both have beside the settings."""
_OF_THE_FLEET = ("device", "checks")
"""What of a camera's file is nobody's business but the fleet's."""


def camera_document(name: str, entry: CameraEntry, revision: int) -> CameraDocument:
    """What nodes and workers are told of a camera: only what its file says, so that other settings hold below it."""
    content = entry.model_dump(mode="json", exclude_unset=True)
    for key in ("source", *_BESIDE, *_OF_THE_FLEET):
        content.pop(key, None)
    return CameraDocument(
        camera=name,
        source=entry.source,
        node=entry.node,
        pool=entry.pool,
        excluded=entry.excluded,
        name=entry.name,
        area=entry.area,
        revision=revision,
        settings=content,
    )


def node_document(name: str, entry: NodeEntry, revision: int) -> NodeDocument:
    """What a node is told of itself."""
    return NodeDocument(
        node=name,
        revision=revision,
        name=entry.name,
        area=entry.area,
        roles=entry.roles,
        gpus=entry.gpus,
        pools=entry.pools,
        runtime=entry.runtime,
        image=entry.image,
        version=entry.version,
        drained=entry.drained,
        settings=entry.settings,
    )


def says_the_same(one: CameraDocument | NodeDocument, other: CameraDocument | NodeDocument | None) -> bool:
    """Whether two documents differ in their revision at most."""
    if other is None or type(one) is not type(other):
        return False
    return bool(_content(one) == _content(other))


def camera_changes(before: CameraDocument | None, after: CameraDocument) -> dict[str, Any]:
    """What must change in a camera's file so that it says `after`, where it said `before`; None takes a key away."""
    return _differences(_as_file(before) if before is not None else {}, _as_file(after))


def _content(document: CameraDocument | NodeDocument) -> Any:  # noqa: ANN401 - plain JSON
    return msgspec.to_builtins(msgspec.structs.replace(document, revision=0))


def _as_file(document: CameraDocument) -> dict[str, Any]:
    beside = {key: value for key in _BESIDE if (value := getattr(document, key))}
    return {"source": document.source, **beside, **document.settings}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = dict.fromkeys(key for key in before if key not in after)
    for key, value in after.items():
        lower = before.get(key)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            if below := _differences(lower, value):
                changes[key] = below
        elif key not in before or lower != value:
            changes[key] = value
    return changes


def camera_settings(entry: CameraEntry) -> CameraSettings:
    """The camera as a site file would have it."""
    inside = set(CameraSettings.model_fields)
    return CameraSettings.model_validate(entry.model_dump(include=inside, exclude_unset=True))
