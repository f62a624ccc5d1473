"""Which frames a worker takes, when cameras come and go, and which model scores them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from broker import Figures, encode_frame
from broker.messages import CameraDocument, Detections, Escalation, ModelRef, OpenEvents
from broker.topics import CAMERA_DETECTIONS, CAMERA_ESCALATION, CAMERA_TRACK_OPEN, REGISTRY_CAMERA
from config import ManualClock
from config.settings import Settings
from detector.slot import BackendSlot
from detector.tallies import Tallies
from detector.worker import Worker
from tests.support.messages import frame_meta, jpeg
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL, BrightBackend, frame
from tests.unit.detector.street import Street

OTHER = ModelRef(name="other", sha256="cd" * 32)


class Told:
    """Cameras are this worker's as the test says."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}
        self.drained = False
        self._gain: Callable[[str, int], None]
        self._loss: Callable[[str], None]
        self._claim: Callable[[str], None]

    def start(
        self,
        on_gain: Callable[[str, int], None],
        on_loss: Callable[[str], None],
        on_claim: Callable[[str], None] = lambda _camera: None,
    ) -> None:
        self._gain, self._loss, self._claim = on_gain, on_loss, on_claim

    def give(self, camera: str, epoch: int) -> None:
        self._claim(camera)
        self.epochs[camera] = epoch
        self._gain(camera, epoch)

    def take(self, camera: str) -> None:
        del self.epochs[camera]
        self._loss(camera)

    def epoch(self, camera: str) -> int | None:
        return self.epochs.get(camera)

    def drain(self, timeout_s: float) -> None:
        del timeout_s
        self.drained = True

    def close(self) -> None:
        pass

    def figures(self) -> Figures:
        return Figures(counts={"cameras_owned": len(self.epochs)})


@contextlib.contextmanager
def running(street: Street, slot: BackendSlot, owned: Told, **settings: object) -> Iterator[Worker]:
    bus = street.worker_bus()
    detector = {"rules": {}, "tracking": {"confirm_s": 0}, "regions": {"per_frame_max": 0}, **settings}
    worker = Worker(bus, slot, Settings.model_validate({"detector": detector}), owned)
    worker.start()
    bus.start()
    assert bus.wait_connected(30)
    try:
        yield worker
    finally:
        worker.close()
        bus.close(0)


def scored(street: Street) -> list[Detections]:
    return [d.content for d in street.heard[CAMERA_DETECTIONS] if isinstance(d.content, Detections)]


def wait_scored(street: Street, count: int) -> None:
    wait_until(lambda: len(scored(street)) >= count, what=f"{count} scored frames")


def now() -> datetime:
    return datetime.now(UTC)


def test_only_frames_of_its_own_cameras_are_scored_under_their_epoch(street: Street) -> None:
    owned = Told()
    with running(street, BackendSlot(BrightBackend()), owned) as worker:
        owned.give("yard", 7)
        street.send(frame(1, now(), camera="gate"), "gate")
        street.send(frame(2, now()))
        wait_scored(street, 1)
        assert worker.figures().counts["cameras_owned"] == 1
        worker.drain(1)
    assert [(scores.camera, scores.frame_seq, scores.epoch) for scores in scored(street)] == [("yard", 2, 7)]
    assert owned.drained


def test_a_camera_that_is_given_away_leaves_what_was_open_and_its_last_frame_is_still_scored(street: Street) -> None:
    owned, backend = Told(), BrightBackend()
    start = now()
    with running(street, BackendSlot(backend), owned):
        owned.give("yard", 1)
        for seq in range(2):
            street.send(frame(seq, start + timedelta(seconds=seq / 10)))
            wait_scored(street, seq + 1)
        backend.waiting.clear()
        backend.open.clear()
        street.send(frame(2, start + timedelta(seconds=0.2)))
        assert backend.waiting.wait(30)
        owned.take("yard")
        street.send(frame(3, start + timedelta(seconds=0.3)))
        backend.open.set()
        wait_scored(street, 3)
        wait_until(lambda: street.heard[CAMERA_TRACK_OPEN])
    known = street.heard[CAMERA_TRACK_OPEN][-1].content
    assert isinstance(known, OpenEvents)
    assert known.ids == (scored(street)[1].detections[0].track_id,)
    assert [(scores.frame_seq, scores.epoch) for scores in scored(street)] == [(0, 1), (1, 1), (2, 1)]


def test_a_frame_is_scored_by_the_model_that_it_was_prepared_for(street: Street) -> None:
    owned, before, after = Told(), BrightBackend(batch_max=8), BrightBackend(batch_max=8)
    after.model = OTHER
    slot = BackendSlot(before)
    with running(street, slot, owned) as worker:
        for camera in "abcd":
            owned.give(camera, 1)
        before.open.clear()
        street.send(frame(0, now(), camera="a"), "a")
        assert before.waiting.wait(30)
        for camera in "bc":
            street.send(frame(0, now(), camera=camera), camera)
        wait_until(lambda: worker.figures().queues["frames_ready"] == 2)
        assert slot.swap(after) is before
        street.send(frame(0, now(), camera="d"), "d")
        wait_until(lambda: worker.figures().queues["frames_ready"] == 3)
        before.open.set()
        wait_scored(street, 4)
    assert [(scores.camera, scores.model, scores.batch) for scores in scored(street)] == [
        ("a", MODEL, 1), ("b", MODEL, 2), ("c", MODEL, 2), ("d", OTHER, 1),
    ]  # fmt: skip


def test_parts_of_a_frame_in_which_something_moves_are_looked_at_too(street: Street) -> None:
    owned, backend = Told(), BrightBackend(batch_max=8)
    meta = frame_meta(width=640, height=480, captured_at=now(), moving=True, motion=((0.5, 0.5, 0.53, 0.56),))
    with running(street, BackendSlot(backend), owned, regions={"per_frame_max": 2}):
        owned.give("yard", 1)
        street.send(encode_frame(jpeg(640, 480, colour=(250, 250, 250)), meta))
        wait_scored(street, 1)
    (scores,) = scored(street)
    assert scores.regions == 1
    assert backend.batches == [2]
    boxes = [detection.box_px for detection in scores.detections]
    assert (160.0, 0.0, 320.0, 480.0) in boxes


def test_figures_of_a_camera_are_since_the_last_report() -> None:
    clock = ManualClock()
    tallies = Tallies(clock.monotonic_s())
    for age_s in (0.1, 0.2, 0.9):
        tallies.scored("yard", age_s)
    tallies.late("gate")
    clock.advance(2)
    first = tallies.report(clock.monotonic_s(), {"gate": 4})
    assert (first["yard"].fps, first["yard"].age_ms, first["yard"].dropped) == (1.5, 200.0, 0)
    assert (first["gate"].fps, first["gate"].age_ms, first["gate"].dropped, first["gate"].late) == (0.0, 0.0, 4, 1)
    clock.advance(1)
    second = tallies.report(clock.monotonic_s(), {"gate": 4})
    assert (second["yard"].fps, second["yard"].age_ms, second["gate"].late) == (0.0, 0.0, 1)


def test_a_cameras_own_rule_takes_the_place_of_the_sites_while_it_is_watched(street: Street) -> None:
    owned, start = Told(), now()
    with running(street, BackendSlot(BrightBackend()), owned, rules={"alarm": {"for_s": 3600}}) as worker:
        owned.give("yard", 1)
        for seq in range(3):
            street.send(frame(seq, start + timedelta(seconds=seq / 10)))
            wait_scored(street, seq + 1)
        assert not street.heard[CAMERA_ESCALATION]
        own = {"alarm": {"kind": "presence", "for_s": 0.1, "severity": "critical"}}
        document = CameraDocument(camera="yard", source="", revision=1, settings={"rules": own})
        street.node.publish(REGISTRY_CAMERA.at("home", camera="yard"), document)
        wait_until(lambda: worker._known.of("yard").rules, what="the camera's own rule")
        for seq in range(3, 6):
            street.send(frame(seq, start + timedelta(seconds=seq / 10)))
            wait_scored(street, seq + 1)
        wait_until(lambda: street.heard[CAMERA_ESCALATION], what="an escalation")
    raised = street.heard[CAMERA_ESCALATION][0].content
    assert isinstance(raised, Escalation)
    assert (raised.rule, raised.severity, raised.camera) == ("alarm", "critical", "yard")
