"""A site that is written down in a registry, whose processes and databases can all be taken away."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from broker import Bus, Delivery, listen
from broker.messages import CameraDocument, CameraState, Escalation, NodeDocument, RegistryIndex
from broker.topics import (
    CAMERA_ESCALATION,
    CAMERA_STATE,
    HOMEASSISTANT_DEVICE,
    REGISTRY_CAMERA,
    REGISTRY_INDEX,
    REGISTRY_NODE,
)
from config.settings import BusSettings, Settings
from fleet.registry.folder import RegistryFolder
from tests.support.mosquitto import Mosquitto
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

__all__ = ["WrittenSite", "camera"]

SITE = "home"
_WHOLE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def camera(number: int, node: str) -> dict[str, Any]:
    """A camera as its file says, with something of everything."""
    return {
        "source": f"synthetic:street?seed={number}",
        "node": node,
        "name": f"Camera number {number}",
        "area": "Garden" if number % 2 else "Street",
        "idle_fps": 2,
        "motion_fps": 2,
        "zones": {"whole": {"points": _WHOLE}},
        "motion": {"masks": {"sky": [[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]}},
        "privacy": {"masks": {"window": {"points": [[0.8, 0.0], [0.9, 0.0], [0.9, 0.1]]}}},
        "rules": {f"rule-{number}": {"kind": "presence", "zones": ["whole"], "for_s": 0.5, "cooldown_s": 1}},
    }


class WrittenSite:
    """A registry, a broker that keeps what is retained, and the site's processes; a context manager.

    Args:
        folder: an empty folder.
        roles: the processes: role, and node; `fleet` is on the hub.
        settings: further lines of the machines' site files.
    """

    def __init__(self, folder: Path, roles: Sequence[tuple[str, str]], settings: str = "") -> None:
        self.folder = folder
        self.registry = RegistryFolder(folder / "registry")
        self.escalations: set[str] = set()
        self._settings = settings
        self._roles = (("fleet", "hub"), *roles)
        self._broker_folder = folder / "broker"
        self._broker_folder.mkdir(parents=True)
        self.broker = Mosquitto(self._broker_folder, persistent=True)
        self._processes: list[ServerProcess] = []
        self._bus: Bus | None = None
        self._found: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Start every process, and somebody who listens."""
        self._found, self.escalations = {}, set()
        self._bus = listen(Settings(site=SITE, node="onlooker", bus=BusSettings(url=self.broker.url)), "edge")
        for spec in (REGISTRY_CAMERA, REGISTRY_NODE, REGISTRY_INDEX, CAMERA_STATE, CAMERA_ESCALATION):
            self._bus.subscribe(spec, self._on_delivery)
        self._bus.subscribe(HOMEASSISTANT_DEVICE, self._on_device)
        self._bus.start()
        assert self._bus.wait_connected(30)
        self._processes = [self._process(role, node) for role, node in self._roles]
        with ThreadPoolExecutor(len(self._processes)) as starters:
            list(starters.map(ServerProcess.start, self._processes))

    def _process(self, role: str, node: str) -> ServerProcess:
        place = self.folder / node
        place.mkdir(exist_ok=True)
        file = place / "vigil.yaml"
        file.write_text(
            f"site: {SITE}\nnode: {node}\nfleet: {{registry: {self.registry.path}, door_port: 0}}\n{self._settings}"
        )
        flags = [
            "--config",
            str(file),
            "--bus",
            self.broker.url,
            "--state",
            str(place / "state"),
            "--log-format",
            "json",
        ]
        command = [sys.executable, "-P", "-m", "console", *flags, *role.split()]
        log = place / f"{role.split(maxsplit=1)[0]}.log"
        return ServerProcess(command, log=log, ready="bus.connected", start_timeout_s=120)

    def end(self) -> None:
        """Kill every process and the broker, all at one moment as far as they are concerned."""
        for process in self._processes:
            process.kill()
        self._processes.clear()
        if self._bus is not None:
            self._bus.close(0)
            self._bus = None
        self.broker.kill()

    def forget(self) -> list[str]:
        """Delete every database and state folder; what was deleted. The registry and the site files are left."""
        gone = [path for path in self.folder.glob("*/state") if path.is_dir()]
        for path in gone:
            shutil.rmtree(path)
        self.broker.forget()
        for node in self.folder.iterdir():
            assert not any(node.glob("**/*.db")) or node == self.registry.path
        return [str(path.relative_to(self.folder)) for path in gone] + ["broker/mosquitto.db"]

    def word(self) -> Mapping[str, Mapping[str, Any]]:
        """What the site says of itself now: documents, index, cameras; without what counts or tells the time."""
        return {kind: dict(sorted(found.items())) for kind, found in sorted(self._found.items())}

    def wait_running(self, cameras: Sequence[str], nodes: Sequence[str] = (), *, timeout_s: float = 120) -> None:
        """Wait until every camera is online, and documents of all are there."""

        def is_running() -> bool:
            found = self._found
            online = {name for name, state in found.get("state", {}).items() if state["state"] == "online"}
            documents = set(found.get("camera", {})), set(found.get("node", {}))
            return online == set(cameras) and documents == (set(cameras), set(nodes))

        wait_until(is_running, timeout_s=timeout_s, what=f"a site with {', '.join(cameras)}")

    def _on_delivery(self, delivery: Delivery) -> None:
        match delivery.content:
            case CameraDocument() | NodeDocument() as document:
                kind = "camera" if isinstance(document, CameraDocument) else "node"
                self._note(kind, delivery.topic.params[kind], _plain(document, "revision"))
            case RegistryIndex() as index:
                self._note("index", "index", _plain(index, "revision", "at"))
            case CameraState() as state:
                kept = ("state", "node", "mode", "width", "height", "source", "detection", "privacy", "recording")
                self._note("state", state.camera, {key: getattr(state, key) for key in kept})
            case Escalation() as escalation:
                self.escalations.add(f"{escalation.camera}: {escalation.rule}")

    def _on_device(self, delivery: Delivery) -> None:
        self._note("Home Assistant", delivery.topic.params["id"], {"config": delivery.payload.decode()})

    def _note(self, kind: str, name: str, content: dict[str, Any]) -> None:
        self._found.setdefault(kind, {})[name] = content


def _plain(message: msgspec.Struct, *without: str) -> dict[str, Any]:
    content = msgspec.to_builtins(message)
    return {key: value for key, value in content.items() if key not in without}
