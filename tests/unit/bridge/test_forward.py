from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.forward import Forwarder
from bridge.journal import Journal, JournalReader
from bridge.sink import Sink
from broker.bus import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import Message, Receipt, Reject, encode_json
from broker.outbox import Outbox
from broker.topics import CAMERA_ESCALATION, RECEIPT, REJECT, Topic
from broker.transport import Outbound, TransportEvents
from config.backoff import Backoff
from config.clock import ManualClock
from config.errors import PermanentError
from config.settings import BusSettings, OutboxSettings
from tests.support.messages import AT, escalation
from tests.support.waiting import wait_until
from tests.unit.bridge.records import FakeSink

ORIGIN = "node-1.detector"


class Street:
    """A broker, the raw wire of a stranger, and what comes back."""

    def __init__(self, tmp_path: Path) -> None:
        self.broker = MemoryBroker()
        self.tmp_path = tmp_path
        self.receipts: list[Receipt] = []
        self.rejects: list[Reject] = []
        self.listener = self._bus("listener", "node-9.listener")
        self.listener.subscribe(RECEIPT, self._on_answer)
        self.listener.subscribe(REJECT, self._on_answer)
        self._open: list[Callable[[], None]] = []
        self.stranger = self.broker.transports("stranger")(TransportEvents(lambda _m: None, lambda _n: None), None)
        self._join(self.listener)
        self.stranger.open()

    def _on_answer(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, Receipt):
            self.receipts.append(delivery.content)
        elif isinstance(delivery.content, Reject):
            self.rejects.append(delivery.content)

    def _bus(self, client_id: str, origin: str, outbox: Outbox | None = None, resend_after_s: float = 10.0) -> Bus:
        return Bus(
            site="home",
            origin=origin,
            transports=self.broker.transports(client_id, persistent=client_id == "bridge"),
            outbox=outbox,
            settings=BusSettings(outbox=OutboxSettings(resend_after_s=resend_after_s)),
        )

    def _join(self, bus: Bus) -> None:
        bus.start()
        self._open.append(lambda: bus.close(drain_s=0))
        assert bus.wait_connected(5)

    def sender(self, resend_after_s: float = 10.0) -> Bus:
        """A detector with an outbox."""
        outbox = Outbox(self.tmp_path / "outbox.db", origin=ORIGIN)
        bus = self._bus("detector", ORIGIN, outbox, resend_after_s)
        self._join(bus)
        return bus

    def bridge(
        self, sink: Sink, *, rows_max: int = 4000, bytes_max: int = 10**8, patience_s: float = 0.02
    ) -> tuple[Forwarder, Bus]:
        """A bridge that runs."""
        bus = self._bus("bridge", "node-1.bridge")
        forwarder = Forwarder(bus, sink, rows_max=rows_max, bytes_max=bytes_max, patience_s=patience_s)
        forwarder._writer._backoff = Backoff(0.001, 0.01)
        forwarder.start()
        self._join(bus)
        self._open.insert(0, lambda: forwarder.close(0.0))
        return forwarder, bus

    def say(self, message: Message | bytes, *, camera: str = "yard", origin: str = ORIGIN) -> None:
        """Publish an escalation past every check of a bus."""
        payload = message if isinstance(message, bytes) else encode_json(message)
        self.stranger.publish(Outbound(str(place(camera, origin)), payload, 1, retain=False))

    def unacknowledged(self) -> int:
        """Messages that the bridge has not acknowledged."""
        return len(self.broker._sessions["bridge"].unacknowledged)

    def receipted(self) -> list[str]:
        """Ids of the receipts, in order."""
        return [receipt.event_id for receipt in self.receipts]

    def close(self) -> None:
        """End everything."""
        for end in self._open:
            end()


def place(camera: str = "yard", origin: str = ORIGIN) -> Topic:
    return CAMERA_ESCALATION.at("home", camera=camera, origin=origin)


def identity(seq: int, origin: str = ORIGIN) -> str:
    return f"{origin}:e1:{seq}"


def identities(last: int) -> list[str]:
    return [identity(seq) for seq in range(1, last + 1)]


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
    assert street.receipted() == sent
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
    assert street.unacknowledged() == 5
    sink.at_once = True
    sink.report(sink.taken)
    wait_until(lambda: detector.statistics().outbox_rows == 0, what="the outbox")
    assert sorted(record.seq for record in sink.taken) == list(range(1, 13))
    assert set(street.receipted()) == set(sent)


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
    assert bus.statistics().connections == 2


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
    sink.report(sink.taken)
    figures = forwarder.figures()
    assert figures.counts["gaps"] == 3
    assert figures.counts["stored_p50_us"] >= 250_000
    assert figures.counts["stored_p99_us"] >= figures.counts["stored_p50_us"]
    assert figures.counts["receipts"] == 3
    forwarder.close(0.0)


def test_nothing_grows_with_what_a_stranger_invents(street: Street) -> None:
    sink = FakeSink()
    forwarder, _ = street.bridge(sink)
    for number in range(1200):
        street.say(escalation(f"{ORIGIN}:epoch{number}:{1 + number % 7}"))
    wait_until(lambda: len(street.receipts) == 1200, what="the receipts")
    assert len(forwarder._streams) == 1024
    assert forwarder._pending == {}
