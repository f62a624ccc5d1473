"""The proxy repeats whole packets, and changes nothing else, wherever the stream is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from console.chaos.packets import PacketSplitter


def packet(first: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes([first, *encoded]) + body


PUBLISH_QOS_0, PUBLISH_QOS_1, PUBLISH_RETAINED, PUBLISH_QOS_2, PUBACK = 0x30, 0x32, 0x33, 0x34, 0x40
FIRST = st.sampled_from([PUBLISH_QOS_0, PUBLISH_QOS_1, PUBLISH_RETAINED, PUBLISH_QOS_2, PUBACK, 0xC0])
PACKETS = st.lists(st.builds(packet, FIRST, st.binary(max_size=40) | st.binary(min_size=120, max_size=140)), max_size=8)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(edges)]


@given(PACKETS, st.lists(st.integers(0, 10_000), max_size=12))
def test_without_repeats_nothing_changes(packets: list[bytes], places: list[int]) -> None:
    splitter = PacketSplitter()
    stream = b"".join(packets)
    assert b"".join(splitter.feed(chunk, repeat=False) for chunk in cut(stream, places)) == stream


@given(PACKETS)
def test_each_publish_of_qos_1_comes_twice_the_second_marked(packets: list[bytes]) -> None:
    expected = b""
    for one in packets:
        expected += one
        if one[0] in (PUBLISH_QOS_1, PUBLISH_RETAINED):
            expected += bytes([one[0] | 0x08]) + one[1:]
    assert PacketSplitter().feed(b"".join(packets), repeat=True) == expected


@given(PACKETS, st.lists(st.integers(0, 10_000), max_size=12))
def test_what_comes_in_pieces_stays_a_stream_of_the_same_packets(packets: list[bytes], places: list[int]) -> None:
    splitter = PacketSplitter()
    stream = b"".join(packets)
    sent_on = b"".join(splitter.feed(chunk, repeat=True) for chunk in cut(stream, places))
    assert without_repeats(sent_on) == packets


def without_repeats(stream: bytes) -> list[bytes]:
    found: list[bytes] = []
    while stream:
        size, shift, place = 0, 0, 1
        while True:
            size |= (stream[place] & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if stream[place - 1] < 0x80:
                break
        one, stream = stream[: place + size], stream[place + size :]
        if not one[0] & 0x08 or one[0] & 0xF0 != 0x30:
            found.append(one)
    return found


def test_it_falls_back_into_step_after_a_packet_in_pieces() -> None:
    splitter = PacketSplitter()
    long = packet(PUBLISH_QOS_1, bytes(300))
    short = packet(PUBLISH_QOS_1, b"yes")
    assert splitter.feed(long[:2], repeat=True) == long[:2]
    again = bytes([short[0] | 0x08]) + short[1:]
    assert splitter.feed(long[2:] + short, repeat=True) == long[2:] + short + again
