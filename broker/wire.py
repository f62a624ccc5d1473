"""What comes off the wire, taken apart: whole packets out of what was read, and publications out of packets.

Pure: no socket, no clock. Everything else about MQTT is paho's; see `broker._paho` for why this is not.

Source: MQTT 3.1.1 and 5, sections 1.5.5 (lengths), 2.1 (packets) and 3.3 (PUBLISH).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISH", "QOS_2", "Publication", "body_of", "puback", "publication_of"]

PUBLISH = 0x30
"""The type of a packet, in the upper four bits of its first byte,"""
QOS_2 = 0x04
"""and the bit that a publication has there when its QoS is 2."""
_PUBACK = b"\x40\x02"
_LENGTH_BYTES_MAX = 4


class Publication(NamedTuple):
    """A message, as a PUBLISH packet brings it."""

    topic: bytes
    payload: bytes
    qos: int
    retained: bool
    packet_id: int


def body_of(unread: memoryview, start: int) -> slice | None:
    """Where the body of the packet that begins at `start` lies; None while not all of it is there.

    Raises:
        ValueError: its length is none.
    """
    length = _number(unread, start + 1)
    if length is None:
        return None
    size, place = length
    return slice(place, place + size) if place + size <= len(unread) else None


def _number(packet: memoryview, place: int) -> tuple[int, int] | None:
    """A Variable Byte Integer and the place behind it; None where it is cut off."""
    value = 0
    for shift, digit in enumerate(packet[place : place + _LENGTH_BYTES_MAX]):
        value |= (digit & 0x7F) << 7 * shift
        if digit < 0x80:
            return value, place + shift + 1
    if len(packet) >= place + _LENGTH_BYTES_MAX:
        raise ValueError("a length of more than four bytes")
    return None


def publication_of(first: int, body: memoryview, *, with_properties: bool) -> Publication:
    """Read a PUBLISH packet of QoS 0 or 1. Properties are passed over: the contract gives none a meaning.

    Args:
        first: the packet's first byte.
        body: what follows its length.
        with_properties: it is of MQTT 5.

    Raises:
        ValueError: it is shorter than it says, or has no topic.
    """
    end = len(body)
    place = 2 + int.from_bytes(body[:2], "big")
    topic = bytes(body[2:place])
    qos = first >> 1 & 3
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[place : place + 2], "big")
        place += 2
    if with_properties:
        length = _number(body, place)
        place = length[0] + length[1] if length else end + 1
    if not topic or place > end:
        raise ValueError("a publication without a topic, or shorter than it says")
    return Publication(topic, bytes(body[place:]), qos, bool(first & 1), packet_id)


def puback(packet_id: int) -> bytes:
    """The packet that confirms a message of QoS 1."""
    return _PUBACK + packet_id.to_bytes(2, "big")
