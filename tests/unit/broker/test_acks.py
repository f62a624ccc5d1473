from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from broker.acks import OrderedAcks


def test_an_early_confirmation_waits_for_those_before_it() -> None:
    sent: list[int] = []
    acks = OrderedAcks(sent.append)
    one, two, three = (acks.arrived(packet_id) for packet_id in (11, 12, 13))
    assert acks.settle(three)
    assert acks.settle(two)
    assert sent == []
    assert len(acks) == 3
    assert acks.settle(one)
    assert sent == [11, 12, 13]
    assert len(acks) == 0


def test_what_was_confirmed_or_belongs_to_a_lost_connection_confirms_nothing() -> None:
    sent: list[int] = []
    acks = OrderedAcks(sent.append)
    one, two = acks.arrived(1), acks.arrived(2)
    assert acks.settle(one)
    assert not acks.settle(one)
    acks.close()
    assert not acks.settle(two)
    assert not acks.settle(99)
    assert sent == [1]


def test_a_number_that_comes_again_belongs_to_the_newer_message() -> None:
    """A broker that gave up on a message uses its number again; the old confirmation would lose the new message."""
    sent: list[int] = []
    acks = OrderedAcks(sent.append)
    old, other = acks.arrived(5), acks.arrived(6)
    new = acks.arrived(5)
    assert not acks.settle(old)
    assert acks.settle(other)
    assert sent == [6]
    assert acks.settle(new)
    assert sent == [6, 5]


@given(st.data())
def test_confirmations_leave_in_order_of_arrival_each_once_and_none_too_early(data: st.DataObject) -> None:
    sent: list[int] = []
    acks = OrderedAcks(sent.append)
    tokens: dict[int, int] = {}
    waiting: list[int] = []
    done: set[int] = set()
    for packet_id in range(1, 41):
        if data.draw(st.booleans()):
            tokens[packet_id] = acks.arrived(packet_id)
            waiting.append(packet_id)
        open_ones = [number for number in waiting if number not in done]
        choice = data.draw(st.integers(0, 2 * len(open_ones)))
        if choice < len(open_ones):
            chosen = open_ones[choice]
            assert acks.settle(tokens[chosen])
            done.add(chosen)
    assert sent == waiting[: len(sent)]
    assert set(sent) <= done
    assert len(sent) == len(waiting) or waiting[len(sent)] not in done
    assert len(acks) == len(waiting) - len(sent)


def test_threads_that_confirm_at_once_keep_the_order() -> None:
    sent: list[int] = []
    acks = OrderedAcks(sent.append)
    tokens = [acks.arrived(packet_id) for packet_id in range(2000)]
    threads = [
        threading.Thread(target=lambda part=part: [acks.settle(t) for t in tokens[part::4]]) for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sent == list(range(2000))
