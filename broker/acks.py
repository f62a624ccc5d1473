"""Acknowledgements in the order of arrival, in whatever order the work is done."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["OrderedAcks"]


@dataclass(slots=True)
class _Held:
    packet_id: int
    done: bool = False


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
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._tokens: dict[int, int] = {}
        self._next_token = 1

    def __len__(self) -> int:
        """Messages that are not confirmed on the wire."""
        return len(self._held)

    def arrived(self, packet_id: int) -> int:
        """A message came; returns the token that confirms it."""
        with self._lock:
            given_up = self._tokens.pop(packet_id, None)
            if given_up is not None:
                del self._held[given_up]
            token = self._next_token
            self._next_token += 1
            self._held[token] = _Held(packet_id)
            self._tokens[packet_id] = token
            self._release()
            return token

    def settle(self, token: int) -> bool:
        """The work is done; False when there is nothing to confirm (any more)."""
        with self._lock:
            held = self._held.get(token)
            if held is None or held.done:
                return False
            held.done = True
            self._release()
            return True

    def close(self) -> None:
        """The connection is gone: the broker sends again what it was not told."""
        with self._lock:
            self._held.clear()
            self._tokens.clear()

    def _release(self) -> None:
        while self._held:
            token, first = next(iter(self._held.items()))
            if not first.done:
                return
            del self._held[token]
            del self._tokens[first.packet_id]
            self._send(first.packet_id)
