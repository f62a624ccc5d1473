"""Which model scores a camera, and which the site wants there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import msgspec

from broker import Delivery
from broker.messages import CameraModel, ModelFile, ModelManifest, ModelRef, WorkerStatus
from broker.topics import MODEL, origin_of

__all__ = ["ModelDesk"]

T = TypeVar("T")

_DEFAULT = "default"
_KNOWN_MAX = 1_000
"""Names come from topics, which anybody with access to the bus may invent: what is kept of them is bounded."""
_DIGITS = 8
"""Of a hash, for people: two files of one name are two models."""


@dataclass(slots=True)
class ModelDesk:
    """What workers run, and what they are to run.

    Attributes:
        workers: what each says, by origin.
        manifests: what the site says, by class of worker.
    """

    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    manifests: dict[str, ModelManifest] = field(default_factory=dict)
    _told: dict[str, CameraModel] = field(default_factory=dict)

    def fold(self, delivery: Delivery) -> None:
        """Take in what a worker or the site says, or that it says nothing more."""
        params, content = delivery.topic.params, delivery.content
        if delivery.topic.spec is MODEL:
            _put(self.manifests, params["name"], content if isinstance(content, ModelManifest) else None)
        else:
            origin = origin_of(params["node"], params["role"])
            _put(self.workers, origin, content if isinstance(content, WorkerStatus) else None)

    def of(self, camera: str, worker: str, now: datetime) -> CameraModel:
        """What is to be said of a camera; the same as before where nothing has changed but the time."""
        status = self.workers.get(worker)
        installed = _name(status.model if status is not None else None)
        wanted = self._wanted(worker, status)
        said = CameraModel(
            camera=camera,
            at=now,
            worker=worker,
            installed=installed,
            wanted=wanted or installed,
            changing=status is not None and status.model_wanted is not None,
            error=status.model_error if status is not None else "",
        )
        before = self._told.get(camera)
        if before is None or msgspec.structs.replace(said, at=before.at) != before:
            self._told[camera] = said
        return self._told[camera]

    def _wanted(self, worker: str, status: WorkerStatus | None) -> str:
        if status is None:
            return ""
        names = [name for name in status.classes if name in self.manifests]
        manifest = self.manifests.get(names[0] if names else _DEFAULT)
        if manifest is None:
            return ""
        is_tried_elsewhere = manifest.canary not in ("", worker)
        return _name(manifest.previous if is_tried_elsewhere else manifest.model)


def _put(known: dict[str, T], name: str, content: T | None) -> None:
    known.pop(name, None)
    if content is not None and len(known) < _KNOWN_MAX:
        known[name] = content


def _name(model: ModelRef | ModelFile | None) -> str:
    return "" if model is None else f"{model.name} ({model.sha256[:_DIGITS]})"
