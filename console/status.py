"""How `vigil up` shows the mesh: in place on a terminal, as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from config.text import printable
from console.mesh import CameraFigures, MeshSnapshot

__all__ = ["PlainScreen", "Screen", "TerminalScreen", "camera_line", "mesh_line", "watched"]

PLAIN_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 1.0


class Screen(Protocol):
    """Where a person reads what the mesh does."""

    def note(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, mesh: MeshSnapshot, absent: Sequence[str], now_s: float) -> None:
        """The mesh as it is now; called often, shows as often as it likes.

        Args:
            mesh: what the bus says.
            absent: roles that are not running, with the reason.
            now_s: monotonic seconds.
        """
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


class PlainScreen:
    """Plain lines every ten seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._shown_s: float | None = None

    def note(self, text: str) -> None:
        """One line."""
        click.echo(text)

    def show(self, mesh: MeshSnapshot, absent: Sequence[str], now_s: float) -> None:
        """One line a camera and one for the mesh, when ten seconds have passed."""
        self._shown_s = now_s if self._shown_s is None else self._shown_s
        if now_s - self._shown_s < PLAIN_INTERVAL_S:
            return
        self._shown_s = now_s
        clock = f"{datetime.now().astimezone():%H:%M:%S}"
        width = max((len(camera.name) for camera in mesh.cameras), default=0)
        for camera in mesh.cameras:
            click.echo(f"{clock} {camera.name:<{width}}  {camera_line(camera)}")
        click.echo(f"{clock} {mesh_line(mesh, absent)}")

    def close(self) -> None:
        """Nothing to undo."""


class TerminalScreen:
    """A table that is drawn in place.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._shown_s = float("-inf")
        self._live.start()

    def note(self, text: str) -> None:
        """One line above the table."""
        self.console.print(Text(text))

    def show(self, mesh: MeshSnapshot, absent: Sequence[str], now_s: float) -> None:
        """Draw the table anew, once a second."""
        if now_s - self._shown_s >= TERMINAL_INTERVAL_S:
            self._shown_s = now_s
            self._live.update(_table(mesh, absent), refresh=True)

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()


def camera_line(camera: CameraFigures) -> str:
    """A camera's figures as one line."""
    parts = [
        f"in {camera.fps_in:.1f} fps",
        f"scored {camera.fps_scored:.1f} fps",
        f"p50 {_ms(camera.latency_p50_ms)} ms",
        f"p99 {_ms(camera.latency_p99_ms)} ms",
        f"motion {'ON' if camera.motion else 'OFF'}",
        f"escalations {camera.escalations}",
    ]
    if watched(camera) != "monitor":
        parts.append(watched(camera))
    if camera.state != "online":
        parts.append(camera.state if camera.error is None else f"{camera.state}: {printable(camera.error)}")
    return "  ".join(parts)


def watched(camera: CameraFigures) -> str:
    """How a camera is watched, in words: its mode, and what is not as usual."""
    words = [
        camera.mode,
        "private" if camera.privacy else "",
        "" if camera.detection else "not scored",
        "no worker takes it" if camera.orphan and camera.detection and not camera.privacy else "",
        {"off": "", "on": "recording", "failed": "recording failed"}[camera.recording],
    ]
    return ", ".join(word for word in words if word)


def mesh_line(mesh: MeshSnapshot, absent: Sequence[str]) -> str:
    """What belongs to no single camera: drops, rejects, and roles that are missing."""
    drops = ", ".join(f"{printable(queue, 40)} {count}" for queue, count in mesh.dropped().items()) or "none"
    parts = [f"drops: {drops}", f"rejects: {mesh.rejected}"]
    if not mesh.cameras:
        parts.insert(0, "no camera has reported yet")
    if absent:
        parts.append("down: " + "; ".join(printable(reason, 120) for reason in absent))
    return "  ".join(parts)


def _table(mesh: MeshSnapshot, absent: Sequence[str]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("camera", style="bold")
    for heading in ("fps in", "scored", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    table.add_column("motion")
    table.add_column("watched")
    table.add_column("escalations", justify="right")
    for camera in mesh.cameras:
        motion = Text("ON", style="bold yellow") if camera.motion else Text("OFF", style="dim")
        table.add_row(
            Text(camera.name),
            f"{camera.fps_in:.1f}",
            f"{camera.fps_scored:.1f}",
            _ms(camera.latency_p50_ms),
            _ms(camera.latency_p99_ms),
            motion,
            Text(watched(camera), style="" if camera.privacy or camera.recording == "failed" else "dim"),
            str(camera.escalations),
        )
    lines: list[RenderableType] = [Text(), table]
    lines += [
        Text(f"{camera.name}: {camera.state}: {printable(camera.error)}", style="red")
        for camera in mesh.cameras
        if camera.error
    ]
    lines.append(Text(mesh_line(mesh, absent), style="red" if absent else "dim"))
    return Group(*lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
