"""A camera that shows what a script says, and a bus that remembers what was said on it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from broker import Bus, Delivery, Frame
from broker.memory import MemoryBroker
from broker.messages import CameraState, MotionEvent, OpenEvents
from broker.outbox import Outbox
from broker.topics import (
    CAMERA_FRAME,
    CAMERA_MOTION,
    CAMERA_MOTION_ACTIVE,
    CAMERA_MOTION_OPEN,
    CAMERA_STATE,
    TopicSpec,
    everything,
)
from config import Clock, ManualClock
from config.settings import BusSettings, Settings
from edge.node import Node
from edge.source import CapturedFrame, Source
from tests.support.messages import jpeg as make_jpeg

Luma = NDArray[np.uint8]
Shot = Luma | Exception
FPS = 10

_TEXTURE = np.random.default_rng(3).integers(60, 140, (100, 133), np.uint8)
_JPEG = make_jpeg(133, 100)


def still(seconds: float) -> list[Shot]:
    """Nothing moves."""
    return [_TEXTURE] * round(seconds * FPS)


def walk(seconds: float) -> list[Shot]:
    """Somebody in white walks from the left to the right and out again."""
    shots: list[Shot] = []
    for number in range(round(seconds * FPS)):
        picture = _TEXTURE.copy()
        left = number * 5 % 120
        picture[30:70, left : left + 14] = 250
        shots.append(picture)
    return shots


class ScriptedSource:
    """Shows one picture after another, a tenth of a second apart on a simulated clock; an error is raised."""

    def __init__(self, shots: Iterable[Shot], clock: ManualClock, jpeg: bytes, *, stays: bool) -> None:
        self._shots = shots
        self._clock = clock
        self._jpeg = jpeg
        self._stays = stays
        self.closed = False

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        for seq, shot in enumerate(self._shots):
            if stop.is_set():
                return
            if isinstance(shot, Exception):
                raise shot
            yield CapturedFrame(
                seq=seq,
                captured_at=self._clock.now(),
                at_s=seq / FPS,
                luma=shot,
                width_px=133,
                height_px=100,
                encode=lambda _quality: self._jpeg,
            )
            self._clock.advance(1 / FPS)
        if self._stays:
            stop.wait(30)

    def close(self) -> None:
        self.closed = True


class Street:
    """A node with scripted cameras on a broker in memory.

    Args:
        folder: for the outbox.
        scripts: a camera's sessions, each a list of shots or the error that opening raises; the last one stays open
            after its last shot, unless `ends`.
    """

    def __init__(
        self,
        folder: Path,
        scripts: Mapping[str, Sequence[Sequence[Shot] | Exception]],
        *,
        broker: MemoryBroker | None = None,
        ends: bool = False,
        outbox_rows_max: int = 200_000,
        bus: BusSettings | None = None,
        jpeg_bytes: int = 0,
        **camera: object,
    ) -> None:
        self.clock = ManualClock()
        self.broker = broker or MemoryBroker()
        self.said: list[Delivery] = []
        self.fatal: list[Exception] = []
        self.sources: list[ScriptedSource] = []
        self._ends = ends
        self._jpeg = _JPEG + bytes(max(0, jpeg_bytes - len(_JPEG)))
        self._ready = threading.Event()
        self._scripts = {name: iter(sessions) for name, sessions in scripts.items()}
        self._left = {name: len(sessions) for name, sessions in scripts.items()}
        cameras = {name: {"source": f"synthetic:{name}", "motion": {"hold_s": 1.0}, **camera} for name in scripts}
        settings = Settings.model_validate({"site": "home", "node": "node-1", "cameras": cameras})
        self._listener = Bus(site="home", origin="node-1.test", transports=self.broker.transports("test"))
        self.bus = Bus(
            site="home",
            origin="node-1.edge",
            transports=self.broker.transports("edge"),
            outbox=Outbox(folder / "edge.db", origin="node-1.edge", rows_max=outbox_rows_max),
            settings=bus,
        )
        self.node = Node(self.bus, settings, clock=self.clock, on_fatal=self.fatal.append, open_source=self._open)

    def _open(self, uri: str, *, clock: Clock, fps_max: float | None, stall_timeout_s: float) -> Source:
        name = uri.partition(":")[2]
        assert self._ready.wait(10)
        self._left[name] -= 1
        session = next(self._scripts[name])
        if isinstance(session, Exception):
            raise session
        stays = not self._left[name] and not self._ends
        source = ScriptedSource(session, self.clock, self._jpeg, stays=stays)
        self.sources.append(source)
        return source

    def __enter__(self) -> Self:
        self._listener.subscribe_filter(everything("home"), self.said.append)
        self._listener.start()
        assert self._listener.wait_connected(5)
        self.node.start()
        self.bus.start()
        assert self.bus.wait_connected(5)
        self._ready.set()
        return self

    def close(self) -> None:
        """End the node, then the bus, as the role does."""
        self.node.close()
        self.bus.close(2.0 if self.bus.connected else 0.0)

    def __exit__(self, *_exc: object) -> None:
        self.close()
        self._listener.close(0)

    def heard(self, spec: TopicSpec, camera: str) -> Iterator[Delivery]:
        return (d for d in list(self.said) if d.topic.spec is spec and d.topic.camera == camera and not d.retained)

    def states(self, camera: str = "yard") -> list[CameraState]:
        return [d.content for d in self.heard(CAMERA_STATE, camera) if isinstance(d.content, CameraState)]

    def motions(self, camera: str = "yard") -> list[MotionEvent]:
        return [d.content for d in self.heard(CAMERA_MOTION, camera) if isinstance(d.content, MotionEvent)]

    def frames(self, camera: str = "yard") -> list[Frame]:
        return [d.content for d in self.heard(CAMERA_FRAME, camera) if isinstance(d.content, Frame)]

    def active(self, camera: str = "yard") -> list[str]:
        return [str(d.content) for d in self.heard(CAMERA_MOTION_ACTIVE, camera)]

    def open_ids(self, camera: str = "yard") -> list[tuple[str, ...]]:
        said = self.heard(CAMERA_MOTION_OPEN, camera)
        return [d.content.ids for d in said if isinstance(d.content, OpenEvents)]
