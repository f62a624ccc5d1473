from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge.audit import Audit, audit_streams
from broker.outbox import Backlog

IDENTITIES = st.lists(
    st.tuples(st.sampled_from(["a.edge", "b.edge"]), st.sampled_from(["e1", "e2"]), st.integers(1, 30))
)


def spread(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(IDENTITIES)
def test_every_number_up_to_the_highest_is_present_or_missing(identities: list[tuple[str, str, int]]) -> None:
    counted = Counter(identities)
    lines = audit_streams(identities)
    assert [(line.origin, line.epoch) for line in lines] == sorted({(origin, epoch) for origin, epoch, _ in identities})
    for line in lines:
        there = {seq for origin, epoch, seq in counted if (origin, epoch) == (line.origin, line.epoch)}
        assert line.expected == max(there)
        assert line.present == len(there)
        assert spread(line.missing) == set(range(1, line.expected + 1)) - there
        assert line.missing_count == line.expected - line.present
        assert line.repeated == sum(counted[line.origin, line.epoch, seq] - 1 for seq in there)
        assert line.raised is None


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)), st.integers(0, 5))
def test_what_waits_in_an_outbox_is_not_missing(present: set[int], waiting: set[int], more: int) -> None:
    last = max(present | waiting, default=0) + more
    backlog = Backlog("camera_escalation", "e1", last, tuple(sorted(waiting)))
    (line,) = audit_streams([("a.edge", "e1", seq) for seq in present], {("a.edge", "e1"): backlog})
    assert line.raised == line.expected == last
    assert line.waiting == len(waiting - present)
    assert spread(line.missing) == set(range(1, last + 1)) - present - waiting


def test_an_origin_that_only_its_outbox_knows_is_listed() -> None:
    (line,) = audit_streams([], {("a.edge", "e1"): Backlog("camera_escalation", "e1", 3, (2, 3))})
    assert (line.present, line.waiting, line.missing) == (0, 2, ((1, 1),))


def test_more_in_the_sink_than_the_outbox_knew_is_not_missing() -> None:
    (line,) = audit_streams([("a.edge", "e1", 1), ("a.edge", "e1", 2)], {("a.edge", "e1"): Backlog("x", "e1", 1, ())})
    assert (line.raised, line.expected, line.missing) == (1, 2, ())


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_what_was_put_aside_is_not_missing(present: set[int], aside: set[int]) -> None:
    lines = audit_streams(
        [("a.edge", "e1", seq) for seq in present], quarantined=[("a.edge", "e1", seq) for seq in aside]
    )
    assert [line.quarantined for line in lines] == ([len(aside - present)] if present | aside else [])
    for line in lines:
        assert spread(line.missing) == set(range(1, max(present | aside) + 1)) - present - aside


def test_what_a_person_reads() -> None:
    backlogs = {("a.edge", "e1"): Backlog("x", "e1", 9, (9,))}
    identities = [("a.edge", "e1", seq) for seq in (1, 2, 2, 5)] + [("b.edge", "e2", 1)]
    told = Audit("journal x", tuple(audit_streams(identities, backlogs, [("a.edge", "e1", 7)])), foreign=2).told()
    assert told.splitlines() == [
        "journal x",
        "  origin  epoch  raised  expected  present  quarantined  waiting  missing  repeated",
        "  a.edge     e1       9         9        3            1        1        4         1",
        "  b.edge     e2       ?         1        1            0        0        0         0",
        "missing of a.edge e1: 3-4, 6, 8",
        "2 records without an event id were left out",
        "raised 10, stored 4, quarantined 1, waiting 1, missing 4, repeated 1",
    ]


def test_what_a_program_reads() -> None:
    content = Audit("journal x", tuple(audit_streams([("a.edge", "e1", 2)]))).as_dict()
    assert (content["sink"], content["raised"], content["expected"], content["missing"]) == ("journal x", 0, 2, 1)
    (stream,) = content["streams"]
    assert (stream["origin"], stream["raised"], stream["missing_ranges"]) == ("a.edge", None, ((1, 1),))
