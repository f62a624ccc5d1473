from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.drain import OutboxDrain
from broker.outbox import Outbox, OutboxMessage
from broker.transport import Outbound
from config.errors import TransientError


class Wire:
    """A connection: notes what is handed over; the test answers for the broker and for the bridge."""

    def __init__(self, outbox: Outbox, *, window: int = 8, resend_after_s: float = 10.0) -> None:
        self.outbox = outbox
        self.sent: list[Outbound] = []
        self.down = False
        self._unconfirmed: list[int] = []
        self.drain = OutboxDrain(outbox, self._send, window=window, resend_after_s=resend_after_s)

    def _send(self, message: Outbound) -> int:
        if self.down:
            raise TransientError("down")
        self.sent.append(message)
        self._unconfirmed.append(len(self.sent))
        return len(self.sent)

    def pump(self, now_s: float, *, packet_bytes_max: int | None = None) -> list[str]:
        """What goes onto the wire at this time."""
        before = len(self.sent)
        self.drain.pump(now_s, packet_bytes_max)
        return [message.payload.decode() for message in self.sent[before:]]

    def confirm(self, refusal: str | None = None, *, topic: str = "") -> None:
        """The broker answers for everything that is on the wire; the refusal is for one topic, or for all."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for number in unconfirmed:
            is_meant = self.sent[number - 1].topic.startswith(topic)
            assert self.drain.on_sent(number, refusal if is_meant else None)

    def flow(self, now_s: float) -> list[str]:
        """Send and confirm until nothing more goes."""
        gone: list[str] = []
        while batch := self.pump(now_s):
            gone += batch
            self.confirm()
        return gone

    def receipt(self, *ids: str) -> None:
        self.drain.on_receipts([(identity, hashlib.sha256(identity.encode()).digest()) for identity in ids])


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "o.db", origin="n.edge")
    yield box
    box.close()


def put(outbox: Outbox, count: int = 1, *, stream: str = "escalation", topic: str = "t") -> list[str]:
    """A message's payload is its id."""
    priority = {"escalation": 0, "motion": 1, "track": 2}[stream]
    durable = stream == "escalation"
    return [outbox.put(stream, topic, str.encode, priority=priority, durable=durable) for _ in range(count)]


def reopened(outbox: Outbox, **settings: float) -> Outbox:
    outbox.close()
    return Outbox(outbox._path, origin="n.edge", **settings)  # type: ignore[arg-type]


def test_what_was_confirmed_by_the_broker_waits_for_its_receipt(outbox: Outbox) -> None:
    wire = Wire(outbox)
    (event,) = put(outbox, stream="motion")
    (escalation,) = put(outbox)
    assert wire.pump(0.0) == [escalation, event]
    wire.confirm()
    assert not wire.drain.on_sent(1)
    assert wire.drain.awaiting_receipt == outbox.rows == 2
    wire.receipt(escalation, escalation, event, "n.edge:gone:1", "nonsense")
    wire.pump(0.1)
    assert wire.drain.awaiting_receipt == outbox.rows == 0


def test_a_receipt_that_is_quicker_than_the_brokers_answer_is_enough(outbox: Outbox) -> None:
    wire = Wire(outbox)
    (identity,) = put(outbox)
    wire.pump(0.0)
    wire.receipt(identity)
    wire.confirm()
    assert wire.pump(100.0) == []
    assert (outbox.rows, wire.drain.awaiting_receipt) == (0, 0)


def test_a_receipt_for_other_bytes_counts_for_nothing(outbox: Outbox) -> None:
    wire = Wire(outbox)
    (identity,) = put(outbox)
    wire.flow(0.0)
    wire.drain.on_receipts([(identity, hashlib.sha256(b"other").digest())])
    wire.pump(1.0)
    assert outbox.rows == wire.drain.awaiting_receipt == 1
    assert wire.pump(10.0) == [identity]


def test_without_receipts_the_oldest_few_are_tried_with_growing_patience(outbox: Outbox) -> None:
    wire = Wire(outbox)
    ids = put(outbox, 30)
    assert wire.flow(0.0) == ids
    tried = {now_s: gone for now_s in range(1, 160) if (gone := wire.flow(float(now_s)))}
    assert tried == dict.fromkeys((10, 30, 70, 110, 150), ids[:4])
    assert wire.drain.resent == 20
    assert wire.drain.awaiting_receipt == 30


def test_the_first_receipt_brings_everything_overdue_back_at_once_and_in_order(outbox: Outbox) -> None:
    wire = Wire(outbox)
    ids = put(outbox, 30)
    wire.flow(0.0)
    for now_s in range(1, 80):
        wire.flow(float(now_s))
    young = put(outbox, 3)
    wire.flow(80.0)
    wire.receipt(ids[1])
    assert wire.flow(80.1) == [*young, ids[0], *ids[2:]]
    assert wire.flow(89.0) == []


def test_who_answers_late_is_not_buried_under_copies(outbox: Outbox) -> None:
    wire = Wire(outbox)
    slow, late = put(outbox, 2)
    wire.flow(0.0)
    wire.receipt(slow)
    assert late in wire.flow(10.0)  # so far answers came at once
    (following,) = put(outbox)
    wire.flow(11.0)
    wire.flow(19.0)
    wire.receipt(late)  # 9 s after the copy
    (lost, _) = put(outbox, 2)
    wire.flow(19.1)
    assert lost not in wire.flow(29.5)
    wire.receipt(following)
    assert lost in wire.flow(60.0)


def test_one_lost_receipt_among_many_is_asked_for_again_with_growing_patience(outbox: Outbox) -> None:
    wire = Wire(outbox)
    (lost,) = put(outbox)
    wire.flow(0.0)
    tried = []
    for now_s in range(1, 400):
        (other,) = put(outbox)
        gone = wire.flow(float(now_s))
        wire.receipt(other)
        tried += [now_s] * (lost in gone)
        assert set(gone) <= {lost, other}
    assert tried == [10, 30, 70, 150, 310]


def test_streams_without_an_answer_do_not_disturb_those_with_one(outbox: Outbox) -> None:
    wire = Wire(outbox)
    for now_s in range(200):
        put(outbox, 5, stream="motion")
        (escalation,) = put(outbox)
        gone = wire.flow(float(now_s))
        assert gone[0] == escalation
        wire.receipt(escalation)
    assert wire.drain.resent <= 4 * 7
    assert wire.drain.awaiting_receipt == 1_000


def test_live_goes_first_by_kind_then_the_backlog_by_kind_and_in_order(outbox: Outbox) -> None:
    old = {stream: put(outbox, 3, stream=stream) for stream in ("track", "motion", "escalation")}
    box = reopened(outbox)
    wire = Wire(box, window=64)
    new = {stream: put(box, 2, stream=stream) for stream in ("track", "motion", "escalation")}
    order = ("escalation", "motion", "track")
    expected = [identity for stream in order for identity in new[stream]]
    expected += [identity for stream in order for identity in old[stream]]
    assert wire.flow(0.0) == expected
    box.close()


def test_after_ten_seconds_without_a_connection_what_was_live_is_backlog(outbox: Outbox) -> None:
    wire = Wire(outbox, window=64)
    old = put(outbox, 3, stream="motion")
    for now_s in range(11):
        wire.drain.tick(float(now_s))
    middle = put(outbox, 1)
    wire.drain.tick(11.0)
    wire.drain.tick(20.5)
    new = put(outbox, 2, stream="motion")
    wire.drain.tick(20.8)
    assert wire.flow(21.1) == [*new, *middle, *old]


def test_what_was_sent_while_it_was_live_is_not_sent_again_as_backlog(outbox: Outbox) -> None:
    wire = Wire(outbox, resend_after_s=1_000.0)
    ids = put(outbox, 20)
    assert wire.flow(0.0) == ids
    for now_s in range(1, 60):
        assert wire.flow(float(now_s)) == []


def test_a_quarter_of_the_window_is_the_backlogs_and_a_quarter_is_for_what_is_new(outbox: Outbox) -> None:
    old = put(outbox, 40)
    box = reopened(outbox)
    wire = Wire(box, window=8)
    new = put(box, 40)
    assert wire.pump(0.0) == [*new[:6], *old[:2]]
    wire.confirm()
    wire.receipt(*new[:6], *old[:2])
    sent = []
    while batch := wire.pump(0.1):
        sent += batch
        wire.confirm()
        wire.receipt(*batch)
    assert [identity for identity in sent if identity in new] == new[6:]
    assert [identity for identity in sent if identity in old] == old[2:]
    assert sent.index(old[8]) < sent.index(new[38])
    more = put(box, 20)
    assert wire.pump(2.0) == more[:8]
    box.close()


def test_the_backlog_leaves_room_for_what_comes_now(outbox: Outbox) -> None:
    put(outbox, 40)
    box = reopened(outbox)
    wire = Wire(box, window=8)
    assert len(wire.pump(0.0)) == 6
    (new,) = put(box)
    assert wire.pump(0.1) == [new]
    box.close()


def test_the_backlog_waits_for_receipts_and_what_is_live_does_not(outbox: Outbox) -> None:
    old = put(outbox, 100)
    box = reopened(outbox)
    wire = Wire(box, window=8)
    assert wire.flow(0.0) == old[:64]
    new = put(box, 200)
    assert wire.flow(0.1) == new
    wire.receipt(*old[:10])
    assert wire.flow(0.2) == old[64:74]
    box.close()


def test_a_burst_waits_for_receipts_while_somebody_answers_and_goes_on_when_nobody_does(outbox: Outbox) -> None:
    wire = Wire(outbox, window=8)
    wire.receipt(*wire.flow(0.0), *put(outbox))
    burst = put(outbox, 150)
    gone = wire.flow(0.1)
    assert gone == burst[:96]
    wire.receipt(*gone[:10])
    assert wire.flow(0.2) == burst[96:106]
    put(outbox, stream="motion")
    assert len(wire.flow(0.3)) == 1  # each stream on its own
    (late,) = put(outbox)
    assert late not in wire.flow(0.4)
    assert late in wire.flow(10.2)


def test_receipts_that_are_not_yet_written_down_hide_nothing_that_waits_behind_them(outbox: Outbox) -> None:
    ids = put(outbox, 200)
    box = reopened(outbox)
    wire = Wire(box, window=8)
    sent = []
    while batch := wire.pump(0.0):  # no time passes: nothing is written down
        sent += batch
        wire.confirm()
        wire.receipt(*batch)
        if len(sent) == 60:
            wire.drain.clear()
    assert sent == ids
    box.close()


def test_after_a_lost_connection_all_goes_again_in_order(outbox: Outbox) -> None:
    wire = Wire(outbox, window=2)
    ids = put(outbox, 5)
    assert wire.pump(0.0) == ids[:2]
    wire.confirm()
    assert wire.pump(0.1) == ids[2:4]
    wire.drain.clear()
    wire._unconfirmed.clear()
    assert wire.flow(1.0) == ids


def test_a_pump_that_meets_a_dead_connection_says_so_and_loses_nothing(outbox: Outbox) -> None:
    wire = Wire(outbox)
    wire.down = True
    ids = put(outbox)
    with pytest.raises(TransientError):
        wire.pump(0.0)
    wire.drain.clear()
    wire.down = False
    assert wire.flow(1.0) == ids


def test_what_is_refused_stays_and_is_tried_again_with_growing_patience(outbox: Outbox) -> None:
    wire = Wire(outbox, window=64)
    refused, taken = put(outbox, 5, topic="secret"), put(outbox, 3, topic="open")
    later: list[str] = []
    tried: dict[int, int] = {}
    for now_s in range(160):
        batch = wire.pump(float(now_s))
        wire.confirm("not authorized", topic="secret")
        wire.receipt(*(identity for identity in batch if identity in taken))
        tried |= {now_s: len(batch)} if batch else {}
        if now_s == 20:
            assert wire.drain.awaiting_receipt == 0
            later += put(outbox, 2, topic="secret")
    assert tried == {0: 8, 10: 5, 30: 7, 70: 7, 150: 7}
    assert outbox.rows == 7
    assert wire.drain.refused == 5 + 5 + 7 * 3
    assert wire.flow(1_000.0) == [*refused, *later]
    wire.receipt(*refused, *later)
    wire.pump(1_001.0)
    assert outbox.rows == 0


def test_too_large_for_the_broker_is_passed_over_counted_and_sent_once_it_may(outbox: Outbox) -> None:
    wire = Wire(outbox)
    (small,) = put(outbox)
    large = outbox.put("escalation", "t", lambda identity: identity.ljust(5_000).encode(), priority=0, durable=True)
    (after,) = put(outbox)
    for now_s in (0.0, 1.0, 30.0):
        wire.pump(now_s, packet_bytes_max=1_000)
        wire.confirm()
    wire.receipt(small, after)
    assert wire.drain.too_large == 1
    assert wire.pump(31.0, packet_bytes_max=1_000) == []
    assert [sent.strip() for sent in wire.pump(32.0, packet_bytes_max=10_000)] == [large]
    assert wire.drain.too_large == 0


def test_an_event_that_nobody_answers_for_is_released_and_an_escalation_is_not(outbox: Outbox) -> None:
    box = reopened(outbox, event_hold_s=60.0)
    wire = Wire(box)
    put(box, 20, stream="motion"), put(box, 5)
    for now_s in range(75):
        wire.flow(float(now_s))
    assert (box.rows, box.released) == (5, 20)
    assert all(stream.rows == 0 for stream in box.streams() if not stream.durable)
    box.close()


def test_without_a_hold_the_brokers_word_is_enough_for_an_event(outbox: Outbox) -> None:
    box = reopened(outbox, event_hold_s=0.0)
    wire = Wire(box)
    put(box, 20, stream="motion"), put(box)
    wire.flow(0.0)
    wire.pump(0.1)
    wire.pump(0.2)
    assert (box.rows, wire.drain.awaiting_receipt) == (1, 1)
    box.close()


def test_a_flood_of_events_without_a_bridge_makes_room_for_itself_and_costs_no_escalation(outbox: Outbox) -> None:
    box = reopened(outbox, rows_max=200)
    wire = Wire(box)
    escalations = []
    for turn in range(40):
        put(box, 10, stream="motion")
        escalations += put(box)
        wire.flow(turn / 10)
    assert box.released == 400 - 150
    rows = {stream.name: stream.rows for stream in box.streams()}
    assert rows == {"motion": 150, "escalation": 40}
    box.close()


def test_memory_is_bounded_and_what_was_forgotten_is_sent_again_later(outbox: Outbox) -> None:
    wire = Wire(outbox, window=64)
    ids = []
    for turn in range(60):
        ids += outbox_put_many(outbox, 100)
        wire.flow(turn / 60)
    assert wire.drain.awaiting_receipt == 4_096
    assert len(wire.flow(11.0)) == 4
    wire.receipt(ids[-1])
    again = []
    while batch := wire.flow(12.0):
        again += batch
        wire.receipt(*batch)
    assert again == ids[:-1]
    wire.pump(13.0)
    assert outbox.rows == 0


def outbox_put_many(outbox: Outbox, count: int) -> list[str]:
    return outbox.put_many([OutboxMessage("escalation", "t", str.encode, 0, durable=True)] * count)
