"""`vigil edge`: this node's cameras as a process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from config import ConfigError, stop_on_signals
from config.options import camera_option, role_option
from config.settings import Settings

if TYPE_CHECKING:
    from edge.role import OpenScorer

__all__ = ["edge"]


class Load(Protocol):
    """Reads the settings; :class:`console.loading.SettingsLoader` does.

    Attributes:
        file: the site file, where there is one.
    """

    file: Path | None

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them, and set up the logs."""
        ...

    def read(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them, and leave the logs alone."""
        ...


@click.command()
@camera_option("A camera; may be given again. With one or more, only these run.  [default: those of the site file]")
@role_option("edge")
@click.pass_obj
def edge(load: Load, cameras: dict[str, dict[str, str]], role: str, *, open_scorer: OpenScorer | None = None) -> None:
    """Watch this node's cameras: their motion, their state and their frames go onto the bus.

    A frame is sent `idle_fps` times a second while nothing moves and `motion_fps` times while something does. Each
    camera runs on its own: one that breaks says so in its state and is opened again, and the others go on. With
    `edge.detector: true` this process scores the frames too, and raises escalations without any network.

    What changes in the site file is applied to the cameras that it changes, while it runs; so is what the site's
    registry says, and what is told to a camera over the bus (`vigil camera set`). Without any camera it waits for those
    that the registry gives to this node, or to a pool in which it takes part.

    \b
    Sources:
      rtsp://admin:secret@10.0.0.7/main  a network camera; rtsps:// with TLS, #tls=insecure for its own certificate
      http://10.0.0.8/video.mjpeg        MJPEG or HLS; https:// too
      v4l2:/dev/video0                   a USB camera; ?format=jpeg&width=1280&height=720&fps=10
      libcamera:                         a Raspberry Pi's own camera; ?width=1280&height=720
      synthetic:street?seed=3&fps=10     a street drawn by code
      synthetic:room                     somebody who sits, bends over, falls and lies, every two minutes
      file:yard.mp4                      a video at its own pace, over and over; ?loop=0 once
      file:yard.mp4?pace=max             every frame, once, as fast as the machine can

    \b
    Examples:
      vigil edge
      vigil edge --camera street=synthetic:street
      vigil edge --camera yard=rtsp://10.0.0.7/stream1
      vigil --bus mqtt://10.0.0.2:1883 edge --camera yard=file:yard.mp4 --camera "door=file:door.mp4?loop=0"
    """
    stop, asked = threading.Event(), threading.Event()
    stop_on_signals(stop, hang_up=asked)
    settings = _only(load({"cameras": cameras}), cameras)
    try:
        from edge.role import run_edge
        from edge.settings_file import SettingsFile
    except ModuleNotFoundError as error:
        raise ConfigError(f"the edge needs the package {error.name}: pip install 'vigil-mesh[edge]'") from error
    # A second process of the machine would take the same cameras; and who names cameras wants these.
    adopts = role == "edge" and not cameras
    file = SettingsFile(load.file, lambda: _only(load.read({"cameras": cameras}), cameras), asked, waits=adopts)
    run_edge(
        settings,
        role,
        stop,
        file=file,
        adopts=adopts,
        open_scorer=open_scorer if settings.edge.detector else None,
    )


def _only(settings: Settings, names: Collection[str]) -> Settings:
    """The settings with these cameras only, where any are named."""
    if not names:
        return settings
    only = {name: camera for name, camera in settings.cameras.items() if name in names}
    return settings.model_copy(update={"cameras": only})
