"""A camera that shows what a script says, and a bus that remembers what was said on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from broker import Bus, Delivery, Frame
from broker.memory import MemoryBroker
from broker.messages import (
    CameraDocument,
    CameraState,
    Command,
    CommandValue,
    MotionEvent,
    OpenEvents,
    Reject,
    Reply,
)
from broker.outbox import Outbox
from broker.topics import (
    CAMERA_FRAME,
    CAMERA_MOTION,
    CAMERA_MOTION_ACTIVE,
    CAMERA_MOTION_OPEN,
    CAMERA_SET,
    CAMERA_STATE,
    NODE_COMMAND,
    REGISTRY_CAMERA,
    TopicSpec,
    everything,
)
from config import Clock, ManualClock, TransientError
from config.settings import BusSettings, Settings
from edge.camera import Surroundings
from edge.node import Node
from edge.picture import Picture, Retouch, reduced_size
from edge.privacy import FindPeople
from edge.recordings import Recordings
from edge.remembered import Remembered
from edge.settings_file import SettingsFile
from edge.source import CapturedFrame, PacketSource, Source, SourceOptions
from edge.watch import Vitals
from tests.support.messages import jpeg as make_jpeg
from tests.support.waiting import wait_until

Luma = NDArray[np.uint8]
Shot = Luma | Exception
FPS = 10

_TEXTURE = np.random.default_rng(3).integers(60, 140, (100, 133), np.uint8)
_GRAY = np.full((50, 67), 128, np.uint8)
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


def live() -> Iterator[Shot]:
    """Nothing moves, without an end, about as fast as a camera."""
    while True:
        time.sleep(0.004)
        yield _TEXTURE


class ScriptedSource:
    """Shows one picture after another, a tenth of a second apart on a simulated clock; an error is raised."""

    gives_packets = False

    def __init__(self, name: str, shots: Iterable[Shot], clock: ManualClock, jpeg: bytes, *, stays: bool) -> None:
        self.name = name
        self._shots = shots
        self._clock = clock
        self._jpeg = jpeg
        self._stays = stays
        self.closed = False
        self.looked_at = 0
        self.only_keyframes: list[bool] = []

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
                encode=partial(self._encode, shot),
                picture=partial(_picture, shot),
            )
            # Who asks for the next one is through with this one; the node counts a picture before it looks at it.
            self._clock.advance(1 / FPS)
            self.looked_at += 1
        if self._stays:
            stop.wait(30)

    def _encode(
        self, shot: Luma, quality: int, *, height_px: int | None = None, retouch: Retouch | None = None
    ) -> bytes:
        if retouch is not None:
            retouch(_picture(shot))
        size_px = reduced_size(133, 100, height_px)
        return self._jpeg if size_px == (133, 100) else make_jpeg(*size_px)

    def keyframes_only(self, *, only: bool) -> None:
        self.only_keyframes.append(only)

    def close(self) -> None:
        self.closed = True


def _picture(luma: Luma) -> Picture:
    return Picture(luma.copy(), _GRAY.copy(), _GRAY.copy())


def _no_packets(uri: str, *, clock: Clock, options: SourceOptions) -> PacketSource:
    raise TransientError("no camera here has a main stream")


def _nobody(_message: object) -> int:
    raise TransientError("dead")


class Street:
    """A node with scripted cameras on a broker in memory.

    Args:
        folder: for the outbox.
        scripts: a camera's sessions, each a list of shots or the error that opening raises; the last one stays open
            after its last shot, unless `ends`.
        configured: cameras that the node's own settings name; default all that have a script.
    """

    def __init__(
        self,
        folder: Path,
        scripts: Mapping[str, Sequence[Iterable[Shot] | Exception]],
        configured: Sequence[str] | None = None,
        *,
        broker: MemoryBroker | None = None,
        ends: bool = False,
        outbox_rows_max: int = 200_000,
        bus: BusSettings | None = None,
        jpeg_bytes: int = 0,
        file: SettingsFile | None = None,
        adopts: bool = False,
        find_people: FindPeople | None = None,
        **camera: object,
    ) -> None:
        self.clock = ManualClock()
        self.broker = broker or MemoryBroker()
        self.said: list[Delivery] = []
        self.fatal: list[Exception] = []
        self.sources: list[ScriptedSource] = []
        self._ends = ends
        self._dead = False
        self._guests: list[Bus] = []
        self._jpeg = _JPEG + bytes(max(0, jpeg_bytes - len(_JPEG)))
        self._ready = threading.Event()
        self._scripts = {name: iter(sessions) for name, sessions in scripts.items()}
        self._left = {name: len(sessions) for name, sessions in scripts.items()}
        cameras = {
            name: {"source": f"file:{name}", "motion": {"hold_s": 1.0}, **camera} for name in configured or scripts
        }
        settings = Settings.model_validate({"site": "home", "node": "node-1", "cameras": cameras})
        self._listener = Bus(site="home", origin="node-1.test", transports=self.broker.transports("test"))
        self.bus = Bus(
            site="home",
            origin="node-1.edge",
            transports=self.broker.transports("edge"),
            outbox=Outbox(folder / "edge.db", origin="node-1.edge", rows_max=outbox_rows_max),
            settings=bus,
        )
        self.vitals = Vitals()
        around = Surroundings(
            bus=self.bus,
            settings=settings,
            remembered=Remembered(folder / "edge.json"),
            logins_file=folder / "logins.json",
            clock=self.clock,
            zone=UTC,
            open_source=self._open,
            open_packets=_no_packets,
            recordings=Recordings(folder / "footage", settings.edge.footage, bus=self.bus, clock=self.clock),
            vitals=self.vitals,
            find_people=find_people,
        )
        self.node = Node(around, role="edge", on_fatal=self.fatal.append, file=file, adopts=adopts)

    def _open(self, uri: str, *, clock: Clock, options: SourceOptions) -> Source:
        name = uri.partition(":")[2]
        assert self._ready.wait(30)
        self._left[name] -= 1
        session = next(self._scripts[name])
        if isinstance(session, Exception):
            raise session
        stays = not self._left[name] and not self._ends
        source = ScriptedSource(name, session, self.clock, self._jpeg, stays=stays)
        self.sources.append(source)
        return source

    def __enter__(self) -> Self:
        self._listener.subscribe_filter(everything("home"), self.said.append)
        self._listener.start()
        assert self._listener.wait_connected(30)
        self.node.start()
        self.bus.start()
        assert self.bus.wait_connected(30)
        self._ready.set()
        return self

    def close(self) -> None:
        """End the node, then the bus, as the role does; no bridge is here whose receipts would empty the outbox."""
        self.node.close()
        wait_until(lambda: self._dead or not self.bus.connected or self._is_all_sent())
        self.bus.close(0)

    def kill(self) -> None:
        """Leave as SIGKILL does: nothing is said, and the outbox stays as it is."""
        self._dead = True
        self.broker.cut("edge")
        setattr(self.bus._link, "send", _nobody)  # noqa: B010 - a method of one object
        self.node._stop.set()
        self.node._cameras.clear()

    def _is_all_sent(self) -> bool:
        numbers = self.bus.statistics()
        return numbers.awaiting_receipt == numbers.outbox_rows

    def __exit__(self, *_exc: object) -> None:
        self.close()
        for bus in (*self._guests, self._listener):
            bus.close(0)

    @property
    def looked_at(self) -> int:
        """Pictures of all cameras that the node is through with."""
        return sum(source.looked_at for source in self.sources)

    def tell(self, name: str, value: str | float, *, camera: str = "yard", about: str = "") -> None:
        """Set a property of a camera, as a dashboard does."""
        topic = CAMERA_SET.at("home", camera=camera, property=name)
        self._listener.publish(topic, CommandValue(value=value, correlation_id=about))

    def listener_with(self, settings: BusSettings) -> Bus:
        """Somebody else on the bus, with settings of his own."""
        bus = Bus(site="home", origin="node-1.guest", transports=self.broker.transports("guest"), settings=settings)
        bus.start()
        assert bus.wait_connected(5)
        self._guests.append(bus)
        return bus

    def order(self, name: str, about: str, **arguments: str) -> None:
        """Give an order to the process."""
        topic = NODE_COMMAND.at("home", node="node-1", role="edge")
        self._listener.publish(topic, Command(name=name, correlation_id=about, arguments=arguments))

    def reply(self, about: str) -> Reply:
        """The answer to an order."""
        wait_until(lambda: self.replies(about), what=f"the answer to {about}")
        return self.replies(about)[0]

    def replies(self, about: str) -> list[Reply]:
        said = [d.content for d in list(self.said) if isinstance(d.content, Reply)]
        return [reply for reply in said if reply.correlation_id == about]

    def rejects(self) -> list[Reject]:
        return [d.content for d in list(self.said) if isinstance(d.content, Reject)]

    def register(self, document: CameraDocument | None, camera: str = "yard") -> None:
        """Say what the site says of a camera, or take it back."""
        self._listener.publish(REGISTRY_CAMERA.at("home", camera=camera), b"" if document is None else document)

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
