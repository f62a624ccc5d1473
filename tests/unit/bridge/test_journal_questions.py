"""What people ask of the journal, and that no question gets slower with its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.journal import EscalationFilter, EventFilter, Journal, JournalReader
from bridge.sink import utc_text
from config.errors import PermanentError
from tests.support.messages import AT
from tests.unit.bridge.records import event, record

ASKED = AT + timedelta(minutes=10)
T = utc_text(ASKED)


def minute(number: int) -> str:
    return utc_text(AT + timedelta(minutes=number))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    made.open(lambda _stored: None)
    yield made
    made.close()


@pytest.fixture
def reader(journal: Journal, tmp_path: Path) -> Iterator[JournalReader]:
    """Twenty of each: every second one at the door, every fifth a drill or a track, two of each minute."""
    for seq in range(1, 21):
        camera, zones = ("door", ("mat", "path")) if seq % 2 else ("yard", ())
        at = AT + timedelta(minutes=seq // 2)
        label, stream = ("dog", "camera_track") if seq % 5 == 0 else ("person", "camera_motion")
        changes = {"label": label} if stream == "camera_track" else {}
        journal.write(
            [
                record(seq, camera=camera, zones=zones, label=label, drill=seq % 5 == 0, raised_at=at),
                event(seq, stream=stream, camera=camera, zones=zones, at=at, **changes),
            ]
        )
    made = JournalReader(tmp_path / "journal.db")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EscalationFilter(), list(range(1, 21))),
        (EscalationFilter(since=minute(9)), [18, 19, 20]),
        (EscalationFilter(until=minute(2)), [1, 2, 3]),
        (EscalationFilter(since=minute(1), until=minute(2)), [2, 3]),
        (EscalationFilter(label="dog"), [5, 10, 15, 20]),
        (EscalationFilter(zone="path", until=minute(2)), [1, 3]),
        (EscalationFilter(zone="pat"), []),
        (EscalationFilter(drill=True), [5, 10, 15, 20]),
        (EscalationFilter(drill=False, since=minute(9)), [18, 19]),
        (EscalationFilter(camera="yard", drill=True), [10, 20]),
        (EventFilter(stream="camera_track"), [5, 10, 15, 20]),
        (EventFilter(stream="camera_track", zone="mat"), [5, 15]),
        (EventFilter(label="dog", camera="yard", since=minute(6)), [20]),
    ],
)
def test_each_filter(reader: JournalReader, wanted: EscalationFilter | EventFilter, expected: list[int]) -> None:
    found = reader.entries(wanted) if isinstance(wanted, EscalationFilter) else reader.events(wanted)
    assert [entry.seq for entry in found] == expected
    assert reader.count(wanted) == len(expected)
    assert [row["seq"] for page in reader.pages(wanted, rows_max=3) for row in page] == expected


def test_zones_and_labels_come_back(reader: JournalReader) -> None:
    (first, second) = reader.entries(limit=2)
    assert (first.zones, first.drill, first.label) == (("mat", "path"), False, "person")
    assert (second.zones, second.drill, second.label) == ((), True, "dog")
    assert reader.events(limit=1)[0].label == "dog"


def test_pages_backwards_leave_nothing_out_though_times_are_equal(reader: JournalReader) -> None:
    found: list[int] = []
    page = reader.entries(limit=3)
    while page:
        found = [entry.seq for entry in page] + found
        page = reader.entries(before=page[0].id, limit=3)
    assert found == list(range(1, 21))


def test_a_page_before_a_row_that_is_gone_says_so(reader: JournalReader) -> None:
    with pytest.raises(PermanentError, match="has no event 4711"):
        reader.events(before=4711)
    with pytest.raises(PermanentError, match="has no escalation 4711"):
        reader.payload(4711)


def test_what_comes_after(reader: JournalReader, journal: Journal) -> None:
    place = reader.newest_place("escalation")
    assert reader.entries_after(place) == []
    # Older than everything by its own clock, and new in the journal.
    journal.write([record(99, camera="door", raised_at=AT - timedelta(days=1)), record(100)])
    assert [entry.seq for entry in reader.entries_after(place)] == [99, 100]
    assert [entry.seq for entry in reader.entries_after(place, EscalationFilter(camera="door"))] == [99]
    assert [entry.seq for entry in reader.events_after(0, EventFilter(camera="yard"), limit=2)] == [2, 4]


def test_what_comes_while_pages_are_read_is_left_out(reader: JournalReader, journal: Journal) -> None:
    pages = reader.pages(EscalationFilter(), rows_max=7)
    first = next(pages)
    journal.write([record(99, raised_at=AT + timedelta(days=1))])
    assert [len(first), *map(len, pages)] == [7, 7, 6]


def plans(reader: JournalReader, ask: Callable[[], object]) -> list[str]:
    """How SQLite goes about the questions that are asked of it."""
    asked: list[str] = []
    reader._db.set_trace_callback(asked.append)
    ask()
    reader._db.set_trace_callback(None)
    return [row["detail"] for query in asked for row in reader._db.execute(f"EXPLAIN QUERY PLAN {query}")]


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda reader: reader.entries(), "escalation_raised"),
        (lambda reader: reader.entries(EscalationFilter(since=T, until=minute(20))), "escalation_raised"),
        (lambda reader: reader.entries(EscalationFilter(camera="yard")), "escalation_camera"),
        (lambda reader: reader.entries(EscalationFilter(camera="yard", since=T)), "escalation_camera"),
        (lambda reader: reader.entries(EscalationFilter(rule="presence", until=T)), "escalation_rule"),
        (lambda reader: reader.entries(EscalationFilter(severity="critical")), "escalation_severity"),
        (lambda reader: reader.entries(EscalationFilter(zone="mat", label="dog")), "escalation_raised"),
        (lambda reader: reader.entries(EscalationFilter(camera="yard"), before=7), "escalation_camera"),
        (lambda reader: reader.entries(before=7), "escalation_raised"),
        (lambda reader: reader.entries_after(7, EscalationFilter(camera="yard")), "INTEGER PRIMARY KEY"),
        (lambda reader: reader.events(), "event_at"),
        (lambda reader: reader.events(EventFilter(camera="yard")), "event_camera"),
        (lambda reader: reader.events(EventFilter(stream="camera_clip"), before=7), "event_stream"),
        (lambda reader: reader.events_after(7), "INTEGER PRIMARY KEY"),
        (lambda reader: list(reader.pages(EventFilter(since=T), rows_max=3)), "event_at"),
        (lambda reader: list(reader.pages(EventFilter(camera="yard"), rows_max=3)), "event_camera"),
        (lambda reader: reader.count(EscalationFilter(camera="yard", since=T)), "escalation_camera"),
        (lambda reader: reader.newest_place("event"), "event"),
    ],
)
def test_a_question_reads_what_it_tells_and_sorts_nothing(
    reader: JournalReader, ask: Callable[[JournalReader], object], index: str
) -> None:
    found = plans(reader, lambda: ask(reader))
    assert any(index in step for step in found), found
    for step in found:
        assert "TEMP B-TREE" not in step
        assert "USING" in step or step.startswith("SEARCH"), found


def test_a_page_in_the_middle_begins_there(reader: JournalReader) -> None:
    found = plans(reader, lambda: reader.events(before=7))
    assert any("event_at (at<" in step or "event_at ((at" in step for step in found), found


def test_listing_does_not_read_the_pictures(reader: JournalReader) -> None:
    asked: list[str] = []
    reader._db.set_trace_callback(asked.append)
    reader.entries()
    assert asked
    assert "payload" not in " ".join(asked)
