"""How messages leave: the bounded lane of frames, and the drain of the outbox.

Pure bookkeeping over a `send` function; the bus owns the connection and calls in from its threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from broker.outbox import Outbox, OutboxEntry
from broker.transport import Outbound
from config.errors import TransientError

__all__ = ["FrameLane", "OutboxDrain"]

Send = Callable[[Outbound], int]
"""Hands a message to the connection and returns its number; TransientError when there is none."""


class FrameLane:
    """Latest wins: at most so many bytes on the wire, one waiting frame a topic, older ones dropped and counted.

    Concurrency: safe between threads. `on_sent` must be called for each number that `send` returned.

    Args:
        send: hands a message to the connection.
        bytes_max: bytes that may be on the wire.
    """

    def __init__(self, send: Send, *, bytes_max: int) -> None:
        self._send = send
        self._bytes_max = bytes_max
        self._lock = threading.RLock()
        self._on_wire: dict[int, int] = {}
        self._waiting: OrderedDict[str, Outbound] = OrderedDict()
        self._bytes = 0
        self.dropped = 0
        self.sent = 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes handed to the connection and not yet on the wire."""
        return self._bytes

    def offer(self, message: Outbound) -> None:
        """Send now, or wait in the place of an older frame of the same topic."""
        with self._lock:
            if self._bytes and self._bytes + len(message.payload) > self._bytes_max:
                if self._waiting.pop(message.topic, None) is not None:
                    self.dropped += 1
                self._waiting[message.topic] = message
            else:
                self._put_on_wire(message)

    def on_sent(self, number: int) -> bool:
        """A message is on the wire; True when it was a frame of this lane."""
        with self._lock:
            size = self._on_wire.pop(number, None)
            if size is None:
                return False
            self._bytes -= size
            self.sent += 1
            while self._waiting:
                topic, message = next(iter(self._waiting.items()))
                if self._bytes and self._bytes + len(message.payload) > self._bytes_max:
                    break
                del self._waiting[topic]
                self._put_on_wire(message)
            return True

    def clear(self) -> None:
        """The connection is gone, and what was on the wire or waited with it."""
        with self._lock:
            self.dropped += len(self._on_wire) + len(self._waiting)
            self._on_wire.clear()
            self._waiting.clear()
            self._bytes = 0

    def _put_on_wire(self, message: Outbound) -> None:
        try:
            number = self._send(message)
        except TransientError:
            self.dropped += 1
            return
        self._on_wire[number] = len(message.payload)
        self._bytes += len(message.payload)


@dataclass(slots=True)
class _Travelling:
    entry: OutboxEntry
    number: int
    sent_s: float
    tries: int = 1
    acknowledged: bool = False


class OutboxDrain:
    """Sends what the outbox holds, in order, and keeps sending escalations until their receipt comes.

    An escalation without a receipt is sent again after `resend_after_s`, then after twice as long, up to 32 times as
    long: while the bridge is away the broker's queue must not fill with copies. The first receipt that does come
    says that the bridge is back, and everything overdue is sent at once.

    Concurrency: safe between threads.

    Args:
        outbox: the queue on disk.
        send: hands a message to the connection.
        window: messages that may be without PUBACK.
        resend_after_s: seconds without a receipt before the first repeat.
    """

    RECEIPT_WINDOWS = 16
    """Escalations without receipt, in windows: the bridge confirms later than the broker does."""
    DOUBLINGS_MAX = 5

    def __init__(self, outbox: Outbox, send: Send, *, window: int, resend_after_s: float) -> None:
        self._outbox = outbox
        self._send = send
        self._window = window
        self._resend_after_s = resend_after_s
        self._lock = threading.RLock()
        self._travelling: OrderedDict[int, _Travelling] = OrderedDict()
        self._numbers: dict[int, int] = {}
        self.resent = 0

    @property
    def awaiting_receipt(self) -> int:
        """Messages that the broker has and nobody has confirmed."""
        with self._lock:
            return sum(1 for item in self._travelling.values() if item.acknowledged)

    def pump(self, now_s: float) -> None:
        """Send what may be sent now.

        Args:
            now_s: monotonic seconds.

        Raises:
            TransientError: the connection went away; call `clear` and pump again after the next one.
        """
        with self._lock:
            for item in list(self._travelling.values()):
                if item.acknowledged and now_s >= item.sent_s + self._patience_s(item):
                    self._send_again(item, now_s)
            room = min(
                self._window - len(self._numbers),
                self._window * self.RECEIPT_WINDOWS - len(self._travelling),
            )
            if room <= 0 or self._outbox.rows <= len(self._travelling):
                return
            for entry in self._outbox.waiting(room, without=self._travelling.keys()):
                number = self._send(Outbound(entry.topic, entry.payload, 1, retain=False))
                self._travelling[entry.id] = _Travelling(entry, number, now_s)
                self._numbers[number] = entry.id

    def _patience_s(self, item: _Travelling) -> float:
        return self._resend_after_s * 2.0 ** min(item.tries - 1, self.DOUBLINGS_MAX)

    def _send_again(self, item: _Travelling, now_s: float) -> None:
        item.number = self._send(Outbound(item.entry.topic, item.entry.payload, 1, retain=False))
        item.sent_s, item.tries, item.acknowledged = now_s, item.tries + 1, False
        self._numbers[item.number] = item.entry.id
        self.resent += 1

    def on_sent(self, number: int) -> bool:
        """The broker has a message; True when it was one of the outbox."""
        with self._lock:
            row_id = self._numbers.pop(number, None)
            if row_id is None:
                return False
            item = self._travelling.get(row_id)
            if item is not None and item.number == number:
                item.acknowledged = True
                if not item.entry.needs_receipt:
                    self._outbox.settle(item.entry.event_id)
                    del self._travelling[row_id]
            return True

    def on_receipt(self, identity: str) -> bool:
        """The bridge has an event; True when the outbox still held it."""
        row_id = self._outbox.settle(identity)
        with self._lock:
            if row_id is not None:
                self._travelling.pop(row_id, None)
            for item in self._travelling.values():
                item.tries = 1
        return row_id is not None

    def clear(self) -> None:
        """The connection is gone: everything still in the outbox will be sent again, in order."""
        with self._lock:
            self._travelling.clear()
            self._numbers.clear()
