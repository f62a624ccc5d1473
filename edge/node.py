"""The edge as a role: every camera of this node, each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from broker import Bus, Figures, Presence, connect
from config import Clock, ConfigError, PermanentError, SystemClock, get_logger
from config.secrets import mask_uri
from config.settings import Settings
from edge.camera import Camera, OpenSource
from edge.capture import open_source, parse_source
from edge.reports import CameraReports

__all__ = ["Node", "check_sources", "run_edge"]

_LEAVE_S = 5.0
"""Seconds for a camera to end: a picture takes milliseconds, a pipeline at most some tenths."""


class Node:
    """The cameras of one machine. The trouble of one never touches another.

    Concurrency: `start`, `close` and `wait_ended` belong to one thread.

    Args:
        bus: with an outbox; start it after the node, so that nothing retained is missed.
        settings: the site's settings.
        clock: time.
        on_fatal: called when no camera is left and each of them needs a person.
        open_source: how to open a source.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        *,
        clock: Clock,
        on_fatal: Callable[[Exception], None],
        open_source: OpenSource = open_source,
    ) -> None:
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._ended: dict[str, Exception | None] = {}
        self._all_ended = threading.Event()
        self._cameras = [
            Camera(
                name,
                camera,
                CameraReports(
                    bus,
                    name,
                    node=settings.node,
                    source=mask_uri(camera.source),
                    quality=camera.jpeg_quality,
                    clock=clock,
                ),
                clock=clock,
                stall_timeout_s=settings.edge.stall_timeout_s,
                open_source=open_source,
                on_end=self._on_end,
            )
            for name, camera in settings.cameras.items()
        ]

    def start(self) -> None:
        """Begin to watch."""
        for camera in self._cameras:
            camera.start()

    def close(self) -> None:
        """Stop watching: movements end, cameras go offline, one that failed stays in error."""
        for camera in self._cameras:
            camera.stop()
        for camera in self._cameras:
            if not camera.join(_LEAVE_S):
                get_logger().error("camera.stuck", camera=camera.name, waited_s=_LEAVE_S)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until no camera is left; True when none is."""
        return self._all_ended.wait(timeout_s)

    def figures(self) -> Figures:
        """What this node adds to its health."""
        figures = [camera.figures for camera in self._cameras]
        reports = [camera.reports for camera in self._cameras]
        return Figures(
            drops={
                "frames_late": sum(f.late for f in figures),
                "frames_unsent_here": sum(r.frames_unsent for r in reports),
                "motion_refused": sum(r.events_refused for r in reports),
            },
            counts={
                "cameras": len(self._cameras),
                "cameras_ended": len(self._ended),
                "frames_captured": sum(f.captured for f in figures),
                "frames_sent": sum(r.frames_sent for r in reports),
                "frames_reduced": sum(r.frames_reduced for r in reports),
                "movements": sum(f.movements for f in figures),
                "sources_opened": sum(f.opened for f in figures),
            },
        )

    def _on_end(self, camera: Camera, error: Exception | None) -> None:
        with self._lock:
            self._ended[camera.name] = error
            if len(self._ended) < len(self._cameras):
                return
            errors = [f"camera {name}: {error}" for name, error in self._ended.items() if error is not None]
        self._all_ended.set()
        if len(errors) == len(self._cameras):
            self._on_fatal(PermanentError("; ".join(errors)))


def check_sources(settings: Settings) -> None:
    """Read the source of every camera without opening any.

    Raises:
        ConfigError: there is no camera, or one of them is wrong.
    """
    if not settings.cameras:
        raise ConfigError("there is no camera; add one, or give --camera NAME=SOURCE", field="cameras")
    for name, camera in settings.cameras.items():
        try:
            parse_source(camera.source)
        except ConfigError as error:
            raise ConfigError(error.message, field=f"cameras.{name}.source") from error


def run_edge(settings: Settings, role: str, stop: threading.Event) -> None:
    """Watch this node's cameras until `stop` is set.

    Cameras whose source has ended stay offline; the role goes on.

    Args:
        settings: the site's settings.
        role: ``edge``, or ``edge.2`` for a second one on the machine.
        stop: set by signals, or by a test.

    Raises:
        ConfigError: there is no camera, or a source is wrong.
        PermanentError: no camera works, the outbox cannot be opened, or the broker refuses us for good.
    """
    check_sources(settings)
    clock = SystemClock()
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = connect(settings, role, with_outbox=True, clock=clock, on_fatal=on_fatal)
    node = Node(bus, settings, clock=clock, on_fatal=on_fatal)
    presence = Presence(bus, settings, role, figures=node.figures, clock=clock)
    node.start()
    bus.start()
    presence.start()
    get_logger().info("edge.started", cameras=list(settings.cameras), bus=settings.bus.url)
    stop.wait()
    node.close()
    presence.close()
    bus.close()
    get_logger().info("edge.stopped", **node.figures().counts)
    if fatal:
        raise fatal[0]
