from __future__ import annotations

from datetime import timedelta

import pytest

from broker import Bus
from broker.messages import Detection, OpenEvents, TrackEvent
from broker.outbox import split_event_id
from broker.topics import CAMERA_TRACK, CAMERA_TRACK_OPEN
from config import ManualClock
from config.cameras import CameraSettings
from config.settings import DetectorSettings, TrackingSettings
from detector.track_reports import TrackReports
from detector.watching import CameraWatch
from tests.support.messages import AT, frame_meta
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL
from tests.unit.detector.street import ORIGIN, SITE, Street

WALKER = Detection(label="person", score=0.8, box=(0.25, 0.25, 0.5, 0.75), box_px=(16, 12, 32, 36))


class Told:
    """A camera under watch whose objects are told of."""

    def __init__(self, bus: Bus, *, held_max: int = 1000) -> None:
        self.clock = ManualClock(AT)
        self.reports = TrackReports(bus, clock=self.clock, held_max=held_max)
        self.seq = 0
        self.begin()

    def begin(self) -> None:
        """Watch the camera anew."""
        self.seq += 1
        begun = self.seq
        settings = DetectorSettings(tracking=TrackingSettings(confirm_s=0, update_s=1.0))
        self.watch = CameraWatch("yard", settings, CameraSettings(source="test:"), (), new_id=lambda: f"t-{begun}")

    def look(self, at_s: float, *detections: Detection) -> None:
        """One frame, so many seconds after the start."""
        self.seq += 1
        meta = frame_meta(captured_at=AT + timedelta(seconds=at_s), seq=self.seq)
        self.reports.report(self.watch, self.watch.look(meta, detections), meta, MODEL)

    def walk(self, end_s: float, start_s: float = 0.0) -> None:
        """Somebody is there in one frame after the other."""
        for step in range(round((end_s - start_s) * 2) + 1):
            self.look(start_s + step / 2, WALKER)


@pytest.fixture
def bus(street: Street) -> Bus:
    bus = street.worker_bus(rows_max=3)
    bus.start()
    assert bus.wait_connected(30)
    return bus


def events(street: Street) -> list[TrackEvent]:
    said = [d.content for d in street.heard[CAMERA_TRACK] if isinstance(d.content, TrackEvent)]
    return list({event.id: event for event in said}.values())  # without a receipt they are sent again


def kept(street: Street) -> list[OpenEvents]:
    return [d.content for d in street.heard[CAMERA_TRACK_OPEN] if isinstance(d.content, OpenEvents)]


def test_a_start_says_what_where_and_since_when(street: Street, bus: Bus) -> None:
    told = Told(bus)
    told.look(0.0, WALKER)
    told.look(0.5, WALKER)
    told.reports.flush()
    wait_until(lambda: events(street))
    (event,) = events(street)
    assert split_event_id(event.id)[0] == ORIGIN
    assert (event.track_id, event.type, event.label, event.score) == ("t-1", "start", "person", 0.8)
    assert (event.started_at, event.at, event.frame_seq) == (AT, AT + timedelta(seconds=0.5), 3)
    assert [(point.x, point.y) for point in event.path] == [(0.375, 0.75), (0.375, 0.75)]
    assert (event.worker, event.model, event.ended) == (ORIGIN, MODEL, None)


def test_a_long_path_is_told_in_some_points(street: Street, bus: Bus) -> None:
    told = Told(bus)
    told.walk(60.0)
    told.reports.report_end(told.watch, told.watch.end(), AT)

    def has_ended() -> bool:
        told.reports.flush()  # the outbox holds two
        return any(event.type == "end" for event in events(street))

    wait_until(has_ended)
    last = events(street)[-1]
    assert (len(last.path), last.ended) == (32, "interrupted")
    assert (last.path[0].at, last.path[-1].at) == (AT, AT + timedelta(seconds=60))


def test_what_is_open_is_kept_with_each_start_and_end_and_else_seldom(street: Street, bus: Bus) -> None:
    told = Told(bus)
    told.look(0.0)
    wait_until(lambda: len(kept(street)) == 1)
    told.look(0.5, WALKER)
    told.look(1.0, WALKER)
    wait_until(lambda: len(kept(street)) == 2)
    told.walk(5.0, 1.5)
    told.clock.advance(2.5)
    told.look(5.5, WALKER)
    wait_until(lambda: len(kept(street)) == 3)
    told.reports.report_end(told.watch, told.watch.end(), AT)
    wait_until(lambda: len(kept(street)) == 4)
    assert [known.ids for known in kept(street)] == [(), ("t-1",), ("t-1",), ()]
    assert kept(street)[2].tracks[0].seen_at == AT + timedelta(seconds=5.5)


def test_what_has_not_changed_is_not_said_again(street: Street, bus: Bus) -> None:
    told = Told(bus)
    for at_s in range(10):
        told.look(float(at_s))
        told.clock.advance(5.0)
    told.look(10.0, WALKER)
    told.look(10.5, WALKER)
    wait_until(lambda: len(kept(street)) == 2)
    assert [known.ids for known in kept(street)] == [(), ("t-1",)]


def test_a_camera_that_is_handed_over_is_kept_a_last_time_and_then_left(street: Street, bus: Bus) -> None:
    told = Told(bus)
    told.walk(1.0)
    told.reports.hand_over(told.watch, AT + timedelta(seconds=1))
    wait_until(lambda: kept(street) and kept(street)[-1].at == AT + timedelta(seconds=1))
    assert kept(street)[-1].ids == ("t-1",)
    before = len(kept(street))
    # State is said again after a reconnect, unless it is somebody else's.
    street.broker.cut(ORIGIN)
    wait_until(lambda: not bus.connected)
    assert bus.wait_connected(30)
    bus.publish(CAMERA_TRACK_OPEN.at(SITE, camera="drive"), OpenEvents(camera="drive", at=AT))
    wait_until(lambda: [known for known in kept(street) if known.camera == "drive"])
    assert len(kept(street)) == before + 1


@pytest.fixture
def left(street: Street) -> str:
    """An object that a worker had begun when it was killed."""
    bus = street.worker_bus()
    bus.start()
    assert bus.wait_connected(30)
    told = Told(bus)
    told.look(0.0, WALKER)
    told.look(0.5, WALKER)
    told.reports.flush()
    bus.close(5)
    wait_until(lambda: events(street), what="the start")
    return events(street)[0].track_id


def after(street: Street) -> tuple[Told, Bus]:
    """The worker that was killed, in its next life."""
    bus = street.worker_bus()
    bus.start()
    told = Told(bus)
    told.seq = 100
    told.begin()
    told.reports.resume()
    assert [start.track_id for _, start in bus.open_events(CAMERA_TRACK) if isinstance(start, TrackEvent)]
    return told, bus


def test_what_was_begun_before_and_nobody_knows_of_ends(street: Street, left: str) -> None:
    told, bus = after(street)
    told.look(9.0)
    told.reports.flush()
    assert not bus.open_events(CAMERA_TRACK)
    wait_until(lambda: len(events(street)) == 2, what="its end")
    last = events(street)[-1]
    assert (last.type, last.track_id, last.ended) == ("end", left, "interrupted")


def test_what_was_begun_before_goes_on_and_ends_once(street: Street, left: str) -> None:
    told, bus = after(street)
    known = kept(street)[-1]
    told.reports.on_open("yard", known)
    told.watch.recall(known)
    told.look(1.0, WALKER)
    assert bus.open_events(CAMERA_TRACK)
    for at_s in (4.0, 8.0):
        told.look(at_s)
    told.reports.flush()
    assert not bus.open_events(CAMERA_TRACK)
    wait_until(lambda: [event.type for event in events(street)].count("end") == 1, what="its end")
    assert {event.track_id for event in events(street)} == {left}
    assert events(street)[-1].ended == "left"


def test_what_another_worker_has_ended_is_not_ended_again(street: Street, left: str) -> None:
    told, bus = after(street)
    told.reports.on_open("yard", OpenEvents(camera="yard", at=AT + timedelta(seconds=5)))
    told.look(9.0)
    told.reports.flush()
    assert not bus.open_events(CAMERA_TRACK)
    assert [event.type for event in events(street)] == ["start"]


def test_what_is_given_away_is_anothers_to_end(street: Street, left: str) -> None:
    told, bus = after(street)
    told.reports.on_open("yard", kept(street)[-1])
    told.reports.hand_over(told.watch, AT)
    told.reports.flush()
    assert not bus.open_events(CAMERA_TRACK)
    assert [event.type for event in events(street)] == ["start"]


def test_events_wait_in_order_while_the_outbox_is_full(street: Street) -> None:
    bus = street.worker_bus(rows_max=3)  # and nobody takes anything out of it
    told = Told(bus)
    ids = []
    for life in range(4):
        told.begin()
        told.walk(life * 100 + 0.5, life * 100)
        ids += [track.track_id for track in told.watch.tracks]
        told.reports.report_end(told.watch, told.watch.end(), AT)
        told.reports.flush()
    assert (told.reports.told + told.reports.held, told.reports.lost) == (8, 0)
    assert told.reports.held >= 5
    bus.start()

    def all_told() -> bool:
        told.reports.flush()
        return len({event.id for event in events(street)}) == 8

    wait_until(all_told)
    assert told.reports.held == 0
    by_id = {split_event_id(event.id)[2]: (event.track_id, event.type) for event in events(street)}
    assert [by_id[seq] for seq in sorted(by_id)] == [(one, kind) for one in ids for kind in ("start", "end")]


def test_an_update_makes_way_for_a_newer_one(bus: Bus) -> None:
    told = Told(bus)
    told.walk(10.0)
    # A start, and one update of the ten.
    assert told.reports.held == 2


def test_more_than_the_memory_holds_is_counted(bus: Bus) -> None:
    told = Told(bus, held_max=3)
    for life in range(3):
        told.begin()
        told.walk(life * 100 + 0.5, life * 100)
        told.reports.report_end(told.watch, told.watch.end(), AT)
    assert (told.reports.held, told.reports.lost) == (3, 3)
