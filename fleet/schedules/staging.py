"""Models that wait for their window: what was said outside of it is said for all to hear once it opens.

What waits is a wish of a person, and lies beside the registry's files, ``staged/CLASS.json``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, tzinfo
from pathlib import Path

import msgspec

from broker import Bus, Delivery
from broker.messages import ModelManifest, decode_json, encode_json
from broker.topics import MODEL
from config import BadPayloadError, Clock, ConfigError, get_logger
from config.files import write_atomically
from config.names import check_name
from config.schedules import Window
from fleet.schedules.timetable import is_open, next_open

__all__ = ["StagedModels"]

_MANIFEST_BYTES_MAX = 64 * 1024
_SAY_AGAIN_S = 30.0


class StagedModels:
    """Keeps what waits, and says it in time.

    Concurrency: `offer` and `step` may be called from any thread.

    Args:
        bus: where models are said.
        registry: the registry's folder.
        clock: time.
    """

    def __init__(self, bus: Bus, registry: Path, clock: Clock) -> None:
        self._bus = bus
        self._folder = registry / "staged"
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[str, ModelManifest] = {}
        self._said_s: dict[str, float] = {}
        self._log = get_logger()

    def start(self) -> None:
        """Ask for what is said of models."""
        self._bus.subscribe(MODEL, self._on_manifest)

    def offer(self, text: str, windows: Sequence[Window], zone: tzinfo, *, stage: bool) -> datetime | None:
        """Take in what somebody wants the workers to use.

        Args:
            text: a :class:`ModelManifest` as JSON.
            windows: when it may be said.
            zone: of the site.
            stage: let it wait where it may not be said now; what waits is forgotten where it may.

        Returns:
            When it will be said; None when it may be said now, so that whoever asked can do so.

        Raises:
            BadPayloadError: it is no manifest.
            ConfigError: the folder cannot be written.
        """
        manifest = decode_json(ModelManifest, text.encode(), max_bytes=_MANIFEST_BYTES_MAX)
        now = self._clock.now()
        with self._lock:
            if is_open(windows, now, zone):
                self._path(manifest.name).unlink(missing_ok=True)
                return None
            if not stage:
                return next_open(windows, now, zone)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path(manifest.name), encode_json(manifest))
            except OSError as error:
                raise ConfigError(f"what waits cannot be written down: {error.strerror}", file=self._folder) from error
        self._log.info("model.staged", name=manifest.name, model=manifest.model.name)
        return next_open(windows, now, zone)

    def waiting(self) -> dict[str, str]:
        """What waits: the model by class of worker."""
        return {manifest.name: manifest.model.name for manifest in self._read()}

    def step(self, windows: Sequence[Window], zone: tzinfo) -> None:
        """Say what waits where the window is open."""
        if not is_open(windows, self._clock.now(), zone) or not self._bus.connected:
            return
        with self._lock:
            for manifest in self._read():
                self._release(manifest)

    def _release(self, staged: ModelManifest) -> None:
        heard = self._heard.get(staged.name)
        if heard is not None and (heard.model.sha256 == staged.model.sha256 or heard.at > staged.at):
            # It is what is said now, or somebody has said something else since.
            self._path(staged.name).unlink(missing_ok=True)
            self._log.info("model.released", name=staged.name, model=heard.model.name, version=heard.version)
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._said_s.get(staged.name, float("-inf")) < _SAY_AGAIN_S:
            return
        self._said_s[staged.name] = now_s
        manifest = msgspec.structs.replace(staged, version=heard.version + 1 if heard else 1, at=self._clock.now())
        topic = MODEL.at(self._bus.site, name=staged.name)
        self._bus.publish(topic, manifest)
        # `vigil models use` may say something else the next minute: a reconnect of this process is not to undo that.
        self._bus.disown(topic)

    def _read(self) -> list[ModelManifest]:
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(decode_json(ModelManifest, path.read_bytes(), max_bytes=_MANIFEST_BYTES_MAX))
            except (OSError, BadPayloadError) as error:
                self._log.warning("model.staged_unusable", path=str(path), error=str(error))
        return found

    def _path(self, name: str) -> Path:
        try:
            return self._folder / f"{check_name(name)}.json"
        except ValueError as error:
            raise BadPayloadError(f"a class of workers: {error}") from None

    def _on_manifest(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, ModelManifest):
            self._heard[delivery.topic.params["name"]] = delivery.content
