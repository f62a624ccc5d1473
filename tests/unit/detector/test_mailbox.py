from __future__ import annotations

import threading
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from config import ManualClock
from detector.mailbox import LatestMailbox, WaitingLine


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


def test_a_preferred_camera_comes_first_until_its_time_is_over() -> None:
    clock = ManualClock()
    mailbox = LatestMailbox[str](clock=clock)
    for camera in "abc":
        put(mailbox, camera, camera)
        mailbox.take(1, 0)
    mailbox.prefer("c", 60)
    for camera in "abc":
        put(mailbox, camera, camera)
    assert mailbox.take(3, 0) == ["c", "a", "b"]
    clock.advance(60)
    for camera in "abc":
        put(mailbox, camera, camera)
    assert mailbox.take(3, 0) == ["a", "b", "c"]


def test_preferred_cameras_never_starve_the_others() -> None:
    clock = ManualClock()
    mailbox = LatestMailbox[str](clock=clock, min_rate_fps=0.5)
    mailbox.prefer("alarm", 1000)
    turns: list[str] = []
    for _ in range(600):  # a minute at ten turns a second, and every camera always has a frame
        for camera in ("alarm", "a", "b", "c"):
            put(mailbox, camera, camera)
        turns += mailbox.take(1, 0)
        clock.advance(0.1)
    assert {camera: turns.count(camera) for camera in "abc"} == dict.fromkeys("abc", 30)
    assert turns.count("alarm") == 510


def test_without_time_for_the_least_rate_everybody_gets_the_same() -> None:
    clock = ManualClock()
    mailbox = LatestMailbox[str](clock=clock, min_rate_fps=10)
    mailbox.prefer("alarm", 1000)
    turns: list[str] = []
    for _ in range(400):
        for camera in ("alarm", "a", "b", "c"):
            put(mailbox, camera, camera)
        turns += mailbox.take(1, 0)
        clock.advance(0.1)
    assert {camera: turns.count(camera) for camera in ("alarm", "a", "b", "c")} == dict.fromkeys(
        ("alarm", "a", "b", "c"), 100
    )


def test_a_line_says_for_how_many_there_is_room() -> None:
    line = WaitingLine[str]()
    assert line.wait_room(2, 0) == 2
    line.put("a")
    assert line.wait_room(2, 0) == 1
    line.put("b")
    assert line.wait_room(2, 0) == 0


def test_who_waits_for_room_goes_on_when_something_is_taken() -> None:
    line = WaitingLine[str]()
    line.put("a")
    room: list[int] = []
    filling = threading.Thread(target=lambda: room.append(line.wait_room(1, 30)))
    filling.start()
    assert line.take(len, 0) == ["a"]
    filling.join(30)
    assert room == [1]


def test_who_takes_from_a_line_sees_all_that_wait_and_takes_the_first() -> None:
    line = WaitingLine[str]()
    for item in "abc":
        line.put(item)
    seen: list[tuple[str, ...]] = []

    def two(waiting: Sequence[str]) -> int:
        seen.append(tuple(waiting))
        return 2

    assert line.take(two, 0) == ["a", "b"]
    assert seen == [("a", "b", "c")]
    assert len(line) == 1


def test_a_line_that_is_closed_gives_what_is_left_and_is_over() -> None:
    line = WaitingLine[str]()
    line.put("last")
    line.close()
    assert not line.is_over
    assert line.take(len, 30) == ["last"]
    assert line.take(len, 30) == []
    assert line.is_over


def test_a_mailbox_is_over_when_it_is_closed_and_empty() -> None:
    mailbox = LatestMailbox[str]()
    put(mailbox, "a", "last")
    mailbox.close()
    assert not mailbox.is_over
    mailbox.take(1, 0)
    assert mailbox.is_over
