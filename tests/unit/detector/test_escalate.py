from __future__ import annotations

import base64
import hashlib
import itertools

import cv2
import msgspec
import numpy as np
import pytest
import structlog.testing

from broker import Bus, Frame
from broker.link import Link
from broker.memory import MemoryBroker
from broker.messages import Detection, Escalation, Evidence
from broker.outbox import split_event_id
from broker.references import clip_reference
from broker.topics import CAMERA_ESCALATION, CAMERA_EVIDENCE, RECEIPT
from config import ManualClock
from config.rules import AbsenceRule, PresenceRule
from detector.escalate import Escalator
from detector.scene import Firing, Step, Track
from tests.support.messages import AT, frame_meta, jpeg, receipt
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL
from tests.unit.detector.street import ORIGIN, SITE, Street

SOMEBODY = Detection(label="person", score=0.87, box=(0.25, 0.25, 0.5, 0.75), box_px=(16, 12, 32, 36))
WALKER = Track("t-1", "person", 0.87, 0.0, (Step(3.0, SOMEBODY.box),), zones={"drive": 1.0})
FIRING = Firing(
    "night", PresenceRule(severity="critical"), "yard", 3.0, "person in drive on yard", (WALKER,), (SOMEBODY,)
)
NOBODY = Firing("care", AbsenceRule(kind="absence"), "yard", 3.0, "nobody on yard for an hour")


@pytest.fixture
def bus(street: Street) -> Bus:
    bus = street.worker_bus(rows_max=3)
    bus.start()
    assert bus.wait_connected(30)
    return bus


def escalator(bus: Bus, held_max: int = 64) -> Escalator:
    return Escalator(bus, evidence_bytes_max=20_000, clock=ManualClock(AT), held_max=held_max)


def raise_one(raising: Escalator, seq: int) -> None:
    raising.escalate(FIRING, Frame(frame_meta(seq=seq), jpeg()), MODEL)
    raising.show()


def test_an_escalation_says_who_what_where_and_when_and_shows_it(street: Street, bus: Bus) -> None:
    raise_one(escalator(bus), 7)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    (delivery,) = street.heard[CAMERA_ESCALATION]
    said = delivery.content
    assert isinstance(said, Escalation)
    assert split_event_id(said.id)[0] == ORIGIN
    assert split_event_id(said.id)[2] == 1
    assert (said.camera, said.rule, said.kind, said.severity) == ("yard", "night", "presence", "critical")
    assert (said.label, said.score, said.frame_seq, said.captured_at, said.raised_at) == ("person", 0.87, 7, AT, AT)
    assert (said.worker, said.model, said.detections) == (ORIGIN, MODEL, (SOMEBODY,))
    assert (said.tracks, said.zones) == (("t-1",), ("drive",))
    assert said.summary == "person in drive on yard"
    (evidence,) = said.evidence
    assert len(evidence.data) <= 20_000
    assert evidence.sha256 == hashlib.sha256(evidence.data).hexdigest()
    shown = cv2.imdecode(np.frombuffer(evidence.data, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == (evidence.height, evidence.width, 3)


def test_an_escalation_of_a_camera_that_is_recorded_names_its_clip(street: Street, bus: Bus) -> None:
    raising = escalator(bus)
    raise_one(raising, 1)
    raising.escalate(FIRING, Frame(frame_meta(seq=2, recorded=True), jpeg()), MODEL)
    wait_until(lambda: len(street.heard[CAMERA_ESCALATION]) == 2)
    bare, recorded = (delivery.content for delivery in street.heard[CAMERA_ESCALATION])
    assert isinstance(bare, Escalation)
    assert isinstance(recorded, Escalation)
    assert bare.clip == ""
    assert recorded.clip == clip_reference("yard", AT, recorded.id)


def test_an_escalation_about_nobody_has_a_picture_without_boxes(street: Street, bus: Bus) -> None:
    escalator(bus).escalate(NOBODY, Frame(frame_meta(), jpeg()), MODEL)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    said = street.heard[CAMERA_ESCALATION][0].content
    assert isinstance(said, Escalation)
    assert (said.kind, said.label, said.tracks, said.zones, said.detections) == ("absence", "person", (), (), ())
    assert len(said.evidence) == 1


def test_a_picture_that_cannot_be_decoded_holds_no_escalation_up(street: Street, bus: Bus) -> None:
    with structlog.testing.capture_logs() as logs:
        escalator(bus).escalate(FIRING, Frame(frame_meta(), jpeg()[:40]), MODEL)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    said = street.heard[CAMERA_ESCALATION][0].content
    assert isinstance(said, Escalation)
    assert said.evidence == ()
    assert "evidence.refused" in [line["event"] for line in logs]


def test_the_picture_in_the_json_is_base64_that_any_tool_reads(street: Street, bus: Bus) -> None:
    raise_one(escalator(bus), 1)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    plain = msgspec.json.decode(street.heard[CAMERA_ESCALATION][0].payload)
    assert base64.b64decode(plain["evidence"][0]["data"])[:2] == b"\xff\xd8"


def test_the_same_picture_is_kept_at_the_broker_with_its_metadata(street: Street, bus: Bus) -> None:
    raise_one(escalator(bus), 7)
    wait_until(lambda: street.heard[CAMERA_EVIDENCE])
    kept = street.heard[CAMERA_EVIDENCE][0].content
    assert isinstance(kept, Frame)
    assert (kept.meta.camera, kept.meta.seq, kept.meta.captured_at) == ("yard", 7, AT)
    assert (kept.meta.width, kept.meta.height) == (640, 480)
    late = street.join("node-1.late", start=False)
    seen: list[object] = []
    late.subscribe(CAMERA_EVIDENCE, lambda delivery: seen.append(delivery.retained))
    late.start()
    wait_until(lambda: seen == [True])


@pytest.mark.parametrize(("packet_bytes_max", "pictures"), [(12_000, 1), (3_000, 0)])
def test_a_broker_that_takes_little_gets_a_smaller_picture_or_none(
    street: Street, bus: Bus, packet_bytes_max: int, pictures: int
) -> None:
    bus.close(0)
    small = MemoryBroker(packet_bytes_max=packet_bytes_max)
    street.broker = small
    street.open()
    tight = street.worker_bus()
    tight.start()
    assert tight.wait_connected(30)
    raise_one(escalator(tight), 1)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    said = street.heard[CAMERA_ESCALATION][0].content
    assert isinstance(said, Escalation)
    assert len(said.evidence) == pictures
    assert all(1_000 < len(evidence.data) <= 9_000 for evidence in said.evidence)
    wait_until(lambda: len(street.heard[CAMERA_EVIDENCE]) == pictures)
    assert tight.statistics().link.connections == 1


def test_a_picture_that_has_become_too_large_is_left_out(
    street: Street, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising = escalator(bus)
    monkeypatch.setattr(Link, "packet_bytes_max", 3_000)
    monkeypatch.setattr(raising, "_evidence", lambda said, *_: _large(said))
    raise_one(raising, 1)
    wait_until(lambda: street.heard[CAMERA_ESCALATION])
    said = street.heard[CAMERA_ESCALATION][0].content
    assert isinstance(said, Escalation)
    assert said.evidence == ()
    assert raising.held == 0


def _large(_escalation: Escalation) -> tuple[Evidence, ...]:
    return (Evidence(content_type="image/jpeg", sha256="0" * 64, width=64, height=48, data=jpeg() + bytes(5_000)),)


def sent(street: Street) -> list[int]:
    said = [delivery.content for delivery in street.heard[CAMERA_ESCALATION]]
    return list(dict.fromkeys(e.frame_seq for e in said if isinstance(e, Escalation)))


def confirm_all(bus: Bus, street: Street) -> None:
    """What a bridge does."""
    for delivery in street.heard[CAMERA_ESCALATION]:
        if isinstance(delivery.content, Escalation):
            stored = receipt(delivery.content.id, delivery.payload)
            street.node.publish(RECEIPT.at(SITE, origin=ORIGIN), stored)
    wait_until(lambda: bus.statistics().outbox_rows == 0)


def test_a_full_outbox_holds_escalations_back_loudly_and_sends_them_later_in_order(street: Street, bus: Bus) -> None:
    raising = escalator(bus)
    with structlog.testing.capture_logs() as logs:
        for seq in range(1, 7):
            raise_one(raising, seq)
    assert (raising.raised, raising.held) == (3, 3)
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in errors] == ["escalation.held"] * 3
    assert "outbox is full" in errors[0]["error"]
    wait_until(lambda: len(sent(street)) == 3)
    confirm_all(bus, street)
    raise_one(raising, 7)
    raising.flush()
    wait_until(lambda: len(sent(street)) == 6)
    confirm_all(bus, street)
    raising.flush()
    wait_until(lambda: sent(street) == [1, 2, 3, 4, 5, 6, 7])
    assert (raising.raised, raising.held) == (7, 0)
    ids = [d.content.id for d in street.heard[CAMERA_ESCALATION] if isinstance(d.content, Escalation)]
    assert [split_event_id(i)[2] for i in dict.fromkeys(ids)] == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_held_is_bounded_and_says_so(bus: Bus) -> None:
    raising = escalator(bus, held_max=2)
    for seq in itertools.count(1):
        if raising.full:
            break
        raise_one(raising, seq)
    assert (raising.raised, raising.held) == (3, 2)


def test_what_never_found_room_is_told_at_the_end(bus: Bus) -> None:
    raising = escalator(bus)
    for seq in range(1, 6):
        raise_one(raising, seq)
    with structlog.testing.capture_logs() as logs:
        raising.close()
    assert [(line["event"], line["lost"]) for line in logs if "lost" in line] == [("escalation.lost", 2)]
