"""The journal into another sink: once, in order, and from where it was."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from bridge.journal import Journal, JournalBacklog, JournalReader
from bridge.journal.drain import drained_up_to
from bridge.journal.retention import Retention
from bridge.sink import Record, StoredAt
from config.clock import ManualClock
from config.outside import RetentionSettings
from tests.support.messages import escalation
from tests.support.waiting import wait_until
from tests.unit.bridge.records import FakeSink, event, record
from tests.unit.bridge.street import Street, identity

AT = StoredAt("kafka", "somewhere/0/1", datetime(2026, 1, 1, tzinfo=UTC))


class Drains:
    """Bridges that drain one journal, one after the other or at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.journal = Journal(path)
        self.journal.open(lambda _stored: None)
        self._open: list[JournalBacklog] = []

    def begin(self, serves: Callable[[str], bool] = lambda _camera: True) -> JournalBacklog:
        made = JournalBacklog(self.path, serves=serves, clock=self.clock)
        self._open.append(made)
        return made

    def undrained(self) -> dict[str, list[tuple[int, int]]]:
        with closing(JournalReader(self.path)) as reader:
            return {key[0].removeprefix("camera_"): list(ranges) for key, ranges in reader.undrained().items()}

    def close(self) -> None:
        for backlog in self._open:
            backlog.close()
        self.journal.close()


@pytest.fixture
def drains(tmp_path: Path) -> Iterator[Drains]:
    made = Drains(tmp_path / "journal.db")
    yield made
    made.close()


def stored(records: Sequence[Record]) -> list[tuple[Record, StoredAt]]:
    return [(one, AT) for one in records]


def told(records: Sequence[Record]) -> list[tuple[str, int]]:
    return [(one.table, one.seq) for one in records]


def drain(backlog: JournalBacklog, clock: ManualClock, rows_max: int = 3) -> list[tuple[str, int]]:
    """Everything that it hands out, each batch stored at once."""
    sent: list[tuple[str, int]] = []
    empty = 0
    while empty < 3:
        records = backlog.next(rows_max)
        empty = 0 if records else empty + 1
        sent += told(records)
        backlog.done(stored(records))
    clock.advance(11)
    return sent


def test_everything_goes_once_the_escalations_first(drains: Drains) -> None:
    drains.journal.write([event(1), record(1, zones=("door",)), event(2, stream="camera_track"), record(2, drill=True)])
    backlog = drains.begin()
    assert drain(backlog, drains.clock) == [("escalation", 1), ("escalation", 2), ("event", 1), ("event", 2)]
    assert backlog.waiting == 0
    assert drains.undrained() == {}
    assert drain(backlog, drains.clock) == []
    assert drain(drains.begin(), drains.clock) == []


def test_a_row_comes_out_as_the_record_that_went_in(drains: Drains) -> None:
    sent = [record(1, zones=("door",), drill=True), event(1, stream="camera_track", zones=("mat", "path")), event(2)]
    drains.journal.write(sent)
    backlog = drains.begin()
    found = [*backlog.next(10), *backlog.next(10)]
    for before, after in zip(sent, found, strict=True):
        assert after.digest == before.digest
        names = ("stream", "event_id", "origin", "epoch", "seq", "site", "camera", "at", "details", "payload")
        for name in names:
            assert getattr(after, name) == getattr(before, name)


def test_what_comes_later_goes_later(drains: Drains) -> None:
    drains.journal.write([event(1)])
    backlog = drains.begin()
    assert drain(backlog, drains.clock) == [("event", 1)]
    drains.journal.write([event(2), record(1)])
    assert drain(backlog, drains.clock) == [("escalation", 1), ("event", 2)]


def test_a_killed_bridge_is_gone_on_from(drains: Drains) -> None:
    drains.journal.write([event(seq) for seq in range(1, 11)])
    first = drains.begin()
    records = [*first.next(4), *first.next(4)]
    first.done(stored(records[:2]))
    drains.clock.advance(1)
    first.done(stored(records[3:5]))
    assert drains.undrained() == {"motion": [(3, 10)]}, "3 is not in Kafka as far as anyone knows"
    first.close()
    assert drain(drains.begin(), drains.clock) == [("event", seq) for seq in range(3, 11)]


@pytest.mark.parametrize("seed", range(8))
def test_in_whatever_order_it_is_stored_no_row_is_left_out(seed: int, drains: Drains) -> None:
    chance = random.Random(seed)
    drains.journal.write([event(seq, camera=chance.choice("abc")) for seq in range(1, 41)])
    sent: set[int] = set()
    for _ in range(100):
        served = {"a", "b", "c"} if chance.random() < 0.5 else set(chance.sample("abc", 2))
        backlog = drains.begin(served.__contains__)
        on_the_way: list[Record] = []
        for _ in range(chance.randrange(1, 5)):
            on_the_way += backlog.next(chance.randrange(1, 9))
            assert {one.camera for one in on_the_way} <= served
            chance.shuffle(on_the_way)
            done, on_the_way = on_the_way[:3], on_the_way[3:]
            sent |= {one.seq for one in done}
            drains.clock.advance(chance.random())
            backlog.done(stored(done))
            with closing(JournalReader(drains.path)) as reader:
                undrained = {
                    seq for ranges in reader.undrained().values() for a, b in ranges for seq in range(a, b + 1)
                }
            assert undrained | sent == set(range(1, 41)), "what is not drained was never said to be stored"
        backlog.close()
    assert sent == set(range(1, 41))


def test_cameras_of_another_bridge_are_left_to_it(drains: Drains) -> None:
    drains.journal.write([event(seq, camera="yard" if seq % 2 else "door") for seq in range(1, 9)])
    served = {"yard"}
    backlog = drains.begin(served.__contains__)
    assert drain(backlog, drains.clock, 2) == [("event", seq) for seq in (1, 3, 5, 7)]
    assert drains.undrained() == {"motion": [(2, 2), (4, 4), (6, 6), (8, 8)]}
    assert backlog.waiting == 4
    assert drain(backlog, drains.clock) == []
    served.add("door")
    assert drain(backlog, drains.clock) == [("event", seq) for seq in (2, 4, 6, 8)]
    assert (drains.undrained(), backlog.waiting) == ({}, 0)
    with closing(sqlite3.connect(drains.path)) as db:
        assert db.execute("SELECT kind, camera, up_to FROM drained").fetchall() == [("event", "", 8)]


def test_a_camera_that_is_lost_on_the_way_comes_again(drains: Drains) -> None:
    drains.journal.write([event(seq, camera="yard" if seq % 2 else "door") for seq in range(1, 7)])
    served = {"yard", "door"}
    backlog = drains.begin(served.__contains__)
    records = backlog.next(10)
    served.remove("door")
    assert backlog.next(10) == []
    backlog.done(stored([one for one in records if one.camera == "yard"]))
    assert backlog.waiting == 3
    assert drains.undrained() == {"motion": [(2, 2), (4, 4), (6, 6)]}
    assert drain(backlog, drains.clock) == []
    served.add("door")
    assert drain(backlog, drains.clock) == [("event", 2), ("event", 4), ("event", 6)]


def test_two_bridges_of_one_machine_do_not_send_the_same(drains: Drains) -> None:
    drains.journal.write([event(seq) for seq in range(1, 7)])
    first, second = drains.begin(), drains.begin()
    assert told(first.next(2)) == [("event", 1), ("event", 2)]
    assert drain(second, drains.clock) == []
    first.close()
    assert drain(second, drains.clock) == [("event", seq) for seq in range(1, 7)]


def test_large_rows_come_a_few_at_a_time(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.journal.drain._BYTES_AT_ONCE", 3_000)
    drains.journal.write([record(seq, summary="x" * 1_500) for seq in range(1, 8)])
    backlog = drains.begin()
    assert [len(backlog.next(100)) for _ in range(4)] == [2, 2, 2, 1]


def test_a_journal_that_cannot_be_used_is_said_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"no journal\n" * 1_000)
    with structlog.testing.capture_logs() as said:
        backlog = JournalBacklog(path, clock=ManualClock())
        assert backlog.next(10) == []
        assert backlog.next(10) == []
    assert [(line["event"], line["log_level"]) for line in said] == [("drain.ended", "error")]
    backlog.close()


def test_a_disk_that_fails_delays_it_and_no_row_is_lost(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge._sqlite._BUSY_TIMEOUT_S", 0.0)
    drains.journal.write([event(seq) for seq in range(1, 7)])
    drains.journal.close()
    with structlog.testing.capture_logs() as said:
        backlog = drains.begin()
        records = backlog.next(4)
        with closing(sqlite3.connect(drains.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            backlog.done(stored(records))
            assert backlog.next(10) == [], "it waits a little"
            other.execute("ROLLBACK")
        drains.clock.advance(11)
        assert drain(backlog, drains.clock) == [("event", 5), ("event", 6)]
    assert [line["event"] for line in said] == ["drain.started", "drain.delayed", "drain.finished"]
    assert drains.undrained() == {}


def test_rows_that_could_not_be_read_are_read_later(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    drains.journal.write([event(seq) for seq in range(1, 7)])
    backlog = drains.begin()
    assert told(backlog.next(2)) == [("event", 1), ("event", 2)]
    with monkeypatch.context() as broken:
        broken.setattr(
            "bridge.journal.drain._read", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk I/O error"))
        )
        assert backlog.next(2) == []
    drains.clock.advance(11)
    assert drain(backlog, drains.clock) == [("event", seq) for seq in (3, 4, 5, 6)]


def test_retention_leaves_what_kafka_has_not_got(drains: Drains) -> None:
    drains.journal.write([event(seq) for seq in range(1, 7)] + [record(1)])
    backlog = drains.begin()
    first = backlog.next(10)
    records = backlog.next(4)
    backlog.done(stored(records[:2]))
    late = ManualClock(datetime(2100, 1, 1, tzinfo=UTC))
    retention = Retention(backlog._database, RetentionSettings(), deletable=drained_up_to, clock=late)
    while retention.step():
        pass
    with closing(JournalReader(drains.path)) as reader:
        assert [entry.seq for entry in reader.events()] == [3, 4, 5, 6]
        assert [entry.seq for entry in reader.entries()] == [1]
    backlog.done(stored([*first, *records[2:]]))
    assert backlog.waiting == 2
    assert drain(backlog, drains.clock) == [("event", 5), ("event", 6)]
    while retention.step():
        pass
    with closing(JournalReader(drains.path)) as reader:
        assert list(reader.identities()) == []
        assert reader.expired()["camera_motion", "node-1.edge", "m1"] == ((1, 6),)


# --- behind a forwarder ----------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    made = Street(tmp_path)
    yield made
    made.close()


def test_the_backlog_goes_behind_what_is_live(street: Street, drains: Drains) -> None:
    drains.journal.write([record(seq, epoch="old") for seq in range(1, 3_001)])
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink, backlog=drains.begin())
    wait_until(lambda: sink.taken, what="the first old ones")
    street.say(escalation(identity(1)))
    wait_until(lambda: any(one.epoch == "e1" for one in sink.taken), what="the live one")
    assert len(sink.taken) <= 2_001, "there are never more old ones on their way"
    sink.at_once = True
    sink.report(sink.taken)
    wait_until(lambda: forwarder.figures().counts["drained"] == 3_000, what="all old ones")
    wait_until(lambda: drains.undrained() == {}, what="the note that they are there")
    assert [one.seq for one in sink.taken if one.epoch == "old"] == list(range(1, 3_001))
    assert street.receipted() == [identity(1)], "nobody waits for a receipt of an old one"


def test_the_disk_is_not_waited_for_with_every_record(drains: Drains) -> None:
    drains.journal.write([event(seq) for seq in range(1, 7)])
    backlog = drains.begin()
    records = backlog.next(10)
    for one in records:
        backlog.done(stored([one]))
    assert drains.undrained() == {"motion": [(2, 6)]}
    backlog.close()
    assert drains.undrained() == {}, "an orderly end notes everything"
