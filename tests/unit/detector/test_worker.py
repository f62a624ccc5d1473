from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from broker import Bus
from broker.messages import Detections, Escalation, OpenEvents, Reject, TrackEvent
from broker.outbox import split_event_id
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_TRACK,
    CAMERA_TRACK_OPEN,
    REJECT,
)
from config.settings import Settings
from detector.ownership import OwnsAll
from detector.slot import BackendSlot
from detector.worker import Worker
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL, BrightBackend, frame
from tests.unit.detector.street import ORIGIN, SITE, Street

AT_ONCE = {"presence": {"for_s": 0, "cooldown_s": 0}}
"""Fires on every frame in which somebody is known to be there: from the second one on."""


@dataclass(slots=True)
class Running:
    worker: Worker
    backend: BrightBackend
    bus: Bus

    def figure(self, kind: str, name: str) -> int:
        counts: dict[str, int] = getattr(self.worker.figures(), kind)
        return counts.get(name, 0)


@contextlib.contextmanager
def running(
    street: Street, *, backend: BrightBackend | None = None, bus: Bus | None = None, **settings: object
) -> Iterator[Running]:
    """A worker at work."""
    model = backend or BrightBackend()
    own_bus = bus or street.worker_bus()
    wanted = {"rules": AT_ONCE, "tracking": {"confirm_s": 0}, "regions": {"per_frame_max": 0}, **settings}
    worker = Worker(own_bus, BackendSlot(model), Settings.model_validate({"detector": wanted}), OwnsAll())
    worker.start()
    own_bus.start()
    assert own_bus.wait_connected(30)
    try:
        yield Running(worker, model, own_bus)
    finally:
        model.open.set()
        worker.close()
        own_bus.close(0)


def scored(street: Street) -> list[Detections]:
    return [d.content for d in street.heard[CAMERA_DETECTIONS] if isinstance(d.content, Detections)]


def raised(street: Street) -> list[Escalation]:
    said = [d.content for d in street.heard[CAMERA_ESCALATION] if isinstance(d.content, Escalation)]
    return list({escalation.id: escalation for escalation in said}.values())


def wait_scored(street: Street, count: int) -> None:
    wait_until(lambda: len(scored(street)) == count, what=f"{count} scored frames")


def wait_raised(street: Street, count: int) -> None:
    wait_until(lambda: len(raised(street)) == count, what=f"{count} escalations")


def told(street: Street) -> list[TrackEvent]:
    said = [d.content for d in street.heard[CAMERA_TRACK] if isinstance(d.content, TrackEvent)]
    return list({event.id: event for event in said}.values())


def rejects(street: Street) -> list[Reject]:
    return [d.content for d in street.heard[REJECT] if isinstance(d.content, Reject)]


def now() -> datetime:
    return datetime.now(UTC)


def send_and_wait(street: Street, seq: int, captured_at: datetime, *, person: bool = True) -> None:
    """The next frame of the yard, once the one before has its scores."""
    done = len(scored(street))
    street.send(frame(seq, captured_at, person=person))
    wait_scored(street, done + 1)


def test_frames_become_detections_an_object_and_an_escalation(street: Street) -> None:
    captured_at = now()
    with running(street):
        send_and_wait(street, 40, captured_at - timedelta(seconds=1))
        street.send(frame(41, captured_at))
        wait_until(lambda: raised(street))
        wait_until(lambda: street.heard[CAMERA_TRACK])
    before, scores = scored(street)
    assert (scores.camera, scores.frame_seq, scores.worker, scores.model) == ("yard", 41, ORIGIN, MODEL)
    assert (scores.width, scores.height, scores.batch, scores.epoch, scores.regions) == (64, 48, 1, 0, 0)
    assert before.detections[0].track_id == ""
    (person,) = scores.detections
    begun = street.heard[CAMERA_TRACK][0].content
    assert isinstance(begun, TrackEvent)
    assert (begun.type, begun.track_id, begun.worker, begun.model) == ("start", person.track_id, ORIGIN, MODEL)
    assert (person.label, person.box, person.box_px) == ("person", (0.25, 0.0, 0.5, 1.0), (16.0, 0.0, 32.0, 48.0))
    assert person.score == pytest.approx(0.9, abs=0.02)
    assert scores.captured_at == captured_at
    assert captured_at <= scores.received_at <= scores.infer_started_at <= scores.published_at
    assert 0 <= scores.infer_ms < 5000
    (escalation,) = raised(street)
    assert (escalation.camera, escalation.frame_seq, escalation.captured_at) == ("yard", 41, captured_at)
    assert escalation.detections == scores.detections
    assert escalation.tracks == (person.track_id,)
    assert escalation.evidence[0].data[:2] == b"\xff\xd8"


def test_boxes_are_in_the_frames_own_pixels_though_it_is_decoded_smaller(street: Street) -> None:
    with running(street):
        for seq in range(2):
            street.send(frame(seq, now() + timedelta(seconds=seq), width=642, height=480))
            wait_scored(street, seq + 1)
        wait_until(lambda: raised(street))
    (person,) = scored(street)[-1].detections
    assert (person.box, person.box_px) == ((0.25, 0.0, 0.5, 1.0), (160.5, 0.0, 321.0, 480.0))
    (evidence,) = raised(street)[0].evidence
    assert (evidence.width, evidence.height) == (642, 480)


def test_a_worker_that_ends_ends_its_objects_and_leaves_its_cooldowns(street: Street) -> None:
    rules = {"presence": {"for_s": 0, "cooldown_s": 60}}
    start = now()
    with running(street, rules=rules):
        for seq in range(2):
            send_and_wait(street, seq, start + timedelta(seconds=seq))
        wait_raised(street, 1)
    first = scored(street)[1].detections[0].track_id
    known = street.heard[CAMERA_TRACK_OPEN][-1].content
    assert isinstance(known, OpenEvents)
    assert (known.ids, list(known.rules)) == ((), ["presence"])
    with running(street, rules=rules) as at_work:
        for seq in range(2, 5):
            send_and_wait(street, seq, start + timedelta(seconds=seq))
        assert at_work.figure("counts", "escalations") == 0
        send_and_wait(street, 5, start + timedelta(seconds=8))
        wait_until(lambda: len(told(street)) >= 3, what="the object anew")
    assert [event.type for event in told(street)[:3]] == ["start", "end", "start"]
    assert [event.track_id == first for event in told(street)[:3]] == [True, True, False]
    assert told(street)[1].ended == "interrupted"
    assert len(raised(street)) == 1


def test_a_frame_with_nobody_is_published_too(street: Street) -> None:
    with running(street):
        street.send(frame(1, now(), person=False))
        wait_until(lambda: scored(street))
    assert scored(street)[0].detections == ()
    assert raised(street) == []


def test_the_rules_of_the_settings_decide(street: Street) -> None:
    rules = {"presence": {"for_s": 2, "cooldown_s": 5}}
    start = now()
    with running(street, rules=rules):
        for seq in range(9):
            send_and_wait(street, seq, start + timedelta(seconds=seq))
        wait_raised(street, 2)
    assert [escalation.frame_seq for escalation in raised(street)] == [2, 7]


def damaged(picture: bytes) -> bytes:
    """A frame whose metadata and end are whole, and whose picture is not."""
    start = picture.index(b"\xff\xdb")
    return picture[:start] + bytes(len(picture) - start - 2) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (damaged(frame(1, datetime.now(UTC))), "frame header"),
        (frame(1, datetime.now(UTC), camera="gate"), "its metadata says camera 'gate'"),
        (b"\xff\xd8 no picture at all", "no comment segment"),
        (frame(1, datetime.now(UTC)).replace(b'"width":64', b'"width":63'), "the picture is 64x48"),
    ],
)
def test_a_hostile_frame_is_counted_and_rejected_and_the_next_one_is_scored(
    street: Street, hostile: bytes, reason: str
) -> None:
    with running(street) as at_work:
        street.send(hostile)
        wait_until(lambda: rejects(street))
        street.send(frame(2, now()))
        wait_until(lambda: scored(street))
        assert at_work.bus.statistics().rejected == 1
    assert reason in rejects(street)[0].reason
    assert rejects(street)[0].topic == str(CAMERA_FRAME.at(SITE, camera="yard"))
    assert [scores.frame_seq for scores in scored(street)] == [2]


def test_a_model_that_is_too_slow_gets_the_latest_frames(street: Street) -> None:
    with running(street) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        street.send(frame(1, now()))
        wait_until(lambda: at_work.figure("queues", "frames_ready") == 1)
        for seq in range(2, 31):
            street.send(frame(seq, now()))
        wait_until(lambda: at_work.figure("drops", "frames_replaced") == 28)
        at_work.backend.open.set()
        wait_scored(street, 3)
        assert at_work.figure("counts", "frames_dropped.yard") == 28
        assert at_work.figure("counts", "frames_scored") == 3
        figures = at_work.worker.camera_scores()["yard"]
        assert (figures.dropped, figures.late) == (28, 0)
        assert figures.fps > 0
        assert figures.age_ms > 0
    assert [scores.frame_seq for scores in scored(street)] == [0, 1, 30]


def test_a_fast_camera_does_not_starve_a_slow_one(street: Street) -> None:
    with running(street) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        street.send(frame(1, now(), camera="gate"), camera="gate")
        wait_until(lambda: at_work.figure("queues", "frames_ready") == 1)
        street.send(frame(2, now()))
        street.send(frame(3, now(), camera="gate"), camera="gate")
        for seq in range(4, 20):
            street.send(frame(seq, now()))
        wait_until(lambda: at_work.figure("drops", "frames_replaced") == 16)
        at_work.backend.open.set()
        wait_scored(street, 4)
    assert [(scores.camera, scores.frame_seq) for scores in scored(street)] == [
        ("yard", 0), ("gate", 1), ("yard", 19), ("gate", 3),
    ]  # fmt: skip


def test_a_camera_with_an_escalation_comes_first(street: Street) -> None:
    with running(street, min_rate_fps=0.001) as at_work:
        for seq in range(2):
            for camera in ("quiet", "yard"):
                street.send(frame(seq, now() + timedelta(seconds=seq), camera=camera, person=camera == "yard"), camera)
            wait_scored(street, 2 * (seq + 1))
        wait_raised(street, 1)
        at_work.backend.waiting.clear()
        at_work.backend.open.clear()
        street.send(frame(2, now(), camera="third"), "third")
        assert at_work.backend.waiting.wait(30)
        street.send(frame(3, now(), camera="fourth"), "fourth")
        wait_until(lambda: at_work.figure("queues", "frames_ready") == 1)
        for camera in ("quiet", "yard"):
            street.send(frame(4, now() + timedelta(seconds=2), camera=camera, person=False), camera)
        wait_until(lambda: at_work.figure("queues", "frames") == 2)
        at_work.backend.open.set()
        wait_scored(street, 8)
    assert [scores.camera for scores in scored(street)[-2:]] == ["yard", "quiet"]


def test_frames_of_several_cameras_are_one_batch_where_the_model_takes_them(street: Street) -> None:
    with running(street, backend=BrightBackend(batch_max=8), batch_max=3) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        for camera in ("a", "b", "c", "d"):
            street.send(frame(1, now(), camera=camera), camera=camera)
        wait_until(lambda: (at_work.figure("queues", "frames_ready"), at_work.figure("queues", "frames")) == (3, 1))
        at_work.backend.open.set()
        wait_scored(street, 5)
        assert at_work.backend.batches == [1, 3, 1]
    assert [(scores.camera, scores.batch) for scores in scored(street)] == [
        ("yard", 1), ("a", 3), ("b", 3), ("c", 3), ("d", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("bound_s", "own_s"), [(0.2, None), (5, 0.2)])
def test_a_frame_that_waited_too_long_is_dropped_and_counted(
    street: Street, bound_s: float, own_s: float | None
) -> None:
    with running(street, frame_age_max_s=bound_s) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        captured_at = now()
        street.send(frame(1, captured_at, expires_at=captured_at + timedelta(seconds=own_s) if own_s else None))
        wait_until(lambda: at_work.figure("queues", "frames_ready") == 1)
        too_late = now() + timedelta(seconds=0.3)
        wait_until(lambda: now() > too_late)
        at_work.backend.open.set()
        wait_until(lambda: at_work.figure("drops", "frames_late") == 1)
        street.send(frame(2, now()))
        wait_scored(street, 2)
    assert [scores.frame_seq for scores in scored(street)] == [0, 2]


def test_a_frame_that_nobody_wants_scored_is_left_alone_and_counted(street: Street) -> None:
    with running(street) as at_work:
        street.send(frame(0, now(), detect=False))
        street.send(frame(1, now()))
        wait_scored(street, 1)
        assert at_work.figure("counts", "frames_unwanted") == 1
    assert [scores.frame_seq for scores in scored(street)] == [1]


def test_a_frame_that_was_held_up_on_its_way_is_dropped_and_counted(street: Street) -> None:
    with running(street, frame_age_max_s=5) as at_work:
        street.send(frame(1, now()))
        street.send(frame(2, now() - timedelta(seconds=6)))
        wait_until(lambda: at_work.bus.statistics().frames_stale == 1)


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(hours=-3), timedelta(days=-20_000)])
def test_a_camera_whose_clock_is_wrong_is_scored_all_the_same(street: Street, ahead: timedelta) -> None:
    with running(street):
        for seq in range(3):
            street.send(frame(seq, now() + ahead))
            wait_scored(street, seq + 1)


def test_an_inference_that_fails_is_counted_and_the_next_frame_is_scored(street: Street) -> None:
    backend = BrightBackend()
    backend.failures = 1
    with running(street, backend=backend) as at_work:
        street.send(frame(1, now()))
        wait_until(lambda: at_work.figure("drops", "frames_failed") == 1)
        street.send(frame(2, now()))
        wait_until(lambda: scored(street))
    assert [scores.frame_seq for scores in scored(street)] == [2]


def test_a_new_worker_goes_on_with_the_sequence_of_the_last_one(street: Street) -> None:
    for seq in range(2):
        with running(street):
            for late in (2, 1):
                send_and_wait(street, 2 * seq, now() - timedelta(seconds=late))
            wait_raised(street, seq + 1)
    ids = [split_event_id(escalation.id) for escalation in raised(street)]
    assert sorted(number for _, _, number in ids) == list(range(1, len(ids) + 1))
    assert len({(origin, epoch) for origin, epoch, _ in ids}) == 1


def test_frames_that_wait_at_the_end_are_scored_and_later_ones_are_not(street: Street) -> None:
    with running(street) as at_work:
        for seq, camera in enumerate(("a", "b", "c")):
            street.send(frame(seq, now(), camera=camera), camera=camera)
        # The bus counts a message before it hands it over: the fourth says that the third is in.
        street.send(frame(3, now(), detect=False))
        wait_until(lambda: at_work.figure("counts", "frames_unwanted") == 1)
        at_work.worker.close()
        wait_scored(street, 3)
        street.send(frame(9, now()))
        wait_until(lambda: at_work.bus.statistics().received >= 5)
        assert at_work.figure("queues", "frames") == 0


def test_no_rule_fires_in_vain_while_nothing_can_be_kept(street: Street) -> None:
    with running(street, bus=street.worker_bus(rows_max=1)) as at_work:
        start = now()
        for seq in range(71):
            send_and_wait(street, seq, start + timedelta(seconds=seq / 10))
        wait_until(lambda: at_work.figure("counts", "rules_paused") == 5)
        assert at_work.figure("counts", "escalations") == 1
        assert at_work.figure("queues", "escalations_held") == 64
