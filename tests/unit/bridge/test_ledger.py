from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.ledger import Ledger, read_quarantine
from bridge.sink import Record
from config.clock import ManualClock
from config.errors import PermanentError
from tests.unit.bridge.records import event, record


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.db")
    made.open()
    yield made
    made.close()


def noted(numbers: range) -> list[tuple[Record, str]]:
    return [(event(n), f"t/0/{n}") for n in numbers]


def known(ledger: Ledger, numbers: range) -> set[int]:
    return {int(event_id.rpartition(":")[2]) for event_id, _ in ledger.known([event(n) for n in numbers])}


def test_what_was_noted_is_known_to_the_next_process(ledger: Ledger, tmp_path: Path) -> None:
    at = ledger.add([(event(1), "t/0/1"), (record(2), "t/0/2")])
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    again.open()
    found = again.known([record(2), event(3), record(1)])
    again.close()
    assert set(found) == {record(2).key}
    place = found[record(2).key]
    assert (place.sink, place.location, place.at, place.repeated) == ("kafka", "t/0/2", at, True)


def test_more_questions_than_one_statement_takes(ledger: Ledger) -> None:
    ledger.add(noted(range(1, 2001)))
    assert len(ledger.known([event(n) for n in range(2, 4000, 2)])) == 1000
    assert ledger.known([]) == {}


def test_the_first_place_stays(ledger: Ledger) -> None:
    ledger.add([(event(1), "t/0/1")])
    ledger.add([(event(1), "t/0/9")])
    assert ledger.known([event(1)])[event(1).key].location == "t/0/1"


def test_only_the_same_message_in_the_same_table_is_known(ledger: Ledger) -> None:
    forged = event(1, origin="node-1.detector", epoch="e1")
    ledger.add([(forged, "events/0/1")])
    assert forged.event_id == record(1).event_id
    assert record(1).key not in ledger.known([record(1)])
    assert event(1, origin="node-1.detector", epoch="e1", score=0.5).key not in ledger.known([forged])


def test_gaps_are_known_to_the_next_process(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add([(event(seq), "t/0/0") for seq in (3, 4, 8)])
    ledger.quarantine(event(6), "MSG_SIZE_TOO_LARGE", "too large")
    ledger.close()
    later = Ledger(tmp_path / "ledger.db")
    later.open()
    assert later.gaps() == {("camera_motion", "node-1.edge"): 2}
    later.close()


def test_the_quarantine_keeps_the_whole_record_and_the_reason(ledger: Ledger, tmp_path: Path) -> None:
    bad = record(1)
    place = ledger.quarantine(bad, "MSG_SIZE_TOO_LARGE", "too large")
    assert (place.sink, place.repeated) == ("quarantine", False)
    assert ledger.quarantine(bad, "AGAIN", "again").location == place.location
    again = ledger.known([bad])[bad.key]
    assert (again.sink, again.location, again.repeated) == ("quarantine", place.location, True)
    (kept,) = read_quarantine(tmp_path / "ledger.db")
    assert (kept.stream, kept.event_id, kept.payload) == ("camera_escalation", bad.event_id, bad.payload)
    assert (kept.code, kept.reason, kept.bus_topic) == ("MSG_SIZE_TOO_LARGE", "too large", bad.bus_topic)


def test_it_forgets_the_oldest_beyond_its_bound_and_no_escalation_for_events(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", rows_max=1500)
    ledger.add([(record(1), "t/0/1")])
    for start in range(1, 5001, 500):
        ledger.add(noted(range(start, start + 500)))
    found = known(ledger, range(1, 5001))
    assert 1500 <= len(found) < 2500
    assert 5000 in found
    assert 1 not in found
    assert record(1).key in ledger.known([record(1)])
    ledger.close()


def test_it_forgets_what_is_too_old(tmp_path: Path) -> None:
    clock = ManualClock()
    ledger = Ledger(tmp_path / "ledger.db", age_max=timedelta(days=1), clock=clock)
    ledger.add(noted(range(1, 801)))
    clock.advance(2 * 86_400)
    ledger.add(noted(range(801, 1601)))
    assert known(ledger, range(1, 1601)) == set(range(801, 1601))
    ledger.close()


def test_a_damaged_one_says_the_cure(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no ledger" * 1000)
    with pytest.raises(PermanentError, match="move it away"):
        Ledger(tmp_path / "ledger.db").open()
