"""A role in a container: the engine's client is the child process, and its end, output and stdin are the role's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.messages import Hardware
from config.process import RoleProcess
from config.settings import Settings
from fleet.agent.wanted import WantedRole

__all__ = ["ContainerProcess", "container_command", "container_name"]

_ENGINE_TIMEOUT_S = 10.0
_STOP_S = 6
"""Seconds that the engine gives the container for its orderly end."""


def container_name(settings: Settings, role: str) -> str:
    """What the container of a role is called."""
    return f"vigil-{settings.site}-{settings.node}-{role}"


def container_command(
    wanted: WantedRole,
    settings: Settings,
    *,
    site_file: Path,
    hardware: Hardware,
    notify: Mapping[str, str],
    secrets: Sequence[str],
) -> list[str]:
    """The command line that runs a role in a container.

    Its stdin stays open to this process, so that the role leaves when this process is gone; it has the machine's
    network, the state folder in its place, and the user and groups of this process.

    Args:
        wanted: the role.
        settings: with which it runs.
        site_file: has them; below the state folder.
        hardware: of the machine: it gets the cameras, and the GPUs that it may use.
        notify: what lets it say how it is.
        secrets: names of variables of the client's environment that it is to have. Their values stay out of `ps`.
    """
    options = ["--rm", "--interactive", "--network", "host", "--name", container_name(settings, wanted.name)]
    options += _as_this_user(wanted.engine)
    for variable, value in notify.items():
        options += ["--env", f"{variable}={value}"]
    for variable in secrets:
        options += ["--env", variable]
    for folder in _folders(settings, Path(notify["NOTIFY_SOCKET"]).parent):
        options += ["--volume", f"{folder}:{folder}"]
    for camera in hardware.cameras:
        options += ["--device", camera.removeprefix("v4l2:")]
    if hardware.gpus:
        options += _gpu_options(wanted)
    program = ["vigil", "--until-stdin-closes", "--config", str(site_file), *wanted.arguments]
    return [wanted.engine, "run", *options, wanted.image, *program]


def _as_this_user(engine: str) -> list[str]:
    if engine == "podman":
        # Else podman itself would listen to what is meant for this process.
        own = ["--userns", "keep-id", "--group-add", "keep-groups"] if os.geteuid() else []
        return ["--sdnotify", "ignore", *own]
    groups = [option for group in sorted(os.getgroups()) for option in ("--group-add", str(group))]
    return ["--user", f"{os.geteuid()}:{os.getegid()}", *groups]


def _folders(settings: Settings, sockets: Path) -> list[Path]:
    """What the role reads and writes outside of its image."""
    named = [settings.bus.identity, settings.bus.ca_file, settings.edge.footage.folder]
    named += [settings.detector.model, settings.detector.models_folder]
    state = settings.state_dir.absolute()
    others = [place.absolute() for place in named if place is not None]
    return [state, sockets, *(place for place in others if not place.is_relative_to(state) and place.exists())]


def _gpu_options(wanted: WantedRole) -> list[str]:
    if wanted.gpus == ():
        return []
    numbers = ["all"] if wanted.gpus is None else [str(number) for number in wanted.gpus]
    if wanted.engine == "podman":
        return [part for number in numbers for part in ("--device", f"nvidia.com/gpu={number}")]
    # With the quotes: docker reads the value as a line of CSV.
    return ["--gpus", "all" if wanted.gpus is None else f'"device={",".join(numbers)}"']


class ContainerProcess(RoleProcess):
    """A role whose process is an engine's client. The container is found, stopped and killed by its name.

    Args:
        name: the role.
        command: as :func:`container_command` makes it.
        container: its name.
        log_file: where its output goes.
        environment: of the client.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, container: str, log_file: Path, environment: Mapping[str, str]
    ) -> None:
        super().__init__(name, command, log_file=log_file, environment=environment)
        self._engine = command[0]
        self._container = container
        self._stopping: subprocess.Popen[bytes] | None = None

    def start(self, now_s: float) -> None:
        """Start the container; one of its name that an earlier agent left behind goes first."""
        if self._ask("container", "inspect", "--format", "{{.State.Status}}", self._container):
            self._ask("rm", "--force", self._container)
        super().start(now_s)

    def ask_to_stop(self) -> None:
        """Tell the engine to stop it; it is not started again."""
        self._retry_at_s = None
        if self.running and self._stopping is None:
            self._stopping = subprocess.Popen(
                [self._engine, "stop", "--time", str(_STOP_S), self._container],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def kill(self) -> None:
        """Tell the engine to kill it, and end its client."""
        self._ask("kill", self._container)
        super().kill()

    def wait_stopped(self, timeout_s: float) -> bool:
        """As of a process; an engine that does not stop it is told to kill it."""
        if self.running and timeout_s <= 0:
            self._ask("kill", self._container)
        ended = super().wait_stopped(timeout_s)
        if self._stopping is not None:
            self._stopping.kill()
            self._stopping.wait()
            self._stopping = None
        return ended

    def _ask(self, *arguments: str) -> bool:
        """Give the engine an order; whether it carried it out."""
        try:
            done = subprocess.run(
                [self._engine, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_ENGINE_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0
