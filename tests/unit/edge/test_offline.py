"""Without a broker no picture is made that nobody would get, and none is missing where somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from broker import Bus, Delivery, Frame
from broker.local import LocalBus
from broker.memory import MemoryBroker
from broker.topics import CAMERA_FRAME
from config import SystemClock
from config.cameras import PrivacySettings
from edge.frames import FrameSender, Sight
from edge.picture import Picture, Retouch
from edge.privacy import Privacy, ShownFrame
from edge.source import CapturedFrame
from tests.support.messages import AT, jpeg
from tests.support.waiting import wait_until

SIGHT = Sight(seq=1, mode="monitor", moving=False, boxes=(), detect=True, recorded=False, clock_synchronised=True)


@pytest.fixture
def offline() -> Iterator[Callable[[type[Bus]], Bus]]:
    """Makes started buses that find no broker, and closes them."""
    buses: list[Bus] = []

    def make(kind: type[Bus]) -> Bus:
        broker = MemoryBroker()
        broker.stop()
        bus = kind(site="home", origin="porch.edge", transports=broker.transports("edge"))
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.close(drain_s=0)


class Encoder:
    """Counts the pictures that it makes."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, quality: int, *, height_px: int | None = None, retouch: Retouch | None = None) -> bytes:
        del quality, height_px, retouch
        self.made += 1
        return jpeg()


def shown(encode: Encoder) -> ShownFrame:
    plane = np.zeros((48, 64), np.uint8)
    frame = CapturedFrame(
        seq=1, captured_at=AT, at_s=0.0, luma=plane, width_px=64, height_px=48, encode=encode,
        picture=lambda: Picture(plane, plane[::2, ::2], plane[::2, ::2]),
    )  # fmt: skip
    return Privacy(PrivacySettings()).show(frame)


def frames_of(bus: Bus) -> FrameSender:
    return FrameSender(bus, "yard", node="porch", quality=80, age_max_s=2.0, clock=SystemClock())


def test_no_frame_is_encoded_without_a_broker(offline: Callable[[type[Bus]], Bus]) -> None:
    bus = offline(Bus)
    bus.start()
    encode, frames = Encoder(), frames_of(bus)
    assert frames.frame(shown(encode), SIGHT, height_px=720) is None
    assert (encode.made, frames.sent, frames.unsent) == (0, 0, 1)


def test_frames_for_this_process_are_made_without_a_broker_too(offline: Callable[[type[Bus]], Bus]) -> None:
    bus = offline(LocalBus)
    taken: list[Delivery] = []
    bus.subscribe(CAMERA_FRAME, taken.append)
    bus.start()
    encode, frames = Encoder(), frames_of(bus)
    assert frames.frame(shown(encode), SIGHT, height_px=720) is None
    wait_until(lambda: taken)
    content = taken[0].content
    assert isinstance(content, Frame)
    assert (encode.made, content.meta.camera, content.meta.detect) == (1, "yard", True)


def test_a_local_bus_without_a_reader_makes_none_either(offline: Callable[[type[Bus]], Bus]) -> None:
    bus = offline(LocalBus)
    bus.start()
    encode = Encoder()
    frames_of(bus).frame(shown(encode), SIGHT, height_px=720)
    assert encode.made == 0
