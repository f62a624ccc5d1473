"""`vigil edge`: this node's cameras as a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import click

from config import ConfigError, stop_on_signals
from config.options import camera_option, role_option
from config.settings import Settings

__all__ = ["edge"]

Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@camera_option("A camera; may be given again. With one or more, only these run.  [default: those of the site file]")
@role_option("edge")
@click.pass_obj
def edge(load: Load, cameras: dict[str, dict[str, str]], role: str) -> None:
    """Watch this node's cameras: their motion, their state and their frames go onto the bus.

    A frame is sent `idle_fps` times a second while nothing moves and `motion_fps` times while something does. Each
    camera runs on its own: one that breaks says so in its state and is opened again, and the others go on.

    \b
    Sources:
      synthetic:street?seed=3&fps=10     a street drawn by code
      file:yard.mp4                      a video at its own pace, over and over; ?loop=0 once
      file:yard.mp4?pace=max             every frame, once, as fast as the machine can

    \b
    Examples:
      vigil edge
      vigil edge --camera street=synthetic:street
      vigil --bus mqtt://10.0.0.2:1883 edge --camera yard=file:yard.mp4 --camera "door=file:door.mp4?loop=0"
    """
    settings = load({"cameras": cameras})
    if cameras:
        only = {name: camera for name, camera in settings.cameras.items() if name in cameras}
        settings = settings.model_copy(update={"cameras": only})
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        from edge.node import run_edge
    except ModuleNotFoundError as error:
        raise ConfigError(f"the edge needs the package {error.name}: pip install 'vigil-mesh[edge]'") from error
    run_edge(settings, role, stop)
