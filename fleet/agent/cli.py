"""`vigil node run`: the agent of this machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from config import ConfigError, stop_on_signals
from config.service import Service, is_service
from config.settings import Settings
from fleet.agent.agent import Agent
from fleet.agent.hardware import look_at_machine
from fleet.agent.logins import LoginsOfCameras
from fleet.agent.role import Addition, run_agent
from fleet.nodes.membership import Membership
from fleet.nodes.place import PlacedLoad, is_unclaimed
from fleet.updates.installed import installed_here
from fleet.updates.updater import Updater

__all__ = ["run"]

ROLE = "agent"


class Load(Protocol):
    """Reads the settings; :class:`console.loading.SettingsLoader` does.

    Attributes:
        file: the site file, where there is one.
    """

    file: Path | None

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them, and set up the logs."""
        ...

    def check(self, overrides: Mapping[str, Any] | None = None) -> tuple[Settings | None, list[ConfigError]]:
        """The settings and no errors, or None and everything that is wrong."""
        ...


@click.command()
@click.pass_obj
def run(load: Load) -> None:
    """Run what the site asks of this machine: its processes, as many of each as its document says.

    Until the site has accepted the node, it greets. What the site said last is remembered, so that everything runs
    also while the broker is away. A process that dies or hangs is started again; what cannot be done is told, with
    the reason, in `vigil node show`. systemd runs this command on an installed node (`vigil service install`).

    On a machine that nobody has configured (no site, no bus, no certificates, no broker here) it announces itself on
    the network, and waits until `vigil node adopt` takes it into a site.

    \b
    Examples:
      vigil node run
      vigil --node porch --bus mqtt://10.0.0.2:1883 node run
    """
    stop = threading.Event()
    stop_on_signals(stop)
    placed = PlacedLoad(load)
    settings = placed()
    if is_unclaimed(settings):
        # Here, not above: an installed node of a site without certificates needs neither library of it.
        from fleet.nodes.adoption import wait_adopted

        waiting = Service(lambda: "waits until `vigil node adopt` takes it into a site")
        waiting.ready()
        is_adopted = wait_adopted(settings, stop, model=look_at_machine().model)
        waiting.stopping()
        if not is_adopted or is_service():  # systemd starts it again, as a member of its site
            return
        placed = PlacedLoad(load)
        settings = placed()
    memberships: list[Membership] = []
    updaters: list[Updater] = []
    installed = installed_here()

    def additions(agent: Agent) -> Sequence[Addition]:
        memberships.append(Membership(agent, settings, given_name=placed.own.node))
        updaters.append(Updater(agent, settings, installed))
        return [LoginsOfCameras(agent, settings), *memberships, *updaters]

    run_agent(settings, ROLE, stop, load=placed, additions=additions)
    if is_service():
        return  # systemd starts it again, as what it is now
    # In place, so that it goes on also where no service starts it again.
    if installed is not None and any(updater.has_switched for updater in updaters):
        launcher = str(installed.home / "launch")
        os.execv(launcher, [launcher, *sys.argv[1:]])  # noqa: S606 - this very command, as another version
    if any(membership.moved for membership in memberships):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
