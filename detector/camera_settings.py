"""What a worker must know of each camera: the site file's word, and over it the site's documents on the bus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from broker import Bus, Delivery
from broker.camera_documents import Brought, check_document, lay_over
from broker.messages import CameraDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX
from config import BadPayloadError, ConfigError
from config.cameras import CameraSettings
from config.settings import Settings

__all__ = ["KnownCameras"]

_DOCUMENTS_MAX = 1000
"""Cameras of which documents are kept; anybody with access to the bus may invent names."""
_NOTHING_SAID = CameraSettings()


class KnownCameras:
    """Zones, labels and whatever else of a camera its worker needs, wherever that worker runs.

    Concurrency: may be used from any thread; `on_change` is called on the bus's.

    Args:
        settings: the site file's.
        bus: the site's; started after `start`.
        on_change: gets the name of a camera whose settings are different now.
    """

    def __init__(self, settings: Settings, bus: Bus, on_change: Callable[[str], None] = lambda _camera: None) -> None:
        self._own = settings.cameras
        self._bus = bus
        self._on_change = on_change
        self._lock = threading.Lock()
        self._documents: dict[str, CameraDocument] = {}
        self._laid: dict[str, CameraSettings] = {}
        self._brought = Brought()

    def start(self) -> None:
        """Ask for the site's documents."""
        self._bus.subscribe(REGISTRY_CAMERA, self._on_document)
        self._bus.subscribe(REGISTRY_INDEX, self._on_index)

    def documented(self) -> dict[str, CameraSettings]:
        """The cameras that the site's documents are about, and that somebody may watch."""
        with self._lock:
            return {name: laid for name, laid in self._laid.items() if not self._documents[name].excluded}

    def has_heard(self, cameras: Collection[str]) -> bool:
        """Whether there are documents of all of these."""
        with self._lock:
            return self._documents.keys() >= set(cameras)

    def of(self, camera: str) -> CameraSettings:
        """The settings of a camera; the defaults for one of which nobody has said anything."""
        with self._lock:
            laid = self._laid.get(camera)
        return laid or self._own.get(camera) or _NOTHING_SAID

    def _on_document(self, delivery: Delivery) -> None:
        content = delivery.content
        if not isinstance(content, CameraDocument | None):
            return
        camera = delivery.topic.camera
        self._brought.note(camera, self._bus.connections)
        try:
            self._change(camera, content)
        except BadPayloadError as error:
            self._bus.reject(str(delivery.topic), error.reason, len(delivery.payload))

    def _on_index(self, delivery: Delivery) -> None:
        """Forget what the site took back while this worker was away."""
        index = delivery.content
        if isinstance(index, RegistryIndex):
            for camera in self._brought.gone(tuple(self._documents), index.cameras, self._bus.connections):
                self._change(camera, None)

    def _change(self, camera: str, document: CameraDocument | None) -> None:
        before = self.of(camera)
        self._take(camera, document)
        if self.of(camera) != before:
            self._on_change(camera)

    def _take(self, camera: str, document: CameraDocument | None) -> None:
        if document is None:
            with self._lock:
                self._documents.pop(camera, None)
                self._laid.pop(camera, None)
            return
        known = self._documents.get(camera)
        if known is None and len(self._documents) >= _DOCUMENTS_MAX:
            raise BadPayloadError(f"this worker has documents of {_DOCUMENTS_MAX} cameras already")
        check_document(camera, document, known)
        try:
            laid = lay_over(camera, document, self._own.get(camera), None)
        except ConfigError as error:
            raise BadPayloadError(f"revision {document.revision}: {error}") from error
        with self._lock:
            self._documents[camera], self._laid[camera] = document, laid
