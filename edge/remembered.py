"""What a node must still know after a restart without a broker: what was commanded, and the site's word on its cameras.

One small file in the state folder, replaced in one step. Without it a camera that somebody asked for privacy would be
shown again because a process died.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import msgspec

from broker.messages import CameraDocument
from config import get_logger
from config.files import write_atomically
from edge.wanted import NOTHING_COMMANDED, Commanded

__all__ = ["Remembered"]


class _Camera(msgspec.Struct, kw_only=True, omit_defaults=True):
    mode: Literal["monitor", "eco", "off"] | None = None
    privacy: bool | None = None
    detection: bool | None = None
    recording: bool | None = None
    sensitivity: float | None = None
    document: CameraDocument | None = None


class _Content(msgspec.Struct, kw_only=True):
    v: Literal[1] = 1
    cameras: dict[str, _Camera] = {}


class Remembered:
    """The file, and what it holds.

    Concurrency: may be called from any thread.

    Args:
        path: the file; its folder is made when something is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._log = get_logger()
        self._is_lost = False
        self._cameras = self._read()

    def _read(self) -> dict[str, _Camera]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Content).cameras
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("camera.memory_unreadable", file=str(self._path), error=str(error))
            self._is_lost = True
            return {}

    def commanded(self, camera: str) -> Commanded:
        """What was asked of a camera."""
        with self._lock:
            kept = self._entry(camera) if self._is_lost else self._cameras.get(camera)
            if kept is None:
                return NOTHING_COMMANDED
            return Commanded(kept.mode, kept.privacy, kept.detection, kept.recording, kept.sensitivity)

    def documents(self) -> dict[str, CameraDocument]:
        """The site's last word on each camera that it gave to this node."""
        with self._lock:
            return {name: kept.document for name, kept in self._cameras.items() if kept.document is not None}

    def keep_commanded(self, camera: str, commanded: Commanded) -> str | None:
        """Write down what was asked of a camera; returns why that failed."""
        with self._lock:
            kept = self._entry(camera)
            kept.mode, kept.privacy, kept.detection = commanded.mode, commanded.privacy, commanded.detection
            kept.recording, kept.sensitivity = commanded.recording, commanded.sensitivity
            return self._write()

    def keep_document(self, camera: str, document: CameraDocument | None) -> str | None:
        """Write down what the site says of a camera, or that it says nothing any more; returns why that failed."""
        with self._lock:
            self._entry(camera).document = document
            return self._write()

    def _entry(self, camera: str) -> _Camera:
        # While the file cannot be read every camera shows nothing until somebody says otherwise, also after the next
        # start: so it stands in the file that replaces the lost one.
        return self._cameras.setdefault(camera, _Camera(privacy=True if self._is_lost else None))

    def _write(self) -> str | None:
        content = _Content(cameras={name: kept for name, kept in self._cameras.items() if kept != _Camera()})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(content), indent=1))
        except OSError as error:
            reason = f"{self._path} cannot be written ({error.strerror or error})"
            self._log.error("camera.memory_unwritten", error=reason)
            return reason
        return None
