"""The units of systemd, one for each process that a machine may run at its start. Pure.

All of them get the same: they say when they work, are watched, started again for ever, and may touch nothing but
what is theirs.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERVICES", "STANDARD", "Place", "ServiceKind", "unit_name", "unit_text"]

_STEPS_SINCE = 254
"""The version of systemd that knows RestartSteps= and RestartMaxDelaySec=; an older one warns of them."""
_STATE_PARENT = Path("/var/lib")


@dataclass(frozen=True, slots=True)
class ServiceKind:
    """A service of a machine.

    Attributes:
        about: for `systemctl status`.
        arguments: of `vigil`.
        says_ready: it tells systemd that it works and goes on; others are only started.
        groups: what it reaches besides its own files.
        stop_s: seconds for its orderly end.
        stops_children: it has processes of its own, and ends them in order.
        tries_for_ever: nobody is there to put its configuration right, which may come over the bus.
        after: services of Vigil that start before it, where this machine has them.
        notes: comments above its section.
    """

    about: str
    arguments: tuple[str, ...]
    says_ready: bool = True
    groups: tuple[str, ...] = ()
    stop_s: int = 30
    stops_children: bool = False
    tries_for_ever: bool = False
    after: tuple[str, ...] = ("broker",)
    notes: tuple[str, ...] = ()


_CAMERAS = ("video", "render")

SERVICES: dict[str, ServiceKind] = {
    "node": ServiceKind(
        about="what the site asks of this node",
        arguments=("node", "run"),
        groups=_CAMERAS,
        stop_s=120,
        stops_children=True,
        tries_for_ever=True,
        notes=(
            "Where the site asks for containers: podman needs user namespaces and its helpers, so a drop-in",
            "(`systemctl edit vigil-node`) with RestrictNamespaces=no and NoNewPrivileges=no; docker needs its group.",
        ),
    ),
    "edge": ServiceKind(about="the cameras of this node", arguments=("edge",), groups=_CAMERAS),
    "detector": ServiceKind(about="scores of cameras' frames", arguments=("detector",), groups=_CAMERAS),
    "bridge": ServiceKind(about="escalations and events into the journal or Kafka", arguments=("bridge",)),
    "commands": ServiceKind(about="commands out of Kafka", arguments=("commands",)),
    "homeassistant": ServiceKind(about="cameras and nodes for Home Assistant", arguments=("homeassistant",)),
    "console": ServiceKind(about="the web page", arguments=("console",)),
    "fleet": ServiceKind(about="cameras and nodes kept in order", arguments=("fleet",), tries_for_ever=True),
    "broker": ServiceKind(
        about="the MQTT broker", arguments=("broker", "run"), says_ready=False, stops_children=True, after=()
    ),
    "up": ServiceKind(
        about="the whole mesh on this machine",
        arguments=("up",),
        says_ready=False,
        groups=_CAMERAS,
        stop_s=120,
        stops_children=True,
        after=(),
    ),
}
"""By name; `vigil-NAME.service`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where Vigil is on a machine.

    Attributes:
        program: what stands for `vigil`.
        config: the site file.
        state: the state folder.
        home: the folder that an update writes to; None where this is no such installation.
        registry: the folder with the site's cameras and nodes.
        others: what else services write, such as a disk with footage; a folder that is not there is no error.
        user: as whom they run.
        groups: that this machine has, of those that services ask for; None: all.
        systemd: its version.
    """

    program: tuple[str, ...] = ("/opt/vigil/launch",)
    config: Path = Path("/etc/vigil/vigil.yaml")
    state: Path = Path("/var/lib/vigil")
    home: Path | None = Path("/opt/vigil")
    registry: Path = Path("/etc/vigil/registry")
    others: tuple[Path, ...] = ()
    user: str = "vigil"
    groups: frozenset[str] | None = None
    systemd: int = 0


STANDARD = Place()
"""As the installer of a bundle lays it out."""


def unit_name(service: str) -> str:
    """What systemd calls a service of Vigil."""
    return f"vigil-{service}.service"


def unit_text(service: str, place: Place = STANDARD) -> str:
    """The unit of a service.

    Args:
        service: one of :data:`SERVICES`.
        place: where Vigil is.
    """
    kind = SERVICES[service]
    sections = (_head(service, kind, place), _unit(kind), _service(kind, place), _TAIL)
    return "\n".join(line for section in sections for line in section) + "\n"


def _head(service: str, kind: ServiceKind, place: Place) -> list[str]:
    name = unit_name(service).removesuffix(".service")
    return [
        f"# Vigil: {kind.about}. Written by `vigil service install --role {service}`, which writes it anew.",
        "#",
        f"#   systemctl status {name}          # its state in a line",
        f"#   journalctl -u {name} -f          # its log; docs/runbooks.md explains every warning",
        f"#   systemctl edit {name}            # to change something here: cameras that read from other folders ...",
        "#",
        f"# Its settings: {place.config}; what it keeps: {place.state}.",
        "",
    ]


def _unit(kind: ServiceKind) -> list[str]:
    after = " ".join(["network.target", *(unit_name(other) for other in kind.after)])
    return [
        "[Unit]",
        f"Description=Vigil: {kind.about}",
        "# Not network-online.target: without a network it watches, records and keeps its events all the same.",
        f"After={after}",
        "# It is tried again for ever; nobody is there to reset a counter.",
        "StartLimitIntervalSec=0",
        "",
    ]


def _service(kind: ServiceKind, place: Place) -> list[str]:
    command = [*place.program, "--config", str(place.config), "--state", str(place.state), *kind.arguments]
    groups = [group for group in kind.groups if place.groups is None or group in place.groups]
    return [
        *[f"# {note}" for note in kind.notes],
        "[Service]",
        *(["Type=notify", "NotifyAccess=main"] if kind.says_ready else ["Type=exec"]),
        f"ExecStart={' '.join(_quoted(word) for word in command)}",
        *(["ExecReload=/bin/kill -HUP $MAINPID"] if kind.arguments == ("edge",) else []),
        f"User={place.user}",
        *_groups(groups),
        *_writable(kind, place),
        "UMask=0077",
        "",
        *_restarts(kind, place.systemd),
        "",
        *_COMMON,
    ]


def _groups(groups: Sequence[str]) -> list[str]:
    if not groups:
        return []
    about = "# Cameras (video4linux, libcamera), GPUs and the Raspberry Pi's figures of heat and voltage."
    return [about, f"SupplementaryGroups={' '.join(groups)}"]


def _writable(kind: ServiceKind, place: Place) -> list[str]:
    lines, folders = [], [*place.others]
    if place.state.parent == _STATE_PARENT:
        lines = [f"StateDirectory={place.state.name}", "StateDirectoryMode=0700"]
    else:
        folders.append(place.state)
    if kind.arguments == ("fleet",):
        folders.append(place.registry)
    if kind.arguments == ("node", "run") and place.home is not None:
        lines.append("# Where an update puts the next version beside this one.")
        folders.append(place.home)
    if folders:
        lines.append(f"ReadWritePaths={' '.join(_quoted(f'-{folder}') for folder in folders)}")
    return lines


def _quoted(word: str) -> str:
    """One word of a unit. Source: systemd.unit(5), "Specifiers"; systemd.service(5), "Command lines"."""
    return shlex.quote(word.replace("%", "%%").replace("$", "$$"))


def _restarts(kind: ServiceKind, systemd: int) -> list[str]:
    lines = [
        "# A process that hangs is started again, the machine never is: a name server or a disk that all nodes share",
        "# would otherwise reboot all of them.",
    ]
    if kind.says_ready:
        lines += ["# Cameras and broker may be away, and it is well; see the runbook service.frozen.", "WatchdogSec=60"]
    lines += ["Restart=always", "RestartSec=2"]
    if systemd >= _STEPS_SINCE:
        lines += ["RestartSteps=6", "RestartMaxDelaySec=60"]
    if not kind.tries_for_ever:
        lines += ["# 78: the configuration is wrong, and stays so.", "RestartPreventExitStatus=78"]
    lines += [
        "TimeoutStartSec=120",
        "# What moves is ended, what was written is closed, what is in the outbox is sent for some seconds.",
        f"TimeoutStopSec={kind.stop_s}",
    ]
    if kind.stops_children:
        lines += ["# It stops its processes itself, along the data's way.", "KillMode=mixed"]
    return lines


_COMMON = """\
# The log goes to the journal and makes no writes of its own. For an SD card's sake keep the journal in memory:
# Storage=volatile in /etc/systemd/journald.conf.
StandardOutput=journal
StandardError=journal
LogRateLimitIntervalSec=30
LogRateLimitBurst=1000

# Under memory pressure others go first.
OOMScoreAdjust=-200
# Raising it needs no rights here, and lets eight cameras have their descriptors.
LimitNOFILE=8192

# It needs its state folder, cameras and the network, and gets nothing else.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
# adjtimex: reading whether the clock is right; setting it needs a capability that is not there.
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
# Left out on purpose: ProtectClock= forbids that reading and closes /dev; PrivateDevices= hides cameras;
# MemoryDenyWriteExecute= stops GStreamer's and the model runtime's code generators.
""".splitlines()

_TAIL = ["", "[Install]", "WantedBy=multi-user.target"]
