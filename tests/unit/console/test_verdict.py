from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from broker.outbox import Outbox
from broker.session import outbox_path
from config.settings import Settings
from config.sources import load_settings
from console.verdict import AuditedStream, AuditReport, judge, read_marks, run_audit


def stream(**changes: object) -> AuditedStream:
    fields: dict[str, object] = {
        "stream": "camera_escalation",
        "origin": "laptop.detector",
        "epoch": "abcd",
        "raised": 12,
        "present": 12,
        "released": 0,
        "waiting": 0,
        "repeated": 0,
        "missing_ranges": (),
    }
    return AuditedStream(**(fields | changes))  # type: ignore[arg-type]


def report(*streams: AuditedStream) -> AuditReport:
    return AuditReport(sink="journal", streams=streams)


def test_a_first_run_is_told_in_one_line() -> None:
    verdict = judge(report(stream()), {}, "the journal")
    assert verdict.lines == ("12 escalations raised, 12 in the journal, 0 missing, 0 repeated",)
    assert verdict.complete


def test_a_later_run_is_told_by_itself_and_with_the_earlier_ones() -> None:
    verdict = judge(report(stream()), {("laptop.detector", "abcd"): 7}, "the journal")
    assert verdict.lines == (
        "5 escalations raised, 5 in the journal, 0 missing, 0 repeated",
        "with earlier runs: 12 escalations raised, 12 in the journal, 0 missing, 0 repeated",
    )


def test_a_gap_of_this_run_is_a_failure() -> None:
    verdict = judge(report(stream(present=10, missing_ranges=((9, 10),))), {}, "Kafka")
    assert verdict.lines[0] == "12 escalations raised, 10 in Kafka, 2 missing, 0 repeated"
    assert not verdict.complete


def test_a_gap_of_an_earlier_run_is_told_but_not_this_runs_failure() -> None:
    verdict = judge(report(stream(present=10, missing_ranges=((6, 7),))), {("laptop.detector", "abcd"): 7}, "Kafka")
    assert verdict.complete
    assert "with earlier runs: 12 escalations raised, 10 in Kafka, 2 missing" in verdict.lines[1]


def test_a_gap_across_the_start_is_cut_there() -> None:
    verdict = judge(report(stream(present=8, missing_ranges=((6, 9),))), {("laptop.detector", "abcd"): 7}, "Kafka")
    assert verdict.lines[0].startswith("5 escalations raised, 3 in Kafka, 2 missing")


def test_what_waits_in_the_outbox_is_neither_stored_nor_lost() -> None:
    verdict = judge(report(stream(present=9, waiting=3)), {}, "Kafka")
    assert verdict.complete
    assert verdict.lines[0].startswith("12 escalations raised, 9 in Kafka, 0 missing, 0 repeated; 3 still wait")


def test_other_machines_escalations_are_not_judged() -> None:
    foreign = stream(origin="other.detector", raised=None, missing_ranges=((1, 5),), repeated=9)
    assert judge(report(stream(), foreign), {}, "the journal").lines == judge(report(stream()), {}, "the journal").lines


def motion(**changes: object) -> AuditedStream:
    return stream(stream="camera_motion", origin="laptop.edge", epoch="ef01", **changes)


def test_events_that_all_arrived_are_not_worth_a_word() -> None:
    assert judge(report(stream(), motion(released=2, present=10)), {}, "the journal") == judge(
        report(stream()), {}, "the journal"
    )


def test_events_that_are_missing_or_wait_get_a_line_of_their_own() -> None:
    verdict = judge(report(stream(), motion(present=10, missing_ranges=((3, 4),))), {}, "the journal")
    assert verdict.lines[1] == "12 events raised, 10 in the journal, 2 missing, 0 repeated"
    assert not verdict.complete
    verdict = judge(report(stream(), motion(present=8, waiting=3, released=1)), {}, "the journal")
    assert verdict.lines[1] == (
        "12 events raised, 8 in the journal, 0 missing, 0 repeated; "
        "1 were released: the broker had them, and no bridge confirmed them; "
        "3 still wait in the outbox and are sent at the next start"
    )
    assert verdict.complete


def test_events_without_an_escalation() -> None:
    verdict = judge(report(motion(present=11, missing_ranges=((5, 5),))), {("laptop.edge", "ef01"): 5}, "Kafka")
    assert verdict.lines == ("no escalation was raised",)
    assert verdict.complete
    verdict = judge(report(motion(present=11, missing_ranges=((5, 5),))), {("laptop.edge", "ef01"): 4}, "Kafka")
    assert verdict.lines == ("no escalation was raised", "8 events raised, 7 in Kafka, 1 missing, 0 repeated")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"state_dir": tmp_path, "node": "laptop"})


def test_marks_are_how_far_the_sequences_of_this_machine_have_come(settings: Settings) -> None:
    outbox = Outbox(outbox_path(settings, "detector"), origin="laptop.detector")
    for _ in range(3):
        outbox.put("camera_escalation", "t", lambda _id: b"{}", priority=0, durable=True)
    outbox.put("camera_motion", "t", lambda _id: b"{}", priority=1, durable=False)
    outbox.close()
    marks = read_marks(settings)
    assert sorted(marks.values()) == [1, 3]
    assert {origin for origin, _epoch in marks} == {"laptop.detector"}


def test_nothing_raised_needs_no_audit(settings: Settings, tmp_path: Path) -> None:
    verdict = run_audit(settings, tmp_path / "none.yaml", {}, {})
    assert verdict.lines == ("no escalation was raised",)
    assert verdict.complete


def test_when_the_sink_cannot_be_asked_the_outbox_says_what_it_knows(settings: Settings, tmp_path: Path) -> None:
    outbox = Outbox(outbox_path(settings, "detector"), origin="laptop.detector")
    identities = [outbox.put("camera_escalation", "t", lambda _id: b"{}", priority=0, durable=True) for _ in range(3)]
    outbox.settle([(identities[0], sha256(b"{}").digest())])
    outbox.close()
    verdict = run_audit(settings, tmp_path / "none.yaml", {}, {})
    assert not verdict.complete
    assert verdict.lines[0] == "3 escalations raised; 2 wait in the outbox and are sent at the next start"
    assert "none.yaml: there is no such file" in verdict.lines[1]
