from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.packets import SUSPECT_BYTES_MIN, PacketLimit

RIGHT_AFTER_S = 3.0


def go(limit: PacketLimit, size_bytes: int, broker_max: int, now_s: float) -> float:
    """Send one frame to a broker that says nothing and closes the connection; returns the time after it."""
    limit.handed_over(1, size_bytes, 0)
    limit.sent(1, now_s)
    if size_bytes > broker_max:
        limit.lost(now_s + 0.01, too_large=False)
        limit.connected(None)
        return now_s + 0.1
    return now_s + RIGHT_AFTER_S + 0.1


def test_what_the_broker_says_is_the_limit() -> None:
    limit = PacketLimit()
    heard = [limit.bytes_max]
    for told in (100_000, None):
        limit.connected(told)
        heard.append(limit.bytes_max)
    assert heard == [None, 100_000, None]


@given(broker_max=st.integers(SUSPECT_BYTES_MIN, 2_000_000), frame_bytes=st.integers(SUSPECT_BYTES_MIN, 8_000_000))
def test_a_silent_limit_is_found_with_few_lost_connections(broker_max: int, frame_bytes: int) -> None:
    limit, now_s, losses, size_bytes = PacketLimit(), 0.0, 0, 0
    limit.connected(None)
    for _ in range(60):
        size_bytes = min(frame_bytes, limit.bytes_max or frame_bytes)
        losses += size_bytes > broker_max
        now_s = go(limit, size_bytes, broker_max, now_s)
    assert losses <= 24
    assert size_bytes <= broker_max
    assert size_bytes >= min(frame_bytes, broker_max) // 2 - 1
    if frame_bytes <= broker_max:
        assert losses == 0
        assert limit.learned is None


def test_one_loss_proves_nothing() -> None:
    limit = PacketLimit()
    limit.connected(None)
    go(limit, 500_000, 100_000, 0.0)
    assert limit.bytes_max is None
    go(limit, 500_000, 100_000, 1.0)
    assert limit.bytes_max == 250_000


def test_the_broker_s_own_word_is_believed_at_once() -> None:
    limit = PacketLimit()
    limit.connected(None)
    limit.handed_over(1, 500_000, 1)
    limit.lost(0.1, too_large=True)
    assert limit.learned == 250_000


def test_small_packets_and_old_ones_are_beyond_suspicion() -> None:
    limit = PacketLimit()
    for turn in range(10):
        limit.connected(None)
        limit.handed_over(1, 500, 1)
        limit.handed_over(2, 300_000, 0)
        limit.sent(2, turn * 100.0)
        assert not limit.lost(turn * 100.0 + RIGHT_AFTER_S, too_large=False)
    assert limit.bytes_max is None


@pytest.mark.parametrize("qos", [0, 1])
def test_what_went_through_is_not_suspected_again(qos: int) -> None:
    limit = PacketLimit()
    limit.connected(None)
    limit.handed_over(1, 300_000, qos)
    limit.sent(1, 0.0)
    limit.handed_over(2, 200_000, 0)
    limit.sent(2, 5.0)
    for turn in range(3):
        limit.lost(5.1, too_large=False)
        limit.connected(None)
        limit.handed_over(2, 200_000, 0)
        limit.sent(2, 5.0 + turn / 100)
    assert limit.bytes_max is None
    limit.lost(5.1, too_large=False)
    assert limit.bytes_max == 100_000
