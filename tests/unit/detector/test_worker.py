from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

import detector.worker
from broker import Bus
from broker.messages import Detections, Escalation, Reject
from broker.outbox import split_event_id
from broker.topics import CAMERA_DETECTIONS, CAMERA_ESCALATION, CAMERA_FRAME, REJECT
from config.settings import DetectorSettings, PresenceRule
from detector.worker import Worker
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL, BrightBackend, frame
from tests.unit.detector.street import ORIGIN, SITE, Street

AT_ONCE = {"presence": PresenceRule(hits=1, window=1, cooldown_s=0)}


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
    worker = Worker(own_bus, model, DetectorSettings.model_validate({"rules": AT_ONCE, **settings}))
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


def rejects(street: Street) -> list[Reject]:
    return [d.content for d in street.heard[REJECT] if isinstance(d.content, Reject)]


def now() -> datetime:
    return datetime.now(UTC)


def test_a_frame_becomes_detections_and_an_escalation(street: Street) -> None:
    captured_at = now()
    with running(street):
        street.send(frame(41, captured_at))
        wait_until(lambda: raised(street))
    (scores,) = scored(street)
    assert (scores.camera, scores.frame_seq, scores.worker, scores.model) == ("yard", 41, ORIGIN, MODEL)
    assert (scores.width, scores.height, scores.batch) == (64, 48, 1)
    (person,) = scores.detections
    assert (person.label, person.box, person.box_px) == ("person", (0.25, 0.0, 0.5, 1.0), (16.0, 0.0, 32.0, 48.0))
    assert person.score == pytest.approx(0.9, abs=0.02)
    assert scores.captured_at == captured_at
    assert captured_at <= scores.received_at <= scores.infer_started_at <= scores.published_at
    assert 0 <= scores.infer_ms < 5000
    (escalation,) = raised(street)
    assert (escalation.camera, escalation.frame_seq, escalation.captured_at) == ("yard", 41, captured_at)
    assert escalation.detections == scores.detections


def test_a_frame_with_nobody_is_published_too(street: Street) -> None:
    with running(street):
        street.send(frame(1, now(), person=False))
        wait_until(lambda: scored(street))
    assert scored(street)[0].detections == ()
    assert raised(street) == []


def test_the_rules_of_the_settings_decide(street: Street) -> None:
    rules = {"presence": PresenceRule(hits=2, window=3, cooldown_s=60)}
    start = now()
    with running(street, rules=rules):
        for seq in range(8):
            street.send(frame(seq, start + timedelta(seconds=seq)))
            wait_scored(street, seq + 1)
        street.send(frame(8, start + timedelta(seconds=61)))
        wait_raised(street, 2)
    assert [escalation.frame_seq for escalation in raised(street)] == [1, 8]


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


def test_names_that_somebody_invents_do_not_fill_the_memory(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector.worker, "_CAMERAS_MAX", 2)
    with running(street) as at_work:
        for camera in ("yard", "gate", "invented"):
            street.send(frame(1, now(), camera=camera), camera)
        wait_until(lambda: rejects(street))
        street.send(frame(2, now()))
        wait_until(lambda: len(scored(street)) >= 3)
        assert at_work.bus.statistics().rejected == 1
    assert "knows 2 cameras already" in rejects(street)[0].reason
    assert {scores.camera for scores in scored(street)} == {"yard", "gate"}


def test_a_model_that_is_too_slow_gets_the_latest_frames(street: Street) -> None:
    with running(street) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        for seq in range(1, 31):
            street.send(frame(seq, now()))
        wait_until(lambda: at_work.figure("drops", "frames_replaced") == 29)
        at_work.backend.open.set()
        wait_scored(street, 2)
        assert at_work.figure("counts", "frames_dropped.yard") == 29
        assert at_work.figure("counts", "frames_scored") == 2
    assert [scores.frame_seq for scores in scored(street)] == [0, 30]


def test_a_fast_camera_does_not_starve_a_slow_one(street: Street) -> None:
    with running(street) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        street.send(frame(1, now(), camera="gate"), camera="gate")
        for seq in range(1, 20):
            street.send(frame(seq, now()))
        wait_until(lambda: at_work.figure("queues", "frames") == 2)
        at_work.backend.open.set()
        wait_scored(street, 3)
    assert [scores.camera for scores in scored(street)] == ["yard", "gate", "yard"]


def test_frames_of_several_cameras_are_one_batch_where_the_model_takes_them(street: Street) -> None:
    with running(street, backend=BrightBackend(batch_max=8), batch_max=3) as at_work:
        at_work.backend.open.clear()
        street.send(frame(0, now()))
        assert at_work.backend.waiting.wait(30)
        for camera in ("a", "b", "c", "d"):
            street.send(frame(1, now(), camera=camera), camera=camera)
        wait_until(lambda: at_work.figure("queues", "frames") == 4)
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
        wait_until(lambda: at_work.figure("queues", "frames") == 1)
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
            street.send(frame(seq, now()))
            wait_raised(street, seq + 1)
    ids = [split_event_id(escalation.id) for escalation in raised(street)]
    assert [number for _, _, number in ids] == [1, 2]
    assert len({(origin, epoch) for origin, epoch, _ in ids}) == 1


def test_frames_that_wait_at_the_end_are_scored_and_later_ones_are_not(street: Street) -> None:
    with running(street) as at_work:
        for seq, camera in enumerate(("a", "b", "c")):
            street.send(frame(seq, now(), camera=camera), camera=camera)
        wait_until(lambda: at_work.bus.statistics().received >= 3)
        at_work.worker.close()
        wait_scored(street, 3)
        street.send(frame(9, now()))
        wait_until(lambda: at_work.bus.statistics().received >= 4)
        assert at_work.figure("queues", "frames") == 0


def test_no_rule_fires_in_vain_while_nothing_can_be_kept(street: Street) -> None:
    with running(street, bus=street.worker_bus(rows_max=1)) as at_work:
        for seq in range(1, 71):
            street.send(frame(seq, now()))
            wait_scored(street, seq)
        wait_until(lambda: at_work.figure("counts", "rules_paused") == 5)
        assert at_work.figure("counts", "escalations") == 1
        assert at_work.figure("queues", "escalations_held") == 64
