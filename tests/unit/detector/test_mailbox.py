from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from detector.mailbox import LatestMailbox


def put(mailbox: LatestMailbox[str], camera: str, item: str, size_bytes: int = 1) -> None:
    mailbox.put(camera, item, size_bytes)


def test_the_latest_of_a_camera_wins_and_the_older_is_counted() -> None:
    mailbox = LatestMailbox[str]()
    put(mailbox, "yard", "old")
    put(mailbox, "yard", "new")
    put(mailbox, "gate", "only")
    assert mailbox.take(8, 0) == ["new", "only"]
    assert mailbox.dropped() == {"yard": 1}


def test_the_camera_that_waits_longest_comes_first_however_fast_the_others_are() -> None:
    mailbox = LatestMailbox[str]()
    put(mailbox, "slow", "s1")
    put(mailbox, "fast", "f1")
    assert mailbox.take(1, 0) == ["s1"]
    put(mailbox, "slow", "s2")
    for number in range(2, 9):
        put(mailbox, "fast", f"f{number}")
    assert mailbox.take(1, 0) == ["f8"]
    assert mailbox.take(1, 0) == ["s2"]


def test_a_replaced_frame_keeps_its_cameras_place() -> None:
    mailbox = LatestMailbox[str]()
    put(mailbox, "first", "a1")
    put(mailbox, "second", "b1")
    put(mailbox, "first", "a2")
    assert mailbox.take(1, 0) == ["a2"]


def test_take_returns_no_more_than_asked_for() -> None:
    mailbox = LatestMailbox[str]()
    for camera in "abcde":
        put(mailbox, camera, camera)
    assert mailbox.take(3, 0) == ["a", "b", "c"]
    assert len(mailbox) == 2


def test_bytes_are_bounded_and_the_oldest_make_way() -> None:
    mailbox = LatestMailbox[str](bytes_max=10)
    put(mailbox, "a", "a", 4)
    put(mailbox, "b", "b", 4)
    put(mailbox, "c", "c", 4)
    assert mailbox.take(8, 0) == ["b", "c"]
    assert mailbox.dropped() == {"a": 1}
    put(mailbox, "a", "small", 1)
    put(mailbox, "a", "huge", 100)
    assert mailbox.take(8, 0) == ["huge"]


def test_what_was_taken_makes_room() -> None:
    mailbox = LatestMailbox[str](bytes_max=10)
    for _ in range(5):
        put(mailbox, "a", "a", 5)
        put(mailbox, "b", "b", 5)
        assert mailbox.take(8, 0) == ["a", "b"]
    assert mailbox.dropped().total() == 0


def test_take_waits_for_a_frame() -> None:
    mailbox = LatestMailbox[str]()
    taken: list[str] = []
    reader = threading.Thread(target=lambda: taken.extend(mailbox.take(1, 10)))
    reader.start()
    put(mailbox, "yard", "frame")
    reader.join(5)
    assert taken == ["frame"]


def test_take_returns_nothing_when_the_time_has_passed() -> None:
    assert LatestMailbox[str]().take(1, 0.01) == []


def test_close_wakes_a_reader_and_takes_nothing_more_in() -> None:
    mailbox = LatestMailbox[str]()
    reader = threading.Thread(target=lambda: mailbox.take(1, 60))
    reader.start()
    mailbox.close()
    reader.join(5)
    assert not reader.is_alive()
    put(mailbox, "yard", "late")
    assert mailbox.take(1, 0) == []
    assert mailbox.dropped().total() == 0


def test_what_waits_at_close_can_still_be_taken() -> None:
    mailbox = LatestMailbox[str]()
    put(mailbox, "yard", "last")
    mailbox.close()
    assert mailbox.take(1, 0) == ["last"]


@given(
    st.lists(
        st.one_of(st.tuples(st.just("put"), st.sampled_from("abc")), st.tuples(st.just("take"), st.integers(1, 3)))
    )
)
def test_every_frame_is_taken_or_dropped_or_waits(steps: list[tuple[str, str | int]]) -> None:
    mailbox = LatestMailbox[int](bytes_max=20)
    put_count = taken = 0
    for kind, value in steps:
        if isinstance(value, str):
            put_count += 1
            mailbox.put(value, put_count, 9)
        else:
            assert kind == "take"
            taken += len(mailbox.take(value, 0))
    assert taken + mailbox.dropped().total() + len(mailbox) == put_count
