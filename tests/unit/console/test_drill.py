"""A drill at its own pace: simulated time, a real outbox."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Bus
from broker.memory import MemoryBroker
from broker.messages import MotionEvent, decode_json
from broker.outbox import Outbox
from broker.outbox_file import read_backlogs, read_waiting
from broker.topics import CAMERA_MOTION
from config.clock import ManualClock
from console.drill import Alarm, Drill

ORIGIN = "node-1.drill"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def bus(path: Path) -> Iterator[Bus]:
    """It is never started: what is raised stays in the outbox."""
    bus = make_bus(path)
    yield bus
    bus.close(0.0)


def make_bus(path: Path, rows_max: int = 200_000) -> Bus:
    outbox = Outbox(path, origin=ORIGIN, rows_max=rows_max)
    return Bus(site="home", origin=ORIGIN, transports=MemoryBroker().transports("drill"), outbox=outbox)


def make_drill(bus: Bus, clock: ManualClock, told: list[str], *, motion: bool = False) -> Drill:
    return Drill(bus, "yard", Alarm("fence", "critical"), motion=motion, clock=clock, tell=told.append)


def movements(path: Path) -> list[MotionEvent]:
    stored = [message for message in read_waiting(path) if message.stream == CAMERA_MOTION.name]
    return [decode_json(MotionEvent, message.payload, max_bytes=65_536) for message in stored]


def test_so_many_at_that_rate_each_told_once_it_is_on_disk(bus: Bus, path: Path) -> None:
    clock, told = ManualClock(), list[str]()
    progress: list[int] = []
    make_drill(bus, clock, told).run(threading.Event(), rate=2.0, count=5, progress=progress.append)
    assert clock.monotonic_s() == pytest.approx(2.5, abs=0.6), "five, half a second apart"
    assert [message.event_id for message in read_waiting(path)] == told
    assert [identity.rpartition(":")[2] for identity in told] == list("12345")
    assert progress == [1, 2, 3, 4, 5]


def test_for_so_long(bus: Bus) -> None:
    clock, told = ManualClock(), list[str]()
    make_drill(bus, clock, told).run(threading.Event(), rate=10.0, duration_s=3.0)
    assert len(told) == 30


def test_a_movement_starts_with_one_and_ends_with_the_next_and_none_stays_open(bus: Bus, path: Path) -> None:
    told: list[str] = []
    drill = make_drill(bus, ManualClock(), told, motion=True)
    drill.run(threading.Event(), rate=1.0, count=3)
    assert (drill.escalations, drill.events, len(told)) == (3, 4, 7)
    events = movements(path)
    assert [event.type for event in events] == ["start", "end", "start", "end"]
    assert events[0].motion_id == events[1].motion_id == events[0].id
    assert {event.ended for event in events if event.type == "end"} == {"quiet"}
    assert bus.open_events(CAMERA_MOTION) == []


def test_what_a_killed_one_left_open_is_ended_as_interrupted(path: Path) -> None:
    killed = make_bus(path)
    make_drill(killed, ManualClock(), [], motion=True)._raise()
    killed.close(0.0)
    bus = make_bus(path)
    make_drill(bus, ManualClock(), []).run(threading.Event(), rate=1.0, count=1)
    start, end = movements(path)
    assert (end.type, end.ended, end.motion_id) == ("end", "interrupted", start.id)
    bus.close(0.0)


def test_what_a_full_outbox_refuses_is_tried_again_and_not_told(path: Path) -> None:
    bus = make_bus(path, rows_max=4)
    told: list[str] = []
    drill = make_drill(bus, ManualClock(), told)
    drill.run(threading.Event(), rate=10.0, duration_s=2.0)
    assert drill.escalations == len(told) == 4
    (backlog,) = read_backlogs(path)
    assert backlog.last_seq == 4, "what was refused has no number"
    bus.close(0.0)


def test_it_ends_when_it_is_asked_to(bus: Bus) -> None:
    stop, told = threading.Event(), list[str]()
    stop.set()
    make_drill(bus, ManualClock(), told).run(stop, rate=1.0)
    assert told == []


def test_it_is_marked_and_has_a_picture_that_says_so(bus: Bus, path: Path) -> None:
    make_drill(bus, ManualClock(), []).run(threading.Event(), rate=1.0, count=1)
    (message,) = read_waiting(path)
    assert b'"drill":true' in message.payload
    assert b'"severity":"critical"' in message.payload
    assert b'"rule":"fence"' in message.payload
    assert b'"content_type":"image/jpeg"' in message.payload
