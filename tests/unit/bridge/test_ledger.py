from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.ledger import Ledger
from config.clock import ManualClock
from config.errors import PermanentError
from tests.unit.bridge.records import record


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.db")
    made.open()
    yield made
    made.close()


def test_what_was_noted_is_known_to_the_next_process(ledger: Ledger, tmp_path: Path) -> None:
    at = ledger.add([("a:e:1", "t/0/1"), ("a:e:2", "t/0/2")])
    ledger.close()
    found = Ledger(tmp_path / "ledger.db").known(["a:e:2", "a:e:3"])
    assert set(found) == {"a:e:2"}
    place = found["a:e:2"]
    assert (place.sink, place.location, place.at, place.repeated) == ("kafka", "t/0/2", at, True)


def test_more_questions_than_one_statement_takes(ledger: Ledger) -> None:
    ledger.add([(f"a:e:{n}", f"t/0/{n}") for n in range(2000)])
    assert len(ledger.known([f"a:e:{n}" for n in range(0, 4000, 2)])) == 1000
    assert ledger.known([]) == {}


def test_the_first_place_stays(ledger: Ledger) -> None:
    ledger.add([("a:e:1", "t/0/1")])
    ledger.add([("a:e:1", "t/0/9")])
    assert ledger.known(["a:e:1"])["a:e:1"].location == "t/0/1"


def test_the_quarantine_keeps_the_whole_record_and_the_reason(ledger: Ledger) -> None:
    bad = record(1)
    place = ledger.quarantine(bad, "MSG_SIZE_TOO_LARGE: too large")
    assert (place.sink, place.repeated) == ("quarantine", False)
    assert ledger.quarantine(bad, "again").location == place.location
    assert ledger.quarantined() == [(bad.event_id, "MSG_SIZE_TOO_LARGE: too large", bad.payload)]
    again = ledger.known([bad.event_id])[bad.event_id]
    assert (again.sink, again.location, again.repeated) == ("quarantine", place.location, True)


def test_it_forgets_the_oldest_beyond_its_bound(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", rows_max=1500)
    for start in range(0, 5000, 500):
        ledger.add([(f"a:e:{n}", "t/0/0") for n in range(start, start + 500)])
    known = ledger.known([f"a:e:{n}" for n in range(5000)])
    assert 1500 <= len(known) < 2500
    assert "a:e:4999" in known
    assert "a:e:0" not in known
    ledger.close()


def test_it_forgets_what_is_too_old(tmp_path: Path) -> None:
    clock = ManualClock()
    ledger = Ledger(tmp_path / "ledger.db", age_max=timedelta(days=1), clock=clock)
    ledger.add([(f"a:e:{n}", "t/0/0") for n in range(800)])
    clock.advance(2 * 86_400)
    ledger.add([(f"a:e:{n}", "t/0/0") for n in range(800, 1600)])
    assert set(ledger.known([f"a:e:{n}" for n in range(1600)])) == {f"a:e:{n}" for n in range(800, 1600)}
    ledger.close()


def test_a_damaged_one_says_the_cure(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no ledger" * 1000)
    with pytest.raises(PermanentError, match="move it away"):
        Ledger(tmp_path / "ledger.db").open()
