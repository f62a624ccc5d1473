"""What the site says to this node: documents of cameras, its own document, and what of them is no more."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from broker import Bus, Delivery
from broker.camera_documents import Brought
from broker.messages import CameraDocument, NodeDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX, REGISTRY_NODE
from config import BadPayloadError, Clock, ConfigError, get_logger
from config.files import FileWatch
from config.logins import read_logins
from config.settings import Settings
from edge.assigned import Assigned
from edge.remembered import Remembered

__all__ = ["SiteWord"]

_INBOX_MAX = 1000
"""Cameras whose documents wait to be looked at; anybody with access to the bus may invent names."""


class _Surroundings(Protocol):
    @property
    def bus(self) -> Bus: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def remembered(self) -> Remembered: ...
    @property
    def logins_file(self) -> Path: ...
    @property
    def clock(self) -> Clock: ...


class SiteWord:
    """Keeps what the site says, as the bus brings it and the disk remembers it.

    Concurrency: the node's thread, but for what the bus delivers on its own.

    Args:
        around: what the cameras of the node have in common.
        adopts: whether the site may give cameras to this node that its own settings do not name.

    Attributes:
        assigned: which cameras that makes this node's.
        drained: this node is to run nothing for now.
    """

    def __init__(self, around: _Surroundings, *, adopts: bool) -> None:
        self._bus = around.bus
        self._node = around.settings.node
        self._remembered = around.remembered
        self._clock = around.clock
        self._log = get_logger()
        self._adopts = adopts
        self._logins_file = around.logins_file
        self._logins_watch = FileWatch(self._logins_file)
        self.assigned = Assigned(
            self._node, adopts, around.settings.cameras, self._remembered.documents(), self._remembered.pools()
        )
        self.drained = False
        self._lock = threading.Lock()
        self._inbox: dict[str, Delivery] = {}
        self._node_word: Delivery | None = None
        self._index: RegistryIndex | None = None
        self._brought, self._brought_nodes = Brought(), Brought()
        self._read_logins()

    def start(self) -> None:
        """Ask for what the site says; before the bus connects, so that nothing retained is missed."""
        self._bus.subscribe(REGISTRY_CAMERA, self._on_camera)
        self._bus.subscribe(REGISTRY_INDEX, self._on_index)
        if self._adopts:
            self._bus.subscribe(REGISTRY_NODE, self._on_node, node=self._node)

    def take(self) -> bool:
        """Take in what came since the last time; whether that changes anything."""
        with self._lock:
            inbox, self._inbox = self._inbox, {}
            node_word, self._node_word = self._node_word, None
            index, self._index = self._index, None
        changed = False
        for name, delivery in inbox.items():
            changed |= self._take_camera(name, delivery)
        if node_word is not None:
            changed |= self._take_node(node_word.content)
        if index is not None:
            changed |= self._take_index(index)
        if changed:
            self._remembered.keep_site(self.assigned.kept(), self.assigned.pools)
        if self._logins_watch.has_changed(self._clock.monotonic_s()):
            changed |= self._read_logins()
        return changed

    # --- on the bus's thread -----------------------------------------------------------------------------------------

    def _on_camera(self, delivery: Delivery) -> None:
        if not isinstance(delivery.content, CameraDocument | None):
            return
        with self._lock:
            name = delivery.topic.camera
            if name in self._inbox or len(self._inbox) < _INBOX_MAX:
                self._inbox[name] = delivery
                self._brought.note(name, self._bus.connections)

    def _on_node(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, NodeDocument | None):
            with self._lock:
                self._node_word = delivery
                self._brought_nodes.note(self._node, self._bus.connections)

    def _on_index(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, RegistryIndex):
            with self._lock:
                self._index = delivery.content

    # --- on the node's ------------------------------------------------------------------------------------------------

    def _take_camera(self, name: str, delivery: Delivery) -> bool:
        document = delivery.content if isinstance(delivery.content, CameraDocument) else None
        try:
            return self.assigned.take(name, document)
        except BadPayloadError as error:
            self._bus.reject(str(delivery.topic), error.reason, len(delivery.payload))
            return True

    def _take_node(self, document: object) -> bool:
        pools = document.pools if isinstance(document, NodeDocument) else ()
        drained = isinstance(document, NodeDocument) and document.drained
        if (pools, drained) == (self.assigned.pools, self.drained):
            return False
        self.assigned.pools, self.drained = pools, drained
        return True

    def _take_index(self, index: RegistryIndex) -> bool:
        connection = self._bus.connections
        with self._lock:
            gone = self._brought.gone(self.assigned.documents, index.cameras, connection)
            is_gone = bool(self._brought_nodes.gone((self._node,), index.nodes, connection))
        for name in gone:
            self._log.info("camera.document_gone", camera=name)
        self.assigned.forget(gone)
        return (is_gone and self._take_node(None)) or bool(gone)

    def _read_logins(self) -> bool:
        try:
            logins = read_logins(self._logins_file)
        except ConfigError as error:
            self._log.error("camera.logins_unreadable", error=str(error))
            return False
        if logins == self.assigned.logins:
            return False
        self.assigned.logins = logins
        return True
