from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from bridge.audit import Audit, Identity, audit_streams
from broker.outbox import Backlog

E = "camera_escalation"
M = "camera_motion"
STREAMS = st.tuples(st.sampled_from([E, M]), st.sampled_from(["a.edge", "b.edge"]), st.sampled_from(["e1", "e2"]))
IDENTITIES = st.lists(st.tuples(STREAMS, st.integers(1, 30)).map(lambda pair: (*pair[0], pair[1])))
NUMBERS = st.sets(st.integers(1, 30))


def of_a(numbers: Iterable[int], stream: str = M) -> list[Identity]:
    return [(stream, "a.edge", "e1", seq) for seq in numbers]


def spread(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(IDENTITIES)
def test_every_number_up_to_the_highest_is_present_or_missing(identities: list[Identity]) -> None:
    counted = Counter(identities)
    lines = audit_streams(identities)
    assert [(line.stream, line.origin, line.epoch) for line in lines] == sorted({found[:3] for found in identities})
    for line in lines:
        key = (line.stream, line.origin, line.epoch)
        there = {found[3] for found in counted if found[:3] == key}
        assert line.expected == max(there)
        assert line.present == len(there)
        assert spread(line.missing) == set(range(1, line.expected + 1)) - there
        assert line.missing_count == line.expected - line.present
        assert line.repeated == sum(counted[*key, seq] - 1 for seq in there)
        assert line.raised is None


@given(NUMBERS, NUMBERS, st.integers(0, 5))
def test_what_waits_in_an_outbox_is_not_missing(present: set[int], waiting: set[int], more: int) -> None:
    last = max(present | waiting, default=0) + more
    backlog = Backlog(M, "e1", last, tuple(sorted(waiting)))
    (line,) = audit_streams(of_a(present), {(M, "a.edge", "e1"): backlog})
    assert line.raised == line.expected == last
    assert line.waiting == len(waiting - present)
    assert spread(line.missing) == set(range(1, last + 1)) - present - waiting


@given(NUMBERS, NUMBERS, st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), max_size=3))
def test_what_was_released_is_told_and_not_missing(
    present: set[int], waiting: set[int], spans: list[tuple[int, int]]
) -> None:
    ranges = tuple((first, first + length) for first, length in spans)
    released = spread(ranges)
    backlog = Backlog(M, "e1", 40, tuple(sorted(waiting)), released=ranges)
    (line,) = audit_streams(of_a(present), {(M, "a.edge", "e1"): backlog})
    assert line.released == len(released - present - waiting)
    assert spread(line.missing) == set(range(1, 41)) - present - waiting - released
    assert line.present + line.waiting + line.released + line.missing_count == line.expected


def test_an_origin_that_only_its_outbox_knows_is_listed() -> None:
    (line,) = audit_streams([], {(E, "a.edge", "e1"): Backlog(E, "e1", 3, (2, 3))})
    assert (line.present, line.waiting, line.missing) == (0, 2, ((1, 1),))


def test_more_in_the_sink_than_the_outbox_knew_is_not_missing() -> None:
    (line,) = audit_streams(of_a((1, 2)), {(M, "a.edge", "e1"): Backlog(M, "e1", 1, ())})
    assert (line.raised, line.expected, line.missing) == (1, 2, ())


@given(NUMBERS, NUMBERS)
def test_what_was_put_aside_is_not_missing(present: set[int], aside: set[int]) -> None:
    lines = audit_streams(of_a(present), quarantined=of_a(aside))
    assert [line.quarantined for line in lines] == ([len(aside - present)] if present | aside else [])
    for line in lines:
        assert spread(line.missing) == set(range(1, max(present | aside) + 1)) - present - aside


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_the_journal_has_or_had_is_not_missing(present: set[int], old: set[int], gone: set[int]) -> None:
    key = (M, "a.edge", "e1")
    undrained = {key: [(seq, seq) for seq in sorted(old)]}
    expired = {key: [(seq, seq) for seq in sorted(gone)]}
    (line,) = audit_streams(of_a(present), undrained=undrained, expired=expired)
    assert (line.waiting, line.expired) == (len(old - present), len(gone - old - present))
    assert spread(line.missing) == set(range(1, line.expected + 1)) - present - old - gone


def test_an_event_settles_no_escalation_of_the_same_number() -> None:
    event, escalation = sorted(audit_streams(of_a((1, 2), M) + of_a((2,), E)), key=lambda line: line.is_escalation)
    assert (event.missing, escalation.missing) == ((), ((1, 1),))


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_the_ledger_topic_says_is_held_against_what_is_there(
    present: set[int], aside: set[int], written: set[int]
) -> None:
    lines = audit_streams(of_a(present), quarantined=of_a(aside), written=of_a(written))
    assert sum(line.written for line in lines) == len(written)
    assert sum(line.unfound for line in lines) == len(written - present - aside)


def test_a_person_reads_of_the_ledger_where_there_is_one() -> None:
    told = Audit("Kafka", tuple(audit_streams(of_a((1, 2)), written=of_a((1, 2, 3))))).told()
    assert "ledger: 3 written, 1 of them nowhere to be found" in told.splitlines()


BACKLOGS = {
    (E, "a.edge", "e1"): Backlog(E, "e1", 9, (9,)),
    (M, "a.edge", "m1"): Backlog(M, "m1", 7, (), released=((3, 5),)),
}
FOUND = [*of_a((1, 2, 2, 5), E), (E, "b.edge", "e2", 1), *[(M, "a.edge", "m1", seq) for seq in (1, 2, 6, 7)]]


def test_what_a_person_reads() -> None:
    told = Audit("journal x", tuple(audit_streams(FOUND, BACKLOGS, of_a((7,), E))), foreign=2).told()
    assert told.splitlines() == [
        "journal x",
        "      stream  origin  epoch  raised  expected  present  quarantined  released  waiting  missing  repeated",
        "  escalation  a.edge     e1       9         9        3            1         0        1        4         1",
        "  escalation  b.edge     e2       ?         1        1            0         0        0        0         0",
        "      motion  a.edge     m1       7         7        4            0         3        0        0         0",
        "missing of escalation a.edge e1: 3-4, 6, 8",
        "2 records without a known type and id were left out",
        "events: raised 7, stored 4, released 3, waiting 0, missing 0, repeated 0",
        "escalations: raised 10, stored 4, quarantined 1, waiting 1, missing 4, repeated 1",
    ]


def test_what_a_program_reads() -> None:
    content = Audit("journal x", tuple(audit_streams(FOUND, BACKLOGS))).as_dict()
    assert list(content) == ["sink", "escalations", "events", "foreign", "ledger", "streams"]
    assert content["escalations"] == {
        "raised": 9, "expected": 10, "present": 4, "quarantined": 0, "released": 0, "expired": 0, "waiting": 1,
        "missing": 5, "repeated": 1,
    }  # fmt: skip
    assert content["events"] == {
        "raised": 7, "expected": 7, "present": 4, "quarantined": 0, "released": 3, "expired": 0, "waiting": 0,
        "missing": 0, "repeated": 0,
    }  # fmt: skip
    first, second, third = content["streams"]
    assert (first["stream"], first["missing"], first["missing_ranges"]) == (E, 5, ((3, 4), (6, 8)))
    assert (second["origin"], second["raised"]) == ("b.edge", None)
    assert (third["stream"], third["released"]) == (M, 3)
