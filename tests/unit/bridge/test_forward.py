from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from bridge.forward import Forwarder
from bridge.journal import Journal, JournalReader
from bridge.sink import Record
from broker.bus import Delivery
from broker.messages import Message, NodeHealth, Receipts, decode_json, encode_json
from broker.outbox import event_id, split_event_id
from broker.topics import (
    CAMERA_MOTION,
    CAMERA_TRACK,
    NODE_HEALTH,
    RECEIPT,
    TopicSpec,
)
from config.clock import ManualClock
from config.errors import PermanentError
from tests.support.messages import AT, escalation, motion, track
from tests.support.waiting import wait_until
from tests.unit.bridge.records import FakeSink
from tests.unit.bridge.street import ORIGIN, Street, identities, identity, place


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    made = Street(tmp_path)
    yield made
    made.close()


def test_stored_then_answered_then_acknowledged(street: Street) -> None:
    sink = FakeSink(at_once=False)
    street.bridge(sink)
    street.say(escalation(identity(1)))
    wait_until(lambda: sink.taken, what="the sink")
    assert street.receipts == []
    assert street.unacknowledged() == 1
    sink.report(sink.taken)
    wait_until(lambda: street.receipts, what="the receipt")
    (receipt,) = street.receipts
    assert (receipt.event_id, receipt.sink, receipt.location) == (identity(1), "fake", "fake/0")
    assert (receipt.stored_at, receipt.repeated) == (AT, False)
    assert receipt.latency_ms >= 0
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgement")


def test_answers_keep_the_order_of_arrival(street: Street) -> None:
    sink = FakeSink(at_once=False)
    street.bridge(sink)
    for seq in range(1, 6):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 5, what="the sink")
    for record in reversed(sink.taken[1:]):
        sink.report([record])
    assert street.receipts == []
    assert street.unacknowledged() == 5
    sink.report(sink.taken[:1])
    wait_until(lambda: len(street.receipts) == 5, what="receipts")
    assert street.receipted() == identities(5)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")


def test_a_copy_that_comes_while_the_first_is_on_its_way_is_not_written(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    for seq in (1, 2, 1, 1):
        street.say(escalation(identity(seq)))
    wait_until(lambda: forwarder.figures().queues["bridge"] == 4, what="all copies")
    wait_until(lambda: len(sink.taken) == 2, what="the sink")
    sink.report(sink.taken)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")
    wait_until(lambda: len(street.receipts) == 2, what="the receipts")
    assert street.receipted() == identities(2)
    assert len(sink.taken) == 2


def test_a_copy_that_comes_later_is_answered_again(street: Street, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    forwarder, _ = street.bridge(Journal(path))
    street.say(escalation(identity(1)))
    wait_until(lambda: len(street.receipts) == 1, what="the first receipt")
    street.say(escalation(identity(1)))
    wait_until(lambda: len(street.receipts) == 2, what="the second receipt")
    assert [receipt.repeated for receipt in street.receipts] == [False, True]
    assert len({receipt.location for receipt in street.receipts}) == 1
    assert len(list(JournalReader(path).identities())) == 1
    counts = forwarder.figures().counts
    assert (counts["stored"], counts["repeated"]) == (1, 1)


def test_a_node_cannot_settle_the_escalations_of_another(street: Street) -> None:
    sink = FakeSink()
    street.bridge(sink)
    street.say(escalation(identity(1, "node-2.detector")), origin=ORIGIN)
    wait_until(lambda: street.rejects, what="the reject")
    assert "is not of the topic's origin" in street.rejects[0].reason
    assert street.receipts == []
    assert sink.taken == []
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgement")


def test_a_receipt_goes_to_the_origin_that_raised_it(street: Street) -> None:
    street.bridge(FakeSink())
    seen: list[str] = []
    street.listener.subscribe(RECEIPT, lambda delivery: seen.append(str(delivery.topic)))
    street.say(escalation(identity(1, "node-2.edge")), origin="node-2.edge")
    wait_until(lambda: seen, what="the receipt")
    assert seen == [str(RECEIPT.at("home", origin="node-2.edge"))]


def test_what_is_stored_at_once_is_receipted_in_few_messages(street: Street) -> None:
    sink = FakeSink(at_once=False)
    street.bridge(sink)
    sizes: list[int] = []

    def on_receipts(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Receipts)
        sizes.append(len(delivery.content.receipts))

    street.listener.subscribe(RECEIPT, on_receipts)
    for seq in range(1, 301):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 300, what="the sink")
    sink.report(sink.taken)
    wait_until(lambda: sum(sizes) == 300, what="the receipts")
    assert sizes == [256, 44]
    assert street.receipted() == identities(300)


def test_what_is_another_bridges_is_acknowledged_and_neither_read_nor_answered(street: Street) -> None:
    sink = FakeSink()
    forwarder, _ = street.bridge(sink, serves=lambda camera: camera != "gate")
    street.say(b"not even JSON", camera="gate")
    street.say(escalation(identity(1), "gate"), camera="gate")
    street.say(escalation(identity(2)))
    wait_until(lambda: street.receipts, what="the receipt")
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")
    assert street.receipted() == [identity(2)]
    assert [record.camera for record in sink.taken] == ["yard"]
    assert street.rejects == []
    assert forwarder.figures().counts["foreign"] == 2


def test_what_cannot_be_read_is_kept_and_answered_where_it_has_an_id(street: Street) -> None:
    sink = FakeSink()
    street.bridge(sink, keeps_unreadable=True)
    street.say(b'{"id":"%b","v":2}' % identity(1).encode())
    street.say(b"not even JSON")
    street.say(b'{"id":"node-2.detector:e1:2"}')  # of another origin than the topic's
    wait_until(lambda: len(sink.taken) == 3, what="the sink")
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")
    assert [record.event_id for record in sink.taken] == [identity(1), "", ""]
    assert "unknown schema version" in sink.taken[0].fault
    assert {record.bus_topic for record in sink.taken} == {str(place())}
    wait_until(lambda: street.receipts, what="the receipt")
    assert street.receipted() == [identity(1)]
    assert street.receipts[0].sha256 == sink.taken[0].digest.hex()
    assert street.rejects


@pytest.mark.parametrize(
    ("message", "spec"),
    [
        pytest.param(motion("node-2.edge:m1:1"), CAMERA_MOTION, id="motion"),
        pytest.param(track("node-2.edge:m1:1"), CAMERA_TRACK, id="track"),
    ],
)
def test_an_event_gets_a_receipt_that_names_its_bytes(
    street: Street, tmp_path: Path, message: Message, spec: TopicSpec
) -> None:
    street.bridge(Journal(tmp_path / "journal.db"))
    seen: list[str] = []
    street.listener.subscribe(RECEIPT, lambda delivery: seen.append(str(delivery.topic)))
    street.say_event(message, spec=spec)
    wait_until(lambda: seen and street.receipts, what="the receipt")
    assert seen == [str(RECEIPT.at("home", origin="node-2.edge"))]
    (receipt,) = street.receipts
    assert (receipt.event_id, receipt.sha256) == ("node-2.edge:m1:1", sha256(encode_json(message)).hexdigest())
    assert (receipt.location, receipt.repeated) == ("journal/event/1", False)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgement")


def test_events_that_are_not_wanted_get_no_receipt(street: Street) -> None:
    sink = FakeSink()
    street.bridge(sink, events=())
    street.say_event(motion("node-1.edge:m1:1"))
    street.say(escalation(identity(1)))
    wait_until(lambda: street.receipts, what="the receipt of the escalation")
    assert street.receipted() == [identity(1)]
    assert [record.table for record in sink.taken] == ["escalation"]


def test_an_event_under_the_id_of_an_escalation_is_kept_apart_on_its_whole_way(street: Street, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    gate = threading.Event()
    write = journal.write

    def write_later(records: Sequence[Record]) -> int:
        assert gate.wait(30)
        return write(records)

    journal.write = write_later  # type: ignore[method-assign]
    forwarder, _ = street.bridge(journal)
    forged, genuine = motion(identity(1), camera="gate"), escalation(identity(1))
    street.say_event(forged, camera="gate")
    street.say(genuine)
    wait_until(lambda: forwarder.figures().queues["bridge"] == 2, what="both")
    gate.set()
    wait_until(lambda: len(street.receipts) == 2, what="a receipt each")
    assert [(receipt.sha256, receipt.location, receipt.repeated) for receipt in street.receipts] == [
        (sha256(encode_json(forged)).hexdigest(), "journal/event/1", False),
        (sha256(encode_json(genuine)).hexdigest(), "journal/escalation/1", False),
    ]


def following(identity: str) -> str:
    """The id that its outbox gives next."""
    origin, epoch, seq = split_event_id(identity)
    return event_id(origin, epoch, seq + 1)


def test_a_forged_event_does_not_shut_out_the_genuine_one(street: Street, tmp_path: Path) -> None:
    """A stolen worker may write tracks of every camera, and knows which id comes next."""
    path = tmp_path / "journal.db"
    street.bridge(Journal(path))
    sender = street.sender(resend_after_s=0.5)
    yard = CAMERA_TRACK.at("home", camera="yard")
    first = sender.publish_event(yard, track)
    wait_until(lambda: sender.statistics().outbox_rows == 0, what="the receipt of the first")
    street.say_event(track(following(first), label="nobody"), spec=CAMERA_TRACK)
    wait_until(lambda: street.receipted() == [first, following(first)], what="the receipt of the forged one")
    second = sender.publish_event(yard, track)
    wait_until(lambda: sender.statistics().outbox_rows == 0, what="the receipt of the genuine one")
    assert second == following(first)
    reader = JournalReader(path)
    assert ["nobody" in entry.payload.decode() for entry in reader.events()] == [False, True, False]
    reader.close()


def test_a_receipt_for_other_bytes_settles_nothing(street: Street) -> None:
    """A stolen node uses, on the topic of its own camera, the id of another's escalation."""
    sink = FakeSink(at_once=False)
    street.bridge(sink)
    sender = street.sender(resend_after_s=30.0)
    heard: list[str] = []
    sender.subscribe(RECEIPT, lambda _delivery: heard.append("receipt"))
    first = sender.publish_event(place(), escalation)
    wait_until(lambda: len(sink.taken) == 1, what="the first")
    sink.report(sink.taken)
    wait_until(lambda: sender.statistics().outbox_rows == 0, what="its receipt")
    street.say_event(motion(following(first), camera="gate"), camera="gate")
    wait_until(lambda: len(sink.taken) == 2, what="the forged one")
    second = sender.publish_event(place(), escalation)
    wait_until(lambda: len(sink.taken) == 3, what="the genuine one")
    assert sink.taken[1].event_id == sink.taken[2].event_id == second
    sink.report(sink.taken[1:2])
    wait_until(lambda: len(heard) == 2, what="the receipt of the forged one")
    assert sender.statistics().outbox_rows == 1
    sink.report(sink.taken[2:])
    wait_until(lambda: sender.statistics().outbox_rows == 0, what="the receipt of the genuine one")


HOSTILE_EVENTS = [
    b"null",
    encode_json(motion("not an id")),
    encode_json(motion("node-1:e1:1")),
    encode_json(motion("node-1.edge/#:e1:1")),
    encode_json(motion(f"node-1.edge:e1:{2**70}")),
    encode_json(motion("node-1.edge:e1:1", camera="door")),
    encode_json(motion("node-1.edge:e1:1")).replace(b"2026-01-01T12:00:00Z", b"0001-01-01T00:00:00+23:59"),
    encode_json(escalation(identity(1))),
    encode_json(track("node-1.edge:e1:1")),
]


def test_hostile_events_are_counted_and_hold_nothing_up(street: Street) -> None:
    sink = FakeSink()
    _, bus = street.bridge(sink)
    for payload in HOSTILE_EVENTS:
        street.say_event(payload)
    street.say_event(motion("node-1.edge:m1:2"))
    wait_until(lambda: street.receipted() == ["node-1.edge:m1:2"], what="the receipt of the good one")
    assert [record.seq for record in sink.taken] == [2]
    assert bus.statistics().rejected == len(HOSTILE_EVENTS)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")


def test_invented_numbers_are_told_in_a_health_report_that_can_be_read(street: Street, tmp_path: Path) -> None:
    forwarder, _ = street.bridge(Journal(tmp_path / "journal.db"))
    for number in range(100):
        for seq in (1, 2**48 - 1):
            street.say_event(motion(f"node-{number}.edge:m1:{seq}"))
    wait_for_receipts(street, 200)
    figures = forwarder.figures()
    report = NodeHealth(
        node="node-1", role="bridge", at=AT, uptime_s=1, cpu_percent=1, memory_bytes=1, disk_free_bytes=1,
        counts=figures.counts,
    )  # fmt: skip
    assert decode_json(NodeHealth, encode_json(report), max_bytes=NODE_HEALTH.max_bytes) == report
    assert report.counts["gaps"] == 100 * (2**48 - 3)


def wait_for_receipts(street: Street, count: int) -> None:
    wait_until(lambda: len(street.receipts) == count, what=f"{count} receipts")


def test_repeats_are_told_by_origin(street: Street, tmp_path: Path) -> None:
    forwarder, _ = street.bridge(Journal(tmp_path / "journal.db"))
    for number, seq in enumerate((1, 2, 5, 5, 2), start=1):
        street.say_event(motion(f"node-1.edge:m1:{seq}"))
        wait_for_receipts(street, number)
    counts = forwarder.figures().counts
    assert (counts["events"], counts["escalations"], counts["repeated"], counts["gaps"]) == (5, 0, 2, 2)
    assert counts["gaps/camera_motion/node-1.edge"] == 2
    assert counts["repeated/camera_motion/node-1.edge"] == 2


HOSTILE = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'{"v":1}',
    b'{"v":2,"id":"x"}',
    b"[" * 100_000,
    b'{"id":"' + b"a" * 2_000_000 + b'"}',
    encode_json(escalation("not an id")),
    encode_json(escalation(f"{ORIGIN}:e1:{2**70}")),
    encode_json(escalation(f"{ORIGIN}:\x00:1")),
    encode_json(escalation(identity(1), camera="door")),
    encode_json(escalation(identity(1))).replace(b"2026-01-01T12:00:00Z", b"0001-01-01T00:00:00+23:59"),
    encode_json(escalation(identity(1))).replace(b"person at", b"\\ud800"),
]


def test_hostile_payloads_are_counted_and_hold_nothing_up(street: Street) -> None:
    sink = FakeSink()
    _, bus = street.bridge(sink)
    for payload in HOSTILE:
        street.say(payload)
    street.say(escalation(identity(2)))
    wait_until(lambda: street.receipted() == [identity(2)], what="the receipt of the good one")
    assert [record.seq for record in sink.taken] == [2]
    assert bus.statistics().rejected == len(HOSTILE)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")


def test_a_sink_that_fails_keeps_everything_in_order(street: Street, tmp_path: Path) -> None:
    sink = FakeSink()
    sink.broken.set()
    forwarder, bus = street.bridge(sink)
    detector = street.sender()
    sent = [detector.publish_event(place(), escalation) for _ in range(40)]
    wait_until(lambda: sink.writes > 3, what="several tries")
    assert street.receipts == []
    assert street.unacknowledged() >= 1
    assert bus.connected
    assert detector.statistics().outbox_rows == 40
    sink.broken.clear()
    wait_until(lambda: detector.statistics().outbox_rows == 0, what="the outbox")
    assert [record.event_id for record in sink.taken] == sent
    wait_until(lambda: street.receipted() == sent, what="each receipt, in order")
    assert forwarder.figures().queues["bridge"] == 0
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")


def test_a_sink_without_room_is_asked_again(street: Street) -> None:
    sink = FakeSink()
    sink.room = 0
    street.bridge(sink)
    for seq in range(1, 11):
        street.say(escalation(identity(seq)))
    wait_until(lambda: sink.writes > 3, what="several tries")
    sink.room = 3
    wait_until(lambda: len(street.receipts) == 10, what="the receipts")
    assert [record.seq for record in sink.taken] == list(range(1, 11))


def test_beyond_its_bound_it_refuses_and_the_sender_sends_again(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink, rows_max=5)
    detector = street.sender(resend_after_s=0.5)
    sent = [detector.publish_event(place(), escalation) for _ in range(12)]
    wait_until(lambda: forwarder.figures().drops["bridge_refused"] == 7, what="refusals")
    assert street.unacknowledged() == 12
    sink.at_once = True
    sink.report(sink.taken)
    wait_until(lambda: detector.statistics().outbox_rows == 0, what="the outbox")
    assert sorted(record.seq for record in sink.taken) == list(range(1, 13))
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements, also of those refused")
    wait_until(lambda: set(street.receipted()) == set(sent), what="each receipt")


def test_at_its_bound_it_lets_the_broker_wait_and_refuses_nothing(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink, rows_max=5, patience_s=30.0)
    for seq in range(1, 31):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 5, what="a full queue")
    assert forwarder.figures().queues["bridge"] == 5
    sink.at_once = True
    sink.report(sink.taken)
    wait_until(lambda: len(street.receipts) == 30, what="every receipt")
    assert street.receipted() == identities(30)
    assert forwarder.figures().drops["bridge_refused"] == 0


def test_the_end_does_not_wait_for_room(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink, rows_max=1, patience_s=30.0)
    for seq in (1, 2):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 1, what="a full queue")
    forwarder.close(0.0)
    assert street.unacknowledged() == 2


def test_bytes_are_bounded_too_but_one_always_passes(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink, bytes_max=1000)
    street.say(escalation(identity(1), summary="x" * 2000))
    street.say(escalation(identity(2), summary="x" * 2000))
    wait_until(lambda: forwarder.figures().drops["bridge_refused"] == 1, what="the refusal")
    assert [record.seq for record in sink.taken] == [1]


def test_a_cut_connection_delivers_again_and_stores_once(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, bus = street.bridge(sink)
    for seq in (1, 2, 3):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 3, what="the sink")
    street.broker.cut("bridge")
    wait_until(lambda: forwarder.figures().queues["bridge"] == 6, what="the second delivery")
    sink.report(sink.taken)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgements")
    assert [record.seq for record in sink.taken] == [1, 2, 3]
    assert bus.statistics().link.connections == 2


def test_a_receipt_without_connection_is_forgotten_and_sent_with_the_next_copy(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, bus = street.bridge(sink)
    detector = street.sender()
    detector.publish_event(place(), escalation)
    wait_until(lambda: sink.taken, what="the sink")
    street.broker.stop()
    wait_until(lambda: not bus.connected, what="the end of the connection")
    sink.at_once = True
    sink.report(sink.taken)
    assert forwarder.figures().counts["receipts_unsent"] == 1
    assert detector.statistics().outbox_rows == 1
    street.broker.start()
    wait_until(lambda: detector.statistics().outbox_rows == 0, what="the receipt of a later copy")
    assert forwarder.figures().counts["repeated"] >= 1
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgement")


def test_what_is_not_finished_at_the_end_stays_with_the_broker(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    street.say(escalation(identity(1)))
    wait_until(lambda: sink.taken, what="the sink")
    forwarder.close(drain_s=0.05)
    assert sink.closed
    street.say(escalation(identity(2)))
    wait_until(lambda: street.unacknowledged() == 2, what="the broker's keeping both")
    assert street.receipts == []


def test_the_end_waits_for_what_is_on_its_way(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    street.say(escalation(identity(1)))
    wait_until(lambda: sink.taken, what="the sink")
    threading.Timer(0.05, lambda: sink.report(sink.taken)).start()
    forwarder.close(drain_s=5.0)
    wait_until(lambda: street.receipted() == [identity(1)], what="the receipt")


def test_a_sink_that_cannot_go_on_ends_the_bridge(street: Street) -> None:
    sink = FakeSink()
    ends: list[Exception] = []

    def give_up() -> None:
        raise PermanentError("damaged")

    sink.before_write = give_up
    bus = street._bus("bridge", "node-1.bridge")
    forwarder = Forwarder(bus, sink, on_fatal=ends.append)
    forwarder.start()
    street._join(bus)
    street.say(escalation(identity(1)))
    wait_until(lambda: ends, what="the end")
    assert street.unacknowledged() == 1
    forwarder.close(0.0)


def test_a_quarantined_escalation_gets_its_receipt(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    street.say(escalation(identity(1)))
    wait_until(lambda: sink.taken, what="the sink")
    sink.report(sink.taken, sink="quarantine")
    wait_until(lambda: street.receipts, what="the receipt")
    assert street.receipts[0].sink == "quarantine"
    assert forwarder.figures().counts["quarantined"] == 1


def test_the_figures_tell_gaps_and_latencies(street: Street) -> None:
    clock = ManualClock()
    sink = FakeSink(at_once=False)
    bus = street._bus("bridge", "node-1.bridge")
    forwarder = Forwarder(bus, sink, clock=clock)
    forwarder.start()
    street._join(bus)
    for seq in (3, 4, 8):
        street.say(escalation(identity(seq)))
    wait_until(lambda: len(sink.taken) == 3, what="the sink")
    clock.advance(0.25)
    sink.missing["camera_escalation", ORIGIN] = 3
    sink.report(sink.taken)
    figures = forwarder.figures()
    assert figures.counts["gaps"] == 3
    assert figures.counts["gaps/camera_escalation/node-1.detector"] == 3
    assert figures.counts["stored_p50_us"] >= 250_000
    assert figures.counts["stored_p99_us"] >= figures.counts["stored_p50_us"]
    assert figures.counts["receipts"] == 3
    forwarder.close(0.0)


def test_nothing_grows_with_what_a_stranger_invents(street: Street) -> None:
    forwarder, _ = street.bridge(FakeSink())
    for number in range(1200):
        for _ in range(2):
            street.say_event(motion(f"node-{number}.edge:e1:1"))
    wait_until(lambda: len(street.receipts) >= 1200 and street.unacknowledged() == 0, what="the receipts")
    assert len(forwarder._repeats) <= 1024
    assert forwarder._pending == {}
    assert len(forwarder.figures().counts) < 50
