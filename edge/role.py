"""The edge as a role: bus, node, scorer and presence, from the first second to the last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from broker import Bus, Figures, Presence, connect
from broker.local import LocalBus
from broker.machine import Machine
from broker.topics import origin_of
from config import Clock, PermanentError, SystemClock, TransientError, get_logger
from config.clock import local_zone
from config.logins import logins_file
from config.settings import Settings
from edge.camera import Surroundings
from edge.capture import open_packets, open_source
from edge.forwarding import forwarding
from edge.health import MachineWatch
from edge.node import Node
from edge.recordings import Recordings
from edge.remembered import Remembered
from edge.settings_file import SettingsFile, check_sources
from edge.watch import Vitals

if TYPE_CHECKING:
    from edge.privacy import FindPeople

__all__ = ["OpenScorer", "Scorer", "run_edge"]


class Scorer(Protocol):
    """Scores this node's frames in this process. The composition root brings it: the edge knows no model.

    Attributes:
        find_people: finds people in pictures that nobody has seen yet.
    """

    find_people: FindPeople

    def start(self) -> None:
        """Ask for frames and begin to score."""
        ...

    def leave(self, camera: str) -> None:
        """Another node watches a camera from now on."""
        ...

    def close(self) -> None:
        """Score what waits, for some seconds, and end."""
        ...

    def figures(self) -> Figures:
        """What it adds to the process's health."""
        ...


OpenScorer = Callable[[Bus, Settings, Clock, Callable[[Exception], None]], Scorer]
"""Opens what scores the frames of a bus, before that is started; the last argument is called when it cannot go on."""


def run_edge(
    settings: Settings,
    role: str,
    stop: threading.Event,
    *,
    file: SettingsFile | None = None,
    adopts: bool = False,
    open_scorer: OpenScorer | None = None,
) -> None:
    """Watch this node's cameras until `stop` is set.

    Cameras whose source has ended stay offline; the role goes on. One that adopts begins without any camera too, and
    waits for the site's documents.

    Args:
        settings: the site's settings.
        role: ``edge``, or ``edge.2`` for a second one on the machine.
        stop: set by signals, or by a test.
        file: the settings on disk, to be applied when they change.
        adopts: whether the site may give cameras to this node that its own settings do not name.
        open_scorer: opens what scores this node's frames in this process; None leaves them to workers elsewhere.

    Raises:
        ConfigError: there is no camera and none can come, a source is wrong, or the scorer's model cannot be used.
        PermanentError: no camera of the node's own settings works, the outbox cannot be opened, or the broker refuses
            us for good.
    """
    check_sources(settings, waits=adopts)
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    edge = _Edge(settings, role, file=file, adopts=adopts, open_scorer=open_scorer, on_fatal=on_fatal)
    edge.start()
    stop.wait()
    edge.close()
    if fatal:
        raise fatal[0]


class _Edge:
    """The parts of the process, begun and ended in the order of what flows between them."""

    def __init__(
        self,
        settings: Settings,
        role: str,
        *,
        file: SettingsFile | None,
        adopts: bool,
        open_scorer: OpenScorer | None,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        clock = SystemClock()
        self._settings = settings
        make = Bus if open_scorer is None else partial(LocalBus, forward=forwarding(settings.edge.send_frames))
        bus = self._bus = connect(settings, role, with_outbox=True, clock=clock, on_fatal=on_fatal, make=make)
        self._scorer = None if open_scorer is None else open_scorer(bus, settings, clock, on_fatal)
        footage = settings.edge.footage
        self._recordings = Recordings(footage.folder or settings.state_dir / "footage", footage, bus=bus, clock=clock)
        if any(camera.recording.mode != "off" for camera in settings.cameras.values()):
            # A wrong setting is told at once; a full disk by the cameras, which try again.
            with suppress(TransientError, PermanentError):
                self._recordings.open()
        vitals = Vitals()
        self._machine = MachineWatch(Machine().read, vitals, hot_c=settings.edge.hot_c, clock=clock)
        origin = origin_of(settings.node, role)
        around = Surroundings(
            bus=bus,
            settings=settings,
            remembered=Remembered(settings.state_dir / "edge" / settings.site / f"{origin}.json"),
            logins_file=logins_file(settings),
            clock=clock,
            zone=local_zone(),
            open_source=open_source,
            open_packets=open_packets,
            recordings=self._recordings,
            find_people=self._scorer.find_people if self._scorer is not None else None,
            vitals=vitals,
        )
        self._node = Node(
            around,
            role=role,
            on_fatal=on_fatal,
            on_left=self._scorer.leave if self._scorer is not None else None,
            file=file,
            adopts=adopts,
        )
        self._presence = Presence(
            bus,
            settings,
            role,
            figures=self._figures,
            machine=self._machine.figures,
            takes_orders=True,
            describe=self._in_a_line,
            clock=clock,
        )

    def start(self) -> None:
        """Begin; the bus after the node, so that nothing retained is missed."""
        self._machine.start()
        if self._scorer is not None:
            self._scorer.start()
        self._node.start()
        self._bus.start()
        self._presence.start()
        get_logger().info("edge.started", cameras=list(self._settings.cameras), bus=self._settings.bus.url)

    def close(self) -> None:
        """End, so that what each part still says gets out."""
        self._machine.close()
        self._node.close()
        if self._scorer is not None:  # before the recordings: what it raises now still has a clip
            self._scorer.close()
        self._recordings.close()
        self._presence.close()
        self._bus.close()
        get_logger().info("edge.stopped", **self._node.figures().counts)

    def _figures(self) -> Figures:
        """What the process adds to its health."""
        scorer = _of_scorer(self._scorer.figures()) if self._scorer is not None else Figures()
        cameras = Figures(cameras=self._node.health())
        return _together(self._node.figures(), cameras, self._recordings.figures(), scorer)

    def _in_a_line(self) -> str:
        """How the process is, for `systemctl status`."""
        counts = self._node.figures().counts
        return f"{counts['cameras']} cameras, {counts['frames_captured']} pictures looked at"


def _together(*parts: Figures) -> Figures:
    whole = Figures()
    for part in parts:
        whole.queues.update(part.queues)
        whole.drops.update(part.drops)
        whole.counts.update(part.counts)
        whole.cameras.update(part.cameras)
        whole.distributions.update(part.distributions)
    return whole


def _of_scorer(figures: Figures) -> Figures:
    """Its figures under names that are no other part's."""

    def named(numbers: dict[str, int]) -> dict[str, int]:
        return {f"scorer_{name}": count for name, count in numbers.items()}

    return Figures(
        queues=named(figures.queues),
        drops=named(figures.drops),
        counts=named(figures.counts),
        distributions=figures.distributions,
    )
