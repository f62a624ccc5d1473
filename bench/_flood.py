"""Many senders at once, as cheap as a load can be: one socket that publishes ready-made packets and counts receipts.

A process of its own, with a hand-written MQTT 3.1.1 client, so that what is measured is not the load. It keeps at most
a window of escalations without a receipt, as the outboxes of that many senders would, and prints what it saw as JSON.

    python -m bench._flood HOST PORT COUNT WINDOW PER_S

PER_S is how many it sends in a second; 0 is as many as the window lets it.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

import msgspec

from bench._site import SITE
from broker.messages import Receipts, encode_json
from broker.topics import CAMERA_ESCALATION, RECEIPT
from tests.support.messages import escalation

__all__ = ["ORIGINS", "PAYLOAD_BYTES"]

PAYLOAD_BYTES = 500
ORIGINS = 8
CAMERAS = 32
EPOCH = "flood"
AT_ONCE = 250
SILENCE_S = 20.0
"""Without a receipt for so long it gives up: the judge then finds what is missing."""
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05flood"
_PUBLISH = 0x30
_PUBACK = 0x40


def packet_of(number: int) -> bytes:
    """A PUBLISH of QoS 1 with an escalation of 500 bytes; each origin counts its own from 1."""
    origin = f"node-{number % ORIGINS}.edge"
    camera = f"camera-{number % CAMERAS}"
    identity = f"{origin}:{EPOCH}:{number // ORIGINS + 1}"
    bare = encode_json(escalation(identity, camera, summary=""))
    payload = encode_json(escalation(identity, camera, summary="x" * (PAYLOAD_BYTES - len(bare))))
    assert len(payload) == PAYLOAD_BYTES
    topic = str(CAMERA_ESCALATION.at(SITE, camera=camera, origin=origin)).encode()
    body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", number % 65_535 + 1) + payload
    return bytes([_PUBLISH | 2]) + _length(len(body)) + body


def _length(count: int) -> bytes:
    digits = bytearray()
    while True:
        count, digit = divmod(count, 128)
        digits.append(digit | 0x80 if count else digit)
        if not count:
            return bytes(digits)


def _subscribe() -> bytes:
    topic_filter = RECEIPT.topic_filter(SITE).encode()
    body = b"\x00\x01" + struct.pack("!H", len(topic_filter)) + topic_filter + b"\x00"
    return b"\x82" + _length(len(body)) + body


@dataclass
class Flood:
    """What was sent when, and what came back."""

    packets: list[bytes]
    sent: int = 0
    confirmed: int = 0
    receipted: int = 0
    heard: list[tuple[float, bytes]] = field(default_factory=list)
    batches: list[tuple[int, float]] = field(default_factory=list)
    _unread: bytearray = field(default_factory=bytearray)

    def run(self, wire: socket.socket, window: int, per_s: int) -> None:
        """Send everything, and wait for the last receipt."""
        heard_s = began_s = time.monotonic()
        pause_s = 0.002 if per_s else 1.0
        while self.receipted < len(self.packets) and time.monotonic() - heard_s < SILENCE_S:
            left = len(self.packets) - self.sent
            due = int((time.monotonic() - began_s) * per_s) - self.sent if per_s else left
            room = min(window - (self.sent - self.receipted), AT_ONCE, left, due)
            is_worth_it = room >= (1 if per_s else min(AT_ONCE // 2, left)) > 0
            if is_worth_it:
                wire.sendall(b"".join(self.packets[self.sent : self.sent + room]))
                self.sent += room
                self.batches.append((self.sent, time.monotonic()))
            if select.select([wire], [], [], 0.0 if is_worth_it else pause_s)[0]:
                self._read(wire.recv(1 << 18))
                heard_s = time.monotonic()

    def _read(self, received: bytes) -> None:
        assert received, "the broker closed the connection"
        self._unread += received
        place = 0
        while (end := self._packet_end(place)) is not None:
            kind = self._unread[place] & 0xF0
            if kind == _PUBACK:
                self.confirmed += 1
            elif kind == _PUBLISH:
                packet = bytes(self._unread[place:end])
                self.receipted += packet.count(b'"event_id"')
                self.heard.append((time.monotonic(), packet))
            place = end
        del self._unread[:place]

    def _packet_end(self, start: int) -> int | None:
        length, place = 0, start + 1
        for shift in range(0, 28, 7):
            if place >= len(self._unread):
                return None
            digit = self._unread[place]
            length |= (digit & 0x7F) << shift
            place += 1
            if digit < 0x80:
                break
        return place + length if place + length <= len(self._unread) else None

    def told(self) -> dict[str, object]:
        """What came of each escalation, in the order of their numbers.

        When it was sent and when its receipt came, in seconds, and the milliseconds that the bridge names in it.
        """
        sent_s = [0.0] * len(self.packets)
        first = 0
        for last, at_s in self.batches:
            sent_s[first:last] = [at_s] * (last - first)
            first = last
        receipted_s: list[float | None] = [None] * len(self.packets)
        latency_ms = [0.0] * len(self.packets)
        repeats = 0
        for at_s, packet in self.heard:
            payload = packet[packet.index(b'{"') :]
            for receipt in msgspec.json.decode(payload, type=Receipts).receipts:
                number = _number_of(receipt.event_id)
                repeats += receipted_s[number] is not None
                receipted_s[number], latency_ms[number] = at_s, receipt.latency_ms
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "sent_s": sent_s, "receipted_s": receipted_s, "latency_ms": latency_ms, "repeats": repeats,
            "receipt_messages": len(self.heard), "confirmed": self.confirmed,
            "cpu_s": used.ru_utime + used.ru_stime,
        }  # fmt: skip


def _number_of(event_id: str) -> int:
    origin, _, seq = event_id.split(":")
    return (int(seq) - 1) * ORIGINS + int(origin[len("node-") : -len(".edge")])


def main() -> None:
    """Connect, make the packets, flood, tell."""
    host, port, count, window, per_s = sys.argv[1], *map(int, sys.argv[2:6])
    flood = Flood([packet_of(number) for number in range(count)])
    before = resource.getrusage(resource.RUSAGE_SELF)
    with socket.create_connection((host, port)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(_CONNECT + _subscribe())
        flood.run(wire, window, per_s)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    json.dump(flood.told() | {"cpu_s": cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
