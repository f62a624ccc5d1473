"""What a node must still know after a restart without a broker: what was commanded, and the site's word on its cameras.

One small file in the state folder, replaced in one step. Without it a camera that somebody asked for privacy would be
shown again because a process died.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
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


class _Content(msgspec.Struct, kw_only=True, omit_defaults=True):
    v: Literal[1]
    pools: tuple[str, ...] = ()
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
        found = self._read()
        self._cameras, self._pools = found.cameras, found.pools

    def _read(self) -> _Content:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content(v=1)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("camera.memory_unreadable", file=str(self._path), error=str(error))
            self._is_lost = True
            return _Content(v=1)

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

    def pools(self) -> tuple[str, ...]:
        """The pools of cameras in which this node takes part, as the site said last."""
        with self._lock:
            return self._pools

    def keep_commanded(self, camera: str, commanded: Commanded) -> str | None:
        """Write down what was asked of a camera; returns why that failed."""
        with self._lock:
            kept = self._entry(camera)
            kept.mode, kept.privacy, kept.detection = commanded.mode, commanded.privacy, commanded.detection
            kept.recording, kept.sensitivity = commanded.recording, commanded.sensitivity
            return self._write()

    def keep_site(self, documents: Mapping[str, CameraDocument], pools: tuple[str, ...]) -> str | None:
        """Write down all that the site says to this node; returns why that failed."""
        with self._lock:
            known = {name: kept.document for name, kept in self._cameras.items() if kept.document is not None}
            if (known, self._pools) == (documents, pools):
                return None
            for name in known.keys() | documents.keys():
                self._entry(name).document = documents.get(name)
            self._pools = pools
            return self._write()

    def _entry(self, camera: str) -> _Camera:
        # While the file cannot be read every camera shows nothing until somebody says otherwise, also after the next
        # start: so it stands in the file that replaces the lost one.
        return self._cameras.setdefault(camera, _Camera(privacy=True if self._is_lost else None))

    def _write(self) -> str | None:
        content = _Content(
            v=1, pools=self._pools, cameras={name: kept for name, kept in self._cameras.items() if kept != _Camera()}
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(content), indent=1))
        except OSError as error:
            reason = f"{self._path} cannot be written ({error.strerror or error})"
            self._log.error("camera.memory_unwritten", error=reason)
            return reason
        return None
