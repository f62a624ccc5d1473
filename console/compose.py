"""Which processes make the mesh of one machine, and with which settings: the one place that wires roles together.

Pure: what the machine has (free ports) is asked through functions that come in.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.topics import CAMERA_FRAME
from config import ConfigError
from config.settings import BrokerSettings, CameraSettings, DetectorSettings, Settings, default_state_dir

__all__ = [
    "DEFAULT_CAMERA",
    "FLEET",
    "Machine",
    "Plan",
    "RoleSpec",
    "choose_cameras",
    "compose",
    "reachable",
]

DEFAULT_CAMERA = "street"
DEMONSTRATION_COOLDOWN_S = 4.0
_DEFAULT_BUS_URL = "mqtt://127.0.0.1:1883"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - addresses that are looked up


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """One process of the mesh.

    Attributes:
        name: the role.
        arguments: what to hand to `vigil`.
        needed: the mesh does its job only with it; the web page is not.
    """

    name: str
    arguments: tuple[str, ...]
    needed: bool = True


FLEET = RoleSpec("fleet", ("fleet",), needed=False)
"""What keeps the registry, once there is one."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan must know of this machine.

    Attributes:
        port_is_free: whether somebody can listen on ``(host, port)``.
        free_port: a port of a host that nobody listens on.
    """

    port_is_free: Callable[[str, int], bool]
    free_port: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The mesh of this machine.

    Attributes:
        settings: as every role gets them.
        roles: in the order in which they start.
        notices: what a person should know before it starts.
    """

    settings: Settings
    roles: tuple[RoleSpec, ...]
    notices: tuple[str, ...] = field(default=())

    @property
    def page_url(self) -> str:
        """Where the web page is."""
        return f"http://{reachable(self.settings.console.host)}:{self.settings.console.port}/"

    @property
    def is_secure(self) -> bool:
        """Whether this machine's own broker asks everybody for a certificate."""
        return self.settings.broker.secure and any(role.name == "broker" for role in self.roles)

    @property
    def broker_port(self) -> int:
        """The port of this machine's own broker for processes."""
        return self.settings.broker.secure_port if self.is_secure else self.settings.broker.port

    @property
    def people_url(self) -> str:
        """Where people reach the broker."""
        if not self.is_secure:
            return self.settings.bus.url
        return f"mqtts://{reachable(self.settings.broker.host)}:{self.settings.broker.people_port}"

    @property
    def watch_example(self) -> str:
        """A command that follows the bus, as the person on this machine."""
        state = [] if self.settings.state_dir == default_state_dir() else ["--state", str(self.settings.state_dir)]
        return shlex.join(["vigil", *state, "--bus", self.people_url, "watch"])

    @property
    def frame_example(self) -> str:
        """A command that saves the next frame as a picture, with plain tools."""
        parts = urlsplit(self.people_url)
        host = parts.hostname or "127.0.0.1"
        port = parts.port or 1883
        place = ("" if host in {"127.0.0.1", "localhost"} else f"-h {host} ") + ("" if port == 1883 else f"-p {port} ")
        if self.is_secure:
            # Without -h it would ask for `localhost`, which is ::1 on some machines.
            identity = self.settings.bus.identity or self.settings.state_dir / "identity"
            files = (("cafile", "ca.crt"), ("cert", "person.crt"), ("key", "person.key"))
            place = f"-h {host} -p {port} "
            place += "".join(f"--{option} {shlex.quote(str(identity / name))} " for option, name in files)
        return f"mosquitto_sub {place}-t '{CAMERA_FRAME.topic_filter()}' -C 1 > a.jpg"


def compose(
    settings: Settings,
    machine: Machine,
    *,
    cameras: Collection[str] = (),
    foreign_bus: bool = False,
    fixed_ports: Collection[str] = (),
) -> Plan:
    """Decide what runs and where.

    Args:
        settings: as the flags, the environment and the site file say.
        machine: what this machine has.
        cameras: names given by flags: only these run. Without any, those of the settings; without those, a
            synthetic street.
        foreign_bus: the broker's address was given by a flag: it is used, and none is started.
        fixed_ports: ``broker`` and ``console`` where a flag gave the port, so that no other is taken.

    Raises:
        ConfigError: a port that a flag gave is taken, or a camera's file is not there.
    """
    ports = _Ports(machine, fixed_ports)
    own_broker = not foreign_bus and settings.bus.url in {_DEFAULT_BUS_URL, _url_of(settings.broker)}
    changes: dict[str, Any] = {"cameras": choose_cameras(settings, cameras)}
    if DEFAULT_CAMERA in changes["cameras"] and not settings.cameras:
        changes["detector"] = _demonstration(settings)
    if own_broker:
        broker = _broker(settings.broker, ports)
        changes["broker"] = broker
        changes["bus"] = settings.bus.model_copy(update={"url": _url_of(broker), "protocol": _protocol(settings)})
    port = ports.choose("console", settings.console.host, settings.console.port)
    changes["console"] = settings.console.model_copy(update={"port": port})
    roles = [RoleSpec("broker", ("broker", "run"))] if own_broker else []
    scores = () if settings.edge.detector else ("detector",)
    roles += [RoleSpec(name, (name,)) for name in ("edge", *scores, "bridge")]
    roles += [RoleSpec(name, (name,), needed=False) for name in (*_for_others(settings), "console")]
    return Plan(settings.model_copy(update=changes), tuple(roles), tuple(ports.notices))


def _for_others(settings: Settings) -> Iterator[str]:
    """Roles that serve what is outside of the mesh, or keep its registry, where there is something to do for them."""
    if settings.bridge.kafka is not None and settings.bridge.kafka.commands is not None:
        yield "commands"
    if settings.homeassistant.enabled:
        yield "homeassistant"
    if settings.fleet.registry.is_dir():
        yield FLEET.name


def choose_cameras(settings: Settings, names: Collection[str]) -> dict[str, CameraSettings]:
    """The cameras that run.

    Args:
        settings: as the flags, the environment and the site file say.
        names: those given by flags; as in `compose`.

    Raises:
        ConfigError: a camera's file is not there.
    """
    wanted = {name: settings.cameras[name] for name in names} or dict(settings.cameras)
    for name, camera in wanted.items():
        kind, _, place = camera.source.partition(":")
        if kind == "file" and not Path(place.partition("?")[0]).is_file():
            raise ConfigError(f"there is no file {place.partition('?')[0]!r}", field=f"cameras.{name}.source")
    return wanted or {DEFAULT_CAMERA: CameraSettings()}


def _demonstration(settings: Settings) -> DetectorSettings:
    """On the synthetic street somebody passes every few seconds; a newcomer should see that without waiting."""
    rules = {
        name: rule.model_copy(update={"cooldown_s": min(rule.cooldown_s, DEMONSTRATION_COOLDOWN_S)})
        for name, rule in settings.detector.rules.items()
    }
    return settings.detector.model_copy(update={"rules": rules})


_SERVICES = {"broker": "the broker", "people": "the broker's port for people", "console": "the web page"}


class _Ports:
    def __init__(self, machine: Machine, fixed: Collection[str]) -> None:
        self._machine = machine
        self._fixed = fixed
        self.notices: list[str] = []

    def choose(self, section: str, host: str, wanted: int) -> int:
        """The wanted port, or a free one where a flag did not insist."""
        if self._machine.port_is_free(host, wanted):
            return wanted
        if section in self._fixed:
            raise ConfigError(
                f"port {wanted} on {host} is taken: choose another, or leave it out and a free one is found",
                field=f"{section}.port",
            )
        port = self._machine.free_port(host)
        self.notices.append(f"port {wanted} is taken, so {_SERVICES[section]} is on {port}")
        return port


def _protocol(settings: Settings) -> str:
    """The embedded broker speaks 3.1.1 only: asking it for 5 first costs every process a second at its start."""
    embedded = settings.broker.engine == "embedded" and settings.bus.protocol == "auto"
    return "3.1.1" if embedded else settings.bus.protocol


def _broker(settings: BrokerSettings, ports: _Ports) -> BrokerSettings:
    """With the ports that it will listen on."""
    if not settings.secure:
        return settings.model_copy(update={"port": ports.choose("broker", settings.host, settings.port)})
    chosen = {
        "secure_port": ports.choose("broker", settings.host, settings.secure_port),
        "people_port": ports.choose("people", settings.host, settings.people_port),
    }
    return settings.model_copy(update=chosen)


def _url_of(settings: BrokerSettings) -> str:
    scheme, port = ("mqtts", settings.secure_port) if settings.secure else ("mqtt", settings.port)
    return f"{scheme}://{reachable(settings.host)}:{port}"


def reachable(host: str) -> str:
    """Where a client on this machine finds a server that listens on `host`."""
    return _EVERY_ADDRESS.get(host, host)
