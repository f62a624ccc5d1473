"""What the journal deletes, what it remembers of it, and that it gives the space back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from bridge.audit import audit_streams
from bridge.journal import Journal, JournalReader
from bridge.journal.expired import EXPIRED_SCHEMA, note_expired, read_expired
from bridge.journal.retention import Retention
from broker.messages import Evidence
from config.clock import ManualClock
from config.outside import RetentionSettings
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

SMALLEST = 10_000_000
E = ("camera_escalation", "node-1.detector", "e1")
M = ("camera_motion", "node-1.edge", "m1")


class Kept:
    """A journal whose retention runs when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.journal = Journal(path, clock=self.clock)
        self.journal.open(lambda _stored: None)

    def retention(self, days: float = 30, bytes_max: int = SMALLEST, **changes: object) -> Retention:
        settings = RetentionSettings(days=days, bytes_max=bytes_max)
        return Retention(self.journal._database, settings, clock=self.clock, **changes)  # type: ignore[arg-type]

    def left(self) -> dict[str, list[int]]:
        with closing(JournalReader(self.path)) as reader:
            return {
                "events": [entry.seq for entry in reader.events(limit=100_000)],
                "escalations": [entry.seq for entry in reader.entries(limit=100_000)],
            }

    def audited(self) -> dict[str, tuple[int, int, int]]:
        """Present, expired and missing by stream."""
        with closing(JournalReader(self.path)) as reader:
            lines = audit_streams(reader.identities(), expired=reader.expired())
        return {line.stream: (line.present, line.expired, line.missing_count) for line in lines}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "journal.db")
    yield made
    made.journal.close()


def run_out(retention: Retention) -> int:
    """Every step there is; how many."""
    steps = 0
    while retention.step():
        steps += 1
    return steps


def test_what_is_old_by_the_bridges_clock_goes_whatever_its_own_says(kept: Kept) -> None:
    kept.journal.write([record(1), event(1), event(2)])
    kept.clock.advance(20 * 86_400)
    kept.journal.write([record(2), event(3)])
    kept.clock.advance(10.5 * 86_400)
    assert run_out(kept.retention(days=30)) > 0
    assert kept.left() == {"events": [3], "escalations": [2]}
    assert run_out(kept.retention(days=30)) == 0


def test_what_was_deleted_is_expired_and_what_never_came_is_missing(kept: Kept) -> None:
    kept.journal.write([event(seq) for seq in (1, 2, 4, 5)] + [record(1), record(2)])
    before = kept.journal.gaps()
    kept.clock.advance(31 * 86_400)
    kept.journal.write([event(6), record(3)])
    run_out(kept.retention())
    assert kept.audited() == {"camera_motion": (1, 4, 1), "camera_escalation": (1, 2, 0)}
    assert kept.journal.gaps() == before == {("camera_motion", "node-1.edge"): 1}


def test_a_journal_of_which_all_is_deleted_still_knows_what_it_had(kept: Kept) -> None:
    kept.journal.write([event(seq) for seq in range(1, 11)])
    kept.clock.advance(31 * 86_400)
    run_out(kept.retention())
    assert kept.audited() == {"camera_motion": (0, 10, 0)}
    kept.journal.write([event(11)])
    assert kept.audited() == {"camera_motion": (1, 10, 0)}
    assert kept.journal.gaps() == {}


def test_a_step_is_small(kept: Kept) -> None:
    kept.journal.write([event(seq) for seq in range(1, 1_001)])
    kept.journal.write([record(seq, summary="x" * 10, rule=str(seq)) for seq in range(1, 3)])
    kept.clock.advance(31 * 86_400)
    retention = kept.retention()
    rows = []
    while retention.step():
        rows.append(len(kept.left()["events"]))
    assert rows[:4] == [744, 488, 232, 0]


PICTURE = Evidence(content_type="image/jpeg", sha256="0" * 64, width=64, height=48, data=b"x" * 30_000)
"""40 KB as JSON."""


def fill(kept: Kept, first: int, last: int) -> None:
    """Escalations with a picture each, and an event for each ten."""
    for start in range(first, last + 1, 50):
        kept.journal.write([record(seq, evidence=(PICTURE,)) for seq in range(start, start + 50)])
        kept.journal.write([event(start // 10 + number) for number in range(1, 6)])


def test_too_large_a_file_loses_the_oldest_events_and_only_then_escalations(kept: Kept) -> None:
    fill(kept, 1, 200)
    assert run_out(kept.retention()) == 0, "it fits"
    fill(kept, 201, 400)
    run_out(kept.retention())
    left = kept.left()
    assert left["events"] == []
    assert left["escalations"] == list(range(left["escalations"][0], 401))
    assert 150 < left["escalations"][0] < 190
    kept.journal.close()
    assert kept.path.stat().st_size <= SMALLEST


def test_events_alone_go_where_that_is_enough(kept: Kept) -> None:
    kept.journal.write([record(seq) for seq in range(1, 11)])
    zones = ("x" * 120,) * 100
    for start in range(1, 601, 100):
        kept.journal.write([event(seq, zones=zones) for seq in range(start, start + 100)])
    run_out(kept.retention())
    left = kept.left()
    assert left["escalations"] == list(range(1, 11))
    assert left["events"] == list(range(left["events"][0], 601))
    assert 100 < left["events"][0] < 400


def test_space_is_given_back_to_the_disk(kept: Kept) -> None:
    fill(kept, 1, 200)
    kept.journal.close()
    full = kept.path.stat().st_size
    kept.clock.advance(31 * 86_400)
    run_out(kept.retention())
    assert kept.path.stat().st_size < full / 5, "also while the bridge has the file open"


def test_a_step_gives_back_more_than_a_page(kept: Kept) -> None:
    fill(kept, 1, 200)
    pages = kept.path.stat().st_size // 4096
    kept.clock.advance(31 * 86_400)
    assert run_out(kept.retention()) < pages / 4


def test_what_may_not_go_stays_though_it_is_old_and_too_much(kept: Kept) -> None:
    kept.journal.write([event(seq) for seq in range(1, 11)])
    kept.clock.advance(31 * 86_400)
    run_out(kept.retention(deletable=lambda _db, table: 4 if table == "event" else 0))
    assert kept.left()["events"] == list(range(5, 11))


def test_what_goes_before_its_time_is_said_loudly(kept: Kept) -> None:
    fill(kept, 1, 400)
    with structlog.testing.capture_logs() as said:
        retention = kept.retention()
        run_out(retention)
        retention._tell()
        retention._tell()
    (warning,) = [line for line in said if line["log_level"] == "warning"]
    assert (warning["event"], warning["events"]) == ("journal.full", 40)
    assert warning["escalations"] == 400 - len(kept.left()["escalations"])
    assert "bytes_max" in warning["cure"]


def test_what_goes_in_time_is_said_quietly(kept: Kept) -> None:
    kept.journal.write([event(1)])
    kept.clock.advance(31 * 86_400)
    with structlog.testing.capture_logs() as said:
        retention = kept.retention()
        run_out(retention)
        retention._tell()
    assert [(line["event"], line["log_level"], line["events"]) for line in said] == [("journal.expired", "info", 1)]


def test_the_writer_gets_in_between(tmp_path: Path) -> None:
    clock = ManualClock()
    old = Journal(tmp_path / "journal.db", clock=clock)
    old.open(lambda _stored: None)
    for start in range(1, 10_001, 1_000):
        old.write([event(seq) for seq in range(start, start + 1_000)])
    old.close()
    clock.advance(91 * 86_400)
    journal = Journal(tmp_path / "journal.db", retention=RetentionSettings(), clock=clock)
    seen: list[int] = []
    journal.open(lambda stored: seen.extend(item.seq for item, _ in stored))
    counts = []
    for seq in range(10_001, 10_021):
        journal.write([event(seq)])
        with closing(JournalReader(tmp_path / "journal.db")) as reader:
            counts.append(len(list(reader.identities())))

    def all_old_ones_are_gone() -> bool:
        with closing(JournalReader(tmp_path / "journal.db")) as reader:
            return [seq for *_, seq in reader.identities()] == list(range(10_001, 10_021))

    wait_until(all_old_ones_are_gone, timeout_s=60, what="retention")
    journal.close()
    assert seen == list(range(10_001, 10_021))
    assert journal.gaps() == {}


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(EXPIRED_SCHEMA)
        yield made


def test_ranges_grow_together(db: sqlite3.Connection) -> None:
    for numbers in ((1, 2, 3), (5, 6), (9,), (4,), (7, 8)):
        note_expired(db, [(*M, seq) for seq in numbers])
    note_expired(db, [(*E, 2)])
    assert read_expired(db) == {M: ((1, 9),), E: ((2, 2),)}


def test_no_stranger_makes_it_large(db: sqlite3.Connection) -> None:
    note_expired(db, [(*M, seq) for seq in range(1, 2_000, 2)])
    (ranges,) = read_expired(db).values()
    assert len(ranges) == 256
    assert (ranges[0], ranges[1], ranges[-1]) == ((1, 1_489), (1_491, 1_491), (1_999, 1_999))
    for number in range(5_000):
        db.execute(
            "INSERT INTO expired (stream, origin, epoch, ranges) VALUES ('s', 'o', ?, '[[1,1]]')", (f"forged-{number}",)
        )
    note_expired(db, [(*E, 7)])
    assert len(read_expired(db)) == 4_096
    assert read_expired(db)[E] == ((7, 7),)


def test_the_file_is_one_that_can_give_space_back(kept: Kept, tmp_path: Path) -> None:
    kept.journal.write([event(1)])
    with closing(sqlite3.connect(kept.path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
