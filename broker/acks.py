"""Acknowledgements in the order of arrival, in whatever order the work is done."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["OrderedAcks"]


class OrderedAcks:
    """What one connection has received and not yet confirmed.

    MQTT asks for PUBACKs in the order in which the messages came. So one that is confirmed early waits for those
    before it; and when the connection ends before its turn, its message comes again: whoever confirms out of order
    must know repeats by their ids.

    A broker that uses a packet identifier again before it was confirmed has given up on the older message. Its
    confirmation is then worth nothing, and would confirm the newer one.

    Concurrency: safe between threads; `send` is called with a lock held, so that the order is kept.

    Args:
        send: confirms one packet identifier on the wire.

    Source: MQTT 3.1.1 and 5, section 4.6, MQTT-4.6.0-2.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._packet_ids: dict[int, int] = {}
        self._tokens: dict[int, int] = {}
        self._done: set[int] = set()
        self._first = self._next = 1

    def __len__(self) -> int:
        """Messages that are not confirmed on the wire."""
        return len(self._packet_ids)

    def arrived(self, packet_id: int) -> int:
        """A message came; returns the token that confirms it."""
        with self._lock:
            given_up = self._tokens.get(packet_id)
            if given_up is not None:
                del self._packet_ids[given_up]
            token = self._next
            self._next += 1
            self._packet_ids[token] = packet_id
            self._tokens[packet_id] = token
            if given_up is not None:
                self._release()
            return token

    def settle(self, token: int) -> bool:
        """The work is done; False when there is nothing to confirm (any more)."""
        with self._lock:
            if token in self._done or token not in self._packet_ids:
                return False
            self._done.add(token)
            if token == self._first:
                self._release()
            return True

    def close(self) -> None:
        """The connection is gone: the broker sends again what it was not told."""
        with self._lock:
            self._packet_ids.clear()
            self._tokens.clear()
            self._done.clear()
            self._first = self._next

    def _release(self) -> None:
        """Confirm the first ones that are done; those that were given up are passed over."""
        while self._first < self._next:
            packet_id = self._packet_ids.get(self._first)
            if packet_id is not None:
                if self._first not in self._done:
                    return
                del self._packet_ids[self._first]
                del self._tokens[packet_id]
                self._send(packet_id)
            self._done.discard(self._first)
            self._first += 1
