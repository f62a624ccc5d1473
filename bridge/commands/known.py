"""Cameras and processes that the site has, by what is retained on the bus. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TypeVar

from bridge.commands.messages import Request
from broker import Delivery
from broker.messages import CameraDocument, CameraState, NodeStatus
from broker.topics import CAMERA_STATE, NODE_STATUS, REGISTRY_CAMERA, origin_of

__all__ = ["KNOWN_TOPICS", "Known"]

KNOWN_TOPICS = (CAMERA_STATE, NODE_STATUS, REGISTRY_CAMERA)
"""What it must be told of."""
_NAMES_MAX = 4_000
"""Of each kind: names come from topics, which whoever has access to the bus may invent."""
_SHOWN = 8

T = TypeVar("T")


class Known:
    """Who is there to be commanded.

    Concurrency: `fold` is called by one thread; the others may be called by any.
    """

    def __init__(self) -> None:
        self._cameras: dict[str, CameraState] = {}
        self._processes: dict[str, NodeStatus] = {}
        self._documents: dict[str, CameraDocument] = {}

    def fold(self, delivery: Delivery) -> None:
        """Take one message in; an empty one takes back what was retained."""
        topic, content = delivery.topic, delivery.content
        if topic.spec is NODE_STATUS:
            _put(self._processes, origin_of(topic.params["node"], topic.params["role"]), content, NodeStatus)
        elif topic.spec is CAMERA_STATE:
            _put(self._cameras, topic.camera, content, CameraState)
        elif topic.spec is REGISTRY_CAMERA:
            _put(self._documents, topic.camera, content, CameraDocument)

    def document(self, camera: str) -> CameraDocument | None:
        """What is retained of a camera now."""
        return self._documents.get(camera)

    def refusal_of(self, request: Request) -> str:
        """Why nobody can be meant; empty where somebody is."""
        if request.content.camera:
            names = {*self._cameras, *self._documents}
            return _unknown("camera", request.content.camera, names)
        return _unknown("process", request.origin, set(self._processes))

    def silence_of(self, request: Request) -> str:
        """Why nobody may have answered, as far as that is known."""
        state = self._cameras.get(request.content.camera)
        if request.content.camera:
            if state is None:
                return "no node has reported this camera yet"
            return f"its node {state.node} " + ("says that it is offline" if state.state == "offline" else "is silent")
        status = self._processes.get(request.origin)
        gone = status is None or status.state == "offline"
        return f"{request.origin} is offline" if gone else f"{request.origin} is silent"


def _put(into: dict[str, T], name: str, content: object, kind: type[T]) -> None:
    if not isinstance(content, kind):
        into.pop(name, None)
    elif name in into or len(into) < _NAMES_MAX:
        into[name] = content


def _unknown(kind: str, name: str, names: Collection[str]) -> str:
    if name in names:
        return ""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    shown = ", ".join(sorted(names)[:_SHOWN]) or "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there is no {kind} {name!r} on this site; {hint}known are {shown}{more}"
