"""`vigil fleet`: what keeps cameras and nodes in order, as a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import click

from broker import Bus
from config import TransientError, stop_on_signals
from config.settings import Settings
from fleet.discovery.finder import Finder
from fleet.nodes.keeper import NodeKeeper
from fleet.registry.publisher import Publisher
from fleet.registry.writer import take_writer
from fleet.role import Part, run_fleet
from fleet.schedules import Scheduler

__all__ = ["fleet"]

_WRITER_WAIT_S = 2.0
Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@click.pass_obj
def fleet(load: Load) -> None:
    """Keep the site's cameras and nodes in order: its registry on the bus, its nodes let in.

    It reads the folder `fleet.registry` about once a second, and publishes what has changed. Nothing that runs depends
    on it: what it has published holds while it is away.

    \b
    Examples:
      vigil fleet
      vigil --bus mqtt://10.0.0.2:1883 fleet
    """
    settings = load({})
    stop = threading.Event()
    stop_on_signals(stop)

    def parts(bus: Bus) -> list[Part]:
        publisher = Publisher(bus, settings)
        return [
            publisher,
            NodeKeeper(bus, settings, publisher),
            Finder(bus, settings, publisher),
            Scheduler(bus, settings, publisher),
        ]

    with take_writer(settings, wait_s=_WRITER_WAIT_S) as is_ours:
        if not is_ours:
            raise TransientError(  # that one may be about to end
                f"`vigil fleet` runs on this machine already, with the same state folder {settings.state_dir}: "
                "stop that one, or leave it to it"
            )
        run_fleet(settings, "fleet", stop, parts)
