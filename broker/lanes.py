"""How frames leave: a bounded lane over `send`; the bus owns the connection and calls in from its threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from broker.transport import Outbound
from config.clock import Clock
from config.errors import BadPayloadError, TransientError

__all__ = ["FrameLane"]

Send = Callable[[Outbound], int]
"""Hands a message to the connection and returns its number; TransientError when there is none."""


_STUCK = 0.25
"""Part of a frame's life that the network may take nothing."""


@dataclass(slots=True)
class _Sent:
    size_bytes: int
    handed_over_s: float


class FrameLane:
    """Latest wins: at most so many bytes on the wire, one waiting frame a topic, older ones dropped and counted.

    A network that takes nothing for a quarter of a frame's life gets no more frames, whatever there is room for: what
    is on the wire cannot be taken back, and would come too late.

    Concurrency: safe between threads. `on_sent` must be called for each number that `send` returned.

    Args:
        send: hands a message to the connection.
        bytes_max: bytes that may be on the wire.
        age_max_s: a frame that waited longer is worth nothing.
        clock: time.
    """

    def __init__(self, send: Send, *, bytes_max: int, age_max_s: float, clock: Clock) -> None:
        self._send = send
        self._bytes_max = bytes_max
        self._age_max_s = age_max_s
        self._clock = clock
        self._lock = threading.RLock()
        self._on_wire: OrderedDict[int, _Sent] = OrderedDict()
        self._waiting: OrderedDict[str, tuple[float, Outbound]] = OrderedDict()
        self._bytes = 0
        self.dropped = 0
        self.expired = 0
        self.sent = 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes handed to the connection and not yet on the wire."""
        return self._bytes

    def offer(self, message: Outbound) -> None:
        """Send now, or wait in the place of an older frame of the same topic."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._waiting.pop(message.topic, None) is not None:
                self.dropped += 1
            if self._has_room(message, now_s):
                self._put_on_wire(message, now_s)
            else:
                self._waiting[message.topic] = (now_s, message)

    def on_sent(self, number: int) -> bool:
        """A message is on the wire; True when it was a frame of this lane."""
        with self._lock:
            sent = self._on_wire.pop(number, None)
            if sent is None:
                return False
            self._bytes -= sent.size_bytes
            self.sent += 1
            self._send_waiting(self._clock.monotonic_s())
            return True

    def clear(self) -> None:
        """The connection is gone, and what was on the wire or waited with it."""
        with self._lock:
            self.dropped += len(self._on_wire) + len(self._waiting)
            self._on_wire.clear()
            self._waiting.clear()
            self._bytes = 0

    def _has_room(self, message: Outbound, now_s: float) -> bool:
        if not self._on_wire:
            return True
        oldest = next(iter(self._on_wire.values()))
        stuck = now_s - oldest.handed_over_s > self._age_max_s * _STUCK
        return not stuck and self._bytes + len(message.payload) <= self._bytes_max

    def _send_waiting(self, now_s: float) -> None:
        while self._waiting:
            topic, (offered_s, message) = next(iter(self._waiting.items()))
            too_old = now_s - offered_s > self._age_max_s
            if not too_old and not self._has_room(message, now_s):
                return
            del self._waiting[topic]
            if too_old:
                self.expired += 1
            else:
                self._put_on_wire(message, now_s)

    def _put_on_wire(self, message: Outbound, now_s: float) -> None:
        try:
            number = self._send(message)
        except (TransientError, BadPayloadError):
            self.dropped += 1
            return
        self._on_wire[number] = _Sent(len(message.payload), now_s)
        self._bytes += len(message.payload)
