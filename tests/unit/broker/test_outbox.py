from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.outbox import Outbox, OutboxMessage, read_backlogs, split_event_id
from broker.outbox_file import read_open_events, read_waiting
from config.errors import BacklogFullError

Make = Callable[..., Outbox]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens the one outbox of the test; what is open before is closed."""
    opened: list[Outbox] = []

    def opening(**changes: object) -> Outbox:
        if opened:
            opened[-1].close()
        settings = {"origin": "n.edge", "leaving_s": 0.0, **changes}
        opened.append(Outbox(tmp_path / "o.db", **settings))  # type: ignore[arg-type]
        return opened[-1]

    yield opening
    for outbox in opened:
        outbox.close()


def message(payload: bytes = b"x", *, stream: str = "s", durable: bool = True) -> OutboxMessage:
    return OutboxMessage(stream, f"{stream}/topic", lambda _identity: payload, priority=1, durable=durable)


def put(outbox: Outbox, payload: bytes = b"x", *, stream: str = "s", durable: bool = True) -> str:
    return outbox.put_many([message(payload, stream=stream, durable=durable)])[0]


def receipt(identity: str, payload: bytes = b"x") -> tuple[str, bytes]:
    return identity, hashlib.sha256(payload).digest()


def waiting(outbox: Outbox, stream: str = "s") -> list[int]:
    (found,) = (one for one in outbox.streams() if one.name == stream)
    entries = outbox.entries(found, after=0, up_to=found.stored_seq, limit=1_000_000)
    return [entry.seq for entry in entries if not outbox.is_settled(found, entry)]


def test_sequences_have_no_gap_and_each_stream_its_own_epoch(make: Make) -> None:
    outbox = make()
    first = [split_event_id(put(outbox)) for _ in range(3)]
    other = split_event_id(put(outbox, stream="other"))
    assert [seq for _, _, seq in first] == [1, 2, 3]
    assert {origin for origin, _, _ in first} == {"n.edge"}
    assert other[2] == 1
    assert other[1] != first[0][1]


def test_a_message_that_cannot_be_built_leaves_no_gap_and_takes_nothing_of_its_call_along(
    make: Make, tmp_path: Path
) -> None:
    outbox = make()

    def fail(_identity: str) -> bytes:
        raise ValueError("no picture")

    put(outbox)
    broken = OutboxMessage("s", "t", fail, priority=1, durable=True)
    with pytest.raises(ValueError, match="no picture"):
        outbox.put_many([message(), broken, message(stream="never")])
    assert split_event_id(put(outbox))[2] == 2
    assert [(backlog.name, backlog.waiting) for backlog in read_backlogs(tmp_path / "o.db")] == [("s", (1, 2))]
    assert (outbox.rows, outbox.size_bytes) == (2, 2)


def test_callers_on_many_threads_share_transactions_and_get_every_number_once(make: Make) -> None:
    outbox = make()
    ids: list[str] = []
    failures: list[str] = []
    together = threading.Barrier(16)

    def fail(_identity: str) -> bytes:
        raise ValueError("no picture")

    def run(number: int) -> None:
        together.wait()
        for turn in range(25):
            if number == 7 and turn % 5 == 0:
                try:
                    outbox.put("s", "t", fail, priority=1, durable=True)
                except ValueError as error:
                    failures.append(str(error))
            ids.append(put(outbox, b"%d" % turn, stream="s" if number % 2 else "other"))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(failures) == 5
    for stream in ("s", "other"):
        assert waiting(outbox, stream) == list(range(1, 201))
    assert len(set(ids)) == 400 == outbox.rows
    assert outbox.size_bytes == 16 * sum(len(str(turn)) for turn in range(25))


def test_what_is_settled_is_gone_and_the_rest_survives_a_restart(make: Make) -> None:
    outbox = make()
    first, second = put(outbox, b"one"), put(outbox, b"two")
    outbox.settle([receipt(first, b"one"), receipt(first, b"one"), receipt("n.edge:none:1"), receipt("nonsense")])
    assert waiting(outbox) == [2]
    again = make()
    assert waiting(again) == [2]
    (stream,) = again.streams()
    assert again.payload(stream, 2) == b"two"
    assert again.payload(stream, 1) is None
    assert (again.rows, again.size_bytes) == (1, 3)
    assert split_event_id(put(again))[2] == 3
    assert split_event_id(second)[1] == stream.epoch


def test_a_receipt_for_other_bytes_settles_nothing(make: Make) -> None:
    outbox = make()
    identity = put(outbox, b"mine")
    outbox.settle([receipt(identity, b"what an older copy of this file sent under this number")])
    outbox.flush()
    assert waiting(outbox) == [1]
    outbox.settle([receipt(identity, b"mine")])
    outbox.flush()
    assert waiting(outbox) == []
    assert outbox.rows == 0


def test_settling_costs_one_transaction_for_many_and_none_on_the_callers_thread(make: Make, tmp_path: Path) -> None:
    outbox = make()
    ids = outbox.put_many([message()] * 500)
    outbox.tick(0.0)
    outbox.settle([receipt(identity) for identity in ids])
    assert sum(len(backlog.waiting) for backlog in read_backlogs(tmp_path / "o.db")) == 500
    assert waiting(outbox) == []
    outbox.tick(1.0)
    assert outbox.rows == 0
    assert not outbox.unwritten
    assert sum(len(backlog.waiting) for backlog in read_backlogs(tmp_path / "o.db")) == 0


def test_what_is_settled_goes_with_the_next_put(make: Make, tmp_path: Path) -> None:
    outbox = make()
    outbox.settle([receipt(put(outbox))])
    put(outbox)
    assert [backlog.waiting for backlog in read_backlogs(tmp_path / "o.db")] == [(2,)]


def test_a_full_outbox_refuses_before_anything_is_lost(make: Make) -> None:
    outbox = make(rows_max=2, bytes_max=1000)
    first, _ = put(outbox), put(outbox)
    with pytest.raises(BacklogFullError, match="2 messages"):
        put(outbox)
    outbox.settle([receipt(first)])
    with pytest.raises(BacklogFullError):
        put(outbox, bytes(1000))
    assert split_event_id(put(outbox))[2] == 3


def test_many_are_taken_all_or_none(make: Make) -> None:
    outbox = make(rows_max=5)
    with pytest.raises(BacklogFullError):
        outbox.put_many([message()] * 6)
    assert outbox.rows == 0
    assert [split_event_id(identity)[2] for identity in outbox.put_many([message()] * 5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("bound", ["rows_max", "bytes_max"])
def test_events_leave_a_quarter_to_escalations(make: Make, bound: str) -> None:
    outbox = make(**{bound: 100})
    outbox.put_many([message(durable=False, stream="motion")] * 75)
    with pytest.raises(BacklogFullError, match="motion and tracks three quarters"):
        put(outbox, durable=False, stream="motion")
    outbox.put_many([message()] * 25)
    with pytest.raises(BacklogFullError):
        put(outbox)


@pytest.mark.parametrize("bound", ["rows_max", "bytes_max"])
def test_at_their_bound_the_events_that_the_broker_has_for_longest_make_room(
    make: Make, tmp_path: Path, bound: str
) -> None:
    outbox = make(**{bound: 100})
    outbox.put_many([message(durable=False, stream="motion")] * 75)
    (stream,) = outbox.streams()
    outbox.tick(0.0)
    outbox.hold(stream, [5, 6])
    outbox.tick(1.0)
    outbox.hold(stream, [3])
    for _ in range(3):
        put(outbox, durable=False, stream="motion")
    with pytest.raises(BacklogFullError):
        put(outbox, durable=False, stream="motion")
    assert outbox.released == 3
    (backlog,) = read_backlogs(tmp_path / "o.db")
    assert backlog.released == ((3, 3), (5, 6))
    assert set(backlog.waiting) == set(range(1, 79)) - {3, 5, 6}
    assert outbox.rows == outbox.size_bytes == 75


def test_an_escalation_displaces_an_event_that_the_broker_has(make: Make) -> None:
    outbox = make(rows_max=100)
    outbox.put_many([message(durable=False, stream="motion")] * 75)
    outbox.put_many([message()] * 25)
    outbox.hold(outbox.streams()[0], [1])
    assert split_event_id(put(outbox))[2] == 26
    assert waiting(outbox, "motion") == list(range(2, 76))


def test_nothing_is_released_where_that_would_not_make_room(make: Make) -> None:
    outbox = make(rows_max=100)
    outbox.put_many([message(durable=False, stream="motion")] * 75)
    outbox.hold(outbox.streams()[0], [1])
    with pytest.raises(BacklogFullError):
        outbox.put_many([message(durable=False, stream="motion")] * 2)
    assert outbox.released == 0
    assert len(waiting(outbox, "motion")) == 75


def test_an_event_is_released_when_the_broker_had_it_for_long_enough_and_an_escalation_never(
    make: Make, tmp_path: Path
) -> None:
    outbox = make(event_hold_s=100.0)
    outbox.put_many([message(durable=False, stream="motion")] * 10)
    put(outbox)
    streams = {stream.name: stream for stream in outbox.streams()}
    outbox.tick(0.0)
    outbox.hold(streams["s"], [1])
    outbox.hold(streams["motion"], [1, 2, 3, 7])
    outbox.tick(1.0)
    outbox.hold(streams["motion"], [4, 7])
    outbox.tick(50.0)
    outbox.tick(100.0)
    assert outbox.released == 0
    outbox.tick(102.0)
    assert outbox.released == 4
    outbox.tick(151.0)
    assert waiting(outbox, "motion") == [5, 6, 8, 9, 10]
    assert waiting(outbox, "s") == [1]
    motion = next(backlog for backlog in read_backlogs(tmp_path / "o.db") if backlog.name == "motion")
    assert motion.released == ((1, 4), (7, 7))
    assert motion.last_seq == 10


def test_the_hold_counts_time_in_use_not_the_clock_and_survives_a_restart(make: Make) -> None:
    outbox = make(event_hold_s=100.0)
    put(outbox, durable=False)
    outbox.tick(0.0)
    outbox.hold(outbox.streams()[0], [1])
    for now_s in (1.0, 30.0, 70.0):
        outbox.tick(now_s)
    again = make(event_hold_s=100.0)
    again.tick(5_000_000.0)
    again.tick(5_000_025.0)
    assert again.released == 0
    again.tick(5_000_041.0)
    assert again.released == 1


def test_what_has_started_stays_open_until_it_is_closed_also_over_a_restart(make: Make, tmp_path: Path) -> None:
    outbox = make()
    first = outbox.put("s", "yard", str.encode, priority=1, durable=False, opens=True)
    second = outbox.put("s", "gate", str.encode, priority=1, durable=False, opens=True)
    outbox.put("s", "yard", str.encode, priority=1, durable=False, closes=first)
    again = make()
    assert [(event.event_id, event.topic, event.payload) for event in again.open_events()] == [
        (second, "gate", second.encode())
    ]
    assert [event.event_id for event in read_open_events(tmp_path / "o.db")] == [second]
    again.put("s", "gate", str.encode, priority=1, durable=False, closes=second)
    assert again.open_events() == []


def test_a_start_that_is_refused_is_not_open(make: Make) -> None:
    outbox = make(rows_max=1)
    put(outbox)
    with pytest.raises(BacklogFullError):
        outbox.put("s", "yard", str.encode, priority=1, durable=True, opens=True)
    assert outbox.open_events() == []


def test_an_outbox_that_is_empty_again_gives_the_disk_back(make: Make, tmp_path: Path) -> None:
    outbox = make()
    payload = bytes(100_000)
    ids = outbox.put_many([message(payload)] * 200)
    outbox.flush()
    outbox.settle([receipt(identity, payload) for identity in ids])
    for now_s in range(5):
        outbox.tick(float(now_s))
    outbox.close()
    assert (tmp_path / "o.db").stat().st_size < 6_000_000


def test_what_waits_is_read_by_priority_and_then_in_order(make: Make, tmp_path: Path) -> None:
    outbox = make()
    for stream, priority in (("late", 2), ("early", 0), ("late", 2)):
        outbox.put(stream, "t", str.encode, priority=priority, durable=True)
    assert [(one.stream, split_event_id(one.event_id)[2]) for one in read_waiting(tmp_path / "o.db")] == [
        ("early", 1),
        ("late", 1),
        ("late", 2),
    ]
    assert all(one.payload == one.event_id.encode() for one in read_waiting(tmp_path / "o.db"))


@pytest.mark.parametrize("value", ["", "a:b", "a:b:c", "a:b:0", "a:b:-1", ":b:1", "a::1", "a:b:1:2", "a:b:²"])
def test_what_is_no_event_id_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"event id|unpack"):
        split_event_id(value)
